package inventory

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/internal/devicematch"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Flavors of what is no device.
const (
	CPU    queue.Flavor = "cpu"    // one is 1000 MHz
	Memory queue.Flavor = "memory" // one is 1 GiB
)

// Flavor is a name for device groups, under which they have a quota. Zero fields
// match anything. Of several that match a group, the first counts.
type Flavor struct {
	Name         queue.Flavor
	Vendor, Type string
	// Model is a pattern of the product's name, of slices that of their board. * and
	// ? stand for others; upper and lower case are the same.
	Model string
	// MinMemoryMiB and MaxMemoryMiB bound a device's memory, of slices and replicas
	// their own.
	MinMemoryMiB, MaxMemoryMiB int64
	Constraints                []pipeline.Constraint // on device attributes, as in Nomad
}

// Check says what is wrong with f.
func (f Flavor) Check() error {
	switch {
	case f.Name == "" || f.Name == CPU || f.Name == Memory:
		return fmt.Errorf("flavor %q: devices need a name that is neither empty nor %s nor %s", f.Name, CPU, Memory)
	case f.MinMemoryMiB < 0 || f.MaxMemoryMiB < 0 || f.MaxMemoryMiB > 0 && f.MaxMemoryMiB < f.MinMemoryMiB:
		return fmt.Errorf("flavor %q: memory of %d to %d MiB", f.Name, f.MinMemoryMiB, f.MaxMemoryMiB)
	}
	return nil
}

// matches reports whether g is of the flavor.
func (f Flavor) matches(g *Group) bool {
	if f.Vendor != "" && f.Vendor != g.Vendor || f.Type != "" && f.Type != g.Type {
		return false
	}
	if model, _ := product(g.Name); f.Model != "" && !wildcard(strings.ToLower(f.Model), strings.ToLower(model)) {
		return false
	}
	if f.MinMemoryMiB > 0 || f.MaxMemoryMiB > 0 {
		memory, ok := g.memoryMiB()
		if !ok || memory < f.MinMemoryMiB || f.MaxMemoryMiB > 0 && memory > f.MaxMemoryMiB {
			return false
		}
	}
	d := g.described()
	return !slices.ContainsFunc(f.Constraints, func(c pipeline.Constraint) bool { return !d.Meets(condition(c)) })
}

func condition(c pipeline.Constraint) devicematch.Constraint {
	return devicematch.Constraint{Left: c.Attribute, Operand: c.Operator, Right: c.Value}
}

// described is the group as constraints see it.
func (g *Group) described() devicematch.Group {
	d := devicematch.Group{Vendor: g.Vendor, Type: g.Type, Name: g.Name, Attributes: g.Attributes}
	for _, i := range g.Instances {
		d.IDs = append(d.IDs, i.ID)
	}
	return d
}

// memoryMiB is of each device; false: it does not tell.
func (g *Group) memoryMiB() (int64, bool) {
	v, ok := devicematch.FromAttribute(g.Attributes["memory"])
	if !ok {
		return 0, false
	}
	bytes, ok := v.Bytes()
	return bytes >> 20, ok
}

// product is a group's name without the profile of its slices, and the profile;
// "NVIDIA A100-SXM4-40GB MIG 3g.20gb" is of "NVIDIA A100-SXM4-40GB".
func product(name string) (model, profile string) {
	if i := strings.LastIndex(name, " MIG "); i > 0 {
		return name[:i], name[i+len(" MIG "):]
	}
	return name, ""
}

// defaultFlavor is the flavor of a group that nobody declared: vendor and model,
// in lower case with dashes.
func defaultFlavor(g *Group) queue.Flavor {
	model, _ := product(g.Name)
	slug := func(s string) string {
		return strings.Trim(notPlain.ReplaceAllString(strings.ToLower(s), "-"), "-")
	}
	name, vendor := slug(model), slug(g.Vendor)
	if name != vendor && !strings.HasPrefix(name, vendor+"-") {
		name = strings.Trim(vendor+"-"+name, "-")
	}
	return queue.Flavor(name)
}

var notPlain = regexp.MustCompile(`[^a-z0-9.]+`)

// charge is what a device of g counts as, of a whole one of its model. A slice
// counts as its part of the board's compute slices, a replica as its part of what
// is shared; both rounded up. With an error it is what a whole one counts as.
func charge(g *Group) (queue.Amount, error) {
	amount := queue.One
	model, profile := product(g.Name)
	var err error
	if profile != "" {
		var have, of int
		if have, of, err = computeSlices(model, profile); err == nil {
			amount = partOf(amount*queue.Amount(have), of)
		}
	}
	return partOf(amount, g.replicas()), err
}

func partOf(a queue.Amount, n int) queue.Amount { return (a + queue.Amount(n) - 1) / queue.Amount(n) }

// replicas is how many devices of the group share one, 1 if none do. Of devices
// with different numbers of replicas it is the least.
func (g *Group) replicas() int {
	if len(g.Instances) == 0 || !strings.Contains(g.Instances[0].ID, replicaMark) {
		return 1 // all of a group are replicas, or none
	}
	of := map[string]int{}
	for _, i := range g.Instances {
		if shared, _, ok := strings.Cut(i.ID, replicaMark); ok {
			of[shared]++
		}
	}
	least := 0
	for _, n := range of {
		if least == 0 || n < least {
			least = n
		}
	}
	return max(1, least)
}

// replicaMark is between the ID of what is shared and a replica's number.
const replicaMark = "::"

// computeSlices is how many compute slices a profile has, and its board: 7, or 4
// of the models that MIG cuts in four.
func computeSlices(model, profile string) (have, of int, err error) {
	number, _, _ := strings.Cut(profile, ".") // "3g" of "3g.20gb", "1c" of "1c.3g.20gb"
	if n := len(number); n < 2 || number[n-1] != 'g' && number[n-1] != 'c' {
		return 0, 0, fmt.Errorf("%q is no MIG profile", profile)
	}
	have, err = strconv.Atoi(number[:len(number)-1])
	of = 7
	if inFour.MatchString(model) {
		of = 4
	}
	if err != nil || have < 1 || have > of {
		return 0, 0, errors.Join(fmt.Errorf("MIG profile %q of a board of %d compute slices", profile, of), err)
	}
	return have, of, nil
}

// inFour are the models with four compute slices:
// https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html
var inFour = regexp.MustCompile(`\bA30\b|\bRTX PRO\b`)

// wildcard reports whether text is what pattern says, in which * stands for any
// text, and ? for any one byte.
func wildcard(pattern, text string) bool {
	star, from := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
