package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// checkpointSignal asks a task for a checkpoint.
const checkpointSignal = "SIGUSR1"

// lookEvery is how often the checkpoint that a task was asked for is looked for.
const lookEvery = 250 * time.Millisecond

// ailing tells that the health of devices has changed: pump looks at all
// attempts.
type ailing struct{}

func (ailing) apply(*actor) {}

// leaveDevices has an attempt leave devices that fail, one stored step at a
// time.
func (a *actor) leaveDevices(at *attempt) {
	alive := at.alive()
	if at.task.node.Kind == pipeline.KindEndpoint || at.Stopping != "" || len(alive) == 0 || !a.engine.fleet.knows() {
		return
	}
	if m := at.Move; m.Open() && !slices.ContainsFunc(alive, func(x *Alloc) bool { return x.ID == m.AllocID }) {
		m.Phase, m.Outcome = failover.Over, fmt.Sprintf("its node %s was lost before it was moved", m.NodeName)
		a.change.attempts.add(at)
	}
	alloc, fault, incident := a.engine.fleet.worstOf(alive)
	if fault == nil && !at.Move.Open() {
		return
	}
	spec, err := a.spec(at.task)
	if err != nil {
		return // conclude tells, when the attempt ends
	}
	s := failover.Situation{
		Fault: fault, Move: at.Move, Moves: a.moves(at.task), Sealed: at.sealed, Now: now(),
		Checkpoints: spec.Checkpoint != nil && !alloc.Started.IsZero(),
	}
	switch failover.Next(s) {
	case failover.Ask:
		a.beginMove(at, alloc, *fault, incident, failover.Asked)
		a.say(at, fmt.Sprintf("%s on node %s: %s; asking for a checkpoint", fault.Device, fault.NodeName, fault.Reason))
		a.ask(at)
		a.look(at)
	case failover.Wait:
		if !at.askedFor { // by an engine that died, perhaps
			a.ask(at)
		}
		a.look(at)
		a.wake(at.Move.Seen.Add(failover.CheckpointTimeout))
	case failover.Stay:
		at.Move.Phase, at.Move.Outcome = failover.Stayed, "the device was well again: it stayed"
		a.change.attempts.add(at)
		a.say(at, fmt.Sprintf("%s on node %s is well again: the task stays", at.Move.Device, at.Move.NodeName))
	case failover.Leave:
		if !at.Move.Open() {
			a.beginMove(at, alloc, *fault, incident, failover.Leaving)
		}
		if m := at.Move; at.sealed.After(m.Seen) {
			m.Checkpointed = new(at.sealed.UTC())
		}
		at.Move.Phase = failover.Leaving
		a.halt(at, at.Move.Why())
	}
}

func (a *actor) say(at *attempt, message string) {
	a.event(Event{Type: "failover", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: message})
}

func (a *actor) beginMove(at *attempt, alloc *Alloc, f failover.Fault, incident string, p failover.Phase) {
	at.Move = &failover.Move{Incident: incident, Fault: f, AllocID: alloc.ID, Namespace: at.Namespace, JobID: at.JobID, Phase: p, Seen: now()}
	at.Incident = incident
	a.change.attempts.add(at)
}

// moves counts how often a task was moved in this round.
func (a *actor) moves(t *task) int {
	n := 0
	for _, x := range t.attempts {
		if x.Round == a.state.Round && x.Phase.Ended() && x.Move.Away() {
			n++
		}
	}
	return n
}

// ask asks an attempt's task for a checkpoint. A task that cannot be asked is
// moved when its time is up.
func (a *actor) ask(at *attempt) {
	at.askedFor = true
	for _, x := range at.alive() {
		a.signal(at, x.ID)
	}
}

func (a *actor) signal(at *attempt, alloc string) {
	jobs := a.jobs(at)
	a.effect(func(ctx context.Context) {
		for failures := 0; failures < 5; failures++ {
			err := jobs.Signal(ctx, alloc, checkpointSignal)
			if err == nil || errors.Is(err, ErrNoTask) || ctx.Err() != nil {
				return
			}
			a.engine.config.Logger.Warn("asking a task for a checkpoint", "run", a.state.ID, "job", at.JobID, "error", err)
			if !pause(ctx, a.engine.config.Backoff, failures) {
				return
			}
		}
	})
}

