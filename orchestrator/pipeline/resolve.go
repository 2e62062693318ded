package pipeline

import (
	"github.com/hashicorp/hcl/v2"
)

// deferred is what is left to evaluate of a node once results are known.
type deferred struct{}

// Resolve gives the task of a step or endpoint node, or what the trials of a
// sweep have in common. Every node that n depends on must be in r.
func (n *Node) Resolve(r Results) (Task, hcl.Diagnostics) {
	return Task{}, hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "The parser is not in place yet"}}
}

// Trials gives the tasks of a sweep node, in order. The same file, variables
// and results always give the same trials.
func (n *Node) Trials(r Results) ([]Task, hcl.Diagnostics) {
	return nil, hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "The parser is not in place yet"}}
}

// When reports whether n runs, once every node that it depends on is in r. A
// node that does not run is skipped, for the reason that SkipReason gives.
func (n *Node) When(r Results) (bool, hcl.Diagnostics) {
	return false, hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "The parser is not in place yet"}}
}

// SkipReason says in a sentence why n does not run, given what When was given.
func (n *Node) SkipReason(r Results) string { return "" }
