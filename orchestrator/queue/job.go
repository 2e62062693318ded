package queue

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// JobID names a job.
type JobID string

// Job is work that is admitted as a whole: one task, or a gang of members that
// start together.
type Job struct {
	ID        JobID
	Queue     QueueID
	Submitted time.Time
	// Queued is when it last began to wait; zero: Submitted.
	Queued time.Time
	// Priority orders jobs of a queue; a higher one may evict lower ones that are
	// preemptible.
	Priority    int
	Preemptible bool
	// Each is what a member needs, on one node.
	Each Resources
	// Or are alternatives to Each, by preference. All members get the same.
	Or []Resources
	// Shape is what else its place depends on. Only Places reads it: jobs of equal
	// Shape, Each and Or are placed alike.
	Shape string
	// Min and Max are how many members it starts with. Zero: Min is 1, Max is Min.
	Min, Max int
	// RunTime is how long it runs at most, as far as is known; zero: the policy's. For
	// one that declares none, see [Learned].
	RunTime time.Duration
	// Evictions is how often it had to make room.
	Evictions int
	// Foreign work is not Drover's: it is counted and never stopped, and nobody
	// knows when it ends.
	Foreign bool
}

// Run is what a running job holds.
type Run struct {
	Started time.Time
	// Checkpoint is when the newest checkpoint was sealed; zero: there is none, and
	// all work since Started would be lost.
	Checkpoint time.Time
	Members    int
	Place      Place
	// Option is which of its alternatives it holds; see [Job.Option].
	Option int
	// Leaving is set when it was asked to make room, or cancelled. It holds what it
	// has until it is gone.
	Leaving bool
	// Moving is set while it is leaving to start again elsewhere.
	Moving bool
}

// Running is a job with what it holds.
type Running struct {
	Job
	Run Run
}

// Option is what a member needs by option: 0 is Each, i is Or[i-1].
func (j *Job) Option(option int) Resources {
	if option == 0 {
		return j.Each
	}
	return j.Or[option-1]
}

// option is an alternative of a job, n by [Job.Option].
type option struct {
	n       int
	parts   []part
	devices Amount // a member
}

// part is an amount a member of a flavor by its index.
type part struct {
	flavor int
	each   Amount
}

// entry is a job in a state.
type entry struct {
	Job
	node    int       // of its queue
	options []*option // those of flavors that have a quota
	shape   *shape
	kind    *kind // while it waits, unless it has a claim
	run     *Run
	claim   bool
}

// hold is what a job takes.
type hold struct {
	*entry
	option  *option
	members int
	place   Place
}

// held is what a running job holds.
func (e *entry) held() hold {
	for _, o := range e.options {
		if o.n == e.run.Option {
			return hold{e, o, e.run.Members, e.run.Place}
		}
	}
	panic("queue: a job runs with an option that was not checked")
}

// kind is the waiting jobs of a queue that differ in age alone: if one cannot
// start, neither can the ones behind it.
type kind struct {
	key   kindKey
	need  *need
	jobs  []*entry              // by age
	never func() (Reason, bool) // whether and why none of them can ever start
	// What the last pass found.
	pass   uint64
	next   int    // the jobs before it start, or make others leave
	reason Reason // of those that wait; its code is empty until somebody asks
}

// need is the kinds of a queue that need the same. If none can start and none can
// evict, they need not be looked at one by one.
type need struct {
	needKey
	kinds []*kind
	// quick has the shortest run time, and strong the highest priority.
	quick, strong *kind
	// What the last pass found.
	pass     uint64
	hopeless bool
}

type needKey struct {
	node, min int
	shape     *shape
}

func needOf(e *entry) needKey { return needKey{e.node, e.Min, e.shape} }

func (n *need) add(k *kind) {
	n.kinds = append(n.kinds, k)
	n.quick, n.strong = quickest(n.quick, k), strongest(n.strong, k)
}

func (n *need) remove(k *kind) {
	i := slices.Index(n.kinds, k)
	n.kinds = slices.Delete(n.kinds, i, i+1)
	n.quick, n.strong = nil, nil
	for _, k := range n.kinds {
		n.quick, n.strong = quickest(n.quick, k), strongest(n.strong, k)
	}
}

func quickest(a, b *kind) *kind {
	if a == nil || b.key.runTime < a.key.runTime {
		return b
	}
	return a
}

func strongest(a, b *kind) *kind {
	if a == nil || b.key.priority > a.key.priority {
		return b
	}
	return a
}

// shape is all that the place of a job depends on.
type shape struct {
	key  string
	jobs int // of this shape
}

