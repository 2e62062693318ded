package mig

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Layout is how one board is to be cut. In JSON it is
//
//	{"mig_enabled":true,"instances":[{"profile":"3g.20gb"},{"profile":"4g.20gb","compute":[2,2]}]}
type Layout struct {
	// Enabled is MIG mode. Without it there are no instances; with it there
	// may be none either.
	Enabled   bool   `json:"mig_enabled"`
	Instances []Want `json:"instances,omitempty"`
}

// Want is a GPU instance that a layout asks for.
type Want struct {
	Profile string `json:"profile"`
	// Compute are the compute slices of its compute instances; none is one
	// instance that has them all.
	Compute []int `json:"compute,omitempty"`
}

// NewLayout is MIG mode with a slice of each of the profiles. A profile that
// begins with a number of compute slices ("1c.3g.20gb") is a compute instance
// of that size: those of one GPU instance profile share as few GPU instances as
// they fit in, and the memory with it. An error tells why the board cannot
// have them all.
func NewLayout(m Model, profiles []string) (Layout, error) {
	l := Layout{Enabled: true}
	parts := make(map[string][]int) // compute instances by GPU instance profile
	var shared []string
	for _, name := range profiles {
		compute, instance, isPart, err := splitProfile(name)
		if err != nil {
			return Layout{}, err
		}
		p, err := m.Profile(instance)
		switch {
		case err != nil:
			return Layout{}, err
		case !isPart || compute == p.Compute:
			l.Instances = append(l.Instances, Want{Profile: instance})
			continue
		case compute > p.Compute:
			return Layout{}, fmt.Errorf("%s has %d compute slices, so %s is not possible", instance, p.Compute, name)
		}
		if parts[instance] == nil {
			shared = append(shared, instance)
		}
		parts[instance] = append(parts[instance], compute)
	}
	for _, instance := range shared {
		p, _ := m.Profile(instance)
		for _, compute := range pack(parts[instance], p.Compute) {
			l.Instances = append(l.Instances, Want{Profile: instance, Compute: compute})
		}
	}
	return l, l.Check(m)
}

// Check tells why a board of the model cannot have the layout.
func (l Layout) Check(m Model) error {
	if !l.Enabled && len(l.Instances) > 0 {
		return fmt.Errorf("a board has no slices without MIG mode, and %d are asked for", len(l.Instances))
	}
	for _, w := range l.Instances {
		p, err := m.Profile(w.Profile)
		if err != nil {
			return err
		}
		sum := 0
		for _, c := range w.Compute {
			if c < 1 {
				return fmt.Errorf("%s: a compute instance has at least one compute slice, not %d", w.Profile, c)
			}
			sum += c
		}
		if sum > p.Compute {
			return fmt.Errorf("%s has %d compute slices, not %d", w.Profile, p.Compute, sum)
		}
	}
	_, err := m.Place(l.profiles(), 0)
	return err
}

func (l Layout) profiles() []string {
	names := make([]string, len(l.Instances))
	for i, w := range l.Instances {
		names[i] = w.Profile
	}
	return names
}

// String is "MIG off", "MIG on without slices", or the slices.
func (l Layout) String() string {
	switch {
	case !l.Enabled:
		return "MIG off"
	case len(l.Instances) == 0:
		return "MIG on without slices"
	}
	var names []string
	count := make(map[string]int)
	for _, w := range l.Instances {
		name := describeInstance(w.Profile, w.Compute)
		if count[name]++; count[name] == 1 {
			names = append(names, name)
		}
	}
	for i, name := range names {
		if n := count[name]; n > 1 {
			names[i] = fmt.Sprintf("%s ×%d", name, n)
		}
	}
	return strings.Join(names, ", ")
}

// describeInstance is "3g.20gb", or "3g.20gb (compute 2+1)" if it is divided.
func describeInstance(profile string, compute []int) string {
	if len(compute) == 0 || (Instance{Profile: profile, Compute: compute}).Whole() {
		return profile
	}
	sizes := make([]string, len(compute))
	for i, c := range compute {
		sizes[i] = strconv.Itoa(c)
	}
	return fmt.Sprintf("%s (compute %s)", profile, strings.Join(sizes, "+"))
}

// splitProfile takes "1c.3g.20gb" apart.
func splitProfile(name string) (compute int, instance string, isPart bool, err error) {
	head, rest, ok := strings.Cut(name, "c.")
	if !ok || strings.ContainsAny(head, "g.") {
		return 0, name, false, nil
	}
	compute, err = strconv.Atoi(head)
	if err != nil || compute < 1 {
		return 0, "", false, fmt.Errorf("MIG profile %q begins with %q; a number of compute slices is at least 1, as in 1c.3g.20gb", name, head+"c")
	}
	return compute, rest, true, nil
}

// pack puts compute instances into as few GPU instances as they fit in. There
// are so few sizes (at most seven slices) that largest first is the fewest.
func pack(sizes []int, capacity int) [][]int {
	sizes = slices.Clone(sizes)
	slices.SortFunc(sizes, func(a, b int) int { return cmp.Compare(b, a) })
	var packed [][]int
	var left []int
	for _, size := range sizes {
		i := slices.IndexFunc(left, func(l int) bool { return l >= size })
		if i < 0 {
			i = len(packed)
			packed, left = append(packed, nil), append(left, capacity)
		}
		packed[i] = append(packed[i], size)
		left[i] -= size
	}
	return packed
}
