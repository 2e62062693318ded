package run

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// An actor owns an active run: one goroutine, which takes messages, decides
// what changes, stores that, and only then starts what the change asks for.
// Everything it knows that is not in the store can be had again from the
// cluster or the artefact store, so it may die at any moment.
type actor struct {
	engine *Engine
	graph  *pipeline.Pipeline // nil if it must be parsed first; dropped by build
	state  State              // nodes and attempts live below, not in here
	nodes  []*node
	byID   map[pipeline.NodeID]*node
	known  pipeline.Results    // how the nodes that have ended did
	open   map[string]*attempt // attempts that have not ended, by job ID
	left   int                 // body nodes that have not ended
	// orphans are attempts that have ended and whose jobs must still be stopped.
	orphans int
	ended   bool
	ready   []*node // have become ready, or may go on
	// deferred become ready at the next wake-up.
	deferred []*node

	change   changes
	effects  []func(context.Context) // to start once change is stored
	tells    []func()                // to call once change is stored, in order
	replies  []chan<- error          // to answer once change is stored
	wakeAt   time.Time
	wakeUp   *time.Timer
	done     chan struct{}
	mailbox  sync.Mutex
	letters  []message
	mailFlag chan struct{}
}

// node is a node with what the actor needs of it.
type node struct {
	Node
	def        *pipeline.Node
	unmet      int // dependencies that have not ended
	dependents []*node
	tasks      []*task // one of a step or endpoint; one for each trial of a sweep
	next       int     // all trials before this one have been started
	active     int     // trials under way
}

// task is what attempts are made at: a step, a trial or an endpoint.
type task struct {
	node     *node
	trial    *Trial // nil but for trials; its phase is the task's
	spec     *pipeline.Task
	attempts []*attempt
}

func (t *task) index() *int {
	if t.trial == nil {
		return nil
	}
	return new(t.trial.Index)
}

// attempt is an attempt with what is known of it for now.
type attempt struct {
	AttemptState
	task  *task
	alloc *Alloc // of a gang that of rank 0
	// members are a gang's allocations, by rank; nil without a gang.
	members map[int]*Alloc
	// broken tells that a member has failed, so that the others are stopped.
	broken  bool
	busy    bool // a call that must not overlap with another is under way
	stopped bool // the cluster has confirmed a stop
	resumed bool // loaded from the store: its job may be there already
	heard   time.Time
	asked   bool // an inspection is under way
	missed  bool // news came while busy
	silent  bool // its node does not answer
	// troubled attempts say that the cluster does not answer.
	troubled bool
	// lookedUp is the displaced allocation whose record was looked for.
	lookedUp string
	// displaced is why the cluster has ended its allocation by itself.
	displaced string
	// askedFor tells that its task was asked for a checkpoint, and sealed is
	// when the newest one was; looking that it is looked for, looked when it was.
	askedFor, looking bool
	sealed, looked    time.Time
	// requested tells that the queue was asked for a place.
	requested bool
}

// message is something that an actor is told.
type message interface{ apply(a *actor) }

// changes collects what a pass has changed, each thing once.
type changes struct {
	run      bool
	nodes    set[*node]
	trials   set[*task]
	attempts set[*attempt]
	events   []Event
	metrics  []MetricPoint
	cache    []CacheEntry
}

func (c *changes) empty() bool {
	return !c.run && len(c.nodes.list)+len(c.trials.list)+len(c.attempts.list)+len(c.events)+len(c.metrics)+len(c.cache) == 0
}

// set keeps things once, in the order in which they came.
type set[T comparable] struct {
	list []T
	has  map[T]bool
}

func (s *set[T]) add(v T) {
	if s.has == nil {
		s.has = map[T]bool{}
	}
	if !s.has[v] {
		s.has[v] = true
		s.list = append(s.list, v)
	}
}

func newActor(e *Engine, s State) *actor {
	a := &actor{
		engine: e, state: s, byID: map[pipeline.NodeID]*node{},
		known: pipeline.Results{}, open: map[string]*attempt{},
		mailFlag: make(chan struct{}, 1), done: make(chan struct{}),
	}
	a.state.Nodes, a.state.Attempts = nil, nil
	for _, n := range s.Nodes {
		x := &node{Node: n}
		x.Trials, x.Attempts = nil, nil
		for _, t := range n.Trials {
			x.tasks = append(x.tasks, &task{node: x, trial: new(t)})
		}
		if x.Kind == pipeline.KindStep || x.Kind == pipeline.KindEndpoint {
			x.tasks = []*task{{node: x}}
		}
		a.nodes = append(a.nodes, x)
		a.byID[n.ID] = x
	}
	for _, at := range s.Attempts {
		a.attach(at)
	}
	return a
}

// attach puts a stored attempt in its place.
func (a *actor) attach(s AttemptState) {
	n := a.byID[s.Node]
	i := 0
	if s.Trial != nil {
		i = *s.Trial
	}
	if n == nil || i >= len(n.tasks) {
		return
	}
	t := n.tasks[i]
	at := &attempt{AttemptState: s, task: t, resumed: true}
	t.attempts = append(t.attempts, at)
	if !at.Phase.Ended() {
		a.open[at.JobID] = at
	}
}

func (a *actor) send(m message) {
	a.mailbox.Lock()
	a.letters = append(a.letters, m)
	a.mailbox.Unlock()
	select {
	case a.mailFlag <- struct{}{}:
	default:
	}
}

func (a *actor) take() []message {
	a.mailbox.Lock()
	defer a.mailbox.Unlock()
	letters := a.letters
	a.letters = nil
	return letters
}

