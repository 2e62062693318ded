package simulate

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/trace"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// job is a job of the trace and how far it is.
type job struct {
	*trace.Job
	id        queue.JobID
	workspace int
	submitted time.Time
	left      int64 // milliseconds times members
	run       int   // counts starts; events of earlier runs are void
	running   bool
	waits     bool
	started   time.Time
	members   int
	place     queue.Place
	asked     queue.Job
	options   []option
	option    int    // of options, that it runs with
	why       string // it is outside the queue
	began     bool
	ended     bool
	first     time.Time // start
}

// holds is what it holds while it runs.
func (j *job) holds() resources {
	m := int64(j.members)
	return resources{j.Each.GPUMilli() * m, j.Each.CPUMilli * m, j.Each.MemoryMiB * m}
}

// replay is a replay under way.
type replay struct {
	Config
	fleet       *fleet // while nothing runs
	used        *fleet // with what runs
	state       *queue.State
	atMost      *queue.State // an empty one with the greatest quotas that there ever are
	settings    settings
	flavors     map[string]queue.Flavor // by model
	budgets     bool                    // there are any
	outside     []int                   // jobs that wait for quotas to change before the queue takes them
	models      []string                // of all GPUs, sorted
	gpus        map[string]int          // by model
	workspaces  []string                // sorted
	jobs        []job
	byID        map[queue.JobID]int
	events      events
	checkpoints events // the next of each job that runs, as of the last decision
	now         time.Time
	moved       time.Time // when more than quotas changed
	coming      int
	waiting     int
	running     int
	ended       int
	refused     []Refused
	record      *record
}

// Run replays a trace. An error is about the input, or ctx's.
func Run(ctx context.Context, c Config) (*Report, error) {
	r, err := newReplay(c)
	if err != nil {
		return nil, err
	}
	for r.goesOn() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.step(); err != nil {
			return nil, err
		}
	}
	return r.report(), nil
}

func newReplay(c Config) (*replay, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	mix := make([]placement.Task, len(c.Jobs))
	for i := range c.Jobs {
		mix[i] = c.Jobs[i].Each
	}
	f, err := newFleet(c.Nodes, placement.Config{Policy: c.Policy, Mix: mix})
	if err != nil {
		return nil, err
	}
	r := &replay{
		Config: c, fleet: f, used: f.clone(), now: c.Start, moved: c.Start, coming: len(c.Jobs), refused: []Refused{},
		gpus: map[string]int{}, workspaces: workspacesOf(c.Jobs), byID: make(map[queue.JobID]int, len(c.Jobs)),
	}
	for _, n := range c.Nodes {
		if n.GPUs > 0 {
			r.gpus[n.Model] += n.GPUs
		}
	}
	r.models = slices.Sorted(maps.Keys(r.gpus))
	if r.flavors, err = flavorsOf(*r.Definitions, r.models); err != nil {
		return nil, err
	}
	if err := r.checkPrices(); err != nil {
		return nil, err
	}
	r.budgets = slices.ContainsFunc(r.Definitions.Workspaces, func(w workspace.Workspace) bool { return w.Budget != nil })
	if err := r.load(); err != nil {
		return nil, err
	}
	r.record = newRecord(r)
	r.settings = r.settingsNow(*r.Definitions)
	r.expect(r.settings.next, quotaChange, 0)
	if r.atMost, err = r.opened(queue.Snapshot{}, r.settingsNow(r.Definitions.AtMost())); err != nil {
		return nil, err
	}
	return r, r.open(queue.Snapshot{})
}

// load makes jobs of the trace's, and lets them come.
func (r *replay) load() error {
	if len(r.workspaces) > MaxWorkspaces {
		return fmt.Errorf("the trace has %d workspaces; a replay has at most %d", len(r.workspaces), MaxWorkspaces)
	}
	first := r.Config.Jobs[0].Submitted
	for i := range r.Config.Jobs {
		first = min(first, r.Config.Jobs[i].Submitted)
	}
	names := map[string]int{}
	for i, w := range r.workspaces {
		names[w] = i
	}
	r.jobs = make([]job, len(r.Config.Jobs))
	for i := range r.jobs {
		j := &r.Config.Jobs[i]
		came := r.Start.Add(time.Duration(float64((j.Submitted-first).Milliseconds())/r.Load) * time.Millisecond)
		r.jobs[i] = job{Job: j, id: queue.JobID(fmt.Sprintf("%08d", i)), workspace: names[j.Workspace], submitted: came, left: j.Duration.Milliseconds() * int64(j.Max)}
		r.byID[r.jobs[i].id] = i
		r.expect(came, jobComes, i)
	}
	return nil
}

// maxQuiet is how long quotas may change and change back without a job that
// starts, ends or comes. Schedules repeat within a year.
const maxQuiet = 366 * 24 * time.Hour

