package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Config is what an Engine is made of. Store, Cluster and Artifacts are
// required.
type Config struct {
	Store     Store
	Cluster   Cluster
	Artifacts Artifacts
	// Queue decides when attempts start, and where; nil leaves both to Nomad.
	Queue Queue
	// JobCluster is where jobs go.
	JobCluster jobspec.Cluster
	// Workspaces say which namespace and node pools the jobs of a workspace get; nil:
	// JobCluster's.
	Workspaces interface{ Definitions() workspace.Definitions }
	Logger     *slog.Logger // default: slog.Default()
	// ResyncEvery is how long an attempt may go without news from the cluster
	// until it is asked for. Default 30 s.
	ResyncEvery time.Duration
	// TailEvery is how often the metrics of running tasks are read, at the
	// beginning; older tasks are read less often. Default 1 s.
	TailEvery time.Duration
	// Backoff is the first pause after a call that did not get through; the
	// pauses double up to 64 times that. Default 250 ms.
	Backoff time.Duration
}

// Limits of what is under way at once.
const (
	maxEffects  = 32 // calls to the cluster
	maxTails    = 4  // reads of metrics files
	maxBackoffs = 6  // doublings of Config.Backoff
)

// Engine takes runs through their lives. Its methods may be called from many
// goroutines, and those that only read also before Start and after Stop.
type Engine struct {
	config   Config
	registry *registry.Registry
	ids      idSource
	bells    bells
	tails    tails
	slots    chan struct{} // of effects
	fleet    *fleet

	retrying sync.Mutex // held while a run is made ready again

	mu     sync.Mutex // guards what follows
	ctx    context.Context
	cancel context.CancelFunc
	actors map[ID]*actor
	jobs   map[string]*actor // by job ID
	tasks  map[queue.JobID]*actor
	wg     sync.WaitGroup
}

// New returns an engine that is not started.
func New(c Config) *Engine {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.ResyncEvery <= 0 {
		c.ResyncEvery = 30 * time.Second
	}
	if c.TailEvery <= 0 {
		c.TailEvery = time.Second
	}
	if c.Backoff <= 0 {
		c.Backoff = 250 * time.Millisecond
	}
	e := &Engine{
		config: c, registry: registry.New(c.Store),
		slots:  make(chan struct{}, maxEffects),
		actors: map[ID]*actor{}, jobs: map[string]*actor{}, tasks: map[queue.JobID]*actor{},
	}
	e.fleet = newFleet(e)
	return e
}

// namespaceOf is the namespace that a workspace's new jobs go to.
func (e *Engine) namespaceOf(workspace string) string {
	return e.jobCluster(workspace).Namespace
}

// jobCluster is where a workspace's new jobs go.
func (e *Engine) jobCluster(workspace string) jobspec.Cluster {
	c := e.config.JobCluster
	if w := e.config.Workspaces; w != nil {
		d := w.Definitions()
		c.Namespace = cmp.Or(d.NamespaceOf(workspace), c.Namespace)
		c.Pools = d.PoolsOf(workspace)
	}
	return c
}

// Registry is the model registry that the engine's runs register in.
func (e *Engine) Registry() *registry.Registry { return e.registry }

// Start goes on with all runs that have not ended, and takes new ones until
// ctx ends or Stop is called. It returns once the runs are loaded; the cluster
// need not be there yet.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	if e.ctx != nil {
		e.mu.Unlock()
		return errors.New("the engine was started before")
	}
	e.ctx, e.cancel = context.WithCancel(ctx)
	ctx = e.ctx
	e.mu.Unlock()

	if err := e.fleet.load(ctx); err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	ids, err := e.config.Store.Active(ctx)
	if err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	var states []State
	live := map[queue.JobID]bool{}
	for _, id := range ids {
		s, err := e.config.Store.Load(ctx, id)
		if err != nil { // it must not keep the others from going on
			e.config.Logger.Error("a run cannot go on", "run", id, "error", err)
			continue
		}
		states = append(states, s)
		for _, at := range s.Attempts {
			if !at.Phase.Ended() {
				live[TaskID(s.ID, at.Node, at.Trial)] = true
			}
		}
	}
	if q := e.config.Queue; q != nil {
		if err := q.Load(ctx, live); err != nil {
			return fmt.Errorf("starting the engine: %w", err)
		}
		e.wg.Go(func() { q.Run(ctx, e) })
	}
	for _, s := range states {
		e.adopt(s, nil)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wg.Go(func() { e.watch(ctx) })
	e.wg.Go(func() { e.tail(ctx) })
	e.wg.Go(func() { e.fleet.run(ctx) })
	return nil
}

