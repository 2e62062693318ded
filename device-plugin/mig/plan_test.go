package mig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const a100 = "NVIDIA A100-SXM4-40GB"

// boardOf makes a board in MIG mode with instances "1g.5gb@6"; one that ends
// in "*" is in use.
func boardOf(instances ...string) Board {
	b := Board{ID: "GPU-a", Product: a100, Enabled: true, Pending: true}
	m, _ := ModelOf(a100)
	for i, text := range instances {
		text, inUse := strings.CutSuffix(text, "*")
		var start int
		name, at, _ := strings.Cut(text, "@")
		fmt.Sscan(at, &start)
		p, err := m.Profile(name)
		if err != nil {
			panic(err)
		}
		in := Instance{
			GPUInstance: i + 1, Profile: name, Placement: Placement{start, p.Size}, Compute: []int{p.Compute},
			UUIDs: []string{fmt.Sprintf("MIG-%d", i+1)},
		}
		if inUse {
			in.Processes = []int{100 + i}
			b.Processes = append(b.Processes, 100+i)
		}
		b.Instances = append(b.Instances, in)
	}
	return b
}

func layoutOf(t testing.TB, profiles ...string) Layout {
	t.Helper()
	m, _ := ModelOf(a100)
	l, err := NewLayout(m, profiles)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNewPlan(t *testing.T) {
	off := Board{ID: "GPU-a", Product: a100}
	pendingOn := Board{ID: "GPU-a", Product: a100, Pending: true}
	pendingOff := boardOf("1g.5gb@0")
	pendingOff.Pending = false
	divided := boardOf("3g.20gb@4")
	divided.Instances[0].Compute = []int{1, 2}
	divided.Instances[0].UUIDs = []string{"MIG-1", "MIG-2"}
	without := boardOf("3g.20gb@4")
	without.Instances[0].Compute, without.Instances[0].UUIDs = nil, nil

	for name, test := range map[string]struct {
		board  Board
		layout Layout
		want   string
		// affected are the devices that must not be in use.
		affected string
		inTheWay []int
	}{
		"on and cut": {
			board: off, layout: layoutOf(t, "3g.20gb", "4g.20gb"),
			want: "turn MIG mode on; create 4g.20gb at 0:4; create 3g.20gb at 4:4", affected: "GPU-a",
		},
		"on with nobody's slices": {board: off, layout: Layout{Enabled: true}, want: "turn MIG mode on", affected: "GPU-a"},
		"on waits for a reset": {
			board: pendingOn, layout: layoutOf(t, "7g.40gb"),
			want: "reset the board, for which its MIG mode waits; create 7g.40gb at 0:8", affected: "GPU-a",
		},
		"off stays off": {board: off, layout: Layout{}},
		"off": {
			board: boardOf("1g.5gb@0", "3g.20gb@4*"), layout: Layout{},
			want: "destroy 1g.5gb at 0:1; destroy 3g.20gb at 4:4; turn MIG mode off", affected: "GPU-a", inTheWay: []int{101},
		},
		"off waits for a reset": {
			board: pendingOff, layout: Layout{},
			want: "destroy 1g.5gb at 0:1; reset the board, for which its MIG mode waits", affected: "GPU-a",
		},
		"no longer on after a reset": {board: pendingOn, layout: Layout{}, want: "turn MIG mode off", affected: "GPU-a"},
		"no longer off after a reset": {
			board: pendingOff, layout: layoutOf(t, "1g.5gb"), want: "turn MIG mode on", affected: "GPU-a",
		},
		"as it should be": {board: boardOf("3g.20gb@0", "3g.20gb@4"), layout: layoutOf(t, "3g.20gb", "3g.20gb")},
		"one more": {
			board: boardOf("3g.20gb@4*"), layout: layoutOf(t, "3g.20gb", "2g.10gb"), want: "create 2g.10gb at 0:2",
		},
		"one less": {
			board: boardOf("3g.20gb@4*", "1g.5gb@0"), layout: layoutOf(t, "3g.20gb"), want: "destroy 1g.5gb at 0:1", affected: "MIG-2",
		},
		"what is in use stays": {
			board: boardOf("1g.5gb@0*", "1g.5gb@6", "1g.5gb@5"), layout: layoutOf(t, "1g.5gb"),
			want: "destroy 1g.5gb at 6:1; destroy 1g.5gb at 5:1", affected: "MIG-2 MIG-3",
		},
		"what leaves room for more stays": {
			board: boardOf("1g.5gb@0", "1g.5gb@6"), layout: layoutOf(t, "1g.5gb"), want: "destroy 1g.5gb at 0:1", affected: "MIG-1",
		},
		"in the way of a 4g": {
			board: boardOf("3g.20gb@0*"), layout: layoutOf(t, "3g.20gb", "4g.20gb"),
			want:     "destroy 3g.20gb at 0:4; create 4g.20gb at 0:4; create 3g.20gb at 4:4",
			affected: "MIG-1", inTheWay: []int{100},
		},
		"other compute instances": {
			board: divided, layout: layoutOf(t, "3g.20gb"),
			want: "destroy 3g.20gb (compute 1+2) at 4:4; create 3g.20gb at 4:4", affected: "MIG-1 MIG-2",
		},
		"compute instances in another order": {board: divided, layout: layoutOf(t, "2c.3g.20gb", "1c.3g.20gb")},
		"compute instances not made": {
			board: without, layout: layoutOf(t, "3g.20gb"), want: "destroy 3g.20gb at 4:4; create 3g.20gb at 4:4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(test.board, test.layout)
			if err != nil {
				t.Fatal(err)
			}
			var steps []string
			for _, s := range p.Steps {
				steps = append(steps, s.String())
			}
			if got := strings.Join(steps, "; "); got != test.want {
				t.Errorf("steps = %s\n want   %s", got, test.want)
			}
			if got := strings.Join(p.Affected(test.board), " "); got != test.affected {
				t.Errorf("affected = %s, want %s", got, test.affected)
			}
			if diff := cmp.Diff(test.inTheWay, p.InTheWay(test.board)); diff != "" {
				t.Errorf("in the way (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanWithWhatTheDriverDoesNotTell(t *testing.T) {
	b := boardOf("1g.5gb@0", "3g.20gb@4")
	b.Processes = []int{7} // on which instance?
	p, err := NewPlan(b, layoutOf(t, "3g.20gb"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{7}, p.InTheWay(b)); diff != "" {
		t.Errorf("in the way (-want +got):\n%s", diff)
	}
	b.Instances[0].UUIDs = nil
	if p, err = NewPlan(b, layoutOf(t, "3g.20gb")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"GPU-a"}, p.Affected(b)); diff != "" {
		t.Errorf("affected by destroying a slice without a UUID (-want +got):\n%s", diff)
	}
}

func TestPlanRefuses(t *testing.T) {
	many := boardOf()
	for range 9 {
		many.Instances = append(many.Instances, Instance{Profile: "1g.5gb"})
	}
	nowhere := boardOf("1g.5gb@0")
	nowhere.Instances[0].Placement.Start = -1
	for name, test := range map[string]struct {
		board  Board
		layout Layout
		want   string
	}{
		"a place that is none":         {nowhere, Layout{Enabled: true}, "reports 1g.5gb at -1:1"},
		"a model that is not known":    {Board{Product: "NVIDIA L4", ID: "GPU-l"}, Layout{}, "NVIDIA L4 (GPU-l) is of no model with known MIG profiles; those are NVIDIA A30, NVIDIA A100"},
		"a profile of another model":   {boardOf(), Layout{true, []Want{{Profile: "3g.40gb"}}}, `no MIG profile "3g.40gb"`},
		"slices that do not fit":       {boardOf(), Layout{true, []Want{{Profile: "7g.40gb"}, {Profile: "1g.5gb"}}}, "need 8 compute slices"},
		"slices without MIG mode":      {boardOf(), Layout{false, []Want{{Profile: "7g.40gb"}}}, "no slices without MIG mode"},
		"too many compute instances":   {boardOf(), Layout{true, []Want{{Profile: "3g.20gb", Compute: []int{2, 2}}}}, "3g.20gb has 3 compute slices, not 4"},
		"empty compute instances":      {boardOf(), Layout{true, []Want{{Profile: "3g.20gb", Compute: []int{0}}}}, "at least one compute slice"},
		"more instances than possible": {many, Layout{Enabled: true}, "reports 9 GPU instances"},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := NewPlan(test.board, test.layout); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("plan = %v, error = %v, want %s", p, err, test.want)
			}
		})
	}
}

// apply does a step on a board as a driver would; the error is the driver's.
func apply(b *Board, m Model, s Step, nextID *int) error {
	switch s.Op {
	case Destroy:
		at := slices.IndexFunc(b.Instances, func(in Instance) bool { return in.GPUInstance == s.Instance.GPUInstance })
		if at < 0 || len(b.Instances[at].Processes) > 0 {
			return fmt.Errorf("instance %d cannot be destroyed", s.Instance.GPUInstance)
		}
		b.Instances = slices.Delete(slices.Clone(b.Instances), at, at+1)
	case Enable, Disable:
		b.Enabled, b.Pending = s.Op == Enable, s.Op == Enable
	case Create:
		p, err := m.Profile(s.Instance.Profile)
		if err != nil {
			return err
		}
		for _, in := range b.Instances {
			if in.Placement.Slots()&s.Instance.Placement.Slots() != 0 {
				return fmt.Errorf("%s overlaps %s at %d", s, in.Profile, in.Placement.Start)
			}
		}
		if !b.Enabled || !slices.Contains(p.Starts, s.Instance.Placement.Start) || s.Instance.Placement.Size != p.Size {
			return fmt.Errorf("%s is not legal", s)
		}
		*nextID++
		in := s.Instance
		in.GPUInstance, in.UUIDs = *nextID, []string{fmt.Sprint("MIG-", *nextID)}
		b.Instances = append(slices.Clone(b.Instances), in)
	}
	return nil
}

func drawLayout(t *rapid.T, m Model, name string) Layout {
	for {
		profiles := rapid.SliceOfN(rapid.SampledFrom(m.ProfileNames()), 0, 5).Draw(t, name)
		if l, err := NewLayout(m, profiles); err == nil {
			return l
		}
		// One of a set that does not fit always does.
		if l, err := NewLayout(m, profiles[:1]); err == nil && len(profiles) > 0 {
			return l
		}
	}
}

// TestPlanFromAnywhere goes from any layout towards another, is cut short at
// any step and begins anew, maybe for a third one.
func TestPlanFromAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		b := Board{ID: "GPU-a", Product: "NVIDIA " + m.Name}
		nextID := 0
		targets := rapid.IntRange(1, 4).Draw(t, "layouts")
		for i := range targets {
			l := drawLayout(t, m, "layout")
			steps := 20
			if i < targets-1 {
				steps = rapid.IntRange(0, 6).Draw(t, "steps before the end")
			}
			for range steps {
				// Planned anew each time, as after a crash.
				p, err := NewPlan(b, l)
				if err != nil {
					t.Fatal(err)
				}
				if len(p.Steps) == 0 {
					break
				}
				kept := slices.Clone(p.Kept)
				if err := apply(&b, m, p.Steps[0], &nextID); err != nil {
					t.Fatal(err)
				}
				for _, in := range kept {
					if !slices.ContainsFunc(b.Instances, func(o Instance) bool { return o.GPUInstance == in.GPUInstance }) {
						t.Fatalf("%s at %d was to be kept", in.Profile, in.Placement.Start)
					}
				}
			}
			if i < targets-1 {
				continue
			}
			if p, err := NewPlan(b, l); err != nil || len(p.Steps) > 0 {
				t.Fatalf("after all steps, %v (%v) is left to do", p.Steps, err)
			}
			var has []string
			for _, in := range b.Instances {
				has = append(has, in.Profile)
			}
			if key(has) != key(l.profiles()) {
				t.Fatalf("the board has %v, want %v", has, l.profiles())
			}
		}
	})
}

