package forecast_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/forecast"
	"github.com/drover-ml/drover/orchestrator/queue"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is queues a and b of a cohort, on nodes of so many GPUs.
type world struct {
	snap  queue.Snapshot
	nodes map[queue.NodeID]queue.Resources
}

func newWorld(p queue.Policy, gpus ...int) *world {
	w := &world{nodes: map[queue.NodeID]queue.Resources{}}
	for i, n := range gpus {
		w.nodes[queue.NodeID(fmt.Sprint("n", i))] = queue.Resources{"gpu": queue.Amount(n) * queue.One}
	}
	quota := map[queue.Flavor]queue.Quota{"gpu": {Nominal: 8 * queue.One}}
	w.snap = queue.Snapshot{Policy: p, Cohorts: []queue.Cohort{{Name: "c"}}, Queues: []queue.Queue{
		{ID: "a", Cohort: "c", Quotas: quota}, {ID: "b", Cohort: "c", Quotas: quota},
	}}
	return w
}

func (w *world) places() queue.Places { return queue.NewCounting(w.nodes) }

// job needs GPUs for a time and was submitted that long ago.
func job(id string, gpus int, runs, ago time.Duration) queue.Job {
	return queue.Job{ID: queue.JobID(id), Queue: "a", Submitted: noon.Add(-ago), Each: queue.Resources{"gpu": queue.Amount(gpus) * queue.One}, RunTime: runs}
}

func (w *world) runs(j queue.Job, node queue.NodeID) {
	w.snap.Running = append(w.snap.Running, queue.Running{Job: j, Run: queue.Run{Started: j.Submitted, Members: 1, Place: queue.Place{{Node: node, Members: 1}}}})
}

func (w *world) waits(jobs ...queue.Job) { w.snap.Waiting = append(w.snap.Waiting, jobs...) }

func (w *world) play(t interface{ Fatal(...any) }, more func() bool) forecast.Forecast {
	f, err := forecast.Open(w.snap, w.places(), noon)
	if err != nil {
		t.Fatal(err)
	}
	out, err := f.Play(more)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// told is a forecast as text: who starts after how long, and for whom others leave.
func told(f forecast.Forecast) string {
	var s []string
	for _, st := range f.Starts {
		text := fmt.Sprintf("%s +%s", st.Job, st.At.Sub(noon))
		for _, v := range st.Evicts {
			text += " without " + string(v.Job)
		}
		s = append(s, text)
	}
	for _, id := range f.Open {
		s = append(s, string(id)+" never")
	}
	return strings.Join(s, ", ")
}

func TestPlay(t *testing.T) {
	preemptible := func(j queue.Job) queue.Job { j.Preemptible = true; return j }
	urgent := func(j queue.Job) queue.Job { j.Priority = 9; return j }
	tests := map[string]struct {
		policy queue.Policy
		build  func(w *world)
		want   string
	}{
		"one after the other": {queue.Policy{}, func(w *world) {
			w.runs(job("r", 4, time.Hour, 20*time.Minute), "n0")
			w.waits(job("x", 4, time.Hour, 0), job("y", 4, time.Hour, time.Minute))
		}, "y +40m0s, x +1h40m0s"},
		"what is over its time ends any moment": {queue.Policy{}, func(w *world) {
			w.runs(job("r", 4, time.Hour, 3*time.Hour), "n0")
			w.waits(job("x", 4, time.Hour, 0))
		}, "x +0s"},
		"run times that nobody declares are the policy's": {queue.Policy{RunTime: 2 * time.Hour}, func(w *world) {
			w.runs(job("r", 4, 0, 0), "n0")
			w.waits(job("x", 4, 0, 0))
		}, "x +2h0m0s"},
		"a victim starts again": {queue.Policy{}, func(w *world) {
			w.runs(preemptible(job("r", 4, time.Hour, 0)), "n0")
			w.waits(urgent(job("x", 4, time.Hour, 0)))
		}, "x +0s without r, r +1h0m0s"},
		"one waits before it evicts": {queue.Policy{PreemptionDelay: 5 * time.Minute}, func(w *world) {
			w.runs(preemptible(job("r", 4, time.Hour, 0)), "n0")
			w.waits(urgent(job("x", 4, time.Hour, 2*time.Minute)))
		}, "x +3m0s without r, r +1h3m0s"},
		"one runs before it is evicted": {queue.Policy{MinRunTime: 30 * time.Minute}, func(w *world) {
			w.runs(preemptible(job("r", 4, 10*time.Hour, 10*time.Minute)), "n0")
			w.waits(urgent(job("x", 4, time.Hour, 0)))
		}, "x +20m0s without r, r +1h20m0s"},
		"those who are asked to leave are gone": {queue.Policy{}, func(w *world) {
			w.runs(preemptible(job("r", 4, time.Hour, 0)), "n0")
			w.snap.Running[0].Run.Leaving = true
			w.waits(urgent(job("x", 4, time.Hour, 0)))
			w.snap.Claims = []queue.JobID{"x"}
		}, "x +0s, r +1h0m0s"},
		"a held queue": {queue.Policy{}, func(w *world) {
			w.snap.Queues[0].Held = &queue.Hold{Why: "the budget is spent", Until: noon.Add(12 * time.Hour)}
			w.waits(job("x", 1, time.Hour, 0))
		}, "x +12h0m0s"},
		"never": {queue.Policy{}, func(w *world) {
			w.waits(job("x", 5, time.Hour, 0), job("y", 1, time.Hour, 0))
		}, "y +0s, x never"},
		"others' work does not end": {queue.Policy{}, func(w *world) {
			r := job("r", 2, time.Hour, 0)
			r.Foreign = true
			w.runs(r, "n0")
			w.waits(job("x", 4, time.Hour, 0))
		}, "x never"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(test.policy, 4)
			test.build(w)
			f := w.play(t, nil)
			if got := told(f); got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
			if !f.Until.IsZero() {
				t.Errorf("it reaches to %s only", f.Until)
			}
		})
	}
}