// look looks for the checkpoint that an attempt was asked for.
func (a *actor) look(at *attempt) {
	if at.looking {
		return
	}
	if due := at.looked.Add(lookEvery); now().Before(due) {
		a.wake(due)
		return
	}
	at.looking = true
	id := a.identity(at)
	a.effect(func(ctx context.Context) {
		c, err := a.engine.checkpoint(ctx, id)
		if err != nil && ctx.Err() == nil {
			a.engine.config.Logger.Warn("looking for a checkpoint", "run", a.state.ID, "job", at.JobID, "error", err)
		}
		a.send(lookedFor{at, c})
	})
}

type lookedFor struct {
	at *attempt
	*mltask.CheckpointRecord
}

func (m lookedFor) apply(a *actor) {
	m.at.looking, m.at.looked = false, now()
	if m.CheckpointRecord != nil {
		m.at.sealed = m.SealedAt
	}
	a.wake(now().Add(lookEvery))
}

// checkpoint is the newest one of a task that the store has, nil if there is
// none.
func (e *Engine) checkpoint(ctx context.Context, id jobspec.Identity) (*mltask.CheckpointRecord, error) {
	folder := "checkpoints/" + id.CheckpointKey()
	keys, err := e.config.Artifacts.ListRecords(ctx, folder)
	if err != nil {
		return nil, fmt.Errorf("listing checkpoints: %w", err)
	}
	var newest *mltask.CheckpointRecord
	for _, key := range keys {
		if path.Dir(key) != folder || !isStep(path.Base(key)) {
			continue
		}
		var c mltask.CheckpointRecord
		switch err := e.config.Artifacts.GetRecord(ctx, key, &c); {
		case errors.Is(err, artifact.ErrNotFound): // pruned meanwhile
		case err != nil:
			return nil, fmt.Errorf("reading checkpoint %s: %w", key, err)
		case newest == nil || c.Step > newest.Step:
			newest = &c
		}
	}
	return newest, nil
}

func isStep(name string) bool { return len(name) > 5 && name[:5] == "step-" }

// loss tells how an attempt has lost its device, nil if it has not. leaving
// tells that it was stopped to be moved.
func (e *Engine) loss(ctx context.Context, o outcome, leaving bool, alloc *Alloc, id jobspec.Identity) (*loss, error) {
	if o.Phase != Failed {
		return nil, nil
	}
	l := &loss{remains: failover.Remains{At: now()}}
	text := ""
	if alloc != nil {
		l.remains.Started, text = alloc.Started, alloc.Problem
		if !alloc.Finished.IsZero() {
			l.remains.At = alloc.Finished.UTC()
		}
	}
	if r := o.Record; r != nil && (alloc == nil || r.AllocID == alloc.ID) {
		l.remains.Started, l.remains.At, text = r.Started, r.Finished.UTC(), cmp.Or(r.Error, text)
	}
	if !leaving {
		if alloc == nil {
			return nil, nil
		}
		f, ok := failover.TaskFault(text, alloc.NodeID, alloc.NodeName)
		if !ok {
			return nil, nil
		}
		f.Index = alloc.Created
		incident, err := e.fleet.listen(ctx, f)
		if err != nil {
			return nil, err
		}
		l.fault, l.incident, l.alloc = &f, incident, alloc
	}
	c, err := e.checkpoint(ctx, id)
	if err != nil {
		return nil, err
	}
	if c != nil {
		l.remains.Checkpoint, l.remains.Sealed = &c.Step, c.SealedAt
	}
	return l, nil
}

// loss is how an attempt has lost its device.
type loss struct {
	remains failover.Remains
	// fault is what the task has died of, with its incident; nil if it was
	// stopped to be moved.
	fault    *failover.Fault
	incident string
	alloc    *Alloc // that had the device
}

