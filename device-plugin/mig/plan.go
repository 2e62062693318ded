package mig

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Plan is what it takes to get a board from what it is to a layout.
type Plan struct {
	// Kept are the instances that stay as they are.
	Kept []Instance
	// Steps are what is to be done, in order. None: the board is as it should be.
	Steps []Step
}

// Step is one change of a board.
type Step struct {
	Op Op
	// Instance is the one that is destroyed, or created.
	Instance Instance
}

// Op is a kind of step.
type Op string

// The kinds of steps, in the order in which they are done.
const (
	Destroy Op = "destroy"
	Enable  Op = "enable-mig"
	Disable Op = "disable-mig"
	// Reset is one that nobody but an operator can do: a change of the mode
	// waits for it.
	Reset  Op = "reset-board"
	Create Op = "create"
)

// String is "create 3g.20gb at 4:4".
func (s Step) String() string {
	switch s.Op {
	case Enable:
		return "turn MIG mode on"
	case Disable:
		return "turn MIG mode off"
	case Reset:
		return "reset the board, for which its MIG mode waits"
	}
	at := s.Instance.Placement
	return fmt.Sprintf("%s %s at %d:%d", s.Op, describeInstance(s.Instance.Profile, s.Instance.Compute), at.Start, at.Size)
}

// mostInstances is more than any board has.
const mostInstances = 8

// NewPlan finds how to get a board to a layout. Instances that the layout has
// too stay: those in use before others, and then as many as can. Applied to a
// board that is as it should be, or to one where an earlier plan for the same
// layout was cut short, it plans what is left.
func NewPlan(b Board, l Layout) (Plan, error) {
	m, ok := b.Model()
	if !ok {
		return Plan{}, fmt.Errorf("%s (%s) is of no model with known MIG profiles; those are %s", b.Product, b.ID, strings.Join(ModelNames(), ", "))
	}
	if err := l.Check(m); err != nil {
		return Plan{}, err
	}
	if len(b.Instances) > mostInstances {
		return Plan{}, fmt.Errorf("the driver reports %d GPU instances on board %s; a board has at most %d", len(b.Instances), b.ID, mostInstances)
	}
	for _, in := range b.Instances {
		if p := in.Placement; p.Start < 0 || p.Size < 1 || p.Start+p.Size > m.Slots {
			return Plan{}, fmt.Errorf("the driver reports %s at %d:%d on board %s, which has slots 0 to %d", in.Profile, p.Start, p.Size, b.ID, m.Slots-1)
		}
	}
	if !l.Enabled {
		return b.planOff(), nil
	}
	if !b.Enabled {
		return b.planOn(m, l)
	}
	kept, placed, err := b.keep(m, l)
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	for i, in := range b.Instances {
		if kept&(1<<i) != 0 {
			p.Kept = append(p.Kept, in)
		} else {
			p.Steps = append(p.Steps, Step{Destroy, in})
		}
	}
	if !b.Pending { // it would be off after a reset
		p.Steps = append(p.Steps, Step{Op: Enable})
	}
	p.create(placed)
	return p, nil
}

func (b Board) planOff() Plan {
	var p Plan
	if b.Enabled {
		for _, in := range b.Instances {
			p.Steps = append(p.Steps, Step{Destroy, in})
		}
	}
	switch {
	case b.Pending:
		p.Steps = append(p.Steps, Step{Op: Disable})
	case b.Enabled:
		p.Steps = append(p.Steps, Step{Op: Reset})
	}
	return p
}

func (b Board) planOn(m Model, l Layout) (Plan, error) {
	placed, err := m.placeWants(l.Instances, nil)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Steps: []Step{{Op: Enable}}}
	if b.Pending {
		p.Steps[0].Op = Reset
	}
	p.create(placed)
	return p, nil
}

func (p *Plan) create(placed []Instance) {
	slices.SortFunc(placed, func(a, b Instance) int { return cmp.Compare(a.Placement.Start, b.Placement.Start) })
	for _, in := range placed {
		p.Steps = append(p.Steps, Step{Create, in})
	}
}

