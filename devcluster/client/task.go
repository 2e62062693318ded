package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

// taskRunner runs one task: starts it, waits for it, restarts it as its policy
// says, and stops it when it has to end.
type taskRunner struct {
	r      *allocRunner
	task   *api.Task
	log    hclog.Logger
	policy restarts

	running chan struct{} // closed when the task runs for the first time, or never will
	dead    chan struct{} // closed when the task has ended for good
	ending  chan struct{} // closed when the task is to end for another task's sake
	restart chan string   // capacity 1: a restart that was asked for, with its reason

	mu       sync.Mutex
	row      taskRow
	endEvent func() *api.TaskEvent
	isEnding bool
	wanted   bool // the exit to come was asked for, to restart
	reserved *device.Reservation
	stats    *driver.TaskStats
	upOnce   sync.Once
	deadOnce sync.Once
}

func newTaskRunner(r *allocRunner, t *api.Task) *taskRunner {
	policy := t.RestartPolicy
	if policy == nil {
		policy = r.tg.RestartPolicy
	}
	jobType := *r.alloc.Job.Type
	tr := &taskRunner{r: r, task: t, log: r.log.With("task", t.Name),
		policy:  restarts{policy: policy, onSuccess: jobType == "service" || jobType == "system"},
		running: make(chan struct{}), dead: make(chan struct{}), ending: make(chan struct{}), restart: make(chan string, 1),
		row: taskRow{State: api.TaskState{State: "pending", Events: []*api.TaskEvent{receivedEvent()}}}}
	if l := t.Lifecycle; l != nil && !l.Sidecar {
		tr.policy.onSuccess = false
	}
	return tr
}

func (t *taskRunner) hook() string {
	if t.task.Lifecycle == nil {
		return ""
	}
	return t.task.Lifecycle.Hook
}

func (t *taskRunner) up() <-chan struct{}   { return t.running }
func (t *taskRunner) over() <-chan struct{} { return t.dead }

func (t *taskRunner) restore(row taskRow) {
	t.row = row
	if row.State.State == "dead" {
		t.markDead()
	}
}

func (t *taskRunner) snapshot() api.TaskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.row.State
	s.Events = append([]*api.TaskEvent{}, s.Events...)
	return s
}

func (t *taskRunner) failed() bool { return t.snapshot().Failed }

func (t *taskRunner) markUp() { t.upOnce.Do(func() { close(t.running) }) }

func (t *taskRunner) markDead() {
	t.markUp()
	t.deadOnce.Do(func() { close(t.dead) })
}

// change changes what is known of the task, makes it durable and reports it.
func (t *taskRunner) change(fn func(row *taskRow), events ...*api.TaskEvent) {
	t.keep(fn, events...)
	t.r.changed()
}

// keep changes what is known of the task and makes it durable.
func (t *taskRunner) keep(fn func(row *taskRow), events ...*api.TaskEvent) {
	t.mu.Lock()
	fn(&t.row)
	t.append(events)
	row := t.row
	err := t.r.n.store.putTask(t.r.id, t.task.Name, row)
	t.mu.Unlock()
	if err != nil {
		t.log.Error("a task's state could not be stored", "error", err)
	}
}

func (t *taskRunner) append(events []*api.TaskEvent) {
	all := append(append([]*api.TaskEvent{}, t.row.State.Events...), events...)
	t.row.State.Events = all[max(0, len(all)-keptEvents):]
}

// event adds events. They are reported in a moment, or with what changes
// before, and become durable with the next change.
func (t *taskRunner) event(events ...*api.TaskEvent) {
	t.mu.Lock()
	t.append(events)
	t.mu.Unlock()
	t.r.changedSoon()
}

// addEvent only adds an event; the caller reports it.
func (t *taskRunner) addEvent(e *api.TaskEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.append([]*api.TaskEvent{e})
}

