package scheduler

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/nomad/api"
)

// Operands that are about several allocations, not about one node.
const (
	opDistinctHosts    = "distinct_hosts"
	opDistinctProperty = "distinct_property"
)

// nodeTarget resolves one side of a constraint on a node: a literal, or
// ${node.…}, ${attr.…} or ${meta.…}.
func nodeTarget(target string, n *api.Node) (string, bool) {
	name, ok := reference(target)
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

// reference returns what stands between ${ and }.
func reference(target string) (string, bool) {
	name, ok := strings.CutPrefix(target, "${")
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(name, "}"), true
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
	if order, ok := orderOperands[operand]; ok {
		return order(compareText(l, r))
	}
	return textMeets(l, operand, r)
}

var orderOperands = map[string]func(int) bool{
	"<":  func(o int) bool { return o < 0 },
	"<=": func(o int) bool { return o <= 0 },
	">":  func(o int) bool { return o > 0 },
	">=": func(o int) bool { return o >= 0 },
}

// compareText compares as integers, else as floats, else as text.
func compareText(l, r string) int {
	if a, err := strconv.ParseInt(l, 10, 64); err == nil {
		if b, err := strconv.ParseInt(r, 10, 64); err == nil {
			return cmp.Compare(a, b)
		}
	}
	if a, err := strconv.ParseFloat(l, 64); err == nil {
		if b, err := strconv.ParseFloat(r, 64); err == nil {
			return cmp.Compare(a, b)
		}
	}
	return cmp.Compare(l, r)
}

// textMeets is the operands that take text: sets, patterns and versions.
func textMeets(l, operand, r string) bool {
	switch operand {
	case "set_contains", "set_contains_all":
		have := splitSet(l)
		return !slices.ContainsFunc(splitSet(r), func(want string) bool { return !slices.Contains(have, want) })
	case "set_contains_any":
		have := splitSet(l)
		return slices.ContainsFunc(splitSet(r), func(want string) bool { return slices.Contains(have, want) })
	case "regexp":
		re, err := regexp.Compile(r)
		return err == nil && re.MatchString(l)
	case "version", "semver":
		v, err := version.NewVersion(l)
		if err != nil {
			return false
		}
		c, err := version.NewConstraint(r)
		if err != nil {
			return false
		}
		if operand == "semver" {
			// A semantic version's pre-release takes part in ranges.
			v = v.Core()
		}
		return c.Check(v)
	default:
		return false
	}
}

func splitSet(s string) []string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// constraintText is how placement metrics name a constraint.
func constraintText(c *api.Constraint) string {
	return strings.TrimSpace(c.LTarget + " " + c.Operand + " " + c.RTarget)
}