// keep chooses the instances that stay, as bits, and places the others.
func (b Board) keep(m Model, l Layout) (best int, create []Instance, err error) {
	type merit struct {
		inUse, count int
		room, starts []int
	}
	better := func(a, b merit) bool {
		return cmp.Or(cmp.Compare(a.inUse, b.inUse), cmp.Compare(a.count, b.count),
			slices.Compare(a.room, b.room), slices.Compare(b.starts, a.starts)) > 0
	}
	var bestMerit merit
	found := false
	for set := range 1 << len(b.Instances) {
		var kept []Placed
		var a merit
		rest := slices.Clone(l.Instances)
		for i, in := range b.Instances {
			if set&(1<<i) == 0 {
				continue
			}
			at := slices.IndexFunc(rest, func(w Want) bool { return in.is(w, m) })
			if at < 0 {
				kept = nil
				break
			}
			rest = slices.Delete(rest, at, at+1)
			p, _ := m.Profile(in.Profile)
			kept = append(kept, Placed{p, in.Placement})
			a.count++
			a.starts = append(a.starts, in.Placement.Start)
			if len(in.Processes) > 0 {
				a.inUse++
			}
		}
		if set != 0 && kept == nil {
			continue
		}
		placed, placeErr := m.placeWants(rest, kept)
		if placeErr != nil {
			if set == 0 {
				return 0, nil, placeErr
			}
			continue
		}
		taken := Slots(0)
		for _, k := range kept {
			taken |= k.Slots()
		}
		for _, in := range placed {
			taken |= in.Placement.Slots()
		}
		a.room = (&search{model: m, room: make(map[Slots][]int)}).roomBeside(taken)
		slices.Sort(a.starts)
		if !found || better(a, bestMerit) {
			found, best, bestMerit, create = true, set, a, placed
		}
	}
	return best, create, nil
}

// is reports whether an instance is as a layout asks for.
func (in Instance) is(w Want, m Model) bool {
	p, err := m.Profile(w.Profile)
	if err != nil || in.Profile != w.Profile || in.Placement.Size != p.Size {
		return false
	}
	has, want := slices.Clone(in.Compute), slices.Clone(w.Compute)
	if len(want) == 0 {
		want = []int{p.Compute}
	}
	slices.Sort(has)
	slices.Sort(want)
	return slices.Equal(has, want)
}

func (m Model) placeWants(wants []Want, kept []Placed) ([]Instance, error) {
	profiles := make([]Profile, len(wants))
	for i, w := range wants {
		var err error
		if profiles[i], err = m.Profile(w.Profile); err != nil {
			return nil, err
		}
	}
	placed, err := m.placeBeside(profiles, kept, 0)
	if err != nil {
		return nil, err
	}
	instances := make([]Instance, len(placed))
	for i, p := range placed {
		compute := wants[i].Compute
		if len(compute) == 0 {
			compute = []int{p.Profile.Compute}
		}
		instances[i] = Instance{Profile: p.Profile.Name, Placement: p.Placement, Compute: slices.Clone(compute)}
	}
	return instances, nil
}

// changesMode reports whether the board as a whole is concerned.
func (p Plan) changesMode() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Op == Enable || s.Op == Disable || s.Op == Reset })
}

// Affected are the IDs of the devices that must not be in use: slices that go,
// or the board where its mode changes. None if instances are only created.
func (p Plan) Affected(b Board) []string {
	if p.changesMode() {
		return []string{b.ID}
	}
	var ids []string
	for _, s := range p.Steps {
		if s.Op != Destroy {
			continue
		}
		if len(s.Instance.UUIDs) != len(s.Instance.Compute) {
			return []string{b.ID}
		}
		ids = append(ids, s.Instance.UUIDs...)
	}
	slices.Sort(ids)
	return ids
}

// InTheWay are the processes that must leave before the first step, ascending.
// One of which the driver does not tell the instance is in the way of any
// change that destroys something.
func (p Plan) InTheWay(b Board) []int {
	var pids []int
	destroys := false
	for _, s := range p.Steps {
		if s.Op == Destroy {
			destroys = true
			pids = append(pids, s.Instance.Processes...)
		}
	}
	known := make(map[int]bool)
	for _, in := range b.Instances {
		for _, pid := range in.Processes {
			known[pid] = true
		}
	}
	for _, pid := range b.Processes {
		if p.changesMode() || destroys && !known[pid] {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}