type kindKey struct {
	needKey
	priority, max int
	preemptible   bool
	runTime       time.Duration
}

// older orders jobs by age, and by ID among equals, so that order does not depend
// on how a state came about.
func older(a, b *entry) int {
	if c := a.Submitted.Compare(b.Submitted); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

// newEntry checks j and completes it.
func (s *State) newEntry(j Job) (*entry, error) {
	node, ok := s.tree.queues[j.Queue]
	if !ok {
		return nil, fmt.Errorf("%w job %q: there is no queue %q", ErrInvalid, j.ID, j.Queue)
	}
	if _, twice := s.jobs[j.ID]; twice || j.ID == "" {
		return nil, fmt.Errorf("%w job %q: IDs are not empty, and used once", ErrInvalid, j.ID)
	}
	if len(s.jobs) >= MaxJobs {
		return nil, fmt.Errorf("%w job %q: there are %d jobs already", ErrInvalid, j.ID, MaxJobs)
	}
	if j.Min == 0 {
		j.Min = 1
	}
	if j.Max == 0 {
		j.Max = j.Min
	}
	if j.Min < 1 || j.Max < j.Min {
		return nil, fmt.Errorf("%w job %q: %d to %d members", ErrInvalid, j.ID, j.Min, j.Max)
	}
	if j.RunTime < 0 || j.Evictions < 0 {
		return nil, fmt.Errorf("%w job %q: run time %s, %d evictions", ErrInvalid, j.ID, j.RunTime, j.Evictions)
	}
	if j.RunTime == 0 {
		j.RunTime = s.policy.RunTime
	}
	if j.Queued.IsZero() {
		j.Queued = j.Submitted
	}
	e := &entry{Job: j, node: node}
	var unknown Flavor
	for n := range len(j.Or) + 1 {
		o, lacks, err := s.newOption(&j, n)
		if err != nil {
			return nil, fmt.Errorf("job %q: %w", j.ID, err)
		}
		if lacks == "" {
			e.options = append(e.options, &o)
		}
		unknown = cmp.Or(unknown, lacks)
	}
	if len(e.options) == 0 {
		return nil, fmt.Errorf("%w job %q: nobody has a quota of %s", ErrInvalid, j.ID, unknown)
	}
	return e, nil
}

// newOption checks an option of j. lacks is a flavor without any quota.
func (s *State) newOption(j *Job, n int) (o option, lacks Flavor, err error) {
	o.n = n
	for f, a := range j.Option(n) {
		if _, err := times(a, j.Max); err != nil {
			return option{}, "", fmt.Errorf("%s: %w", f, err)
		}
		if f.device() {
			o.devices += a
		}
		i, ok := s.tree.index[f]
		if !ok && a > 0 {
			lacks = max(lacks, f)
		} else if a > 0 {
			o.parts = append(o.parts, part{i, a})
		}
	}
	slices.SortFunc(o.parts, func(a, b part) int { return cmp.Compare(a.flavor, b.flavor) })
	return o, lacks, nil
}

// add makes e one of the state's jobs.
func (s *State) add(e *entry) {
	s.jobs[e.ID] = e
	var key strings.Builder
	for _, o := range e.options {
		fmt.Fprintf(&key, "%d ", o.n)
		for _, p := range o.parts {
			fmt.Fprintf(&key, "%d:%d ", p.flavor, p.each)
		}
	}
	key.WriteString(e.Shape)
	e.shape = s.shapes[key.String()]
	if e.shape == nil {
		e.shape = &shape{key: key.String()}
		s.shapes[e.shape.key] = e.shape
	}
	e.shape.jobs++
}

// drop is the opposite of add.
func (s *State) drop(e *entry) {
	delete(s.jobs, e.ID)
	if e.shape.jobs--; e.shape.jobs == 0 {
		delete(s.shapes, e.shape.key)
	}
}

func (e *entry) kindKey() kindKey {
	return kindKey{needOf(e), e.Priority, e.Max, e.Preemptible, e.RunTime}
}

// ends is when it has ended at the latest; false: nobody knows.
func (e *entry) ends() (time.Time, bool) { return e.run.Started.Add(e.RunTime), !e.Foreign }

// lost is the work that is done again if it is stopped now: thousandths of devices
// times seconds since the newest checkpoint.
func (e *entry) lost(now time.Time) float64 {
	since := e.run.Started
	if e.run.Checkpoint.After(since) {
		since = e.run.Checkpoint
	}
	return e.size() * max(0, now.Sub(since).Seconds())
}

// size is how many thousandths of devices it holds, over all flavors.
func (e *entry) size() float64 {
	return float64(e.held().option.devices) * float64(e.run.Members)
}
