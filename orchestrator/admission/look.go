package admission

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/forecast"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// lookFor is how long a forecast is made at most. With very many jobs it does not
// reach as far then, and says so.
const lookFor = 2 * time.Second

// frozen is what a decision goes by, to be looked at by another goroutine while the
// scheduler goes on.
type frozen struct {
	at          time.Time
	snap        queue.Snapshot
	places      queue.Places
	cluster     *cluster // what never changes of it
	definitions workspace.Definitions
	parked      []parked
	makesRoom   map[queue.JobID]queue.JobID // for whom
	gone        map[string]time.Time        // as of the scheduler
}

// parked is a row that waits and is not in the queue's state.
type parked struct {
	Request
	evictions int
	why       string
}

func (s *Scheduler) freeze(ctx context.Context) (*frozen, error) {
	f := &frozen{}
	return f, s.afterPass(ctx, func() error { return s.freezeInto(f) })
}

// freezeInto is for the scheduler's goroutine.
func (s *Scheduler) freezeInto(f *frozen) error {
	if s.state == nil {
		return notYet()
	}
	f.gone = maps.Clone(s.gone)
	f.at = time.Now().UTC()
	f.snap, f.places = s.state.Snapshot(), s.cluster.fleet.Clone()
	f.cluster, f.definitions = s.cluster, s.definitions
	f.makesRoom = map[queue.JobID]queue.JobID{}
	for _, r := range f.snap.Running {
		if row := s.rows[r.ID]; row != nil && row.For != "" {
			f.makesRoom[r.ID] = row.For
		}
	}
	for id, why := range s.parked {
		if r := s.rows[id]; r != nil {
			f.parked = append(f.parked, parked{r.Request, r.Evictions, why})
		}
	}
	return nil
}

// waiter is who waits.
type waiter struct {
	job    *queue.Job
	parked *parked
	reason *queue.Reason
	start  *forecast.Start // nil: it is not foreseen
}

// look adds a forecast to what is frozen, and makes the entries that are wanted.
func (f *frozen) look(ctx context.Context, filter Filter) (View, error) {
	future, err := forecast.Open(f.snap, f.places, f.at)
	if err != nil {
		return View{}, err
	}
	waiters := f.waiters(filter, future)
	began := time.Now()
	ahead, err := future.Play(func() bool { return time.Since(began) < lookFor && ctx.Err() == nil })
	if err != nil {
		return View{}, err
	}
	if err := ctx.Err(); err != nil {
		return View{}, err
	}
	order(waiters, ahead.Starts)
	v := View{At: f.at, Entries: []Entry{}}
	if !ahead.Until.IsZero() {
		v.Until = &ahead.Until
	}
	if !filter.Waiting {
		f.running(&v, filter)
	}
	for i, w := range waiters {
		if id, q := f.who(w); !filter.wants(id, q) {
			continue
		}
		if v.Waiting++; filter.Limit == 0 || v.Waiting <= filter.Limit {
			v.Entries = append(v.Entries, f.waitingEntry(w, i+1))
		}
	}
	return v, nil
}

// waiters are all that wait; those that are wanted have a reason, unless they start.
func (f *frozen) waiters(filter Filter, future *forecast.Future) []*waiter {
	all := make([]*waiter, 0, len(f.snap.Waiting)+len(f.parked))
	for i := range f.snap.Waiting {
		j := &f.snap.Waiting[i]
		w := &waiter{job: j}
		if filter.wants(j.ID, j.Queue) {
			if why, err := future.Why(j.ID); err == nil {
				w.reason = &why
			}
		}
		all = append(all, w)
	}
	for i := range f.parked {
		all = append(all, &waiter{parked: &f.parked[i]})
	}
	return all
}

func (f *frozen) who(w *waiter) (queue.JobID, queue.QueueID) {
	if w.job != nil {
		return w.job.ID, w.job.Queue
	}
	return w.parked.ID, f.definitions.QueueFor(w.parked.Workspace, w.parked.Serving)
}