// setDead ends the task for good.
func (t *taskRunner) setDead(failed bool, events ...*api.TaskEvent) {
	t.keep(func(row *taskRow) {
		row.State.State, row.State.Failed = "dead", row.State.Failed || failed
		row.State.FinishedAt = time.Now().UTC()
		row.Config, row.Handle = nil, nil
	}, events...)
	t.markDead()
	t.r.changedSoon() // an allocation that ends with it is reported at once
}

// neverRan ends a task that was never started.
func (t *taskRunner) neverRan() {
	select {
	case <-t.dead:
	default:
		t.setDead(false)
	}
}

// end has the task end because of another one; why is the event that says so.
func (t *taskRunner) end(why func() *api.TaskEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.isEnding && t.row.State.State != "dead" {
		t.isEnding, t.endEvent = true, why
		close(t.ending)
	}
}

// mustStop reports whether the task has to stop, be it for the allocation or
// another task. Poststop tasks run to their end.
func (t *taskRunner) mustStop() bool {
	if t.hook() != api.TaskLifecycleHookPoststop {
		select {
		case <-t.r.stopping:
			return true
		default:
		}
	}
	select {
	case <-t.ending:
		return true
	default:
		return false
	}
}

func (t *taskRunner) stopSignal() <-chan struct{} {
	if t.hook() == api.TaskLifecycleHookPoststop {
		return nil
	}
	return t.r.stopping
}

// run is the task's life. It returns when the task has ended for good, or
// when the node is stopped, which leaves the task running.
func (t *taskRunner) run() {
	select {
	case <-t.dead:
		t.r.taskEnded(t) // before a restart of the cluster
		return
	default:
	}
	for {
		if t.mustStop() && t.row.Config == nil {
			t.setDead(false, t.endEvents()...)
			break
		}
		exit, startErr := t.attempt()
		if t.r.n.ctx.Err() != nil {
			return
		}
		if errors.Is(startErr, errLost) && !t.mustStop() {
			t.keep(func(row *taskRow) { row.Config, row.Handle, row.State.State = nil, nil, "pending" })
			continue
		}
		if t.ended(exit, startErr) {
			break
		}
	}
	t.r.taskEnded(t)
}

func (t *taskRunner) endEvents() []*api.TaskEvent {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endEvent != nil {
		return []*api.TaskEvent{t.endEvent()}
	}
	return nil
}

// attempt starts the task, or takes it up again, and waits for its exit.
func (t *taskRunner) attempt() (*driver.ExitResult, error) {
	if t.row.Config == nil {
		if err := t.prepare(); err != nil {
			return nil, err
		}
		if t.mustStop() {
			return nil, nil
		}
	}
	inst := t.r.n.plugins[t.task.Driver]
	if inst == nil {
		return nil, fmt.Errorf("this node has no driver %q", t.task.Driver)
	}
	if err := t.startOrRecover(inst); err != nil {
		return nil, err
	}
	t.markUp()
	t.r.services.taskUp(t)
	defer t.r.services.taskDown(t)
	exit := t.waitWhileRunning(inst)
	if t.r.n.ctx.Err() != nil {
		return nil, nil
	}
	t.destroy(inst)
	return exit, nil
}

// ended deals with the end of an attempt, and reports whether it was the last.
func (t *taskRunner) ended(exit *driver.ExitResult, startErr error) bool {
	var events []*api.TaskEvent
	if exit != nil {
		events = append(events, terminatedEvent(exit))
	}
	if t.mustStop() {
		if exit != nil {
			events = append(events, killedEvent())
		}
		t.setDead(false, append(events, t.endEvents()...)...)
		return true
	}
	var d decision
	select {
	case <-t.restart: // it was asked for while the task was between two runs
		d = decision{again: true}
	default:
		if t.wasRestarted() {
			d = decision{again: true}
		} else {
			d = t.policy.next(exit, startErr, time.Now())
		}
	}
	if !d.again {
		if d.reason != "" && d.reason != reasonUnnecessary {
			events = append(events, notRestartingEvent(d))
		}
		t.setDead(d.failed, events...)
		return true
	}
	t.change(func(row *taskRow) {
		row.Config, row.Handle = nil, nil
		row.State.State = "pending"
		row.State.Restarts++
		row.State.LastRestart = time.Now().UTC()
	}, append(events, restartingEvent(d))...)
	t.delay(d.delay)
	return false
}

