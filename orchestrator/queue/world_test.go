package queue_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

const gpu queue.Flavor = "gpu"

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func gpus(n int) queue.Resources { return queue.Resources{gpu: queue.Amount(n) * queue.One} }

func quota(n int) map[queue.Flavor]queue.Quota {
	return map[queue.Flavor]queue.Quota{gpu: {Nominal: queue.Amount(n) * queue.One}}
}

func limit(n int) *queue.Amount { a := queue.Amount(n) * queue.One; return &a }

// nodes are n nodes of so many GPUs.
func nodes(n, each int) queue.Places {
	m := map[queue.NodeID]queue.Resources{}
	for i := range n {
		m[queue.NodeID(fmt.Sprintf("n%03d", i))] = gpus(each)
	}
	return queue.NewCounting(m)
}

// job is one of n GPUs; options follow.
func job(id string, q string, n int, change ...func(*queue.Job)) queue.Job {
	j := queue.Job{ID: queue.JobID(id), Queue: queue.QueueID(q), Submitted: start, Each: gpus(n), RunTime: time.Hour, Preemptible: true}
	for _, c := range change {
		c(&j)
	}
	return j
}

func at(d time.Duration) func(*queue.Job) {
	return func(j *queue.Job) { j.Submitted = start.Add(d) }
}
func priority(p int) func(*queue.Job) { return func(j *queue.Job) { j.Priority = p } }
func gang(n int) func(*queue.Job)     { return func(j *queue.Job) { j.Min = n } }

func runs(j queue.Job, since time.Duration) queue.Running {
	return queue.Running{Job: j, Run: queue.Run{Started: start.Add(since), Members: max(j.Min, 1)}}
}

// world is a state in virtual time.
type world struct {
	testing.TB
	*queue.State
	now     time.Time
	running map[queue.JobID]time.Time
	evicted map[queue.JobID]int
	last    queue.Plan
}

func open(t testing.TB, s queue.Snapshot, p queue.Places) *world {
	t.Helper()
	st, err := queue.Open(s, p)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, State: st, now: start, running: map[queue.JobID]time.Time{}, evicted: map[queue.JobID]int{}}
	for _, r := range s.Running {
		w.running[r.ID] = r.Run.Started
	}
	return w
}

// step plans and does it; victims leave at once if they may.
func (w *world) step(leave bool) queue.Plan {
	w.Helper()
	w.last = w.Plan(w.now)
	w.must(w.Apply(w.last, w.now))
	for _, s := range w.last.Start {
		w.running[s.Job] = w.now
	}
	for _, e := range w.last.Evict {
		w.evicted[e.Job]++
		if leave {
			w.must(w.Requeue(e.Job, w.now))
			delete(w.running, e.Job)
		}
	}
	return w.last
}

// settle steps until nothing is left to do.
func (w *world) settle() {
	w.Helper()
	for range 100 {
		if w.step(true).Empty() {
			return
		}
	}
	w.Fatal("still changing after 100 passes")
}

func (w *world) end(id queue.JobID) {
	w.Helper()
	w.must(w.End(id, w.now))
	delete(w.running, id)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) submit(j queue.Job) { w.Helper(); w.must(w.Submit(j)) }

// wantRunning compares the IDs that run.
func (w *world) wantRunning(want ...queue.JobID) {
	w.Helper()
	var got []queue.JobID
	for id := range w.running {
		got = append(got, id)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.Errorf("running %v, want %v", got, want)
	}
}

func (w *world) wantWhy(id queue.JobID, want queue.Code) queue.Reason {
	w.Helper()
	r, err := w.Why(id)
	if err != nil {
		w.Fatal(err)
	}
	if r.Code != want {
		w.Errorf("job %s waits because %s (%s), want %s", id, r.Code, r, want)
	}
	return r
}
