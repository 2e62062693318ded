package run

import (
	"context"
	"fmt"
	"time"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Eviction is how an attempt makes room for another task.
type Eviction struct {
	Why  string    `json:"why"`
	Seen time.Time `json:"seen"`
	// Leaving is set once it is being stopped.
	Leaving bool `json:"leaving,omitempty"`
}

// taskID names a task in the queue, "<run>/<node>[/<trial>]".
func (a *actor) taskID(t *task) queue.JobID {
	return TaskID(a.state.ID, t.node.ID, t.index())
}

// TaskID names a task in the queue.
func TaskID(run ID, node pipeline.NodeID, trial *int) queue.JobID {
	id := string(run) + "/" + string(node)
	if trial != nil {
		id += fmt.Sprintf("/%d", *trial)
	}
	return queue.JobID(id)
}

// request asks the queue for a place, once.
func (a *actor) request(at *attempt) {
	if at.requested {
		return
	}
	at.requested = true
	r, err := a.admissionOf(at)
	if err != nil {
		at.busy = true
		a.effect(func(context.Context) {
			a.send(concluded{at, outcome{Phase: Failed, Reason: err.Error(), Final: true}})
		})
		return
	}
	a.tell(func() { a.engine.queued(r.ID, a) })
	spec, err := a.spec(at.task)
	if err != nil || at.Grant != nil || declares(*spec) {
		a.tell(func() { a.engine.config.Queue.Ask(r) })
		return
	}
	// How long it runs is not declared, or just bounded.
	node := at.task.node.ID
	a.effect(func(ctx context.Context) {
		if err := a.engine.learn(ctx, &r, a.state.Pipeline, node); err != nil && ctx.Err() == nil {
			a.engine.config.Logger.Warn("learning how long a task runs", "task", r.ID, "error", err)
		}
		a.send(learnt{at, r})
	})
}

// learn completes a request by how long its node ran before, if that is less.
func (e *Engine) learn(ctx context.Context, r *admission.Request, pipeline string, node pipeline.NodeID) error {
	before, err := e.config.Store.Durations(ctx, r.Workspace, pipeline, node, learnFrom)
	if learned := queue.Learned(before); err == nil && learned > 0 && (r.RunTime == 0 || learned < r.RunTime) {
		r.RunTime = learned
	}
	return err
}

// learnt is a request that is complete.
type learnt struct {
	at *attempt
	admission.Request
}

func (m learnt) apply(a *actor) {
	if !m.at.Phase.Ended() { // else its end was told before
		a.tell(func() { a.engine.config.Queue.Ask(m.Request) })
	}
}

// declares reports whether a task says how long it runs, and not just a bound.
func declares(t pipeline.Task) bool { return t.RunTime > 0 && t.RunTime != t.Timeout }

// learnFrom is from how many earlier attempts it is learned how long a task runs.
const learnFrom = 20

func (a *actor) admissionOf(at *attempt) (admission.Request, error) {
	spec, err := a.spec(at.task)
	if err != nil {
		return admission.Request{}, err
	}
	r := requestOf(a.state.Workspace, at.task.node.def, *spec)
	r.ID, r.Attempt, r.NomadJob, r.Submitted = a.taskID(at.task), at.Number, at.JobID, a.state.Submitted
	for _, f := range at.Avoid {
		r.Ask.Avoid.Devices = append(r.Ask.Avoid.Devices, f.Device)
	}
	return r, nil
}

// requestOf is what a task asks of the queue, but for who it is.
func requestOf(workspace string, n *pipeline.Node, t pipeline.Task) admission.Request {
	r := admission.Request{
		Workspace: workspace, Ask: askOf(t), Class: t.PriorityClass, Priority: t.Priority,
		Preemptible: t.Preemptible, Min: 1, Max: 1, RunTime: t.RunTime,
	}
	if g := t.Gang; g != nil {
		r.Min, r.Max = g.Min, g.Max
	}
	if n.Kind == pipeline.KindEndpoint {
		r.Serving, r.Preemptible = true, false
		r.Min, r.Max = n.Endpoint.Count, n.Endpoint.Count
	}
	return r
}

// askOf is what a member of a task needs of its node.
func askOf(t pipeline.Task) inventory.Ask {
	r := t.Resources
	ask := inventory.Ask{
		CPUMHz: int64(r.CPUMHz), Cores: r.Cores, MemoryMiB: int64(r.MemoryMiB), GPU: r.GPU, Or: r.Or, Driver: mltask.DriverName,
	}
	if g := t.Gang; g != nil && g.Within != "" {
		ask.Topology = inventory.Topology{Level: inventory.Level(g.Within), Required: g.Required}
	}
	return ask
}

// tell has f called once the change that is collected is stored. It must not
// block.
func (a *actor) tell(f func()) { a.tells = append(a.tells, f) }

// vacate tells the queue that an attempt holds nothing any more.
func (a *actor) vacate(at *attempt, again bool) {
	q := a.engine.config.Queue
	if q == nil {
		return
	}
	id, number := a.taskID(at.task), at.Number
	a.tell(func() {
		q.Ended(id, number, again)
		if !again {
			a.engine.unqueued(id, a)
		}
	})
}

// queued has the queue's answers about a task sent to an actor.
func (e *Engine) queued(id queue.JobID, a *actor) {
	e.mu.Lock()
	e.tasks[id] = a
	e.mu.Unlock()
}

func (e *Engine) unqueued(id queue.JobID, a *actor) {
	e.mu.Lock()
	if e.tasks[id] == a {
		delete(e.tasks, id)
	}
	e.mu.Unlock()
}

func (e *Engine) answer(id queue.JobID, m message) {
	e.mu.Lock()
	a := e.tasks[id]
	e.mu.Unlock()
	if a != nil {
		a.send(m)
	}
}

// Granted is as admission.Listener says.
func (e *Engine) Granted(id queue.JobID, attempt int, g admission.Grant) {
	e.answer(id, granted{id, attempt, g})
}

// Evict is as admission.Listener says.
func (e *Engine) Evict(id queue.JobID, attempt int, why string) {
	e.answer(id, evict{id, attempt, why})
}

// Waits is as admission.Listener says.
func (e *Engine) Waits(id queue.JobID, attempt int, why string) {
	e.answer(id, queueWaits{id, attempt, why})
}

// attemptOf is a task's open attempt of a number, nil if it is not open.
func (a *actor) attemptOf(id queue.JobID, number int) *attempt {
	for _, at := range a.open {
		if at.Number == number && a.taskID(at.task) == id && !at.Phase.Ended() {
			return at
		}
	}
	return nil
}

type granted struct {
	id      queue.JobID
	attempt int
	grant   admission.Grant
}

func (m granted) apply(a *actor) {
	at := a.attemptOf(m.id, m.attempt)
	if at == nil || at.Grant != nil {
		return
	}
	at.Grant = &m.grant
	if at.task.node.Kind != pipeline.KindEndpoint && !at.Registered { // it may have waited for long
		at.Namespace = a.engine.namespaceOf(a.state.Workspace)
	}
	a.change.attempts.add(at)
	a.explain(at, "")
	a.event(Event{Type: "queue", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: "admitted: " + placeText(m.grant)})
}

func placeText(g admission.Grant) string {
	if len(g.Members) == 0 {
		return "anywhere"
	}
	s := "on node " + g.Members[0].NodeName
	if n := len(g.Members[0].Devices); n > 0 {
		s += fmt.Sprintf(", %d x %s", n, g.Members[0].Device)
	}
	if n := len(g.Members); n > 1 {
		s += fmt.Sprintf(", and %d more members", n-1)
	}
	return s
}

type queueWaits struct {
	id      queue.JobID
	attempt int
	why     string
}

func (m queueWaits) apply(a *actor) {
	if at := a.attemptOf(m.id, m.attempt); at != nil && at.Grant == nil && at.Stopping == "" {
		a.explain(at, m.why)
	}
}

type evict struct {
	id      queue.JobID
	attempt int
	why     string
}

func (m evict) apply(a *actor) {
	at := a.attemptOf(m.id, m.attempt)
	if at == nil || at.Eviction != nil {
		return
	}
	at.Eviction = &Eviction{Why: m.why, Seen: now()}
	a.change.attempts.add(at)
	a.event(Event{Type: "queue", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: "evicted: " + m.why})
}

// makeRoom has an attempt leave that makes room for another task: it is asked
// for a checkpoint, waited for, and stopped.
func (a *actor) makeRoom(at *attempt) {
	v := at.Eviction
	if v == nil || at.Stopping != "" {
		return
	}
	spec, err := a.spec(at.task)
	if alive := at.alive(); err == nil && spec.Checkpoint != nil && len(alive) > 0 && !alive[0].Started.IsZero() {
		deadline := v.Seen.Add(failover.CheckpointTimeout)
		if !at.sealed.After(v.Seen) && now().Before(deadline) {
			if !at.askedFor {
				a.ask(at)
			}
			a.look(at)
			a.wake(deadline)
			return
		}
	}
	v.Leaving, at.Again, at.Evicted = true, true, true
	a.change.attempts.add(at)
	a.halt(at, v.Why)
}

// pinned reports whether an attempt can run only where the queue has sent it.
func (at *attempt) pinned() bool {
	return at.Grant != nil && at.task.node.Kind != pipeline.KindEndpoint
}

// decline gives a place back that Nomad did not let the attempt have.
func (a *actor) decline(at *attempt, why string) {
	a.declined(at)
	at.Again = true
	a.halt(at, fmt.Sprintf("Nomad did not place it %s: %s", placeText(*at.Grant), why))
}

// declined tells the queue that a place did not do.
func (a *actor) declined(at *attempt) {
	if q := a.engine.config.Queue; q != nil {
		id, number := a.taskID(at.task), at.Number
		a.tell(func() { q.Declined(id, number) })
	}
}

// pin tells an attempt's job where the queue has sent it.
func (at *attempt) pin(id *jobspec.Identity, gang bool) {
	switch {
	case !at.pinned():
	case gang:
		id.Ranks = at.Grant.Members
	case len(at.Grant.Members) == 1:
		id.Place = &at.Grant.Members[0]
	}
}
