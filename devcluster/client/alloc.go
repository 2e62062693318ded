package client

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/client/taskenv"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

// allocRunner runs one allocation from its arrival to its end.
type allocRunner struct {
	n     *Node
	id    string
	dirs  taskenv.Dirs
	log   hclog.Logger
	tg    *api.TaskGroup
	tasks []*taskRunner
	done  chan struct{} // closed when all has ended for good

	stopping chan struct{} // closed when the tasks are to be stopped

	mu          sync.Mutex
	alloc       *api.Allocation // as the server last had it
	stopReason  string
	isStopping  bool
	description string
	health      *api.AllocDeploymentStatus // what was found out here
	healthOf    string                     // the deployment that health is about
	watchCancel context.CancelFunc
	services    *services
	taskChange  chan struct{} // closed and replaced when a task's state changes
	soon        bool          // a report is about to be made
	failure     string        // why the allocation could not be set up
}

func newAllocRunner(n *Node, a *api.Allocation) *allocRunner {
	r := &allocRunner{n: n, id: a.ID, alloc: a, log: n.log.With("alloc_id", a.ID[:min(8, len(a.ID))]),
		dirs: taskenv.Dirs{Alloc: filepath.Join(n.cfg.Dir, allocsDir, a.ID)},
		done: make(chan struct{}), stopping: make(chan struct{})}
	for _, tg := range a.Job.TaskGroups {
		if *tg.Name == a.TaskGroup {
			r.tg = tg
		}
	}
	r.services = newServices(r)
	for _, t := range r.tg.Tasks {
		r.tasks = append(r.tasks, newTaskRunner(r, t))
	}
	return r
}

func (r *allocRunner) restore(rows map[string]taskRow) {
	for _, t := range r.tasks {
		if row, ok := rows[t.task.Name]; ok {
			t.restore(row)
		}
	}
}

// current is the allocation as the server last had it.
func (r *allocRunner) current() *api.Allocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alloc
}

// update takes a newer version of the allocation.
func (r *allocRunner) update(a *api.Allocation) {
	r.mu.Lock()
	old := r.alloc
	newer := a.AllocModifyIndex > old.AllocModifyIndex
	if newer {
		r.alloc = a
	}
	r.mu.Unlock()
	if !newer {
		return
	}
	switch {
	case a.DesiredStatus != api.AllocDesiredStatusRun:
		r.stop("")
	case a.DeploymentID != old.DeploymentID || a.Job != old.Job || isCanary(a) != isCanary(old):
		r.watchHealth()
		r.services.refresh()
	}
}

func isCanary(a *api.Allocation) bool { return a.DeploymentStatus != nil && a.DeploymentStatus.Canary }

// stop has the tasks stopped; the first reason counts.
func (r *allocRunner) stop(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isStopping {
		r.isStopping, r.stopReason = true, reason
		close(r.stopping)
	}
}

func (r *allocRunner) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// run runs the tasks in their order: prestart, main with poststart, poststop.
// It returns when all is over, or when the node is stopped.
func (r *allocRunner) run() {
	if !r.await() {
		return
	}
	if a := r.current(); a.DesiredStatus != api.AllocDesiredStatusRun {
		r.stop("")
	}
	if err := r.dirs.Make(r.tg.Tasks); err != nil {
		r.fail(err)
		return
	}
	r.services.registerGroup()
	r.watchHealth()
	r.limitTime()
	pre, main, post, last := r.byHook()
	started := r.startAll(pre)
	if r.prestarted(pre) {
		started = append(started, r.startAll(main)...)
		if waitAll(r, main, (*taskRunner).up) {
			started = append(started, r.startAll(post)...)
		}
		waitAll(r, main, (*taskRunner).over)
	}
	for _, t := range started {
		t.end(mainDeadEvent)
	}
	waitAll(r, started, (*taskRunner).over)
	if r.n.ctx.Err() != nil {
		return
	}
	for _, t := range append(pre, append(main, post...)...) {
		t.neverRan()
	}
	waitAll(r, r.startAll(last), (*taskRunner).over)
	if r.n.ctx.Err() != nil {
		return
	}
	r.finish()
}

// await waits until what this allocation replaces has ended here.
func (r *allocRunner) await() bool {
	prev := r.n.runner(r.current().PreviousAllocation)
	if prev == nil || prev == r {
		return true
	}
	select {
	case <-prev.done:
		return true
	case <-r.stopping:
		return true
	case <-r.n.ctx.Done():
		return false
	}
}

func (r *allocRunner) byHook() (pre, main, post, last []*taskRunner) {
	for _, t := range r.tasks {
		switch t.hook() {
		case api.TaskLifecycleHookPrestart:
			pre = append(pre, t)
		case api.TaskLifecycleHookPoststart:
			post = append(post, t)
		case api.TaskLifecycleHookPoststop:
			last = append(last, t)
		default:
			main = append(main, t)
		}
	}
	return pre, main, post, last
}

func (r *allocRunner) startAll(tasks []*taskRunner) []*taskRunner {
	for _, t := range tasks {
		r.n.wg.Go(t.run)
	}
	return tasks
}

