package inventory_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// TestQueueOnFleet has the queue start, evict and end random jobs on a random
// fleet. Each member has its devices to itself, as a naive account tells; no gang
// is there in part; and a state that is opened anew on a new fleet plans the same.
func TestQueueOnFleet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t)
		f, err := inventory.New(nodes, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &onFleet{nodes: nodes, fleet: f, now: time.Unix(1e9, 0), account: &naive{nodes: nodes}, jobs: map[queue.JobID]queue.Job{}, running: map[queue.JobID]queue.Start{}, asks: map[queue.JobID]inventory.Ask{}}
		snap := queue.Snapshot{Policy: queue.Policy{HalfLife: time.Hour}, Cohorts: []queue.Cohort{{Name: "all"}}}
		for _, id := range []queue.QueueID{"a", "b"} {
			quotas := map[queue.Flavor]queue.Quota{inventory.CPU: {Nominal: queue.MaxAmount}, inventory.Memory: {Nominal: queue.MaxAmount}}
			for _, flavor := range []queue.Flavor{"nvidia-a100", "nvidia-h100"} {
				quotas[flavor] = queue.Quota{Nominal: queue.Amount(rapid.IntRange(0, 20).Draw(t, "quota")) * queue.One}
			}
			snap.Queues = append(snap.Queues, queue.Queue{ID: id, Cohort: "all", Quotas: quotas})
		}
		if w.state, err = queue.Open(snap, f); err != nil {
			t.Fatal(err)
		}
		submit := func(t *rapid.T) {
			for range 5 { // many are refused
				w.submit(t)
			}
		}
		t.Repeat(map[string]func(*rapid.T){"submit": submit, "plan": w.plan, "end": w.end, "leave": w.leave})
	})
}

// onFleet is a queue on a fleet, and what a naive account makes of it.
type onFleet struct {
	nodes   []inventory.Node
	fleet   *inventory.Fleet
	state   *queue.State
	now     time.Time
	account *naive
	jobs    map[queue.JobID]queue.Job
	asks    map[queue.JobID]inventory.Ask
	running map[queue.JobID]queue.Start
	leaving []queue.JobID
}

func (w *onFleet) submit(t *rapid.T) {
	a, _ := someAsk(t, w.nodes)
	each, or, err := w.fleet.Options(a)
	if err != nil {
		return
	}
	w.now = w.now.Add(time.Second)
	j := queue.Job{
		ID: queue.JobID(fmt.Sprintf("j%03d", len(w.jobs))), Queue: rapid.SampledFrom([]queue.QueueID{"a", "b"}).Draw(t, "queue"),
		Submitted: w.now, Priority: rapid.IntRange(0, 2).Draw(t, "priority"), Preemptible: rapid.Bool().Draw(t, "preemptible"),
		Each: each, Or: or, Shape: a.Shape(), Min: rapid.IntRange(1, 3).Draw(t, "min"), RunTime: time.Minute,
	}
	j.Max = j.Min + rapid.IntRange(0, 2).Draw(t, "more")
	if w.fleet.Most(a) < j.Min {
		return
	}
	var refusal *queue.Refusal
	if err := w.state.Submit(j); errors.As(err, &refusal) {
		return // beyond its quota, or only on what takes no new work
	} else if err != nil {
		t.Fatal(err)
	}
	w.jobs[j.ID], w.asks[j.ID] = j, a
}

func (w *onFleet) plan(t *rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second)
	plan := w.state.Plan(w.now)
	fleet, err := inventory.New(w.nodes, nil)
	if err != nil {
		t.Fatal(err)
	}
	anew, err := queue.Decide(w.state.Snapshot(), fleet, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(anew, plan); diff != "" {
		t.Fatalf("plan (-anew +kept):\n%s", diff)
	}
	for _, s := range plan.Start {
		j := w.jobs[s.Job]
		if s.Members < j.Min || s.Members > j.Max {
			t.Fatalf("%s starts with %d members, not %d to %d", s.Job, s.Members, j.Min, j.Max)
		}
		flavor := queue.Flavor("")
		for name := range j.Option(s.Option) {
			if name != inventory.CPU && name != inventory.Memory {
				flavor = name
			}
		}
		if err := w.account.check(w.asks[s.Job], flavor, s.Place, s.Members); err != nil {
			t.Fatalf("%s starts at %v: %v", s.Job, s.Place, err)
		}
		w.running[s.Job] = s
		for _, spot := range s.Place {
			w.account.held = append(w.account.held, holder{w.asks[s.Job], spot.Members, spot.Node, spot.Devices})
		}
	}
	if err := w.state.Apply(plan, w.now); err != nil {
		t.Fatal(err)
	}
	for _, e := range plan.Evict {
		w.leaving = append(w.leaving, e.Job)
	}
}

// gone takes a job out of the account.
func (w *onFleet) gone(id queue.JobID) {
	for _, spot := range w.running[id].Place {
		i := slices.IndexFunc(w.account.held, func(h holder) bool {
			return h.node == spot.Node && h.members == spot.Members && slices.Equal(h.devices, spot.Devices) && h.ask.Shape() == w.jobs[id].Shape
		})
		w.account.held = slices.Delete(w.account.held, i, i+1)
	}
	delete(w.running, id)
	w.leaving = slices.DeleteFunc(w.leaving, func(l queue.JobID) bool { return l == id })
}

func (w *onFleet) end(t *rapid.T) {
	if len(w.running) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(w.running))).Draw(t, "ends")
	if err := w.state.End(id, w.now); err != nil {
		t.Fatal(err)
	}
	w.gone(id)
}

func (w *onFleet) leave(t *rapid.T) {
	if len(w.leaving) == 0 {
		return
	}
	id := w.leaving[0]
	if err := w.state.Requeue(id, w.now); err != nil {
		t.Fatal(err)
	}
	w.gone(id)
}