// goesOn reports whether more will happen.
func (r *replay) goesOn() bool {
	for len(r.events) > 0 && r.void(r.events[0]) {
		heap.Pop(&r.events)
	}
	switch {
	case len(r.events) == 0 || r.ended+len(r.refused) == len(r.jobs):
		return false
	case r.coming > 0 || r.running > 0:
		return true
	default:
		return r.events[0].at.Sub(r.moved) <= maxQuiet
	}
}

// void reports whether e is about what is over.
func (r *replay) void(e event) bool {
	j := &r.jobs[e.job]
	return e.kind != quotaChange && (e.run != j.run || j.ended)
}

// step lets all happen that happens next, at one moment, and decides.
func (r *replay) step() error {
	r.now = r.events[0].at
	if r.coming > 0 || r.running > 0 {
		r.record.pass(r, r.now)
	} // otherwise it counts only if something starts yet
	if past := r.now.Sub(r.Start); past > MaxSpan {
		return fmt.Errorf("after %.0f years of virtual time %d of %d jobs have not ended; a replay goes no further", MaxSpan.Hours()/24/365, len(r.jobs)-r.ended-len(r.refused), len(r.jobs))
	}
	again := false
	for len(r.events) > 0 && r.events[0].at.Equal(r.now) {
		e := heap.Pop(&r.events).(event)
		changed, err := r.happen(e)
		if err != nil {
			return err
		}
		again = again || changed
	}
	if r.Progress != nil {
		r.Progress(Progress{r.ended + len(r.refused), len(r.jobs), r.now.Sub(r.Start), r.waiting})
	}
	if again && r.waiting > 0 {
		if err := r.decide(); err != nil {
			return err
		}
	}
	r.record.settle(r)
	return nil
}

// happen lets e happen, and reports whether a decision may be another now.
func (r *replay) happen(e event) (changed bool, err error) {
	if e.kind == quotaChange {
		return r.quotasChange()
	}
	if r.void(e) {
		return false, nil
	}
	j := &r.jobs[e.job]
	r.moved = r.now
	switch e.kind {
	case jobComes:
		r.coming--
		return true, r.comes(e.job)
	case jobEnds:
		r.stop(j)
		j.ended = true
		r.ended++
		return true, r.state.End(j.id, r.now)
	case victimGone:
		return true, r.requeue(e.job)
	default:
		return true, nil
	}
}

// decide lets the queue decide, and does it.
func (r *replay) decide() error {
	if err := r.sealed(); err != nil {
		return err
	}
	plan := r.state.Plan(r.now)
	if err := r.state.Apply(plan, r.now); err != nil {
		return err
	}
	for _, s := range plan.Start {
		r.start(s)
	}
	for _, v := range plan.Evict {
		r.expect(r.now.Add(r.Grace), victimGone, r.byID[v.Job])
	}
	return nil
}

// start lets a job run.
func (r *replay) start(s queue.Start) {
	i := r.byID[s.Job]
	j := &r.jobs[i]
	r.record.pass(r, r.now)
	r.waiting--
	r.record.waits(j, -1)
	j.run++
	j.waits, j.running, j.started, j.members, j.place, j.option = false, true, r.now, s.Members, s.Place, s.Option
	r.used.Take(&j.asked, j.option, j.place)
	r.changed(j.place)
	if !j.began {
		j.began, j.first = true, r.now
	}
	r.record.runs(j, 1)
	r.running++
	m := int64(j.members)
	r.expect(r.now.Add(time.Duration((j.left+m-1)/m)*time.Millisecond), jobEnds, i)
	if j.asked.Preemptible {
		if d := r.settings.policy.MinRunTime; d > 0 {
			r.expect(r.now.Add(d), lookAgain, i)
		}
		if j.Checkpoint > 0 {
			heap.Push(&r.checkpoints, event{r.now.Add(j.Checkpoint), checkpoint, i, j.run})
		}
	}
}

// modelOf is the index of a node's model.
func (r *replay) modelOf(n queue.NodeID) int {
	i, _ := slices.BinarySearch(r.models, r.fleet.nodes[r.fleet.index[n]].Model)
	return i
}

// stop gives back what a running job holds.
func (r *replay) stop(j *job) {
	r.record.served(r, j)
	r.record.runs(j, -1)
	r.running--
	r.used.Release(&j.asked, j.option, j.place)
	r.changed(j.place)
	j.running = false
}

// changed notes that others have room on the nodes of a place, or no longer.
func (r *replay) changed(place queue.Place) {
	for _, s := range place {
		r.record.fragment(r, r.fleet.index[s.Node])
	}
}

// requeue lets a victim wait again, with what its last checkpoint has.
func (r *replay) requeue(i int) error {
	j := &r.jobs[i]
	ran := r.now.Sub(j.started)
	kept := time.Duration(0)
	if j.Checkpoint > 0 {
		kept = ran.Truncate(j.Checkpoint)
	}
	r.record.evicted(j, ran-kept)
	r.stop(j)
	j.run++
	j.left -= kept.Milliseconds() * int64(j.members)
	if err := r.state.Requeue(j.id, r.now); err != nil {
		return err
	}
	r.waits(i)
	return nil
}