// prestarted waits for prestart tasks: sidecars to run, others to end well.
func (r *allocRunner) prestarted(pre []*taskRunner) bool {
	for _, t := range pre {
		wait := t.over()
		if t.task.Lifecycle.Sidecar {
			wait = t.up()
		}
		select {
		case <-wait:
		case <-r.n.ctx.Done():
			return false
		}
		if t.failed() {
			return false
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.isStopping
}

// waitAll waits for a state of all tasks; it is false if the node stops first.
func waitAll(r *allocRunner, tasks []*taskRunner, state func(*taskRunner) <-chan struct{}) bool {
	for _, t := range tasks {
		select {
		case <-state(t):
		case <-r.n.ctx.Done():
			return false
		}
	}
	return true
}

// limitTime stops the allocation when its max_run_duration is over.
func (r *allocRunner) limitTime() {
	if r.tg.MaxRunDuration == nil || *r.tg.MaxRunDuration <= 0 {
		return
	}
	begun := time.Now()
	for _, t := range r.tasks {
		if at := t.snapshot().StartedAt; !at.IsZero() && at.Before(begun) {
			begun = at
		}
	}
	r.n.wg.Go(func() {
		timer := time.NewTimer(time.Until(begun.Add(*r.tg.MaxRunDuration)))
		defer timer.Stop()
		select {
		case <-timer.C:
			const reason = "allocation exceeded max_run_duration"
			r.mu.Lock()
			r.description = reason
			r.mu.Unlock()
			r.stop(reason)
		case <-r.done:
		case <-r.n.ctx.Done():
		}
	})
}

// fail ends an allocation that could not be set up.
func (r *allocRunner) fail(err error) {
	r.log.Error("allocation could not be set up", "error", err)
	for _, t := range r.tasks {
		t.setDead(true, setupFailureEvent(err))
	}
	r.mu.Lock()
	r.failure = err.Error()
	r.mu.Unlock()
	r.finish()
}

func (r *allocRunner) finish() {
	r.mu.Lock()
	if r.watchCancel != nil {
		r.watchCancel()
	}
	r.mu.Unlock()
	r.services.deregisterAll()
	close(r.done)
	r.n.reports.add(r.report())
}

// taskEnded stops the other tasks if the end of one is the end of all.
func (r *allocRunner) taskEnded(t *taskRunner) {
	hook := t.hook()
	switch {
	case hook == api.TaskLifecycleHookPoststop:
	case t.failed():
		for _, other := range r.tasks {
			if other != t && other.hook() != api.TaskLifecycleHookPoststop {
				other.end(func() *api.TaskEvent { return siblingFailedEvent(t.task.Name) })
			}
		}
	case t.task.Leader:
		for _, other := range r.tasks {
			if other != t && other.hook() != api.TaskLifecycleHookPoststop {
				other.end(leaderDeadEvent)
			}
		}
	}
}

// changed reports at once.
func (r *allocRunner) changed() {
	r.notify()
	r.n.reports.add(r.report())
}

// notify tells whoever watches the tasks.
func (r *allocRunner) notify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taskChange != nil {
		close(r.taskChange)
	}
	r.taskChange = make(chan struct{})
}

// changedSoon reports in a moment what need not be known at once.
func (r *allocRunner) changedSoon() {
	const moment = 50 * time.Millisecond
	r.notify()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.soon {
		return
	}
	r.soon = true
	time.AfterFunc(moment, func() {
		r.mu.Lock()
		r.soon = false
		r.mu.Unlock()
		if r.n.ctx.Err() == nil && !r.ended() {
			r.n.reports.add(r.report())
		}
	})
}

// report is what the server is to know.
func (r *allocRunner) report() *api.Allocation {
	states := map[string]*api.TaskState{}
	for _, t := range r.tasks {
		s := t.snapshot()
		states[t.task.Name] = &s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := *r.alloc
	a.TaskStates = states
	a.ClientStatus, a.ClientDescription = r.status(states)
	if r.health != nil && r.healthOf == a.DeploymentID {
		a.DeploymentStatus = r.health
	}
	return &a
}

// status sums the tasks' states up. An allocation of which something still
// runs has not ended, even if a task has failed: what it holds is in use.
func (r *allocRunner) status(states map[string]*api.TaskState) (status, description string) {
	var pending, running, failed bool
	for _, s := range states {
		pending = pending || s.State == "pending"
		running = running || s.State == "running"
		failed = failed || s.Failed
	}
	ended := false
	select {
	case <-r.done:
		ended = true
	default:
	}
	switch {
	case r.failure != "":
		return api.AllocClientStatusFailed, r.failure
	case ended && failed:
		return api.AllocClientStatusFailed, "Failed tasks"
	case ended:
		if r.description != "" {
			return api.AllocClientStatusComplete, r.description
		}
		return api.AllocClientStatusComplete, "All tasks have completed"
	case running:
		return api.AllocClientStatusRunning, "Tasks are running"
	case pending:
		return api.AllocClientStatusPending, "No tasks have started"
	}
	return api.AllocClientStatusRunning, "Tasks are running"
}

func (r *allocRunner) driverEvent(e driver.TaskEvent) {
	if t := r.task(e.Task); t != nil {
		t.addEvent(driverEvent(e))
		r.changed()
	}
}

func (r *allocRunner) task(name string) *taskRunner {
	for _, t := range r.tasks {
		if t.task.Name == name {
			return t
		}
	}
	return nil
}

func (r *allocRunner) mustTask(name string) (*taskRunner, error) {
	if t := r.task(name); t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("unknown task name %q", name)
}