// TestPlanKeepsTheMost compares what a plan keeps with all that could stay.
func TestPlanKeepsTheMost(t *testing.T) {
	m := modelOf(t, a100)
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawLayout(t, m, "before"), drawLayout(t, m, "after")
		// Anywhere, not only where they would be packed.
		var ways [][]Placed
		want := key(before.profiles())
		everyLayout(m, 0, len(before.Instances), func(l []Placed) {
			var names []string
			for _, p := range l {
				names = append(names, p.Profile.Name)
			}
			if key(names) == want {
				ways = append(ways, l)
			}
		})
		b := boardOf()
		for i, p := range rapid.SampledFrom(ways).Draw(t, "places") {
			b.Instances = append(b.Instances, Instance{GPUInstance: i, Profile: p.Profile.Name, Placement: p.Placement, Compute: []int{p.Profile.Compute}})
		}
		plan, err := NewPlan(b, after)
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		wantAfter := key(after.profiles())
		everyLayout(m, 0, len(after.Instances), func(l []Placed) {
			var names []string
			same := 0
			for _, p := range l {
				names = append(names, p.Profile.Name)
				if slices.ContainsFunc(b.Instances, func(in Instance) bool { return in.Profile == p.Profile.Name && in.Placement == p.Placement }) {
					same++
				}
			}
			if key(names) == wantAfter {
				most = max(most, same)
			}
		})
		if len(plan.Kept) != most {
			t.Fatalf("from %v to %v keeps %d instances; %d could stay", b.Instances, after, len(plan.Kept), most)
		}
	})
}
