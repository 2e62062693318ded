package pipeline

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// When reports whether n runs, once every node that it depends on is in r. A
// node that does not run is skipped, for the reason that SkipReason gives. It
// is safe to call from several goroutines.
//
// A node runs if all nodes that it depends on succeeded, and its `when`, if
// there is one, is true. About nodes whose status (or passed) `when` reads,
// `when` alone decides. A node with on_exit needs only those to have succeeded
// whose results it names.
func (n *Node) When(r Results) (bool, hcl.Diagnostics) {
	if n.unmet(r) != "" {
		return false, nil
	}
	return n.condition(r)
}

// SkipReason says in a sentence why n does not run, "" if it does, given what
// When was given.
func (n *Node) SkipReason(r Results) string {
	if id := n.unmet(r); id != "" {
		return fmt.Sprintf("%s %s", id, ended(r[id]))
	}
	if holds, diags := n.condition(r); diags.HasErrors() || holds {
		return ""
	}
	return "its condition (when) is false"
}

// unmet is the first node that must have succeeded for n to run, and has not.
func (n *Node) unmet(r Results) NodeID {
	decided := map[NodeID]bool{}
	if n.deferred.when != nil {
		for _, ref := range n.deferred.when.refs {
			if ref.part == "status" || ref.part == "passed" || ref.part == "" {
				for _, id := range ref.nodes() {
					decided[id] = true
				}
			}
		}
	}
	for _, id := range n.DependsOn {
		if r[id].Status == Succeeded || decided[id] || n.OnExit && !n.deferred.named[id] {
			continue
		}
		return id
	}
	return ""
}

// condition evaluates `when`.
func (n *Node) condition(r Results) (bool, hcl.Diagnostics) {
	when := n.deferred.when
	if when == nil {
		return true, nil
	}
	if r == nil {
		r = Results{}
	}
	v, diags := when.final(&knowledge{scope: n.deferred.scope, results: r, locals: map[*local]cty.Value{}})
	if diags.HasErrors() {
		return false, diags
	}
	if v.IsNull() {
		return false, hcl.Diagnostics{problem(when.expr.Range(), "Invalid condition", "when is null; it must be true or false.")}
	}
	return v.True(), diags
}
