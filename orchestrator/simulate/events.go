package simulate

import (
	"container/heap"
	"time"
)

// eventKind is what happens. Those of one moment happen in this order.
type eventKind int

const (
	quotaChange eventKind = iota
	jobEnds
	victimGone
	jobComes
	lookAgain  // a job may evict, or be evicted, from now on
	checkpoint // is sealed; these are kept apart
)

// event is something of a job's. It is void once the job has started anew.
type event struct {
	at   time.Time
	kind eventKind
	job  int
	run  int
}

// events is a heap, the next first.
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if c := e[i].at.Compare(e[j].at); c != 0 {
		return c < 0
	}
	if e[i].kind != e[j].kind {
		return e[i].kind < e[j].kind
	}
	return e[i].job < e[j].job
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push is for package heap.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop is for package heap.
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

// expect lets something happen at t; not at all if t is zero.
func (r *replay) expect(t time.Time, kind eventKind, i int) {
	if t.IsZero() {
		return
	}
	heap.Push(&r.events, event{t, kind, i, r.jobs[i].run})
}

// sealed tells the queue of the checkpoints that were sealed by now. They are looked
// at only when it decides: until then nobody needs to know.
func (r *replay) sealed() error {
	for len(r.checkpoints) > 0 && !r.checkpoints[0].at.After(r.now) {
		e := heap.Pop(&r.checkpoints).(event)
		if r.void(e) {
			continue
		}
		j := &r.jobs[e.job]
		last := j.started.Add(r.now.Sub(j.started).Truncate(j.Checkpoint))
		if err := r.state.Checkpointed(j.id, last); err != nil {
			return err
		}
		e.at = last.Add(j.Checkpoint)
		heap.Push(&r.checkpoints, e)
	}
	return nil
}
