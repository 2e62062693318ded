package client

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// watchHealth finds out whether a service's allocation is healthy, for the
// deployment or the migration that waits for it.
func (r *allocRunner) watchHealth() {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.alloc
	if r.watchCancel != nil {
		if r.healthOf == a.DeploymentID {
			return
		}
		r.watchCancel()
	}
	known := a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil
	if *a.Job.Type != "service" || known {
		return
	}
	minHealthy, deadline, how := r.criteria(a)
	if how == "manual" {
		return
	}
	r.health, r.healthOf = nil, a.DeploymentID
	ctx, cancel := context.WithCancel(r.n.ctx)
	r.watchCancel = cancel
	id := a.DeploymentID
	r.n.wg.Go(func() {
		defer cancel()
		if healthy, known := r.becomesHealthy(ctx, minHealthy, deadline, how == "checks"); known {
			r.setHealth(id, healthy, fmt.Sprintf("Task not running for min_healthy_time of %v by healthy_deadline of %v", minHealthy, deadline))
		}
	})
}

// criteria are those of the deployment, or of the migration.
func (r *allocRunner) criteria(a *api.Allocation) (minHealthy, deadline time.Duration, how string) {
	minHealthy, deadline, how = 10*time.Second, 5*time.Minute, "checks"
	set := func(m, d *time.Duration, h *string) {
		if m != nil {
			minHealthy = *m
		}
		if d != nil {
			deadline = *d
		}
		if h != nil {
			how = *h
		}
	}
	tg := r.tg
	for _, g := range a.Job.TaskGroups {
		if *g.Name == a.TaskGroup {
			tg = g
		}
	}
	switch {
	case a.DeploymentID != "" && tg.Update != nil:
		set(tg.Update.MinHealthyTime, tg.Update.HealthyDeadline, tg.Update.HealthCheck)
	case tg.Migrate != nil:
		set(tg.Migrate.MinHealthyTime, tg.Migrate.HealthyDeadline, tg.Migrate.HealthCheck)
	}
	return minHealthy, deadline, how
}

func (r *allocRunner) setHealth(deployment string, healthy bool, otherwise string) {
	r.mu.Lock()
	if r.healthOf != deployment {
		r.mu.Unlock()
		return
	}
	r.health = &api.AllocDeploymentStatus{Healthy: &healthy, Timestamp: time.Now().UTC(), Canary: isCanary(r.alloc)}
	r.mu.Unlock()
	if !healthy {
		if r.anyFailed() {
			otherwise = "Unhealthy because of failed task"
		}
		for _, t := range r.tasks {
			if !t.failed() {
				t.addEvent(messageEvent("Alloc Unhealthy", otherwise))
			}
		}
	}
	r.changed()
}

// becomesHealthy waits until all has been well for minHealthy (true), a task
// has failed or the deadline has passed (false). known is false if ctx ended.
func (r *allocRunner) becomesHealthy(ctx context.Context, minHealthy, deadline time.Duration, withChecks bool) (healthy, known bool) {
	late := time.NewTimer(deadline)
	defer late.Stop()
	for {
		state, checksChanged, tasksChanged := r.wellness(withChecks)
		if state == wellFailed {
			return false, true
		}
		var enough <-chan time.Time
		var timer *time.Timer
		if state == wellNow {
			timer = time.NewTimer(minHealthy)
			enough = timer.C
		}
		select {
		case <-enough:
			return true, true
		case <-checksChanged:
		case <-tasksChanged:
		case <-late.C:
			return false, true
		case <-r.done:
			return false, r.anyFailed()
		case <-ctx.Done():
			return false, false
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

func (r *allocRunner) anyFailed() bool {
	for _, t := range r.tasks {
		if t.failed() {
			return true
		}
	}
	return false
}

type well int

const (
	notYet well = iota
	wellNow
	wellFailed
)

// wellness looks at tasks and checks, and returns channels that are closed at
// the next change of either.
func (r *allocRunner) wellness(withChecks bool) (state well, checksChanged, tasksChanged <-chan struct{}) {
	tasksChanged = r.watchTasks()
	checks, checksChanged := r.services.checks()
	state = wellNow
	for _, t := range r.tasks {
		s := t.snapshot()
		ephemeral := t.task.Lifecycle != nil && !t.task.Lifecycle.Sidecar
		switch {
		case s.Failed:
			return wellFailed, checksChanged, tasksChanged
		case t.hook() == api.TaskLifecycleHookPoststop:
		case ephemeral && s.State == "dead":
		case s.State != "running":
			state = notYet
		}
	}
	if withChecks {
		want := 0
		for _, o := range r.services.all() {
			want += len(o.svc.Checks)
		}
		passing := 0
		for _, c := range checks {
			if c.Status == "success" || c.Mode == "readiness" {
				passing++
			}
		}
		if passing < want {
			state = notYet
		}
	}
	return state, checksChanged, tasksChanged
}

// watchTasks returns a channel that is closed at the next change of a task.
func (r *allocRunner) watchTasks() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taskChange == nil {
		r.taskChange = make(chan struct{})
	}
	return r.taskChange
}
