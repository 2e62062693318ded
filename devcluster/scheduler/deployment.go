package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
)

// deploying is the rolling update that an evaluation is part of, if any.
type deploying struct {
	e       *evaluation
	d       *api.Deployment // nil if there is none
	changed bool            // d is the plan's own copy
}

func deploymentActive(d *api.Deployment) bool {
	switch d.Status {
	case api.DeploymentStatusRunning, api.DeploymentStatusPaused, api.DeploymentStatusPending,
		api.DeploymentStatusBlocked, api.DeploymentStatusUnblocking, "initializing":
		return true
	}
	return false
}

// currentDeployment finds the deployment of this version of the job, and
// cancels one of an earlier version.
func (e *evaluation) currentDeployment() *deploying {
	dep := &deploying{e: e}
	d := e.Deployment
	if d == nil || *e.Job.Type != Service {
		return dep
	}
	if d.JobCreateIndex != *e.Job.CreateIndex || d.JobVersion != *e.Job.Version {
		if deploymentActive(d) {
			e.setDeploymentStatus(d, api.DeploymentStatusCancelled, "Cancelled due to newer version of job")
		}
		return dep
	}
	if deploymentActive(d) || d.Status == api.DeploymentStatusFailed {
		dep.d = d
	}
	return dep
}

func (e *evaluation) setDeploymentStatus(d *api.Deployment, status, description string) {
	c := *d
	c.Status, c.StatusDescription = status, description
	e.plan.Deployments = append(e.plan.Deployments, &c)
}

func (dep *deploying) group(tg *api.TaskGroup) *api.DeploymentState {
	if dep.d == nil {
		return nil
	}
	return dep.d.TaskGroups[*tg.Name]
}

func (dep *deploying) failed() bool {
	return dep.d != nil && dep.d.Status == api.DeploymentStatusFailed
}

// stalled reports whether the deployment forbids new placements.
func (dep *deploying) stalled() bool {
	return dep.d != nil && dep.d.Status != api.DeploymentStatusRunning
}

// canarying reports whether the group waits for its canaries to be promoted.
func (dep *deploying) canarying(tg *api.TaskGroup) bool {
	st := dep.group(tg)
	return st != nil && st.DesiredCanaries > 0 && !st.Promoted
}

func (dep *deploying) wantsCanaries(tg *api.TaskGroup, destructive []*api.Allocation) bool {
	return !dep.stalled() && dep.canarying(tg) && len(destructive) > 0
}

func (dep *deploying) isCanary(tg *api.TaskGroup, id string) bool {
	st := dep.group(tg)
	return st != nil && !st.Promoted && slices.Contains(st.PlacedCanaries, id)
}

// isNew reports whether an allocation is of the version being deployed.
func (dep *deploying) isNew(a *api.Allocation) bool { return !dep.e.older(a) }

// idFor is the deployment that new allocations of a group belong to, or "".
func (dep *deploying) idFor(tg *api.TaskGroup) string {
	if dep.group(tg) == nil || dep.failed() {
		return ""
	}
	return dep.d.ID
}

// idForVersion is the deployment of a migrated allocation's successor.
func (dep *deploying) idForVersion(a *api.Allocation) string {
	if dep.d != nil && a.DeploymentID == dep.d.ID && !dep.failed() {
		return dep.d.ID
	}
	return ""
}

// plan makes a group part of a deployment if its version is new: updates is
// how many allocations have to change, destructive how many of them by
// replacement.
func (dep *deploying) plan(tg *api.TaskGroup, updates, destructive int) {
	e := dep.e
	if *e.Job.Type != Service || tg.Update == nil || *tg.Update.MaxParallel == 0 || dep.group(tg) != nil || dep.failed() {
		return
	}
	ranBefore := slices.ContainsFunc(e.Allocs, func(a *api.Allocation) bool {
		return a.TaskGroup == *tg.Name && !e.older(a)
	})
	if ranBefore && updates == 0 {
		return
	}
	d := dep.own()
	st := &api.DeploymentState{
		AutoRevert:       *tg.Update.AutoRevert,
		ProgressDeadline: *tg.Update.ProgressDeadline,
		DesiredTotal:     *tg.Count,
	}
	if destructive > 0 {
		st.DesiredCanaries = *tg.Update.Canary
	}
	d.TaskGroups[*tg.Name] = st
	for _, other := range d.TaskGroups {
		if other.DesiredCanaries > 0 {
			d.StatusDescription = "Deployment is running but requires manual promotion"
			if *tg.Update.AutoPromote {
				d.StatusDescription = "Deployment is running pending automatic promotion"
			}
		}
	}
}

// own returns the plan's own copy of the deployment, creating it if need be.
func (dep *deploying) own() *api.Deployment {
	if dep.changed {
		return dep.d
	}
	dep.changed = true
	e := dep.e
	if dep.d == nil {
		dep.d = &api.Deployment{
			ID: e.NewID(), Namespace: *e.Job.Namespace, JobID: *e.Job.ID, JobVersion: *e.Job.Version,
			JobModifyIndex: *e.Job.ModifyIndex, JobSpecModifyIndex: *e.Job.JobModifyIndex,
			JobCreateIndex: *e.Job.CreateIndex, TaskGroups: map[string]*api.DeploymentState{},
			Status: api.DeploymentStatusRunning, StatusDescription: "Deployment is running",
		}
		return dep.d
	}
	dep.d = CloneDeployment(dep.d)
	return dep.d
}

// CloneDeployment copies a deployment so that its groups can be changed.
func CloneDeployment(d *api.Deployment) *api.Deployment {
	c := *d
	c.TaskGroups = maps.Clone(d.TaskGroups)
	for name, st := range c.TaskGroups {
		copied := *st
		copied.PlacedCanaries = slices.Clone(st.PlacedCanaries)
		c.TaskGroups[name] = &copied
	}
	return &c
}

// placed counts an allocation into the deployment.
func (dep *deploying) placed(tg *api.TaskGroup, a *api.Allocation) {
	if dep.d == nil || a.DeploymentID != dep.d.ID {
		return
	}
	st := dep.own().TaskGroups[*tg.Name]
	if st == nil {
		return
	}
	st.PlacedAllocs++
	if a.DeploymentStatus != nil && a.DeploymentStatus.Canary {
		st.PlacedCanaries = append(st.PlacedCanaries, a.ID)
	}
	if st.RequireProgressBy.IsZero() && st.ProgressDeadline > 0 {
		st.RequireProgressBy = dep.e.Now.Add(st.ProgressDeadline).Truncate(time.Microsecond)
	}
}

func (dep *deploying) finish() {
	if dep.changed {
		dep.e.plan.Deployments = append(dep.e.plan.Deployments, dep.d)
	}
}
