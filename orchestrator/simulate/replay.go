package simulate

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/trace"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Config is a replay.
type Config struct {
	Nodes []placement.Node
	Jobs  []trace.Job
	// Definitions are the workspaces with their quotas; nil: [Shared].
	Definitions *workspace.Definitions
	// Policy is the placement policy, one of [Policies]; "": the default.
	Policy string
	// Seed decides in which order nodes that are equally good are taken.
	Seed uint64
	// Load is how many times as fast as in the trace jobs come; zero: 1.
	Load float64
	// Start is when the first job comes, for quotas with a schedule; zero:
	// [DefaultStart].
	Start time.Time
	// Grace is how long a victim takes until it is gone; zero: [DefaultGrace].
	Grace time.Duration
	// Prices of a GPU-hour, by model; nil: there is no cost in the report.
	Prices map[string]float64
	// Progress, if not nil, is called now and then.
	Progress func(Progress)
}

// Progress is how far a replay is.
type Progress struct {
	Done, Of int // jobs
	At       time.Duration
	Waiting  int
}

// Defaults of a [Config].
const DefaultGrace = 30 * time.Second

// DefaultStart is a Monday at midnight, UTC.
var DefaultStart = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// MinLoad and MaxLoad are the least and greatest load of a replay.
const (
	MinLoad = 0.1
	MaxLoad = 100_000
)

// MaxPrice is the greatest price of a GPU-hour.
const MaxPrice = 1e6

// MaxSpan is how much virtual time a replay takes at most.
const MaxSpan = 200 * 365 * 24 * time.Hour

// MaxWorkspaces is how many a trace has at most.
const MaxWorkspaces = 1000

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

// kinds of event, in the order in which those of one moment happen.
type eventKind int

const (
	quotaChange eventKind = iota
	jobEnds
	victimGone
	jobComes
	checkpoints
	lookAgain
)

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