// Stop ends the engine's work and waits for that. Tasks in the cluster go on.
// It is safe to call twice, and before Start.
func (e *Engine) Stop() {
	e.mu.Lock()
	if e.cancel != nil {
		e.cancel()
	}
	e.mu.Unlock()
	e.wg.Wait()
}

// running returns the context of a started engine.
func (e *Engine) running() (context.Context, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx == nil || e.ctx.Err() != nil {
		return nil, problem.New(problem.Unavailable, "the server is not running runs now: try again in a moment")
	}
	return e.ctx, nil
}

// adopt starts the goroutine of a run, whose graph may be known already.
func (e *Engine) adopt(s State, graph *pipeline.Pipeline) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil || e.actors[s.ID] != nil {
		return
	}
	a := newActor(e, s)
	a.graph = graph
	e.actors[s.ID] = a
	e.wg.Go(func() { a.live(e.ctx) })
}

// release forgets an actor that has ended.
func (e *Engine) release(a *actor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.actors, a.state.ID)
	for id, owner := range e.jobs {
		if owner == a {
			delete(e.jobs, id)
		}
	}
	for id, owner := range e.tasks {
		if owner == a {
			delete(e.tasks, id)
		}
	}
}

func (e *Engine) actor(id ID) *actor {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.actors[id]
}

// subscribe has the news about a job sent to an actor; the last one that
// asked gets it, as with two runs that deploy one endpoint.
func (e *Engine) subscribe(jobID string, a *actor) {
	e.mu.Lock()
	e.jobs[jobID] = a
	e.mu.Unlock()
}

func (e *Engine) unsubscribe(jobID string, a *actor) {
	e.mu.Lock()
	if e.jobs[jobID] == a {
		delete(e.jobs, jobID)
	}
	e.mu.Unlock()
}

// watch follows the cluster's changes. After every break it has the open
// attempts asked for, as some change may have been missed.
func (e *Engine) watch(ctx context.Context) {
	e.wg.Go(func() { e.resyncs(ctx) })
	var index uint64
	for failures := 0; ctx.Err() == nil; {
		reached, err := e.config.Cluster.Watch(ctx, index,
			func() { failures = 0; e.broadcast(resync{}); e.fleet.resync() }, e.route)
		index = max(index, reached)
		if ctx.Err() != nil {
			return
		}
		e.config.Logger.Warn("the cluster's event stream broke", "index", index, "error", err)
		if !pause(ctx, e.config.Backoff, failures) {
			return
		}
		failures++
	}
}

func (e *Engine) resyncs(ctx context.Context) {
	t := time.NewTicker(e.config.ResyncEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			e.broadcast(resync{silentSince: now.Add(-e.config.ResyncEvery)})
			e.fleet.resync()
		}
	}
}

func (e *Engine) broadcast(m message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.actors {
		a.send(m)
	}
}

func (e *Engine) route(u Update) {
	if u.Node != nil {
		e.fleet.hear(*u.Node)
		return
	}
	e.mu.Lock()
	a := e.jobs[u.JobID]
	e.mu.Unlock()
	if a != nil {
		a.send(news{u})
	}
}

// pause waits before a call is tried again, false if ctx ended.
func pause(ctx context.Context, first time.Duration, failures int) bool {
	t := time.NewTimer(first << min(failures, maxBackoffs))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// bells tell watchers of a run that it has new events.
type bells struct {
	mu   sync.Mutex
	byID map[ID]chan struct{}
}

// wait returns a channel that is closed at the run's next change.
func (b *bells) wait(id ID) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byID == nil {
		b.byID = map[ID]chan struct{}{}
	}
	if b.byID[id] == nil {
		b.byID[id] = make(chan struct{})
	}
	return b.byID[id]
}

func (b *bells) ring(id ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.byID[id]; c != nil {
		close(c)
		delete(b.byID, id)
	}
}
