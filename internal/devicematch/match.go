// Package devicematch is whether a device group answers an ask, by the rules of
// Nomad's scheduler: names, and constraints with their operands and units. It is
// pure.
package devicematch

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/nomad/api"
)

// Group is a device group of a node.
type Group struct {
	Vendor, Type, Name string
	Attributes         map[string]*api.Attribute
	IDs                []string // of its instances
}

// Constraint is a condition on a group. Each side is a literal, or one of
// ${device.attr.…}, ${device.model}, ${device.vendor}, ${device.type} and
// ${device.ids}.
type Constraint struct{ Left, Operand, Right string }

// Named reports whether a job's name for devices means the group: "type",
// "vendor/type" or "vendor/type/model".
func (g Group) Named(name string) bool {
	parts := strings.SplitN(name, "/", 3)
	switch len(parts) {
	case 1:
		return parts[0] == g.Type
	case 2:
		return parts[0] == g.Vendor && parts[1] == g.Type
	default:
		return parts[0] == g.Vendor && parts[1] == g.Type && parts[2] == g.Name
	}
}

// idsTarget stands for the IDs of a group's instances, with commas between them.
const idsTarget = "${device.ids}"

// Meets reports whether the group meets c. With ${device.ids} that is said of
// all of its instances together; [Group.Allows] tells which of them it leaves.
func (g Group) Meets(c Constraint) bool {
	ids := ""
	if c.Left == idsTarget || c.Right == idsTarget {
		ids = strings.Join(g.IDs, ",")
	}
	l, lok := g.target(c.Left, ids)
	r, rok := g.target(c.Right, ids)
	return meets(l, lok, c.Operand, r, rok)
}

// Allows reports whether c leaves an instance of the group to choose: a set
// that c compares ${device.ids} with must contain it. Other constraints allow
// all instances.
func (g Group) Allows(c Constraint, id string) bool {
	var named string
	switch idsTarget {
	case c.Left:
		named = c.Right
	case c.Right:
		named = c.Left
	default:
		return true
	}
	v, ok := g.target(named, "")
	return meets(v, ok, c.Operand, textValue(id), true)
}

// target resolves one side of a constraint. ids is what ${device.ids} stands for.
func (g Group) target(target, ids string) (Value, bool) {
	name, ok := Reference(target)
	if !ok {
		return ParseValue(target), true
	}
	switch name {
	case "device.ids":
		return textValue(ids), true
	case "device.model":
		return textValue(g.Name), true
	case "device.vendor":
		return textValue(g.Vendor), true
	case "device.type":
		return textValue(g.Type), true
	}
	if attr, ok := strings.CutPrefix(name, "device.attr."); ok {
		return FromAttribute(g.Attributes[attr])
	}
	return Value{}, false
}

// Reference returns what stands between ${ and }.
func Reference(target string) (string, bool) {
	name, ok := strings.CutPrefix(target, "${")
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(name, "}"), true
}

func meets(l Value, lok bool, operand string, r Value, rok bool) bool {
	switch operand {
	case "is_set":
		return lok
	case "is_not_set":
		return !lok
	case "!=", "not":
		if lok != rok {
			return true
		}
		order, comparable := l.Compare(r)
		return lok && comparable && order != 0
	}
	if !lok || !rok {
		return false
	}
	if operand == "" || operand == "=" || operand == "==" || operand == "is" {
		order, comparable := l.Compare(r)
		return comparable && order == 0
	}
	if ordered, ok := orderOperands[operand]; ok {
		if l.flag != nil {
			return false
		}
		order, comparable := l.Compare(r)
		return comparable && ordered(order)
	}
	lt, lok := l.text()
	rt, rok := r.text()
	return lok && rok && TextMeets(lt, operand, rt)
}

var orderOperands = map[string]func(int) bool{
	"<":  func(o int) bool { return o < 0 },
	"<=": func(o int) bool { return o <= 0 },
	">":  func(o int) bool { return o > 0 },
	">=": func(o int) bool { return o >= 0 },
}

// TextMeets reports whether l meets an operand that takes text: those of order,
// sets, patterns and versions. Order is that of integers, else of floats, else of
// text.
func TextMeets(l, operand, r string) bool {
	if ordered, ok := orderOperands[operand]; ok {
		return ordered(compareText(l, r))
	}
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

func splitSet(s string) []string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
