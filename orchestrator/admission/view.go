package admission

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/forecast"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Entry is work in the queue, or work that holds what the queue gives out.
type Entry struct {
	Task      queue.JobID   `json:"task" doc:"RUN/NODE, or RUN/NODE/TRIAL; of other work, alloc/ALLOCATION"`
	Workspace string        `json:"workspace,omitempty"`
	Queue     queue.QueueID `json:"queue"`
	State     string        `json:"state" enum:"waiting,admitted,leaving,foreign" doc:"leaving: it makes room for another task; foreign: Drover did not submit it"`
	// Position counts those that wait by when they are expected to start, from 1.
	Position int       `json:"position,omitempty" doc:"Among those that wait, by when they are expected to start"`
	Priority int       `json:"priority"`
	Members  int       `json:"members" doc:"That run, or the fewest that it starts with"`
	Needs    Resources `json:"needs" doc:"Of all members, by flavor"`
	// Submitted is when its run was, Started when it was admitted.
	Submitted time.Time  `json:"submitted"`
	Started   *time.Time `json:"started,omitempty"`
	Evictions int        `json:"evictions,omitempty" doc:"How often it had to make room"`
	Nodes     []string   `json:"nodes,omitempty" doc:"Names of the nodes that its members are on"`
	Devices   []string   `json:"devices,omitempty"`
	For       string     `json:"for,omitempty" doc:"The task that it makes room for"`

	// What follows is of work that waits.
	Reason   *Reason    `json:"reason,omitempty"`
	Expected *time.Time `json:"expected,omitempty" doc:"When it starts, if nothing else is submitted and all run as long as they declare; missing: not in the next 90 days"`
	OnNodes  []string   `json:"on_nodes,omitempty" doc:"Where it starts then"`
	Evicts   []Victim   `json:"evicts,omitempty" doc:"What makes room for it then"`
}

// Resources are amounts by flavor as decimal numbers.
type Resources map[queue.Flavor]string

// Reason is why a task waits.
type Reason struct {
	Code string `json:"code" doc:"One of too_large, queue_limit, quota_in_use, no_place, reserved, behind_head, preemption_delay, evicting, held; or no_node: no node can have it"`
	Text string `json:"text"`
	// Subject is the queue or cohort whose limit it is, or the task before it.
	Subject   string     `json:"subject,omitempty"`
	Flavor    string     `json:"flavor,omitempty"`
	Need      string     `json:"need,omitempty" doc:"Of the flavor, at least"`
	Have      string     `json:"have,omitempty" doc:"What it could have of that"`
	Members   int        `json:"members,omitempty" doc:"It needs at least"`
	Placeable int        `json:"placeable,omitempty" doc:"Members that have room"`
	Until     *time.Time `json:"until,omitempty"`
	Raise     Resources  `json:"raise,omitempty" doc:"The smallest addition to its workspace's nominal quota that takes this reason away"`
}

// NoNode is the code of a task that no node of the cluster can have.
const NoNode = "no_node"

// Victim is a task that makes room.
type Victim struct {
	Task           queue.JobID `json:"task"`
	LostGPUSeconds float64     `json:"lost_gpu_seconds" doc:"Work since its newest checkpoint"`
}

// View is the queue at a moment: those that run, by when they were admitted, and
// then those that wait, in order.
type View struct {
	At      time.Time `json:"at"`
	Entries []Entry   `json:"entries"`
}

// answerWithin is how long a question may take. The scheduler answers none while it
// cannot store what it has decided.
const answerWithin = 10 * time.Second

// do has f run by the scheduler's goroutine, and waits for that.
func (s *Scheduler) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	s.tell(func() { done <- f() })
	late := time.NewTimer(answerWithin)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return problem.New(problem.Unavailable, "the queue does not answer: the server's log says what it waits for")
	}
}

// frozen is what a decision goes by, to be looked at elsewhere.
type frozen struct {
	snap   queue.Snapshot
	places queue.Places
	at     time.Time
	view   View
	names  func(queue.Place) []string
}

func (s *Scheduler) freeze(ctx context.Context) (*frozen, error) {
	f := &frozen{}
	err := s.do(ctx, func() error {
		if s.state == nil {
			return notYet()
		}
		f.at = time.Now().UTC()
		f.snap, f.places = s.state.Snapshot(), s.cluster.fleet.Clone()
		f.view, f.names = s.view(f.snap, f.at), s.cluster.nodeNames
		for i := range f.view.Entries {
			if e := &f.view.Entries[i]; e.State == "waiting" {
				why := s.reasonOf(e.Task)
				e.Reason = &why
			}
		}
		for id, why := range s.parked {
			f.view.Entries = append(f.view.Entries, s.parkedEntry(s.rows[id], why))
		}
		return nil
	})
	return f, err
}

// view is a snapshot without reasons.
func (s *Scheduler) view(snap queue.Snapshot, at time.Time) View {
	v := View{At: at, Entries: []Entry{}}
	for _, r := range snap.Running {
		v.Entries = append(v.Entries, s.runningEntry(r))
	}
	for _, j := range snap.Waiting {
		e := entryOf(j, j.Min, 0)
		e.State = "waiting"
		if r := s.rows[j.ID]; r != nil {
			e.Workspace = r.Workspace
		}
		v.Entries = append(v.Entries, e)
	}
	return v
}