// lose notes that an attempt has ended because of its device. It is tried again
// at the platform's expense, unless that has happened too often.
func (a *actor) lose(at *attempt, o *outcome) {
	l := o.Loss
	if l.fault != nil {
		if at.Move == nil || at.Move.Incident != l.incident {
			a.beginMove(at, l.alloc, *l.fault, l.incident, failover.Leaving)
		}
		at.Move.Fault = *l.fault
	}
	r := l.remains
	r.Reached = a.reached(at, o.Points)
	if at.Move.Leave(r); a.moves(at.task) < failover.MaxMoves {
		o.Free, o.Reason, at.Moved = true, at.Move.Why(), true
		at.Move.Outcome = "it waits for another place"
		return
	}
	o.Reason = fmt.Sprintf("%s on node %s failed: %s; the task was moved %d times before, which is as often as it is", at.Move.Device, at.Move.NodeName, at.Move.Reason, failover.MaxMoves)
}

// reached is the step that an attempt's task has come to, as far as it has told.
func (a *actor) reached(at *attempt, points []MetricPoint) *int64 {
	var step *int64
	p := at.task.node.Progress
	if at.task.trial != nil {
		p = at.task.trial.Progress
	}
	if p != nil {
		step = &p.Step
	}
	for _, x := range points {
		if step == nil || x.Step > *step {
			step = new(x.Step)
		}
	}
	return step
}

// endMove notes what came of the move of an attempt that has ended otherwise.
func (a *actor) endMove(at *attempt) {
	if at.Move.Open() {
		at.Move.Phase, at.Move.Outcome = failover.Over, fmt.Sprintf("%s before it was moved", at.Phase)
	}
}

// resumeMove notes that a task that was moved goes on in an attempt that has
// started.
func (a *actor) resumeMove(at *attempt) {
	if at.Started == nil {
		return
	}
	for _, before := range a.moved(at.task) {
		if before == at {
			continue
		}
		m := before.Move
		m.Phase, m.Resumed, m.To = failover.Resumed, at.Started, at.NodeName
		m.Outcome = fmt.Sprintf("goes on on node %s from the beginning", at.NodeName)
		if m.Checkpoint != nil {
			m.Outcome = fmt.Sprintf("goes on on node %s from step %d", at.NodeName, *m.Checkpoint)
		}
		a.change.attempts.add(before)
		a.say(at, fmt.Sprintf("%s; it %s", m.Why(), m.Outcome))
	}
}

// abandonMove notes that a task that was to go on elsewhere does not.
func (a *actor) abandonMove(t *task, phase Phase) {
	for _, before := range a.moved(t) {
		before.Move.Phase, before.Move.Outcome = failover.Over, fmt.Sprintf("%s before it went on", phase)
		a.change.attempts.add(before)
	}
}

// moved are a task's attempts that were moved and have not gone on yet.
func (a *actor) moved(t *task) []*attempt {
	var all []*attempt
	for _, x := range t.attempts {
		if x.Round == a.state.Round && x.Move != nil && x.Move.Phase == failover.Left {
			all = append(all, x)
		}
	}
	return all
}

// avoid are the devices that the next attempt at a task must not get, though
// Nomad would give them out.
func (a *actor) avoid(t *task) []failover.Fault {
	var all []failover.Fault
	for _, before := range a.moved(t) {
		if f := before.Move.Fault; a.engine.fleet.hearsay(f.NodeID, f.Device) {
			all = append(all, f)
		}
	}
	return all
}

// placeAgain stops an attempt that waits for a place and avoids a device that
// is well again. The next one may have it.
func (a *actor) placeAgain(at *attempt) {
	if !at.Registered || at.alloc != nil || at.Stopping != "" {
		return
	}
	for _, f := range at.Avoid {
		if !a.engine.fleet.isOpen(f.NodeID, f.Device) {
			at.Again = true
			a.halt(at, fmt.Sprintf("%s on node %s is in service again: it may have that now", f.Device, f.NodeName))
			return
		}
	}
}

// listen has what a driver tells of a task's device taken in. Old news may be
// over.
func (a *actor) listen(at *attempt, e TaskEvent) {
	if e.Fault == nil || time.Since(e.Time) > failover.HearsayTimeout {
		return
	}
	a.call(at, func(ctx context.Context) (message, error) {
		_, err := a.engine.fleet.listen(ctx, *e.Fault)
		return ailing{}, err
	})
}
