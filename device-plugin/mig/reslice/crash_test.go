package reslice

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
)

// reslice is a board that has most of what can be on the way: slices that
// stay, one of them in use; slices that go, one of them in use for a while; and
// new ones.
func reslice(t *testing.T) *world {
	w := newWorld(1)
	w.Cut(0, placed(t, "3g.20gb@4", "1g.5gb@0", "2g.10gb@2")...)
	w.Use(0, 0, time.Time{})
	w.Use(0, 1, time.Now().Add(20*time.Second))
	w.want(Request{Name: "custom", Layout: layoutOf(t, "3g.20gb", "1g.5gb", "1g.5gb", "1g.5gb", "1g.5gb+me")}, 0)
	return w
}

// TestKilledEverywhere kills the reconciler at every single point of a
// re-slice, and at every pair of points.
func TestKilledEverywhere(t *testing.T) {
	var uninterrupted *world
	synctest.Test(t, func(t *testing.T) {
		uninterrupted = reslice(t)
		if err := uninterrupted.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	points := uninterrupted.points
	if points < 20 {
		t.Fatalf("a whole re-slice has but %d points", points)
	}
	t.Logf("%d points", points)
	for first := 1; first <= points; first++ {
		// After a restart the count goes on, so second is counted from there.
		for second := first; second <= points+4; second++ {
			synctest.Test(t, func(t *testing.T) {
				w := reslice(t)
				w.kills = map[int]bool{first: true, second: true}
				if err := w.settle(t.Context()); err != nil {
					t.Fatalf("killed at %d and %d: %v", first, second, err)
				}
				if w.task(0).Phase != Done || w.layout(0) != uninterrupted.layout(0) {
					t.Errorf("killed at %d and %d: %s, %s, want %s", first, second, w.task(0).Phase, w.layout(0), uninterrupted.layout(0))
				}
				if !slices.Equal(w.done, uninterrupted.done) {
					t.Errorf("killed at %d and %d, these changes were made: %v, want each once: %v", first, second, w.done, uninterrupted.done)
				}
				if faults := w.reconciler.Faults(); len(faults) > 0 {
					t.Errorf("killed at %d and %d, faults are left: %v", first, second, faults)
				}
				w.check(t)
			})
			if t.Failed() {
				return
			}
		}
	}
}

// scenario is what happens to a machine.
type scenario struct {
	boards   int
	before   [][]mig.Placed
	uses     []use
	layouts  []mig.Layout // wanted one after the other, of all boards
	evict    bool
	timeout  time.Duration
	kills    []int
	failures []int // numbers of calls that fail
	late     []int // numbers of calls that fail although they are done
	reset    bool  // the mode waits for a reset, which comes within the hour
}

type use struct {
	board, instance int
	ends            time.Duration // 0 never ends by itself
}

func drawScenario(t *rapid.T) scenario {
	m, _ := mig.ModelOf(a100)
	profiles := rapid.SliceOfN(rapid.SampledFrom(m.ProfileNames()), 0, 5)
	place := func(name string) []mig.Placed {
		for {
			if placed, err := m.Place(profiles.Draw(t, name), 0); err == nil {
				return placed
			}
		}
	}
	s := scenario{
		boards:   rapid.IntRange(1, 3).Draw(t, "boards"),
		evict:    rapid.Bool().Draw(t, "evict"),
		kills:    rapid.SliceOfN(rapid.IntRange(1, 80), 0, 8).Draw(t, "kills"),
		failures: rapid.SliceOfN(rapid.IntRange(1, 20), 0, 8).Draw(t, "failures"),
		late:     rapid.SliceOfN(rapid.IntRange(1, 20), 0, 4).Draw(t, "late failures"),
		reset:    rapid.IntRange(0, 9).Draw(t, "reset") == 0,
	}
	if rapid.Bool().Draw(t, "deadline") {
		s.timeout = time.Duration(rapid.IntRange(1, 7200).Draw(t, "seconds")) * time.Second
	}
	for b := range s.boards {
		if rapid.IntRange(0, 4).Draw(t, "in MIG mode") == 0 {
			s.before = append(s.before, nil)
			continue
		}
		s.before = append(s.before, append([]mig.Placed{}, place("before")...))
		for i := range s.before[b] {
			if rapid.Bool().Draw(t, "in use") {
				s.uses = append(s.uses, use{b, i, time.Duration(rapid.IntRange(0, 300).Draw(t, "for")) * time.Second})
			}
		}
	}
	for range rapid.IntRange(1, 2).Draw(t, "layouts") {
		if rapid.IntRange(0, 5).Draw(t, "off") == 0 {
			s.layouts = append(s.layouts, mig.Layout{})
			continue
		}
		var names []string
		for _, p := range place("layout") {
			names = append(names, p.Profile.Name)
		}
		l, _ := mig.NewLayout(m, names)
		s.layouts = append(s.layouts, l)
	}
	return s
}

func (s scenario) world(t *testing.T) *world {
	w := newWorld(s.boards)
	w.NeedsReset = s.reset
	w.limits.Poll = 20 * time.Second // hours pass in some scenarios
	for b, placed := range s.before {
		if placed != nil {
			w.Cut(b, placed...)
		}
	}
	for _, u := range s.uses {
		var ends time.Time
		if u.ends > 0 {
			ends = time.Now().Add(u.ends)
		} else {
			// One that stays for ever is asked to leave in the end, or the
			// scenario would have none.
			ends = time.Now().Add(3 * time.Hour)
		}
		w.Use(u.board, u.instance, ends)
	}
	w.failures, w.failuresAfter = make(map[int]error), make(map[int]error)
	for _, n := range s.failures {
		w.failures[n] = errors.New("the driver says no")
	}
	for _, n := range s.late {
		w.failuresAfter[n] = errors.New("the driver says no, and did it")
	}
	w.kills = make(map[int]bool)
	for _, n := range s.kills {
		w.kills[n] = true
	}
	return w
}

// TestAnythingHappens kills, fails and asks for something else at random. In
// the end each board is as it was wanted, or has failed with a reason and is
// cordoned if it was touched; and what a layout keeps was kept.
func TestAnythingHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScenario(rt)
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = s.run(t) })
		for _, p := range problems {
			rt.Error(p)
		}
	})
}

