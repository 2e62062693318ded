package queue

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Policy is what holds for all queues.
type Policy struct {
	// RunTime is assumed of jobs that declare none; zero: 24 hours.
	RunTime time.Duration
	// HalfLife is how fast past use is forgotten by fair share; zero: at once.
	HalfLife time.Duration
	// Aging is how long a job waits for one more point of priority, which counts in
	// the order of its queue and not for preemption; zero: for ever.
	Aging time.Duration
	// Patience is how long a job waits until it goes before all others whatever
	// their priorities and shares, the oldest first; zero: 7 days.
	Patience time.Duration
	// MinRunTime is how long a job runs before it may be evicted.
	MinRunTime time.Duration
	// PreemptionDelay is how long a job waits before it may evict others.
	PreemptionDelay time.Duration
	// MaxEvictions is how often a job is evicted; zero: 5.
	MaxEvictions int
}

// Snapshot is all that a decision depends on, but for places.
type Snapshot struct {
	Policy  Policy
	Cohorts []Cohort
	Queues  []Queue
	Waiting []Job
	Running []Running
	// Claims are waiting jobs that others make room for, in the order in which the
	// room was promised.
	Claims []JobID
	// Promises are waiting jobs that have a reservation. They keep it, and come
	// first, until they start or a higher priority waits in their queue.
	Promises []JobID
	// Served is past use, of queues and cohorts by name.
	Served []Served
}

// Served is the mean use of a queue or cohort, in which what is a half-life ago
// counts half.
type Served struct {
	Name   string
	Queue  bool
	Flavor Flavor
	Mean   float64 // thousandths
	At     time.Time
}

// State is a snapshot kept ready for decisions. It is for one goroutine.
type State struct {
	policy Policy
	tree   *tree
	ledger *ledger
	empty  Places
	// lasting is what is left when all have ended of which anybody knows when.
	lasting *ledger
	source  Snapshot // for its cohorts and queues

	jobs   map[JobID]*entry
	kinds  map[kindKey]*kind
	shapes map[string]*shape
	needs  map[needKey]*need
	queues [][]*need  // by node
	byNode [][]*entry // running, by node, priority and ID
	byEnd  []*entry   // running, by end and ID
	claims []*entry
	// promises are those with a reservation in the plan that was applied last.
	promises []*entry
	// leaving are those that run and were asked to make room.
	leaving []*entry
	served  []Served // by node and flavor
	passes  uint64
	last    *pass
}

// Open checks a snapshot and makes it ready. places must have nothing taken: what
// running jobs hold is taken from it here. A waiting job that is too large for its
// queue is not an error here: it waits with that reason.
func Open(snap Snapshot, places Places) (*State, error) {
	p := &snap.Policy
	if p.RunTime < 0 || p.HalfLife < 0 || p.Aging < 0 || p.Patience < 0 || p.MinRunTime < 0 || p.PreemptionDelay < 0 || p.MaxEvictions < 0 {
		return nil, fmt.Errorf("%w policy: nothing in it may be negative", ErrInvalid)
	}
	p.RunTime = cmp.Or(p.RunTime, 24*time.Hour)
	p.Patience = cmp.Or(p.Patience, 7*24*time.Hour)
	p.MaxEvictions = cmp.Or(p.MaxEvictions, 5)
	t, err := newTree(&snap)
	if err != nil {
		return nil, err
	}
	s := &State{
		policy: *p, tree: t, empty: places.Clone(),
		ledger: &ledger{t, t.newUsage(), places.Clone()}, lasting: &ledger{t, t.newUsage(), places.Clone()},
		source: Snapshot{Policy: *p, Cohorts: snap.Cohorts, Queues: snap.Queues},
		jobs:   map[JobID]*entry{}, kinds: map[kindKey]*kind{}, shapes: map[string]*shape{},
		needs: map[needKey]*need{}, queues: make([][]*need, len(t.nodes)), byNode: make([][]*entry, len(t.nodes)),
		served: make([]Served, len(t.nodes)*len(t.flavors)),
	}
	for _, r := range snap.Running {
		e, err := s.newRunning(r)
		if err != nil {
			return nil, err
		}
		s.add(e)
		s.run(e, r.Run)
	}
	for _, j := range snap.Waiting {
		e, err := s.newEntry(j)
		if err != nil {
			return nil, err
		}
		s.add(e)
		s.wait(e)
	}
	for _, id := range snap.Claims {
		e := s.jobs[id]
		if e == nil || e.run != nil || e.claim {
			return nil, fmt.Errorf("%w claim of job %q: it does not wait", ErrInvalid, id)
		}
		s.claim(e)
	}
	for _, id := range snap.Promises {
		e := s.jobs[id]
		if e == nil || e.run != nil || slices.Contains(s.promises, e) {
			return nil, fmt.Errorf("%w promise to job %q: it does not wait", ErrInvalid, id)
		}
		s.promises = append(s.promises, e)
	}
	return s, s.openServed(snap.Served)
}

