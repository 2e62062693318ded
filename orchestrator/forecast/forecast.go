// Package forecast says when waiting work is going to start, by letting the queue
// itself decide about a future in which nothing else is submitted and jobs end when
// they say.
//
// It is pure. Its first decisions are those that the queue makes on the same
// snapshot. What it leaves out: jobs that move together ([queue.State.Consolidate]),
// checkpoints to come, and quotas that change with time. Those who make room are gone
// at once.
package forecast

import (
	"container/heap"
	"fmt"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Limits of how far it looks.
const (
	// MaxSteps is how many decisions are made.
	MaxSteps = 20_000
	// Horizon is how far ahead.
	Horizon = 90 * 24 * time.Hour
)

// Start is when and where a job starts.
type Start struct {
	Job queue.JobID
	At  time.Time
	// Order counts starts from 1.
	Order int
	Place queue.Place
	// Evicts are those that make room for it.
	Evicts []queue.Evict
}

// Forecast is what is going to happen.
type Forecast struct {
	// Starts are in order. A job that is evicted has several.
	Starts []Start
	// Evictions are of jobs that run now, each once.
	Evictions []queue.Evict
	// Open are jobs that wait when the forecast ends, sorted.
	Open []queue.JobID
	// Until is how far it reaches; zero: to the end, after which nothing starts.
	Until time.Time
}

// Future is a state that moves on.
type Future struct {
	state  *queue.State
	policy queue.Policy
	now    time.Time
	first  queue.Plan
	steps  int

	waiting map[queue.JobID]queue.Job
	running map[queue.JobID]*run
	leaving []queue.JobID
	ends    runs                          // by end
	turns   turns                         // when something else may change
	evicts  map[queue.JobID][]queue.Evict // by whom it is for
	present map[queue.JobID]bool          // runs since before the forecast
	out     Forecast
}

// Open makes a snapshot's first decision. places must have nothing taken.
func Open(snap queue.Snapshot, places queue.Places, now time.Time) (*Future, error) {
	s, err := queue.Open(snap, places)
	if err != nil {
		return nil, fmt.Errorf("looking ahead: %w", err)
	}
	f := &Future{
		state: s, policy: s.Policy(), now: now, waiting: make(map[queue.JobID]queue.Job, len(snap.Waiting)),
		running: map[queue.JobID]*run{}, evicts: map[queue.JobID][]queue.Evict{}, present: map[queue.JobID]bool{},
	}
	for _, j := range snap.Waiting {
		f.wait(j)
	}
	for _, r := range snap.Running {
		if r.Foreign {
			continue // nobody knows when it ends
		}
		f.present[r.ID] = true
		f.run(r.Job, r.Run.Started)
		if r.Run.Leaving {
			f.leaving = append(f.leaving, r.ID)
		}
	}
	for _, q := range snap.Queues {
		if q.Held != nil && q.Held.Until.After(now) {
			heap.Push(&f.turns, turn{at: q.Held.Until})
		}
	}
	f.first = s.Plan(now)
	return f, nil
}

// First is the first decision: that of [queue.State.Plan] on the snapshot.
func (f *Future) First() queue.Plan { return f.first }

// Why is why a job waits after the first decision, before Play. There is an error for
// one that the decision starts.
func (f *Future) Why(id queue.JobID) (queue.Reason, error) { return f.state.Why(id) }

// Play goes on until nothing waits or nothing more can change, within the limits, and
// as long as more says so, which it is asked before each decision; nil: it always
// does. It may be called once.
func (f *Future) Play(more func() bool) (Forecast, error) {
	complete, err := f.play(more)
	if err != nil {
		return Forecast{}, fmt.Errorf("looking ahead: %w", err)
	}
	if !complete {
		f.out.Until = f.now
	}
	for id := range f.waiting {
		f.out.Open = append(f.out.Open, id)
	}
	slices.Sort(f.out.Open)
	return f.out, nil
}

// play is false if it went to its limits.
func (f *Future) play(more func() bool) (complete bool, err error) {
	last := f.now.Add(Horizon)
	p := f.first
	for {
		changed, err := f.apply(p)
		if err != nil {
			return false, err
		}
		if !changed {
			next, ok := f.next()
			if len(f.waiting) == 0 || !ok {
				return true, nil
			}
			if next.After(last) {
				f.now = last
				return false, nil
			}
			f.now = next
			if err := f.endRuns(); err != nil {
				return false, err
			}
		}
		if f.steps++; f.steps >= MaxSteps || more != nil && !more() {
			return false, nil
		}
		p = f.state.Plan(f.now)
	}
}

// apply does what a plan says. Those that make room are gone at once, and wait again.
// It is false if nothing changes by that.
func (f *Future) apply(p queue.Plan) (changed bool, err error) {
	if err := f.state.Apply(p, f.now); err != nil {
		return false, err
	}
	for _, st := range p.Start {
		j := f.waiting[st.Job]
		delete(f.waiting, st.Job)
		f.run(j, f.now)
		f.out.Starts = append(f.out.Starts, Start{Job: st.Job, At: f.now, Order: len(f.out.Starts) + 1, Place: st.Place, Evicts: f.evicts[st.Job]})
		delete(f.evicts, st.Job)
	}
	for _, e := range p.Evict {
		f.leaving = append(f.leaving, e.Job)
		f.evicts[e.For] = append(f.evicts[e.For], e)
		if f.present[e.Job] {
			f.out.Evictions = append(f.out.Evictions, e)
			delete(f.present, e.Job)
		}
	}
	changed = !p.Empty() || len(f.leaving) > 0
	for _, id := range f.leaving {
		r := f.running[id]
		if r == nil {
			return false, fmt.Errorf("job %s makes room and does not run", id)
		}
		if err := f.state.Requeue(id, f.now); err != nil {
			return false, err
		}
		r.gone = true
		delete(f.running, id)
		r.Job.Queued = f.now
		f.wait(r.Job)
	}
	f.leaving = nil
	return changed, nil
}

func (f *Future) wait(j queue.Job) {
	f.waiting[j.ID] = j
	if queued := j.Queued; f.policy.PreemptionDelay > 0 {
		if queued.IsZero() {
			queued = j.Submitted
		}
		if may := queued.Add(f.policy.PreemptionDelay); may.After(f.now) {
			heap.Push(&f.turns, turn{at: may, delayed: j.ID})
		}
	}
}

func (f *Future) run(j queue.Job, started time.Time) {
	d := j.RunTime
	if d <= 0 {
		d = f.policy.RunTime
	}
	r := &run{Job: j, end: started.Add(d)}
	if r.end.Before(f.now) { // it is over its time, and ends any moment
		r.end = f.now
	}
	f.running[j.ID] = r
	heap.Push(&f.ends, r)
	if may := started.Add(f.policy.MinRunTime); j.Preemptible && may.After(f.now) {
		heap.Push(&f.turns, turn{at: may})
	}
}

// next is the next moment at which something may change: a job ends, or may be
// evicted, or one has waited long enough to evict others, or a queue is held no more.
func (f *Future) next() (time.Time, bool) {
	for len(f.ends) > 0 && f.ends[0].gone {
		heap.Pop(&f.ends)
	}
	for len(f.turns) > 0 && (!f.turns[0].at.After(f.now) || !f.matters(f.turns[0])) {
		heap.Pop(&f.turns)
	}
	switch {
	case len(f.ends) == 0 && len(f.turns) == 0:
		return time.Time{}, false
	case len(f.turns) == 0 || len(f.ends) > 0 && !f.turns[0].at.Before(f.ends[0].end):
		return f.ends[0].end, true
	}
	return f.turns[0].at, true
}

// matters reports whether a job still waits for a delay to be over.
func (f *Future) matters(t turn) bool {
	if t.delayed == "" {
		return true
	}
	if _, waits := f.waiting[t.delayed]; !waits {
		return false
	}
	why, err := f.state.Why(t.delayed)
	return err == nil && why.Code == queue.PreemptionDelay
}

func (f *Future) endRuns() error {
	for len(f.ends) > 0 && (f.ends[0].gone || !f.ends[0].end.After(f.now)) {
		r := heap.Pop(&f.ends).(*run)
		if r.gone {
			continue
		}
		if err := f.state.End(r.ID, f.now); err != nil {
			return err
		}
		delete(f.running, r.ID)
		delete(f.present, r.ID)
	}
	return nil
}
