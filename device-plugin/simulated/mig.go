package simulated

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A profile is a way to cut a slice out of a board: how many memory slots it
// takes, where it may start, and how many of it fit. The starts are the
// hardware's: two 3g slices fill a board although one compute slice is left.
type profile struct {
	name    string
	compute int
	slots   int
	starts  []int
	max     int
}

// memorySlots is the number of memory slots of a board.
const memorySlots = 8

func (g *geometry) profiles() []profile {
	name := func(compute, slots int, suffix string) string {
		return strconv.Itoa(compute) + "g." + strconv.FormatInt(g.gigabytes[slots], 10) + "gb" + suffix
	}
	anywhere := []int{0, 1, 2, 3, 4, 5, 6}
	return []profile{
		{name(1, 1, ""), 1, 1, anywhere, 7},
		{name(1, 1, "+me"), 1, 1, anywhere, 1},
		{name(1, 2, ""), 1, 2, []int{0, 2, 4, 6}, 4},
		{name(2, 2, ""), 2, 2, []int{0, 2, 4}, 3},
		{name(3, 4, ""), 3, 4, []int{0, 4}, 2},
		{name(4, 4, ""), 4, 4, []int{0}, 1},
		{name(7, 8, ""), 7, 8, []int{0}, 1},
	}
}

func (g *geometry) profile(name string) (profile, error) {
	all := g.profiles()
	for _, p := range all {
		if p.name == name {
			return p, nil
		}
	}
	var names []string
	for _, p := range all {
		names = append(names, p.name)
	}
	return profile{}, fmt.Errorf("unknown MIG profile %q; this board has %s", name, strings.Join(names, ", "))
}

// placed is a slice at its place.
type placed struct {
	profile
	start int
}

// place finds a legal place for every profile, in the order given, or tells
// that there is none. It tries all combinations, since taking the first free
// start would refuse layouts that the hardware allows (a 3g at 0 leaves no
// room for the 4g that may only start there).
func (g *geometry) place(names []string) ([]placed, error) {
	slicesLeft := 7
	wanted := make([]profile, len(names))
	count := make(map[string]int)
	for i, n := range names {
		p, err := g.profile(n)
		if err != nil {
			return nil, err
		}
		wanted[i] = p
		slicesLeft -= p.compute
		count[n]++
		if count[n] > p.max {
			return nil, fmt.Errorf("MIG profile %s fits %d times on this board, not %d", n, p.max, count[n])
		}
	}
	if slicesLeft < 0 {
		return nil, fmt.Errorf("MIG layout %s needs %d compute slices; a board has 7", strings.Join(names, ", "), 7-slicesLeft)
	}
	layout := make([]placed, len(wanted))
	if !fit(wanted, layout, 0, 0) {
		return nil, fmt.Errorf("MIG layout %s has no legal placement on this board", strings.Join(names, ", "))
	}
	return layout, nil
}

// fit places wanted[i:] beside the occupied slots, a bit set.
func fit(wanted []profile, layout []placed, i int, occupied uint) bool {
	if i == len(wanted) {
		return true
	}
	p := wanted[i]
	for _, start := range p.starts {
		slots := (uint(1)<<p.slots - 1) << start
		if occupied&slots != 0 {
			continue
		}
		layout[i] = placed{p, start}
		if fit(wanted, layout, i+1, occupied|slots) {
			return true
		}
	}
	return false
}

// layouts that a preset can name, as nvidia-mig-parted's default file does:
// all-disabled, all-enabled, all-balanced and all-<profile>.
func (g *geometry) namedLayout(name string) (mig bool, profiles []string, err error) {
	what, ok := strings.CutPrefix(name, "all-")
	if !ok {
		return false, nil, fmt.Errorf("unknown MIG layout %q; use all-disabled, all-enabled, all-balanced or all-<profile>", name)
	}
	all := g.profiles()
	switch what {
	case "disabled":
		return false, nil, nil
	case "enabled":
		return true, nil, nil
	case "balanced":
		return true, []string{all[4].name, all[3].name, all[0].name, all[0].name}, nil
	}
	p, err := g.profile(what)
	if err != nil {
		return false, nil, err
	}
	return true, slices.Repeat([]string{p.name}, p.max), nil
}
