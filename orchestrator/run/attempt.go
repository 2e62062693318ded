package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// try makes a new attempt at a task. It is stored as queued first; its job is
// registered after that.
func (a *actor) try(t *task, notBefore time.Time) {
	n := t.node
	spec, err := a.spec(t)
	if err != nil {
		a.taskEnded(t, Failed, err.Error())
		return
	}
	at := &attempt{task: t, heard: now(), AttemptState: AttemptState{
		Attempt: Attempt{Number: len(t.attempts) + 1, Trial: t.index(), Phase: Queued, Namespace: a.engine.namespaceOf(a.state.Workspace)},
		Node:    n.ID, Round: a.state.Round, NotBefore: notBefore, Timeout: spec.Timeout,
	}}
	if n.Kind == pipeline.KindEndpoint {
		at.JobID, at.Timeout = jobspec.EndpointJobID(a.state.Workspace, n.def.Name), 0
	} else {
		at.JobID = jobspec.JobID(string(a.state.ID), n.ID, at.Trial, at.Number)
		at.Prepared = true
	}
	at.Avoid = a.avoid(t)
	t.attempts = append(t.attempts, at)
	a.open[at.JobID] = at
	a.engine.subscribe(at.JobID, a)
	a.change.attempts.add(at)
	message := "job " + at.JobID
	if !notBefore.IsZero() {
		message += " after a pause of " + time.Until(notBefore).Round(time.Millisecond).String()
	}
	a.event(Event{Type: "attempt", Node: n.ID, Trial: at.Trial, Phase: Queued, Message: message})
}

// pump asks the cluster for what the open attempts need next.
func (a *actor) pump() {
	for _, at := range a.open {
		if at.busy {
			continue
		}
		at.checkTimeout(a)
		a.leaveDevices(at)
		a.makeRoom(at)
		a.placeAgain(at)
		switch {
		case at.Stopping != "" && !at.stopped:
			a.stop(at)
		case at.Stopping != "": // the allocation's end comes as news
		case now().Before(at.NotBefore):
			a.wake(at.NotBefore)
		case !at.Prepared:
			a.prepare(at)
		case at.Grant == nil && !at.Registered && a.engine.config.Queue != nil:
			a.request(at)
		case !at.Registered:
			a.register(at)
		case at.resumed && at.alloc == nil && !at.asked:
			a.inspect(at)
		}
	}
}

// checkTimeout stops an attempt that has run for too long.
func (at *attempt) checkTimeout(a *actor) {
	if at.Timeout <= 0 || at.Started == nil || at.Stopping != "" {
		return
	}
	deadline := at.Started.Add(at.Timeout)
	if now().Before(deadline) {
		a.wake(deadline)
		return
	}
	a.halt(at, fmt.Sprintf("it ran for longer than its timeout of %s", at.Timeout))
}

// halt has an attempt stopped, for a reason.
func (a *actor) halt(at *attempt, reason string) {
	if at.Stopping == "" {
		at.Stopping = reason
		a.change.attempts.add(at)
		a.event(Event{Type: "attempt", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: "stopping: " + reason})
	}
}

// call makes a call to the cluster until it gets through, and sends the
// message that it gives. Two calls for one attempt never overlap, but for
// inspections. After a few failures the node says what the trouble is.
func (a *actor) call(at *attempt, f func(ctx context.Context) (message, error)) {
	e := a.engine
	a.effect(func(ctx context.Context) {
		for failures := 0; ctx.Err() == nil; failures++ {
			select {
			case <-ctx.Done():
				return
			case e.slots <- struct{}{}:
			}
			m, err := f(ctx)
			<-e.slots
			if err == nil {
				a.send(m)
				return
			}
			if ctx.Err() != nil {
				return
			}
			if failures == 1 {
				a.send(trouble{at, err})
			}
			e.config.Logger.Warn("calling the cluster: trying again", "run", a.state.ID, "job", at.JobID, "error", err)
			if !pause(ctx, e.config.Backoff, failures) {
				return
			}
		}
	})
}

// trouble is a call that does not get through.
type trouble struct {
	at  *attempt
	err error
}

func (m trouble) apply(a *actor) {
	if !m.at.Phase.Ended() {
		m.at.troubled = true
		a.explain(m.at, fmt.Sprintf("the cluster does not answer: %v", m.err))
	}
}

// explain says why an attempt waits, if that has changed.
func (a *actor) explain(at *attempt, reason string) {
	if t := at.task; t.trial != nil {
		if t.trial.Reason != reason {
			t.trial.Reason = reason
			a.change.trials.add(t)
			if reason != "" {
				a.event(Event{Type: "trial", Node: at.Node, Trial: at.Trial, Phase: t.trial.Phase, Message: reason})
			}
		}
		return
	}
	n := at.task.node
	if n.Reason != reason {
		n.Reason = reason
		a.change.nodes.add(n)
		if reason != "" {
			a.event(Event{Type: "node", Node: n.ID, Phase: n.Phase, Message: reason})
		}
	}
}