func (s *Scheduler) parkedEntry(r *Row, why string) Entry {
	return Entry{
		Task: r.ID, Workspace: r.Workspace, Queue: s.definitions.QueueFor(r.Workspace, r.Serving), State: "waiting", Priority: r.Priority,
		Members: r.Min, Needs: Resources{}, Submitted: r.Submitted, Evictions: r.Evictions, Reason: &Reason{Code: NoNode, Text: why},
	}
}

func entryOf(j queue.Job, members, option int) Entry {
	needs := Resources{}
	for f, a := range j.Option(option) {
		if a > 0 {
			needs[f] = (a * queue.Amount(members)).String()
		}
	}
	return Entry{
		Task: j.ID, Queue: j.Queue, Priority: j.Priority, Members: members, Needs: needs, Submitted: j.Submitted, Evictions: j.Evictions,
	}
}

func (s *Scheduler) runningEntry(r queue.Running) Entry {
	e := entryOf(r.Job, r.Run.Members, r.Run.Option)
	e.Started, e.State = &r.Run.Started, "admitted"
	switch row := s.rows[r.ID]; {
	case r.Foreign:
		e.State = "foreign"
	case row != nil:
		e.Workspace, e.For = row.Workspace, string(row.For)
	}
	if r.Run.Leaving {
		e.State = "leaving"
	}
	e.Nodes, e.Devices = s.cluster.nodeNames(r.Run.Place), nil
	for _, spot := range r.Run.Place {
		e.Devices = append(e.Devices, spot.Devices...)
	}
	return e
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

func (s *Scheduler) reasonOf(id queue.JobID) Reason {
	why, err := s.state.Why(id)
	if err != nil {
		return Reason{Text: err.Error()}
	}
	r := Reason{
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

// Queue is the queue as it stands, with a forecast.
func (s *Scheduler) Queue(ctx context.Context) (View, error) {
	f, err := s.freeze(ctx)
	if err != nil {
		return View{}, err
	}
	return f.look()
}

// look adds a forecast to a view, and puts it in order.
func (f *frozen) look() (View, error) {
	ahead, err := forecast.Of(f.snap, f.places, f.at)
	if err != nil {
		return View{}, err
	}
	starts := make(map[queue.JobID]*forecast.Start, len(ahead.Starts))
	for i := range ahead.Starts {
		// A job that is evicted in the future starts more than once.
		if st := &ahead.Starts[i]; starts[st.Job] == nil {
			starts[st.Job] = st
		}
	}
	for i := range f.view.Entries {
		e := &f.view.Entries[i]
		st := starts[e.Task]
		if e.State != "waiting" || st == nil {
			continue
		}
		e.Expected, e.Position = &st.At, st.Order
		e.OnNodes = f.names(st.Place)
		for _, v := range st.Evicts {
			e.Evicts = append(e.Evicts, Victim{v.Job, v.LostSeconds})
		}
	}
	slices.SortStableFunc(f.view.Entries, func(a, b Entry) int {
		if wa, wb := a.State == "waiting", b.State == "waiting"; wa != wb {
			if wa {
				return 1
			}
			return -1
		}
		if a.State != "waiting" {
			return cmp.Or(a.Started.Compare(*b.Started), cmp.Compare(a.Task, b.Task))
		}
		if (a.Position == 0) != (b.Position == 0) {
			return cmp.Compare(b.Position, a.Position)
		}
		return cmp.Or(cmp.Compare(a.Position, b.Position), a.Submitted.Compare(b.Submitted), cmp.Compare(a.Task, b.Task))
	})
	n := 0
	for i := range f.view.Entries {
		if e := &f.view.Entries[i]; e.State == "waiting" {
			n++
			e.Position = n
		}
	}
	return f.view, nil
}

// Using is what is in use now, by queue.
func (s *Scheduler) Using(ctx context.Context) (map[queue.QueueID]queue.Resources, error) {
	using := map[queue.QueueID]queue.Resources{}
	err := s.do(ctx, func() error {
		if s.state == nil {
			return notYet()
		}
		for _, r := range s.state.Snapshot().Running {
			sum := using[r.Queue]
			if sum == nil {
				sum = queue.Resources{}
				using[r.Queue] = sum
			}
			for f, a := range r.Job.Option(r.Run.Option) {
				sum[f] += a * queue.Amount(r.Run.Members)
			}
		}
		return nil
	})
	return using, err
}

func notYet() error {
	return problem.New(problem.Unavailable, "the cluster has not told yet which nodes it has: try again in a moment")
}

// NeverError is why a task can never start.
type NeverError struct{ Why string }

func (e *NeverError) Error() string { return e.Why }

// Check returns a *NeverError for a request that could not start were nothing
// running. Until the cluster has told what it has, all could.
func (s *Scheduler) Check(ctx context.Context, r Request) error {
	return s.do(ctx, func() error {
		if s.state == nil {
			return nil
		}
		row := Row{Request: r, Phase: Waiting}
		row.ID = "check"
		o := s.opening(time.Now())
		j, err := o.job(&row)
		if err != nil {
			return &NeverError{err.Error()}
		}
		if !s.state.HasQueue(j.Queue) {
			return nil // of a workspace that has no limits
		}
		var refusal *queue.Refusal
		if err := s.state.Check(j); errors.As(err, &refusal) {
			return &NeverError{refusal.Reason.String()}
		} else if err != nil {
			return problem.New(problem.Invalid, "%w", err)
		}
		return nil
	})
}
