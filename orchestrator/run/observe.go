package run

import (
	"context"
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// news from the cluster.
type news struct{ Update }

func (m news) apply(a *actor) {
	at := a.open[m.JobID]
	if at == nil || at.Phase.Ended() || at.Namespace != "" && m.Namespace != at.Namespace {
		return
	}
	at.heard = now()
	switch {
	case at.task.node.Kind == pipeline.KindEndpoint:
		if m.Alloc != nil {
			a.taskEvents(at, m.Alloc)
		}
		if at.Registered {
			a.inspect(at)
		}
	case m.Alloc != nil && at.members == nil && at.alloc != nil && !at.alloc.Ended() && m.Alloc.Created > at.alloc.Created:
		a.inspect(at) // a successor, before the news of what became of the other
	case m.Alloc != nil:
		a.observe(at, m.Alloc)
	case m.Waits != nil:
		a.unplaced(at, *m.Waits)
	default:
		a.inspect(at)
	}
}

// unplaced takes in why Nomad finds no place for an attempt.
func (a *actor) unplaced(at *attempt, why string) {
	switch {
	case at.Phase != Queued || at.Stopping != "" || why == "":
	case at.pinned() && len(at.allocs()) < len(at.Grant.Members):
		a.decline(at, why)
	default:
		a.explain(at, a.waits(at, why))
	}
}

// resync has the open attempts asked for that have been silent since a time;
// the zero time: all.
type resync struct{ silentSince time.Time }

func (m resync) apply(a *actor) {
	for _, at := range a.open {
		if at.Registered && !at.busy && (m.silentSince.IsZero() || at.heard.Before(m.silentSince)) {
			a.inspect(at)
		}
	}
}

// observe takes in how an allocation of an attempt's job stands.
func (a *actor) observe(at *attempt, alloc *Alloc) {
	if at.busy {
		at.missed = true
		return
	}
	if a.isGang(at) {
		a.observeMember(at, alloc)
		return
	}
	if at.alloc != nil && (alloc.Created < at.alloc.Created || alloc.ID == at.alloc.ID && alloc.Modified < at.alloc.Modified) {
		return // old news
	}
	if at.alloc == nil || at.alloc.ID != alloc.ID {
		a.engine.tails.drop(at.JobID)
		if at.AllocID != "" && at.AllocID != alloc.ID {
			a.event(Event{Type: "attempt", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: "placed again, on node " + alloc.NodeName})
		}
	}
	if !alloc.Ended() && (at.alloc == nil || at.alloc.ID != alloc.ID) {
		a.explain(at, "") // it waits no more
	}
	at.alloc, at.resumed = alloc, false
	if at.AllocID != alloc.ID || at.NodeName != alloc.NodeName || len(at.Devices) != len(alloc.Devices) {
		at.AllocID, at.NodeName, at.Devices = alloc.ID, alloc.NodeName, alloc.Devices
		a.change.attempts.add(at)
	}
	if alloc.ResumedFrom != nil && at.ResumedFrom == nil {
		at.ResumedFrom = alloc.ResumedFrom
		a.change.attempts.add(at)
	}
	a.taskEvents(at, alloc)
	if !alloc.Started.IsZero() && at.Phase == Queued && !alloc.Ended() {
		a.started(at, alloc)
	}
	switch {
	case !alloc.Ended():
		switch {
		case alloc.Client == "unknown":
			at.silent = true
			a.explain(at, fmt.Sprintf("node %s does not answer", alloc.NodeName))
		case at.silent:
			at.silent = false
			a.explain(at, "")
		}
		return
	case alloc.Client == "lost" || alloc.Desired != "run" && at.Stopping == "":
		a.displaced(at, alloc)
	default:
		a.lookInto(at, false)
	}
}

func (a *actor) started(at *attempt, alloc *Alloc) {
	at.Phase = Running
	if at.Started == nil {
		at.Started = new(alloc.Started.UTC())
	}
	a.change.attempts.add(at)
	a.event(Event{Type: "attempt", Node: at.Node, Trial: at.Trial, Phase: Running, Message: fmt.Sprintf("started on node %s, allocation %s", alloc.NodeName, short(alloc.ID))})
	a.engine.tails.add(at.Namespace, at.JobID, alloc.ID, a)
	at.task.startedAt(*at.Started)
	a.resumeMove(at)
	t, n := at.task, at.task.node
	if t.trial != nil {
		t.trial.Phase, t.trial.Reason, t.trial.Progress = Running, "", nil
		a.change.trials.add(t)
		a.event(Event{Type: "trial", Node: n.ID, Trial: at.Trial, Phase: Running})
		return
	}
	n.Phase, n.Reason, n.Progress = Running, "", nil
	a.change.nodes.add(n)
	a.event(Event{Type: "node", Node: n.ID, Phase: Running})
}

// startedAt notes when the first attempt at a task started.
func (t *task) startedAt(at time.Time) {
	started := &t.node.Started
	if t.trial != nil {
		started = &t.trial.Started
	}
	if *started == nil {
		*started = &at
	}
}

func short(id string) string { return id[:min(8, len(id))] }

// displaced deals with an allocation that the cluster has ended by itself: its
// node was lost or drained, or it was preempted. Nomad places another, which
// takes nothing from the retry budget. It may have succeeded all the same, and
// the job may have been stopped by someone: conclude and inspect tell.
func (a *actor) displaced(at *attempt, alloc *Alloc) {
	why := displacedBy(alloc)
	a.engine.tails.drop(at.JobID)
	if at.Phase != Queued {
		at.Phase = Queued
		a.change.attempts.add(at)
		if t := at.task; t.trial != nil {
			t.trial.Phase = Queued
		} else {
			t.node.Phase = Queued
			a.change.nodes.add(t.node)
		}
	}
	if at.pinned() {
		at.displaced = why
		a.explain(at, why)
	} else {
		a.explain(at, why+": Nomad places it again")
	}
	if at.lookedUp == alloc.ID {
		return
	}
	at.lookedUp = alloc.ID
	at.busy = true
	id := a.identity(at)
	a.call(at, func(ctx context.Context) (message, error) {
		r, err := a.engine.record(ctx, id)
		if err != nil || !r.Succeeded() {
			return lookedUp{at, nil}, err
		}
		o := judge(alloc, r, "", false, false)
		o.Points = a.engine.points(ctx, r, id)
		return lookedUp{at, &o}, nil
	})
}

// displacedBy is why the cluster has ended an allocation by itself.
func displacedBy(alloc *Alloc) string {
	switch {
	case alloc.Preempted:
		return "it was preempted by a job of higher priority"
	case alloc.Client == "lost":
		return fmt.Sprintf("node %s was lost", alloc.NodeName)
	case alloc.Description != "":
		return fmt.Sprintf("its allocation on node %s was stopped (%s)", alloc.NodeName, alloc.Description)
	}
	return fmt.Sprintf("its allocation on node %s was stopped", alloc.NodeName)
}

// lookedUp tells how a displaced attempt had ended before: nil, it had not.
type lookedUp struct {
	at *attempt
	*outcome
}

func (m lookedUp) apply(a *actor) {
	m.at.busy = false
	switch {
	case m.outcome == nil && m.at.pinned() && m.at.Stopping == "":
		// Nomad cannot place it anywhere else: the queue does.
		m.at.Again = true
		a.halt(m.at, m.at.displaced)
		return
	case m.outcome == nil:
		a.inspect(m.at)
		return
	}
	// What has succeeded is stored at once: the replacement may write a record
	// of its own over it. Then that is stopped.
	m.at.Orphaned = true
	a.conclude(m.at, *m.outcome)
	a.stopOrphan(m.at)
}

// stopOrphan stops the job of an attempt that has ended without it. The run
// does not end before that.
func (a *actor) stopOrphan(at *attempt) {
	a.orphans++
	a.stopJob(at, orphanStopped{at})
}

type orphanStopped struct{ at *attempt }

func (m orphanStopped) apply(a *actor) {
	a.orphans--
	m.at.Orphaned = false
	a.change.attempts.add(m.at)
}

// taskEvents makes the driver's messages events of the run, once each.
func (a *actor) taskEvents(at *attempt, alloc *Alloc) {
	newest := at.TaskEvents
	for _, e := range alloc.Events {
		ns := e.Time.UnixNano()
		if ns <= at.TaskEvents {
			continue
		}
		newest = max(newest, ns)
		a.event(Event{Type: "task", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: e.Message})
		a.listen(at, e)
		if e.Sealed && at.Grant != nil {
			id, number, sealed := a.taskID(at.task), at.Number, e.Time
			a.tell(func() { a.engine.config.Queue.Checkpointed(id, number, sealed) })
		}
	}
	if newest != at.TaskEvents {
		at.TaskEvents = newest
		a.change.attempts.add(at)
	}
}