// wait resets boards that wait for it, once an hour.
func (s scenario) wait(w *world, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Hour):
		}
		for b, board := range w.Read() {
			if board.Enabled != board.Pending {
				w.Reset(b)
			}
		}
	}
}

func (s scenario) run(t *testing.T) []string {
	w := s.world(t)
	all := []int{0, 1, 2}[:s.boards]
	for i, l := range s.layouts {
		w.want(Request{Name: fmt.Sprint("layout ", i), Layout: l, Evict: s.evict, Timeout: s.timeout}, all...)
		ended := make(chan error, 1)
		go func() { ended <- w.settle(t.Context()) }()
		if err := s.wait(w, ended); err != nil {
			return []string{err.Error()}
		}
	}
	last := s.layouts[len(s.layouts)-1]
	for b, board := range w.Read() {
		task, faults := w.task(b), w.reconciler.Faults()
		plan, err := mig.NewPlan(board, last)
		switch task.Phase {
		case Done:
			if err != nil || len(plan.Steps) > 0 {
				w.wrong = append(w.wrong, fmt.Sprintf("board %d is done, and %v (%v) is left to do", b, plan.Steps, err))
			}
			if !faults[gpu.ID(board.ID)].OK() {
				w.wrong = append(w.wrong, fmt.Sprintf("board %d is done and cordoned", b))
			}
		case Failed:
			if task.Reason == "" || task.Touched == faults[gpu.ID(board.ID)].OK() {
				w.wrong = append(w.wrong, fmt.Sprintf("board %d failed: %q; touched: %t; faults: %v", b, task.Reason, task.Touched, faults))
			}
		default:
			w.wrong = append(w.wrong, fmt.Sprintf("board %d ended in %s", b, task.Phase))
		}
	}
	return w.wrong
}
