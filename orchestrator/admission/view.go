package admission

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Entry is work in the queue, or work that holds what the queue gives out.
type Entry struct {
	Task      queue.JobID   `json:"task" doc:"RUN/NODE, or RUN/NODE/TRIAL; of other work, alloc/ALLOCATION"`
	Workspace string        `json:"workspace" doc:"Of other work, whose it counts as"`
	Queue     queue.QueueID `json:"queue"`
	State     string        `json:"state" enum:"waiting,admitted,leaving,foreign" doc:"leaving: it makes room for another task; foreign: Drover did not submit it"`
	Priority  int           `json:"priority"`
	Members   int           `json:"members" doc:"That run, or the fewest that it starts with"`
	Needs     Resources     `json:"needs" doc:"Of all members, by flavor"`
	// Submitted is when its run was, Started when it was admitted.
	Submitted time.Time  `json:"submitted"`
	Started   *time.Time `json:"started,omitempty"`
	Evictions int        `json:"evictions,omitempty" doc:"How often it had to make room"`
	Nodes     []string   `json:"nodes,omitempty" doc:"Names of the nodes that its members are on"`
	Devices   []string   `json:"devices,omitempty"`
	For       string     `json:"for,omitempty" doc:"The task that it makes room for"`
	Outlook              // of work that waits
}

// Outlook is why work waits, and when it starts.
type Outlook struct {
	// Position counts those that wait by when they are expected to start, from 1.
	Position int        `json:"position,omitempty" doc:"Among all that wait, by when they are expected to start; those of which that is not foreseen come last, by priority and age"`
	Reason   *Reason    `json:"reason,omitempty" doc:"Missing: it starts at once"`
	Expected *time.Time `json:"expected,omitempty" doc:"When it starts, if nothing else is submitted and all run as long as they declare; missing: not as far as the forecast reaches"`
	OnNodes  []string   `json:"on_nodes,omitempty" doc:"Where it starts then"`
	Evicts   []Victim   `json:"evicts,omitempty" doc:"What makes room for it then"`
}

// Resources are amounts by flavor as decimal numbers.
type Resources map[queue.Flavor]string

// Reason is why a task waits.
type Reason struct {
	Code string `json:"code" enum:"too_large,queue_limit,quota_in_use,no_place,reserved,behind_head,preemption_delay,evicting,held,no_node,no_class"`
	Text string `json:"text"`
	// Subject is the queue or cohort whose limit it is, or the task before it.
	Subject   string     `json:"subject,omitempty" doc:"The queue or cohort whose limit it is, or the task before it"`
	Flavor    string     `json:"flavor,omitempty"`
	Need      string     `json:"need,omitempty" doc:"Of the flavor, at least"`
	Have      string     `json:"have,omitempty" doc:"What it could have of that"`
	Members   int        `json:"members,omitempty" doc:"It needs at least"`
	Placeable int        `json:"placeable,omitempty" doc:"Members that have room"`
	Until     *time.Time `json:"until,omitempty"`
	Raise     Resources  `json:"raise,omitempty" doc:"The smallest addition to its workspace's nominal quota that takes this reason away"`
}

// Reasons beside those of the queue: no node of the cluster can have a task, or the
// priority class that it names is not for it.
const (
	NoNode  = "no_node"
	NoClass = "no_class"
)

// Victim is a task that makes room.
type Victim struct {
	Task           queue.JobID `json:"task"`
	LostGPUSeconds float64     `json:"lost_gpu_seconds" doc:"Work since its newest checkpoint"`
}

// View is the queue at a moment: those that run, by when they were admitted, and
// then those that wait, in order.
type View struct {
	At      time.Time `json:"at"`
	Running int       `json:"running" doc:"How many run of those that were asked for, listed or not"`
	Waiting int       `json:"waiting" doc:"How many wait of those that were asked for, listed or not"`
	// Until is how far the forecast reaches; nil: it is complete.
	Until   *time.Time `json:"until,omitempty" doc:"How far the forecast reaches, if it is not complete"`
	Entries []Entry    `json:"entries"`
}

// Filter says which entries of a view are wanted; the zero value: all.
type Filter struct {
	Workspace string
	Task      queue.JobID
	Waiting   bool // only what waits
	Limit     int  // so many that run, and so many that wait; 0: all
}

func (f Filter) wants(task queue.JobID, q queue.QueueID) bool {
	return (f.Task == "" || f.Task == task) && (f.Workspace == "" || f.Workspace == workspaceOf(q))
}

// workspaceOf is the workspace that a queue is of: see
// [workspace.Definitions.QueueFor].
func workspaceOf(q queue.QueueID) string { return strings.TrimSuffix(string(q), "/serving") }

// answerWithin is how long a question may take. The scheduler answers none while it
// cannot store what it has decided.
const answerWithin = 10 * time.Second

// do has f run by the scheduler's goroutine, and waits for that.
func (s *Scheduler) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	s.tell(func() { done <- f() })
	return answer(ctx, done)
}

// afterPass is do once all that was told before is decided on, and that is stored.
func (s *Scheduler) afterPass(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	s.tell(func() { s.outbox = append(s.outbox, func() { done <- f() }) })
	return answer(ctx, done)
}

func answer(ctx context.Context, done <-chan error) error {
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

// Queue is the queue as it stands, with a forecast.
func (s *Scheduler) Queue(ctx context.Context, filter Filter) (View, error) {
	defer s.takeTurn()()
	f, err := s.freeze(ctx)
	if err != nil {
		return View{}, err
	}
	return f.look(ctx, filter)
}

// takeTurn waits until not too many look ahead at once.
func (s *Scheduler) takeTurn() (done func()) {
	s.looking <- struct{}{}
	return func() { <-s.looking }
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
			if s.fitsAtTimes(j) {
				return nil // it waits for a schedule
			}
			return &NeverError{refusal.Reason.String()}
		} else if err != nil {
			return problem.New(problem.Invalid, "%w", err)
		}
		return nil
	})
}

// fitsAtTimes reports whether a job that is too large for what its queue has now is
// not for the most that schedules ever give it.
func (s *Scheduler) fitsAtTimes(j queue.Job) bool {
	seen := workspace.Seen{Flavors: slices.Sorted(maps.Keys(s.cluster.fleet.Flavors()))}
	var snap queue.Snapshot
	snap.Policy, snap.Cohorts, snap.Queues, _ = s.definitions.AtMost().Effective(time.Now(), seen)
	most, err := queue.Open(snap, s.cluster.fleet)
	return err == nil && most.HasQueue(j.Queue) && most.Check(j) == nil
}