// waits completes why nothing of an attempt can be placed with what it needs.
func (a *actor) waits(at *attempt, reason string) string {
	if reason == "" {
		return ""
	}
	spec, err := a.spec(at.task)
	if err != nil {
		return reason
	}
	text := fmt.Sprintf("no node has %s free: %s", ask(spec.Resources), reason)
	if moved := a.moved(at.task); len(moved) > 0 {
		text += "; it was " + moved[len(moved)-1].Move.Why()
	}
	return text
}

// ask is what a task needs, such as "4 x nvidia/gpu, 500 MHz and 256 MiB".
func ask(r pipeline.Resources) string {
	cpu := fmt.Sprintf("%d MHz", r.CPUMHz)
	if r.Cores > 0 {
		cpu = fmt.Sprintf("%d cores", r.Cores)
	}
	s := fmt.Sprintf("%s and %d MiB", cpu, r.MemoryMiB)
	if r.GPU == nil {
		return s
	}
	gpu := fmt.Sprintf("%d x %s", r.GPU.Count, r.GPU.Device)
	if r.GPU.MemoryMin != "" {
		gpu += " of at least " + r.GPU.MemoryMin
	}
	return gpu + ", " + s
}

// prepare finds out whether the endpoint's live revision is what is wanted
// already. If not, it finds out what the job must be like when the new revision
// is registered, and gives that its number.
func (a *actor) prepare(at *attempt) {
	n := at.task.node
	d := registry.Deployment{
		Workspace: a.state.Workspace, Endpoint: n.def.Name, Model: n.Model, Version: n.Version,
		Namespace: at.Namespace, JobID: at.JobID, Service: jobspec.ServiceName(a.state.Workspace, n.def.Name),
		Run: string(a.state.ID), Node: string(n.ID), Attempt: at.Number,
	}
	wanted, err := a.revision(at, registry.Deployment{Revision: 1, Model: d.Model, Version: d.Version})
	at.busy = true
	if err != nil {
		a.effect(func(context.Context) {
			a.send(concluded{at, outcome{Phase: Failed, Reason: err.Error(), Final: true}})
		})
		return
	}
	jobs := a.jobs(at)
	a.call(at, func(ctx context.Context) (message, error) {
		live, err := a.engine.config.Store.Endpoint(ctx, d.Workspace, d.Endpoint)
		if err != nil && !problem.Is(err, problem.NotFound) {
			return nil, err
		}
		s, err := jobs.Job(ctx, at.JobID)
		if err == nil && serves(live, s, wanted.Meta[jobspec.MetaSpec], *wanted.TaskGroups[0].Count) {
			reason := fmt.Sprintf("unchanged: revision %d serves it", live.Revision)
			return concluded{at, outcome{Phase: Succeeded, Reason: reason}}, nil
		}
		if err != nil && !errors.Is(err, ErrNoJob) {
			return nil, err
		}
		gone := err != nil
		d, err := a.engine.config.Store.Deploy(ctx, d)
		if err != nil {
			return nil, err
		}
		switch {
		case gone:
			return prepared{at, d, 0}, nil
		case s.Meta[jobspec.MetaWorkspace] != d.Workspace || s.Meta[jobspec.MetaEndpoint] != d.Endpoint:
			// Someone else's job, or one that an earlier version of Drover named.
			reason := fmt.Sprintf("job %s is that of endpoint %q of workspace %q: choose another name", d.JobID, s.Meta[jobspec.MetaEndpoint], s.Meta[jobspec.MetaWorkspace])
			err := a.engine.config.Store.Deployed(ctx, d, reason)
			return concluded{at, outcome{Phase: Failed, Reason: reason, Final: true}}, err
		}
		return prepared{at, d, s.Index}, nil
	})
}

// serves reports whether an endpoint's live revision runs in the cluster, with
// as many healthy instances as it should have, and is just what spec is the
// hash of.
func serves(live registry.Endpoint, s JobState, spec string, count int) bool {
	n, healthy := len(s.Deployments), 0
	for _, a := range s.Allocs {
		if a.JobVersion == s.Version && a.Client == "running" && a.Desired == "run" && !a.Unhealthy {
			healthy++
		}
	}
	return live.Status == registry.Live && live.Pending == 0 && spec != "" &&
		s.Meta[jobspec.MetaSpec] == spec && s.Meta[jobspec.MetaRun] == live.Run &&
		s.Meta[jobspec.MetaRevision] == strconv.Itoa(live.Revision) &&
		!s.Dead && !s.Stopped && healthy >= count && n > 0 && s.Deployments[n-1].Status == "successful"
}