// newRunning is an entry of a job that runs, which it checks.
func (s *State) newRunning(r Running) (*entry, error) {
	e, err := s.newEntry(r.Job)
	if err != nil {
		return nil, err
	}
	if r.Run.Members < 1 || r.Run.Members > e.Max {
		return nil, fmt.Errorf("%w job %q: it runs with %d members", ErrInvalid, e.ID, r.Run.Members)
	}
	if r.Run.Option < 0 || r.Run.Option > len(e.Or) {
		return nil, fmt.Errorf("%w job %q: it runs with option %d", ErrInvalid, e.ID, r.Run.Option)
	}
	return e, nil
}

func (s *State) openServed(served []Served) error {
	at := map[string]int{}
	for i, n := range s.tree.nodes {
		at[fmt.Sprintf("%t %s", n.queue, n.name)] = i
	}
	for _, h := range served {
		i, ok := at[fmt.Sprintf("%t %s", h.Queue, h.Name)]
		f, known := s.tree.index[h.Flavor]
		if !ok || !known {
			continue // the queue or its quota is gone
		}
		if h.Mean < 0 || math.IsNaN(h.Mean) || math.IsInf(h.Mean, 0) {
			return fmt.Errorf("%w past use of %q: %v", ErrInvalid, h.Name, h.Mean)
		}
		s.served[s.tree.at(i, f)] = h
	}
	return nil
}