func (t *taskRunner) delay(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.stopSignal():
	case <-t.ending:
	case <-t.r.n.ctx.Done():
	}
}

// waitWhileRunning waits for the exit, and stops the task when it has to stop
// or to restart.
func (t *taskRunner) waitWhileRunning(inst instance) *driver.ExitResult {
	ctx, cancel := context.WithCancel(t.r.n.ctx)
	defer cancel()
	exits := make(chan *driver.ExitResult, 1)
	t.r.n.wg.Go(func() { exits <- t.awaitExit(ctx, inst) })
	t.r.n.wg.Go(func() { t.collectStats(ctx, inst) })
	select {
	case exit := <-exits:
		return exit
	case <-t.r.n.ctx.Done():
		return nil
	case <-t.stopSignal():
		return t.stop(inst, exits, t.r.reason())
	case <-t.ending:
		return t.stop(inst, exits, "")
	case reason := <-t.restart:
		t.setRestarted()
		t.event(restartSignalEvent(reason))
		return t.stopTask(inst, exits)
	}
}

func (r *allocRunner) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopReason
}

func (t *taskRunner) setRestarted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted = true
}

// wasRestarted reports, once, whether the exit was one that was asked for to
// restart.
func (t *taskRunner) wasRestarted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.wanted
	t.wanted = false
	return w
}

// stop stops the running task and waits for its exit.
func (t *taskRunner) stop(inst instance, exits <-chan *driver.ExitResult, reason string) *driver.ExitResult {
	t.event(append(t.endEvents(), killingEvent(reason, t.killTimeout()))...)
	return t.stopTask(inst, exits)
}

func (t *taskRunner) stopTask(inst instance, exits <-chan *driver.ExitResult) *driver.ExitResult {
	t.r.services.taskDown(t)
	if exit := t.shutdownDelay(exits); exit != nil {
		return exit
	}
	for pause := time.Second; ; pause *= 2 {
		p, err := inst.Process(t.r.n.ctx)
		if err != nil {
			return nil
		}
		err = p.Driver().StopTask(t.r.n.ctx, t.taskID(), t.killTimeout(), t.task.KillSignal)
		if err == nil {
			break
		}
		t.log.Warn("stopping the task is tried again", "error", err)
		timer := time.NewTimer(min(pause, 30*time.Second))
		select {
		case exit := <-exits:
			timer.Stop()
			return exit
		case <-timer.C:
		case <-t.r.n.ctx.Done():
			timer.Stop()
			return nil
		}
	}
	select {
	case exit := <-exits:
		return exit
	case <-t.r.n.ctx.Done():
		return nil
	}
}

// shutdownDelay lets clients of the task's services go elsewhere first.
func (t *taskRunner) shutdownDelay(exits <-chan *driver.ExitResult) *driver.ExitResult {
	d := t.task.ShutdownDelay
	if g := t.r.tg.ShutdownDelay; g != nil {
		d = max(d, *g)
	}
	a := t.r.current()
	if n := a.DesiredTransition.NoShutdownDelay; d <= 0 || n != nil && *n {
		return nil
	}
	t.event(messageEvent("Waiting for shutdown delay", fmt.Sprintf("Waiting for shutdown_delay of %s before killing the task.", d)))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case exit := <-exits:
		return exit
	case <-t.r.n.ctx.Done():
	}
	return nil
}

// maxKillTimeout is Nomad's default bound for kill_timeout.
const maxKillTimeout = 30 * time.Second

func (t *taskRunner) killTimeout() time.Duration {
	if t.task.KillTimeout == nil {
		return 5 * time.Second
	}
	return min(*t.task.KillTimeout, maxKillTimeout)
}

func (t *taskRunner) taskID() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.row.Config == nil {
		return ""
	}
	return t.row.Config.ID
}