type prepared struct {
	at         *attempt
	deployment registry.Deployment
	base       uint64
}

func (m prepared) apply(a *actor) {
	at := m.at
	at.busy, at.Prepared, at.Base, at.Deployment = false, true, m.base, &m.deployment
	a.change.attempts.add(at)
	a.event(Event{Type: "endpoint", Node: at.Node, Phase: Queued, Message: fmt.Sprintf("revision %d: version %d of model %q", m.deployment.Revision, m.deployment.Version, m.deployment.Model)})
}

// register submits an attempt's job. Where it may have been submitted before,
// by an engine that died, the job may even have come and gone: a result record
// tells.
func (a *actor) register(at *attempt) {
	job, err := a.job(at)
	at.busy = true
	if err != nil {
		a.effect(func(context.Context) { a.send(registered{at, err}) })
		return
	}
	resumed, jobs := at.resumed, a.jobs(at)
	a.call(at, func(ctx context.Context) (message, error) {
		if resumed && at.task.node.Kind != pipeline.KindEndpoint {
			if r, err := a.engine.record(ctx, a.identity(at)); err != nil {
				return nil, err
			} else if r != nil {
				return registered{at, ErrConflict}, nil
			}
		}
		err := jobs.Register(ctx, job, at.Base)
		var refused *RefusedError
		if err == nil || errors.Is(err, ErrConflict) || errors.As(err, &refused) {
			return registered{at, err}, nil
		}
		return nil, err
	})
}

// registered: nil and ErrConflict both mean that the job is there. After
// ErrConflict its news may have been missed.
type registered struct {
	at  *attempt
	err error
}

func (m registered) apply(a *actor) {
	at := m.at
	at.busy = false
	if m.err != nil && !errors.Is(m.err, ErrConflict) {
		a.conclude(at, outcome{Phase: Failed, Reason: m.err.Error(), Final: true})
		return
	}
	at.Registered = true
	at.heard = now()
	a.change.attempts.add(at)
	if at.troubled {
		at.troubled = false
		a.explain(at, "")
	}
	if m.err != nil || at.missed || at.task.node.Kind == pipeline.KindEndpoint {
		at.missed = false
		a.inspect(at)
	}
}

func (a *actor) stop(at *attempt) {
	at.busy = true
	a.stopJob(at, stopped{at})
}

// stopJob stops an attempt's job, and sends m then.
func (a *actor) stopJob(at *attempt, m message) {
	jobs := a.jobs(at)
	a.call(at, func(ctx context.Context) (message, error) { return m, jobs.Stop(ctx, at.JobID) })
}

// jobs are those of an attempt's namespace.
func (a *actor) jobs(at *attempt) Jobs { return a.engine.config.Cluster.In(at.Namespace) }

type stopped struct{ at *attempt }

func (m stopped) apply(a *actor) {
	m.at.busy, m.at.stopped = false, true
	a.inspect(m.at)
}

// inspect asks how an attempt's job stands.
func (a *actor) inspect(at *attempt) {
	if at.asked {
		return
	}
	at.asked = true
	jobs := a.jobs(at)
	a.call(at, func(ctx context.Context) (message, error) {
		s, err := jobs.Job(ctx, at.JobID)
		if err != nil && !errors.Is(err, ErrNoJob) {
			return nil, err
		}
		return inspected{at, s, err == nil}, nil
	})
}

type inspected struct {
	at    *attempt
	job   JobState
	there bool
}

func (m inspected) apply(a *actor) {
	at := m.at
	at.asked = false
	if at.Phase.Ended() || at.busy {
		return
	}
	at.heard = now()
	if at.task.node.Kind == pipeline.KindEndpoint {
		a.deployment(at, m)
		return
	}
	alive := false
	// The oldest first, so that each is seen to end before its successor.
	slices.SortFunc(m.job.Allocs, func(x, y Alloc) int { return cmp.Compare(x.Created, y.Created) })
	for i := range m.job.Allocs {
		alloc := &m.job.Allocs[i]
		alive = alive || !alloc.Ended()
		a.observe(at, alloc)
	}
	if at.busy || at.Phase.Ended() || alive {
		return
	}
	switch {
	case at.stopped, !m.there, m.job.Stopped, m.job.Dead && len(m.job.Allocs) > 0:
		a.lookInto(at, !m.there)
	default:
		a.unplaced(at, m.job.Waits)
	}
}

func (a *actor) identity(at *attempt) jobspec.Identity {
	return jobspec.Identity{
		Run: string(a.state.ID), Node: at.Node, Trial: at.Trial, Attempt: at.Number,
		Workspace: a.state.Workspace, Pipeline: a.state.Pipeline,
	}
}
