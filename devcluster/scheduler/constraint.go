package scheduler

import (
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/devicematch"
)

// Operands that are about several allocations, not about one node.
const (
	opDistinctHosts    = "distinct_hosts"
	opDistinctProperty = "distinct_property"
)

// nodeTarget resolves one side of a constraint on a node: a literal, or
// ${node.…}, ${attr.…} or ${meta.…}.
func nodeTarget(target string, n *api.Node) (string, bool) {
	name, ok := devicematch.Reference(target)
	if !ok {
		return target, true
	}
	switch name {
	case "node.unique.id":
		return n.ID, true
	case "node.unique.name":
		return n.Name, true
	case "node.datacenter":
		return n.Datacenter, true
	case "node.class":
		return n.NodeClass, true
	case "node.pool":
		return n.NodePool, true
	}
	if attr, ok := strings.CutPrefix(name, "attr."); ok {
		v, ok := n.Attributes[attr]
		return v, ok
	}
	if meta, ok := strings.CutPrefix(name, "meta."); ok {
		v, ok := n.Meta[meta]
		return v, ok
	}
	return "", false
}

// nodeMeets reports whether a node meets a condition. The operands that
// compare allocations are met by any node.
func nodeMeets(n *api.Node, left, operand, right string) bool {
	l, lok := nodeTarget(left, n)
	r, rok := nodeTarget(right, n)
	switch operand {
	case opDistinctHosts, opDistinctProperty:
		return true
	case "", "=", "==", "is":
		return lok && rok && l == r
	case "!=", "not":
		return lok != rok || l != r
	case "is_set":
		return lok
	case "is_not_set":
		return !lok
	}
	if !lok || !rok {
		return false
	}
	return devicematch.TextMeets(l, operand, r)
}

// constraintText is how placement metrics name a constraint.
func constraintText(c *api.Constraint) string {
	return strings.TrimSpace(c.LTarget + " " + c.Operand + " " + c.RTarget)
}