// live is the actor's goroutine.
func (a *actor) live(ctx context.Context) {
	defer close(a.done)
	defer a.engine.release(a)
	a.wakeUp = time.NewTimer(time.Hour)
	defer a.wakeUp.Stop()
	if err := a.build(); err != nil {
		a.state.Phase, a.state.Error = Failed, err.Error()
		a.state.Ended = new(now())
		a.change.run = true
		a.event(Event{Type: "run", Phase: Failed, Message: err.Error()})
		a.flush(ctx)
		return
	}
	for _, n := range a.nodes {
		for _, t := range n.tasks {
			for _, at := range t.attempts {
				if at.Orphaned {
					a.stopOrphan(at)
				}
			}
		}
	}
	for jobID, at := range a.open {
		a.engine.subscribe(jobID, a)
		if at.Grant != nil { // the queue may want it back
			a.request(at)
		}
		if at.Phase == Running && at.task.node.Kind != pipeline.KindEndpoint {
			a.engine.tails.add(at.Namespace, jobID, at.AllocID, a)
		}
	}
	for {
		a.advance(ctx)
		if !a.flush(ctx) {
			return
		}
		if a.ended {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-a.mailFlag:
		case <-a.wakeUp.C:
			a.wakeAt = time.Time{}
			a.ready, a.deferred = append(a.ready, a.deferred...), nil
		}
		for _, m := range a.take() {
			m.apply(a)
		}
	}
}

// build makes the graph from the stored submission and finds out what every
// node waits for.
func (a *actor) build() error {
	p := a.graph
	a.graph = nil
	if p == nil {
		var diags hcl.Diagnostics
		if p, diags = parse(a.state.Submission); diags.HasErrors() {
			return fmt.Errorf("this server does not understand the run's pipeline file any more: %w", diags)
		}
	}
	exits := map[pipeline.NodeID]bool{}
	for _, def := range p.Nodes {
		exits[def.ID] = def.OnExit
		n := a.byID[def.ID]
		if n == nil {
			return fmt.Errorf("this server reads the run's pipeline file differently: %s is new", def.ID)
		}
		n.def = def
		if !def.OnExit && !n.Phase.Ended() {
			a.left++
		}
	}
	for _, n := range a.nodes {
		if n.def == nil {
			return fmt.Errorf("this server reads the run's pipeline file differently: %s is gone", n.ID)
		}
		for _, id := range n.def.DependsOn {
			if n.def.OnExit && !exits[id] {
				continue // all of the body has ended before
			}
			d := a.byID[id]
			if d == nil {
				return fmt.Errorf("%s depends on %s, which is not in the run", n.ID, id)
			}
			d.dependents = append(d.dependents, n)
			if !d.Phase.Ended() {
				n.unmet++
			}
		}
	}
	for _, n := range a.nodes {
		a.resume(n)
	}
	return nil
}

// resume finds out how far a loaded node has come.
func (a *actor) resume(n *node) {
	if n.Phase.Ended() {
		a.known[n.ID] = n.result()
		return
	}
	if n.Kind == pipeline.KindSweep {
		for _, t := range n.tasks {
			if t.trial.Phase == Queued || t.trial.Phase == Running {
				n.active++
			}
		}
	}
	a.ready = append(a.ready, n)
}

func now() time.Time { return time.Now().UTC() }

// event adds an event to the change that is collected.
func (a *actor) event(e Event) {
	a.state.Clock++
	e.Run, e.Seq, e.Time = a.state.ID, a.state.Clock, now()
	a.change.events = append(a.change.events, e)
}

// flush stores what was collected, and then starts what it asked for. It is
// false if ctx ended first: nothing of the change has happened then.
func (a *actor) flush(ctx context.Context) bool {
	if !a.change.empty() {
		c := a.collect()
		for failures := 0; ; failures++ {
			err := a.engine.config.Store.Commit(ctx, c)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return false
			}
			a.engine.config.Logger.Error("storing a change: trying again", "run", a.state.ID, "error", err)
			if !pause(ctx, a.engine.config.Backoff, failures) {
				return false
			}
		}
		a.change = changes{}
		a.engine.bells.ring(a.state.ID)
	}
	for _, r := range a.replies {
		r <- nil
	}
	a.replies = nil
	for _, f := range a.tells {
		f()
	}
	a.tells = nil
	for _, f := range a.effects {
		a.engine.wg.Go(func() { f(ctx) })
	}
	a.effects = nil
	return true
}

// collect makes the change from what was marked.
func (a *actor) collect() Change {
	c := Change{ID: a.state.ID, Events: a.change.events, Metrics: a.change.metrics, Cache: a.change.cache}
	if a.change.run {
		c.Run = new(a.state)
	}
	for _, n := range a.change.nodes.list {
		c.Nodes = append(c.Nodes, n.Node)
	}
	for _, t := range a.change.trials.list {
		c.Trials = append(c.Trials, TrialState{Node: t.node.ID, Trial: *t.trial})
	}
	for _, at := range a.change.attempts.list {
		c.Attempts = append(c.Attempts, at.AttemptState)
	}
	return c
}

// effect is something to do once the change is stored, in a goroutine of its
// own.
func (a *actor) effect(f func(ctx context.Context)) { a.effects = append(a.effects, f) }

// wake has the actor look again at a time.
func (a *actor) wake(at time.Time) {
	if a.wakeAt.IsZero() || at.Before(a.wakeAt) {
		a.wakeAt = at
		a.wakeUp.Reset(max(0, time.Until(at)))
	}
}