func TestPlayStopsWhenItIsTold(t *testing.T) {
	w := newWorld(queue.Policy{}, 4)
	w.runs(job("r", 4, time.Hour, 0), "n0")
	for i := range 100 {
		w.waits(job(fmt.Sprintf("x%02d", i), 4, time.Hour, time.Hour-time.Duration(i)*time.Second))
	}
	n := 0
	f := w.play(t, func() bool { n++; return n < 10 })
	if len(f.Starts) == 0 || len(f.Starts)+len(f.Open) != 100 || !f.Until.After(noon) {
		t.Errorf("%d starts and %d open until %s", len(f.Starts), len(f.Open), f.Until)
	}
	for _, st := range f.Starts {
		if st.At.After(f.Until) {
			t.Errorf("%s starts at %s, after the end", st.Job, st.At)
		}
	}
}

// random is any world of small jobs.
func random(t *rapid.T) *world {
	minutes := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(0, 90).Draw(t, "minutes")) * time.Minute
	})
	w := newWorld(queue.Policy{
		MinRunTime: rapid.SampledFrom([]time.Duration{0, 20 * time.Minute}).Draw(t, "min run time"), PreemptionDelay: rapid.SampledFrom([]time.Duration{0, 5 * time.Minute}).Draw(t, "delay"),
	}, rapid.SliceOfN(rapid.IntRange(1, 8), 1, 3).Draw(t, "nodes")...)
	w.snap.Queues[1].Strict = rapid.Bool().Draw(t, "strict")
	any := func(id string) queue.Job {
		j := job(id, rapid.IntRange(1, 4).Draw(t, "gpus"), time.Minute+minutes.Draw(t, "runs"), minutes.Draw(t, "ago"))
		j.Queue, j.Priority, j.Preemptible = rapid.SampledFrom([]queue.QueueID{"a", "b"}).Draw(t, "queue"), rapid.IntRange(0, 2).Draw(t, "priority"), rapid.Bool().Draw(t, "preemptible")
		j.Min = rapid.IntRange(1, 2).Draw(t, "members")
		j.Max = j.Min + rapid.IntRange(0, 1).Draw(t, "more")
		return j
	}
	places := w.places()
	for i := range rapid.IntRange(0, 6).Draw(t, "running") {
		j := any(fmt.Sprint("r", i))
		if place, n := places.Find(&j, 0, j.Max); n >= j.Min {
			places.Take(&j, 0, place)
			w.snap.Running = append(w.snap.Running, queue.Running{Job: j, Run: queue.Run{Started: j.Submitted, Members: n, Place: place, Leaving: rapid.IntRange(0, 5).Draw(t, "leaves") == 0}})
		}
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "waiting") {
		w.waits(any(fmt.Sprint("w", i)))
	}
	return w
}

// The first decisions of a forecast are exactly those of the queue: who starts where,
// and who makes room for whom; and who does not start waits for the same reason.
func TestFirstDecisionsAreTheQueues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := random(t)
		s, err := queue.Open(w.snap, w.places())
		if err != nil {
			t.Skip("more is in use than quotas allow, or the like:", err)
		}
		f, err := forecast.Open(w.snap, w.places(), noon)
		if err != nil {
			t.Fatal(err)
		}
		plan := s.Plan(noon)
		if diff := cmp.Diff(plan, f.First()); diff != "" {
			t.Fatalf("the queue -, the forecast +\n%s", diff)
		}
		starts := map[queue.JobID]bool{}
		for _, st := range plan.Start {
			starts[st.Job] = true
		}
		for _, j := range w.snap.Waiting {
			want, err := s.Why(j.ID)
			got, gotErr := f.Why(j.ID)
			if (err == nil) != (gotErr == nil) || !cmp.Equal(want, got) || (err == nil) == starts[j.ID] {
				t.Fatalf("%s, which starts: %t, waits for %v (%v) and %v (%v)", j.ID, starts[j.ID], want, err, got, gotErr)
			}
		}
		out, err := f.Play(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, st := range plan.Start {
			if got := out.Starts[i]; got.Job != st.Job || !got.At.Equal(noon) || !cmp.Equal(got.Place, st.Place) {
				t.Fatalf("start %d is %+v, want %+v", i, got, st)
			}
		}
		for i, v := range plan.Evict {
			if out.Evictions[i] != v {
				t.Fatalf("eviction %d is %+v, want %+v", i, out.Evictions[i], v)
			}
		}
		check(t, w, out)
	})
}

// check says whether each that waits has a start or none, and time goes one way.
func check(t *rapid.T, w *world, f forecast.Forecast) {
	first := map[queue.JobID]bool{}
	before := noon
	for i, st := range f.Starts {
		if st.At.Before(before) || st.Order != i+1 {
			t.Fatalf("start %d, of %s, is at %s after one at %s", st.Order, st.Job, st.At, before)
		}
		before, first[st.Job] = st.At, true
	}
	for _, id := range f.Open {
		first[id] = true
	}
	for _, j := range w.snap.Waiting {
		if !first[j.ID] {
			t.Fatalf("nothing is said of %s", j.ID)
		}
	}
}
