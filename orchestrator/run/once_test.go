package run_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/run"
)

const single = "pipeline \"p\" {}\nstep \"a\" { command = [\"a\"] }"

// submitAll submits the same 20 times at once. The IDs of what was not taken are "".
func (w *world) submitAll(ctx context.Context, s run.Submission) []run.ID {
	ids := make([]run.ID, 20)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			if r, _, err := w.engine.Submit(ctx, s); err == nil {
				ids[i] = r.ID
			}
		})
	}
	wg.Wait()
	return ids
}

// One key is one run and one job: with 20 submissions at once, and again after a
// crash at any write of them, so that some were stored and nobody was told.
func TestOneRunForAKeyAcrossCrashes(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; n <= 4; n++ {
			t.Run(fmt.Sprintf("effect %d, after %v", n, after), func(t *testing.T) {
				w := newWorld(t)
				w.room = &room{tasks: 20}
				s := w.submission(single)
				s.Key = "nightly-7"
				d := dieAt(n, after)
				w.open(func(s run.Store) run.Store { return dyingStore{s, d} })
				told := w.submitAll(d.context(), s)
				<-d.dead
				w.shut()
				w.open(nil)
				ids := append(slices.DeleteFunc(told, func(id run.ID) bool { return id == "" }), w.submitAll(t.Context(), s)...)
				if all := slices.Compact(slices.Sorted(slices.Values(ids))); len(all) != 1 || all[0] == "" {
					t.Fatalf("runs %q for one key", all)
				}
				if r := w.wait(ids[0]); r.Phase != run.Succeeded {
					t.Error(describe(r))
				}
				if runs, err := w.engine.List(t.Context(), run.Filter{}); err != nil || len(runs) != 1 {
					t.Errorf("%d runs, %v", len(runs), err)
				}
				if starts := w.cluster.Starts(); len(starts) != 1 {
					t.Errorf("jobs %v", starts)
				}
				w.startedOnce()
			})
		}
	}
}

// As many run as there is room for while others wait: if one that runs is
// cancelled, and with an engine that did not start them. Who has been cancelled
// while waiting never runs.
func TestRoomIsNeitherLostNorGivenTwice(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 3}
	w.open(nil)
	release := make(chan struct{})
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		select {
		case <-release:
			return usual(x)
		case <-x.Stopped:
			return clustertest.Exit{Signal: 15}
		}
	})
	const source = "pipeline \"p\" {}\nstep \"a\" {\n  command = [\"a\"]\n  cache = false\n}"
	var ids []run.ID
	for range 5 {
		ids = append(ids, w.submit(source))
		w.until(ids[len(ids)-1], "queued", reaches("step.a", run.Queued))
	}
	for _, id := range ids[:3] {
		w.until(id, "running", reaches("step.a", run.Running))
	}
	if err := w.engine.Cancel(t.Context(), ids[1], "bob"); err != nil {
		t.Fatal(err)
	}
	w.wait(ids[1])
	w.until(ids[3], "running in the place of the second", reaches("step.a", run.Running))

	w.shut()
	w.open(nil)
	if err := w.engine.Cancel(t.Context(), ids[4], "bob"); err != nil {
		t.Fatal(err)
	}
	w.wait(ids[4])
	next := w.submit(source)
	close(release)
	for _, id := range []run.ID{ids[0], ids[2], ids[3], next} {
		if r := w.wait(id); r.Phase != run.Succeeded || len(r.Nodes[0].Attempts) != 1 {
			t.Error(describe(r))
		}
	}
	for _, id := range []run.ID{ids[1], ids[4]} {
		if r := w.get(id); r.Phase != run.Cancelled {
			t.Error(describe(r))
		}
	}
	if starts := w.cluster.Starts(); len(starts) != 5 {
		t.Errorf("jobs %v, want all but that of the fifth", starts)
	}
	w.startedOnce()
}
