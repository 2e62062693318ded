// Package forecast says when waiting work is going to start, by letting the queue
// itself decide about a future in which nothing else is submitted and jobs end when
// they say.
//
// It is pure. On a state that does not change its first decisions are those that
// the queue makes.
package forecast

import (
	"fmt"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Limits of how far it looks.
const (
	// MaxSteps is how many moments are looked at.
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
	Starts []Start // in order
	// Evictions are of jobs that run now.
	Evictions []queue.Evict
	// Open are jobs that do not start within the limits, or never.
	Open []queue.JobID
}

// Of looks ahead from a snapshot.
func Of(snap queue.Snapshot, places queue.Places, now time.Time) (Forecast, error) {
	s, err := queue.Open(snap, places)
	if err != nil {
		return Forecast{}, fmt.Errorf("looking ahead: %w", err)
	}
	p := s.Snapshot().Policy
	f := future{state: s, policy: p, now: now, waiting: map[queue.JobID]queue.Job{}, evicts: map[queue.JobID][]queue.Evict{}, leaving: map[queue.JobID]bool{}}
	for _, j := range snap.Waiting {
		f.waiting[j.ID] = j
	}
	running := map[queue.JobID]bool{}
	for _, r := range snap.Running {
		running[r.ID] = true
		if !r.Foreign {
			f.runs = append(f.runs, run{r.Job, f.end(r.Job, r.Run.Started)})
		}
		if r.Run.Leaving { // it is gone any moment
			f.leaving[r.ID] = true
		}
	}
	if err := f.play(); err != nil {
		return Forecast{}, fmt.Errorf("looking ahead: %w", err)
	}
	for _, v := range f.evicted {
		if running[v.Job] {
			f.out.Evictions = append(f.out.Evictions, v)
			delete(running, v.Job)
		}
	}
	for id := range f.waiting {
		f.out.Open = append(f.out.Open, id)
	}
	slices.Sort(f.out.Open)
	return f.out, nil
}

// future is a state that moves on.
type future struct {
	state   *queue.State
	policy  queue.Policy
	now     time.Time
	waiting map[queue.JobID]queue.Job
	runs    []run
	leaving map[queue.JobID]bool
	evicts  map[queue.JobID][]queue.Evict // by whom it is for
	evicted []queue.Evict
	out     Forecast
}

// run is a job that runs, and when it ends.
type run struct {
	queue.Job
	end time.Time
}

// end is when a job ends that has started at a time. One that is over its time
// ends any moment.
func (f *future) end(j queue.Job, started time.Time) time.Time {
	d := j.RunTime
	if d <= 0 {
		d = f.policy.RunTime
	}
	if end := started.Add(d); end.After(f.now) {
		return end
	}
	return f.now
}

func (f *future) play() error {
	last := f.now.Add(Horizon)
	for range MaxSteps {
		if err := f.settle(); err != nil {
			return err
		}
		if len(f.waiting) == 0 {
			return nil
		}
		next, ok := f.next()
		if !ok || next.After(last) {
			return nil
		}
		f.now = next
		if err := f.endRuns(); err != nil {
			return err
		}
	}
	return nil
}

// settle decides until nothing more happens now. Those that make room are gone at
// once, and wait again.
func (f *future) settle() error {
	for {
		for id := range f.leaving {
			if err := f.requeue(id); err != nil {
				return err
			}
		}
		p := f.state.Plan(f.now)
		if err := f.state.Apply(p, f.now); err != nil {
			return err
		}
		for _, st := range p.Start {
			j := f.waiting[st.Job]
			delete(f.waiting, st.Job)
			f.runs = append(f.runs, run{j, f.end(j, f.now)})
			f.out.Starts = append(f.out.Starts, Start{Job: st.Job, At: f.now, Order: len(f.out.Starts) + 1, Place: st.Place, Evicts: f.evicts[st.Job]})
		}
		for _, e := range p.Evict {
			f.leaving[e.Job] = true
			f.evicts[e.For] = append(f.evicts[e.For], e)
			f.evicted = append(f.evicted, e)
		}
		if p.Empty() {
			return nil
		}
	}
}

func (f *future) requeue(id queue.JobID) error {
	delete(f.leaving, id)
	i := slices.IndexFunc(f.runs, func(r run) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("job %s makes room and does not run", id)
	}
	f.waiting[id] = f.runs[i].Job
	f.runs = slices.Delete(f.runs, i, i+1)
	return f.state.Requeue(id, f.now)
}

// next is the next moment at which something may change: a job ends, or one has
// waited long enough to evict others.
func (f *future) next() (time.Time, bool) {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, r := range f.runs {
		sooner(r.end)
	}
	for id := range f.waiting {
		if why, err := f.state.Why(id); err == nil && why.Until.After(f.now) && (why.Code == queue.PreemptionDelay || why.Code == queue.Held) {
			sooner(why.Until)
		}
	}
	return next, !next.IsZero()
}

func (f *future) endRuns() error {
	var stay []run
	for _, r := range f.runs {
		if r.end.After(f.now) {
			stay = append(stay, r)
			continue
		}
		if err := f.state.End(r.ID, f.now); err != nil {
			return err
		}
	}
	f.runs = stay
	return nil
}