// replay is a replay under way.
type replay struct {
	Config
	fleet      *fleet // while nothing runs
	used       *fleet // with what runs
	state      *queue.State
	settings   settings
	flavors    map[string]queue.Flavor // by model
	budgets    bool                    // there are any
	scheduled  bool                    // quotas change
	outside    []int                   // jobs that wait for quotas to change before the queue takes them
	models     []string                // of all GPUs, sorted
	workspaces []string                // sorted
	jobs       []job
	byID       map[queue.JobID]int
	events     events
	now        time.Time
	moved      time.Time // when more than quotas changed
	coming     int
	waiting    int
	running    int
	ended      int
	refused    []Refused
	record     *record
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
	r := &replay{Config: c, fleet: f, used: f.clone(), now: c.Start, moved: c.Start, coming: len(c.Jobs), workspaces: workspacesOf(c.Jobs), byID: make(map[queue.JobID]int, len(c.Jobs))}
	for _, n := range c.Nodes {
		if n.GPUs > 0 && !slices.Contains(r.models, n.Model) {
			r.models = append(r.models, n.Model)
		}
	}
	slices.Sort(r.models)
	if r.flavors, err = flavorsOf(*r.Definitions, r.models); err != nil {
		return nil, err
	}
	if err := r.checkPrices(); err != nil {
		return nil, err
	}
	for _, w := range r.Definitions.Workspaces {
		r.budgets = r.budgets || w.Budget != nil
		r.scheduled = r.scheduled || len(w.Schedules) > 0
	}
	for _, c := range r.Definitions.Cohorts {
		r.scheduled = r.scheduled || len(c.Schedules) > 0
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	r.record = newRecord(r)
	r.settings = r.settingsNow()
	r.expect(r.settings.next, quotaChange, 0)
	return r, r.open(queue.Snapshot{})
}

// complete checks c and fills in what is left out.
func (c *Config) complete() error {
	if len(c.Nodes) == 0 || len(c.Jobs) == 0 {
		return errors.New("a replay needs nodes and jobs")
	}
	if c.Load == 0 {
		c.Load = 1
	}
	if !(c.Load >= MinLoad && c.Load <= MaxLoad) {
		return fmt.Errorf("a load of %v is out of range: %v to %v", c.Load, MinLoad, MaxLoad)
	}
	if c.Grace < 0 {
		return fmt.Errorf("a grace of %s is negative", c.Grace)
	}
	c.Policy = cmp.Or(c.Policy, placement.DefaultPolicy)
	if !slices.Contains(Policies(), c.Policy) {
		return fmt.Errorf("no placement policy for a replay is named %q; there are %s", c.Policy, strings.Join(Policies(), ", "))
	}
	if c.Start.IsZero() {
		c.Start = DefaultStart
	}
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	if c.Definitions == nil {
		d := Shared(c.Nodes, c.Jobs)
		c.Definitions = &d
	}
	c.Nodes = slices.Clone(c.Nodes)
	random := rand.New(rand.NewPCG(c.Seed, 0x94d049bb133111eb))
	random.Shuffle(len(c.Nodes), func(i, j int) { c.Nodes[i], c.Nodes[j] = c.Nodes[j], c.Nodes[i] })
	return nil
}

// Policies are the placement policies of replays, sorted: those that give the same
// answer to the same question.
func Policies() []string {
	return slices.DeleteFunc(placement.Policies(), func(name string) bool { return name == "random" })
}

// checkPrices reports whether there is a price of each model, or none at all.
func (r *replay) checkPrices() error {
	if r.Prices == nil {
		return nil
	}
	for _, m := range slices.Sorted(maps.Keys(r.Prices)) {
		if !slices.Contains(r.models, m) {
			return fmt.Errorf("a price for GPUs of model %q, which no node has; there are %s", m, strings.Join(r.models, ", "))
		}
		if p := r.Prices[m]; !(p >= 0 && p <= MaxPrice) {
			return fmt.Errorf("a price of %v for GPUs of model %q; prices are 0 to %v", p, m, MaxPrice)
		}
	}
	for _, m := range r.models {
		if _, ok := r.Prices[m]; !ok {
			return fmt.Errorf("no price for GPUs of model %q; say what an hour of each model costs, or of none", m)
		}
	}
	return nil
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

// expect lets something happen at t; not at all if t is zero.
func (r *replay) expect(t time.Time, kind eventKind, i int) {
	if t.IsZero() {
		return
	}
	heap.Push(&r.events, event{t, kind, i, r.jobs[i].run})
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
	case checkpoints:
		r.expect(r.now.Add(j.Checkpoint), checkpoints, e.job)
		return false, r.state.Checkpointed(j.id, r.now)
	default:
		return true, nil
	}
}

// comes lets a job wait, or refuses it. Where quotas have a schedule, what is too
// much now may not be later: it stays outside until they change.
func (r *replay) comes(i int) error {
	j := &r.jobs[i]
	if j.Each.GPUs > 0 && !r.anyModel(j.Each.Models) {
		r.refuse(j, fmt.Sprintf("no node has a GPU of model %s; there are %s", strings.Join(j.Each.Models, " or "), strings.Join(r.models, ", ")))
		return nil
	}
	if err := j.Each.Check(); err != nil {
		r.refuse(j, err.Error())
		return nil
	}
	r.describe(j)
	why, err := r.submit(j)
	switch {
	case err != nil:
		return err
	case why == "":
	case !r.scheduled:
		r.refuse(j, why)
		return nil
	default:
		r.outside = append(r.outside, i)
		j.why = why
	}
	r.waits(i)
	return nil
}

func (r *replay) refuse(j *job, why string) {
	r.refused = append(r.refused, Refused{j.Name, j.Workspace, j.Line, why})
}

// submit adds a job to the queue; why is the reason if that refuses it.
func (r *replay) submit(j *job) (why string, err error) {
	err = r.state.Submit(j.asked)
	var refusal *queue.Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Reason.String(), nil
	case errors.Is(err, queue.ErrInvalid): // amounts out of all proportion, or a flavor that nobody has a quota of
		return err.Error(), nil
	}
	return "", err
}