// Snapshot is what Open makes an equal state of.
func (s *State) Snapshot() Snapshot {
	snap := s.source
	for _, e := range s.jobs {
		if e.run == nil {
			snap.Waiting = append(snap.Waiting, e.Job)
			continue
		}
		snap.Running = append(snap.Running, Running{e.Job, *e.run})
	}
	slices.SortFunc(snap.Waiting, func(a, b Job) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(snap.Running, func(a, b Running) int { return cmp.Compare(a.ID, b.ID) })
	snap.Claims, snap.Promises, snap.Served = s.Memory()
	return snap
}

// Submit adds a waiting job. A *Refusal is returned for one that can never start.
func (s *State) Submit(j Job) error {
	e, err := s.newEntry(j)
	if err != nil {
		return err
	}
	if r, ok := s.tooLarge(e); ok {
		return &Refusal{j.ID, r}
	}
	s.add(e)
	s.wait(e)
	return nil
}

// Found adds a job that was found running, as work that nobody submitted here.
func (s *State) Found(r Running, now time.Time) error {
	e, err := s.newRunning(r)
	if err != nil {
		return err
	}
	s.fold(e.node, now)
	s.add(e)
	s.run(e, r.Run)
	return nil
}

// tooLarge is why e could not start were nothing running.
func (s *State) tooLarge(e *entry) (Reason, bool) {
	var best Reason
	for i, o := range e.options {
		r, ok := s.tree.tooLarge(e, o)
		if !ok {
			_, n := s.empty.Find(&e.Job, o.n, e.Min)
			if n >= e.Min {
				return Reason{}, false
			}
			r = s.roomFor(e, o, TooLarge, n)
		}
		if i == 0 || r.nearer(best) {
			best = r
		}
	}
	return best, true
}

// roomFor is that there is room for n members only.
func (s *State) roomFor(e *entry, o *option, code Code, n int) Reason {
	r := Reason{Code: code, Option: o.n, Members: e.Min, Placeable: n}
	for _, p := range o.parts { // a device, if it needs any
		if f := s.tree.flavors[p.flavor]; r.Flavor == "" || f.device() && !r.Flavor.device() {
			r.Flavor, r.Need = f, p.each
		}
	}
	return r
}

// Apply does what a plan of this state says: jobs start, victims begin to leave.
func (s *State) Apply(p Plan, now time.Time) error {
	for _, st := range p.Start {
		e := s.jobs[st.Job]
		if e == nil || e.run != nil {
			return fmt.Errorf("starting job %q: it does not wait", st.Job)
		}
		s.fold(e.node, now)
		s.forget(e)
		s.run(e, Run{Started: now, Members: st.Members, Place: st.Place, Option: st.Option})
	}
	for _, ev := range p.Evict {
		v, e := s.jobs[ev.Job], s.jobs[ev.For]
		if v == nil || v.run == nil || e == nil || e.run != nil {
			return fmt.Errorf("evicting job %q for %q: the one does not run or the other does not wait", ev.Job, ev.For)
		}
		if !v.run.Leaving {
			v.run.Leaving, v.run.Moving = true, ev.Moves
			s.leaving = append(s.leaving, v)
		}
		if !e.claim {
			s.forget(e)
			s.claim(e)
		}
	}
	s.promises = s.promises[:0]
	for _, r := range p.Reserve {
		if e := s.jobs[r.Job]; e != nil && e.run == nil && !e.claim {
			s.promises = append(s.promises, e)
		}
	}
	if s.last != nil {
		s.last.applied = true
	}
	return nil
}

// Checkpointed notes that a running job has sealed a checkpoint.
func (s *State) Checkpointed(id JobID, at time.Time) error {
	e := s.jobs[id]
	if e == nil || e.run == nil {
		return fmt.Errorf("noting a checkpoint of job %q: it does not run", id)
	}
	e.run.Checkpoint = at
	return nil
}

// End removes a job, whether it waits or runs, and what it held.
func (s *State) End(id JobID, now time.Time) error {
	e := s.jobs[id]
	if e == nil {
		return fmt.Errorf("ending job %q: there is none", id)
	}
	s.stop(e, now)
	s.drop(e)
	return nil
}

// Requeue lets a running job wait again, as one that was evicted and is gone, or
// that lost its node. It keeps its age. One that moves has a claim.
func (s *State) Requeue(id JobID, now time.Time) error {
	e := s.jobs[id]
	if e == nil || e.run == nil {
		return fmt.Errorf("requeueing job %q: it does not run", id)
	}
	moving := e.run.Moving
	if e.run.Leaving {
		e.Evictions++
	}
	s.stop(e, now)
	e.Queued = now
	if moving {
		s.claim(e)
	} else {
		s.wait(e)
	}
	return nil
}

func (s *State) stop(e *entry, now time.Time) {
	if e.run == nil {
		s.forget(e)
		return
	}
	s.fold(e.node, now)
	s.ledger.release(e.held())
	if e.Foreign {
		s.lasting.release(e.held())
	}
	remove(&s.byNode[e.node], e, byPriority)
	remove(&s.byEnd, e, byEnd)
	s.leaving = slices.DeleteFunc(s.leaving, func(l *entry) bool { return l == e })
	e.run = nil
}

func (s *State) run(e *entry, r Run) {
	e.run = &r
	if r.Leaving {
		s.leaving = append(s.leaving, e)
	}
	s.ledger.take(e.held())
	if e.Foreign {
		s.lasting.take(e.held())
	}
	insert(&s.byNode[e.node], e, byPriority)
	insert(&s.byEnd, e, byEnd)
}

func (s *State) wait(e *entry) {
	key := e.kindKey()
	k := s.kinds[key]
	if k == nil {
		k = &kind{key: key, never: sync.OnceValues(func() (Reason, bool) { return s.tooLarge(e) })}
		s.kinds[key] = k
		k.need = s.needs[key.needKey]
		if k.need == nil {
			k.need = &need{needKey: key.needKey}
			s.needs[key.needKey] = k.need
			s.queues[e.node] = append(s.queues[e.node], k.need)
		}
		k.need.add(k)
	}
	e.kind = k
	insert(&k.jobs, e, older)
}

func (s *State) claim(e *entry) {
	if e.kind != nil {
		s.forget(e)
	}
	e.claim = true
	s.claims = append(s.claims, e)
}

// forget takes a job out of those that wait.
func (s *State) forget(e *entry) {
	s.promises = slices.DeleteFunc(s.promises, func(o *entry) bool { return o == e })
	if e.claim {
		e.claim = false
		s.claims = slices.DeleteFunc(s.claims, func(c *entry) bool { return c == e })
		return
	}
	k := e.kind
	e.kind = nil
	if slices.Contains(k.jobs[:k.next], e) {
		k.next--
	}
	remove(&k.jobs, e, older)
	if len(k.jobs) == 0 {
		delete(s.kinds, k.key)
		if k.need.remove(k); len(k.need.kinds) == 0 {
			delete(s.needs, k.need.needKey)
			s.queues[e.node] = slices.DeleteFunc(s.queues[e.node], func(n *need) bool { return n == k.need })
		}
	}
}

// fold brings past use of a queue and those above it up to now, before their use
// changes.
func (s *State) fold(i int, now time.Time) {
	if s.policy.HalfLife == 0 {
		return
	}
	for ; i >= 0; i = s.tree.nodes[i].parent {
		n := &s.tree.nodes[i]
		for f, name := range s.tree.flavors {
			at := s.tree.at(i, f)
			if s.served[at].At.IsZero() && s.ledger.usage[at] == 0 {
				s.served[at] = Served{Name: n.name, Queue: n.queue, Flavor: name, At: now}
				continue
			}
			s.served[at] = Served{n.name, n.queue, name, s.mean(at, now), now}
		}
	}
}

// mean is past use at now, use having been constant since it was last told.
func (s *State) mean(at int, now time.Time) float64 {
	h, used := s.served[at], float64(s.ledger.usage[at])
	if h.At.IsZero() || s.policy.HalfLife == 0 {
		return 0
	}
	past := max(0, now.Sub(h.At).Seconds())
	return used + (h.Mean-used)*math.Exp2(-past/s.policy.HalfLife.Seconds())
}

func byPriority(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ID, b.ID))
}

// byEnd orders running jobs by when they have ended; those of which nobody knows
// come last.
func byEnd(a, b *entry) int {
	at, aok := a.ends()
	bt, bok := b.ends()
	if aok != bok {
		if aok {
			return -1
		}
		return 1
	}
	if c := at.Compare(bt); c != 0 && aok {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

func insert(to *[]*entry, e *entry, order func(a, b *entry) int) {
	i, _ := slices.BinarySearchFunc(*to, e, order)
	*to = slices.Insert(*to, i, e)
}

func remove(from *[]*entry, e *entry, order func(a, b *entry) int) {
	if i, ok := slices.BinarySearchFunc(*from, e, order); ok {
		if i == 0 {
			(*from)[0] = nil
			*from = (*from)[1:]
			return
		}
		*from = slices.Delete(*from, i, i+1)
	}
}