// order sorts by when they start, and then those of which that is not foreseen by
// priority and age; who is in no queue comes last.
func order(waiters []*waiter, starts []forecast.Start) {
	first := make(map[queue.JobID]*forecast.Start, len(starts))
	for i := range starts { // who is evicted in the future starts again
		if st := &starts[i]; first[st.Job] == nil {
			first[st.Job] = st
		}
	}
	for _, w := range waiters {
		if w.job != nil {
			w.start = first[w.job.ID]
		}
	}
	slices.SortFunc(waiters, func(a, b *waiter) int {
		switch {
		case (a.job == nil) != (b.job == nil):
			if a.job == nil {
				return 1
			}
			return -1
		case a.job == nil:
			return cmp.Or(a.parked.Submitted.Compare(b.parked.Submitted), cmp.Compare(a.parked.ID, b.parked.ID))
		case (a.start == nil) != (b.start == nil):
			if a.start == nil {
				return 1
			}
			return -1
		case a.start != nil:
			return cmp.Compare(a.start.Order, b.start.Order)
		}
		return cmp.Or(cmp.Compare(b.job.Priority, a.job.Priority), a.job.Submitted.Compare(b.job.Submitted), cmp.Compare(a.job.ID, b.job.ID))
	})
}

// running adds those that hold something to a view.
func (f *frozen) running(v *View, filter Filter) {
	var wanted []*queue.Running
	for i := range f.snap.Running {
		if r := &f.snap.Running[i]; filter.wants(r.ID, r.Queue) {
			wanted = append(wanted, r)
		}
	}
	slices.SortFunc(wanted, func(a, b *queue.Running) int {
		return cmp.Or(a.Run.Started.Compare(b.Run.Started), cmp.Compare(a.ID, b.ID))
	})
	v.Running = len(wanted)
	if filter.Limit > 0 && len(wanted) > filter.Limit { // the newest are of most interest
		wanted = wanted[len(wanted)-filter.Limit:]
	}
	for _, r := range wanted {
		v.Entries = append(v.Entries, f.runningEntry(r))
	}
}

func entryOf(j *queue.Job, members, option int) Entry {
	needs := Resources{}
	for f, a := range j.Option(option) {
		if a > 0 {
			needs[f] = (a * queue.Amount(members)).String()
		}
	}
	return Entry{
		Task: j.ID, Workspace: workspaceOf(j.Queue), Queue: j.Queue, Priority: j.Priority, Members: members, Needs: needs,
		Submitted: j.Submitted, Evictions: j.Evictions,
	}
}

func (f *frozen) runningEntry(r *queue.Running) Entry {
	e := entryOf(&r.Job, r.Run.Members, r.Run.Option)
	e.Started, e.State, e.For = &r.Run.Started, "admitted", string(f.makesRoom[r.ID])
	switch {
	case r.Foreign:
		e.State = "foreign"
	case r.Run.Leaving:
		e.State = "leaving"
	}
	e.Nodes = f.cluster.nodeNames(r.Run.Place)
	for _, spot := range r.Run.Place {
		e.Devices = append(e.Devices, spot.Devices...)
	}
	return e
}

func (f *frozen) waitingEntry(w *waiter, position int) Entry {
	if w.parked != nil {
		p := w.parked
		_, q := f.who(w)
		r := &Reason{Code: NoNode, Text: p.why}
		if _, err := priorityOf(f.definitions, p.Request); err != nil {
			r.Code = NoClass
		}
		return Entry{
			Task: p.ID, Workspace: p.Workspace, Queue: q, State: "waiting", Priority: p.Priority, Members: p.Min, Needs: Resources{},
			Submitted: p.Submitted, Evictions: p.evictions, Outlook: Outlook{Position: position, Reason: r},
		}
	}
	e := entryOf(w.job, w.job.Min, 0)
	e.State, e.Position = "waiting", position
	if w.reason != nil {
		e.Reason = reasonOf(*w.reason)
	}
	if st := w.start; st != nil {
		e.Expected, e.OnNodes = &st.At, f.cluster.nodeNames(st.Place)
		for _, v := range st.Evicts {
			e.Evicts = append(e.Evicts, Victim{v.Job, v.LostSeconds})
		}
	}
	return e
}

func reasonOf(why queue.Reason) *Reason {
	r := &Reason{
		Code: string(why.Code), Text: why.String(), Subject: why.Subject, Flavor: string(why.Flavor),
		Members: why.Members, Placeable: why.Placeable,
	}
	if why.Flavor != "" {
		r.Need, r.Have = why.Need.String(), why.Have.String()
	}
	if !why.Until.IsZero() {
		r.Until = &why.Until
	}
	for f, a := range why.Raise {
		if r.Raise == nil {
			r.Raise = Resources{}
		}
		r.Raise[f] = a.String()
	}
	return r
}

func (c *cluster) nodeNames(p queue.Place) []string {
	var names []string
	for _, spot := range p {
		name := string(spot.Node)
		if n := c.byID[spot.Node]; n != nil {
			name = n.Name
		}
		names = append(names, name)
	}
	return names
}