// anyModel reports whether nodes have a GPU that is one of models.
func (r *replay) anyModel(models []string) bool {
	return len(r.models) > 0 && (len(models) == 0 || slices.ContainsFunc(models, func(m string) bool { return slices.Contains(r.models, m) }))
}

// waits notes that a job waits, and when it may do more than it may now.
func (r *replay) waits(i int) {
	r.jobs[i].waits = true
	r.waiting++
	r.record.waits(&r.jobs[i], 1)
	if d := r.settings.policy.PreemptionDelay; d > 0 {
		r.expect(r.now.Add(d), lookAgain, i)
	}
	if d := r.settings.policy.Patience; d > 0 {
		r.expect(r.jobs[i].submitted.Add(d), lookAgain, i)
	}
}

// describe says what j is to the queue.
func (r *replay) describe(j *job) {
	j.asked = queue.Job{
		ID: j.id, Queue: r.Definitions.QueueFor(j.Workspace, false), Submitted: j.submitted,
		Priority: j.Priority, Preemptible: r.Definitions.Preemptible(j.Workspace), Min: j.Min, Max: j.Max, RunTime: cmp.Or(j.RunTime, Declared(j.Duration)),
	}
	if j.Job.Preemptible != nil {
		j.asked.Preemptible = *j.Job.Preemptible
	}
	j.options = r.options(j)
	tasks := make([]placement.Task, len(j.options))
	for i, o := range j.options {
		need := queue.Resources{workspace.CPU: queue.Amount(j.Each.CPUMilli), workspace.Memory: gib(j.Each.MemoryMiB)}
		if j.Each.GPUs > 0 {
			need[o.flavor] = queue.Amount(j.Each.GPUMilli())
		}
		if i == 0 {
			j.asked.Each = need
		} else {
			j.asked.Or = append(j.asked.Or, need)
		}
		tasks[i] = j.Each
		tasks[i].Models = o.models
	}
	j.asked.Shape = r.fleet.shape(tasks)
}

// option is a flavor that will do for a job, and its models; none: any.
type option struct {
	flavor queue.Flavor
	models []string
}

// options are the flavors that will do for a job, in the order of its models, or
// else of the nodes'.
func (r *replay) options(j *job) []option {
	if j.Each.GPUs == 0 {
		return []option{{}}
	}
	models := j.Each.Models
	if len(models) == 0 {
		models = r.models
	}
	var all []option
	for _, m := range models {
		if !slices.Contains(r.models, m) {
			continue
		}
		f := r.flavors[m]
		i := slices.IndexFunc(all, func(o option) bool { return o.flavor == f })
		if i < 0 {
			i = len(all)
			all = append(all, option{flavor: f})
		}
		all[i].models = append(all[i].models, m)
	}
	return all
}

// quotasChange lets quotas be what they are now, and reports whether they were not.
func (r *replay) quotasChange() (bool, error) {
	was := r.settings
	r.settings = r.settingsNow()
	r.expect(r.settings.next, quotaChange, 0)
	if reflect.DeepEqual(was.cohorts, r.settings.cohorts) && reflect.DeepEqual(was.queues, r.settings.queues) {
		return false, nil
	}
	if err := r.open(r.state.Snapshot()); err != nil {
		return true, err
	}
	still := r.outside[:0]
	for _, i := range r.outside {
		why, err := r.submit(&r.jobs[i])
		if err != nil {
			return true, err
		}
		if r.jobs[i].why = why; why != "" {
			still = append(still, i)
		}
	}
	r.outside = still
	return true, nil
}

// open makes the state of a snapshot with the quotas that hold now.
func (r *replay) open(snap queue.Snapshot) error {
	snap.Policy, snap.Cohorts, snap.Queues = r.settings.policy, r.settings.cohorts, r.settings.queues
	s, err := queue.Open(snap, r.fleet)
	if err != nil {
		return fmt.Errorf("opening the queues as of %s: %w", r.now.UTC().Format(time.RFC3339), err)
	}
	r.state = s
	return nil
}

// decide lets the queue decide, and does it.
func (r *replay) decide() error {
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
			r.expect(r.now.Add(j.Checkpoint), checkpoints, i)
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
