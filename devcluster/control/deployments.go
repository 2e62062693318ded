package control

import (
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// countHealth counts a change of an allocation's health into its deployment,
// and moves the deployment on.
func (s *Server) countHealth(tx *state.Tx, old, a *api.Allocation) error {
	d := tx.Deployment(a.DeploymentID)
	if d == nil || !active(d) || d.TaskGroups[a.TaskGroup] == nil {
		return nil
	}
	d = scheduler.CloneDeployment(d)
	st := d.TaskGroups[a.TaskGroup]
	if old.DeploymentStatus != nil && old.DeploymentStatus.Healthy != nil {
		if *old.DeploymentStatus.Healthy {
			st.HealthyAllocs--
		} else {
			st.UnhealthyAllocs--
		}
	}
	if *a.DeploymentStatus.Healthy {
		st.HealthyAllocs++
		if st.ProgressDeadline > 0 {
			st.RequireProgressBy = time.Now().Add(st.ProgressDeadline)
		}
	} else {
		st.UnhealthyAllocs++
		tg := groupNamed(a.Job, a.TaskGroup)
		if st.ProgressDeadline == 0 || tg == nil || !scheduler.MayReschedule(a, tg.ReschedulePolicy) {
			return s.failDeployment(tx, d, "Failed due to unhealthy allocations")
		}
		// Until the deadline a replacement may still make it.
		c := *a
		c.DesiredTransition.Reschedule = ptr(true)
		if err := tx.PutAlloc(&c, false); err != nil {
			return err
		}
	}
	if canariesHealthy(tx.Reader, st) {
		if tg := groupNamed(a.Job, a.TaskGroup); tg != nil && tg.Update != nil && *tg.Update.AutoPromote && allCanariesHealthy(tx.Reader, d) {
			return s.promote(tx, d, nil)
		}
	}
	return s.advance(tx, d)
}

// advance stores a changed deployment: complete if all is healthy, else with
// an evaluation that takes the next step.
func (s *Server) advance(tx *state.Tx, d *api.Deployment) error {
	if complete(d) {
		d.Status, d.StatusDescription = api.DeploymentStatusSuccessful, "Deployment completed successfully"
		if err := tx.PutDeployment(d); err != nil {
			return err
		}
		if tx.Job(d.Namespace, d.JobID) != nil {
			if err := s.setStable(tx, d.Namespace, d.JobID, d.JobVersion, true); err != nil {
				return err
			}
		}
		return s.refreshJob(tx, d.Namespace, d.JobID)
	}
	if err := tx.PutDeployment(d); err != nil {
		return err
	}
	_, err := s.evaluateDeployment(tx, d)
	return err
}

func complete(d *api.Deployment) bool {
	for _, st := range d.TaskGroups {
		if st.HealthyAllocs < st.DesiredTotal || st.DesiredCanaries > 0 && !st.Promoted {
			return false
		}
	}
	return true
}

func (s *Server) evaluateDeployment(tx *state.Tx, d *api.Deployment) (string, error) {
	job := tx.Job(d.Namespace, d.JobID)
	if job == nil {
		return "", nil
	}
	e := newEval(job, triggerDeployment)
	e.DeploymentID = d.ID
	return e.ID, tx.PutEval(e)
}

func canariesHealthy(r state.Reader, st *api.DeploymentState) bool {
	if st.DesiredCanaries == 0 || st.Promoted || len(st.PlacedCanaries) < st.DesiredCanaries {
		return false
	}
	n := 0
	for _, id := range st.PlacedCanaries {
		if a := r.Alloc(id); a != nil && a.DeploymentStatus != nil && deref(a.DeploymentStatus.Healthy) {
			n++
		}
	}
	return n >= st.DesiredCanaries
}

func allCanariesHealthy(r state.Reader, d *api.Deployment) bool {
	for _, st := range d.TaskGroups {
		if st.DesiredCanaries > 0 && !st.Promoted && !canariesHealthy(r, st) {
			return false
		}
	}
	return true
}

// promote promotes the canaries of the named groups, or of all if groups is nil.
func (s *Server) promote(tx *state.Tx, d *api.Deployment, groups []string) error {
	for name, st := range d.TaskGroups {
		if st.DesiredCanaries == 0 || groups != nil && !slices.Contains(groups, name) {
			continue
		}
		st.Promoted = true
		if st.ProgressDeadline > 0 {
			st.RequireProgressBy = time.Now().Add(st.ProgressDeadline)
		}
		for _, id := range st.PlacedCanaries {
			a := tx.Alloc(id)
			if a == nil || a.DeploymentStatus == nil || !a.DeploymentStatus.Canary {
				continue
			}
			c, h := *a, *a.DeploymentStatus
			h.Canary = false
			c.DeploymentStatus = &h
			if err := tx.PutAlloc(&c, false); err != nil {
				return err
			}
		}
	}
	d.StatusDescription = "Deployment is running"
	if err := s.advance(tx, d); err != nil || !complete(d) {
		return err
	}
	// Where the canaries are all that is wanted, promoting them completes the
	// deployment, and what they replace has still to be stopped.
	_, err := s.evaluateDeployment(tx, d)
	return err
}

// failDeployment ends a deployment, and registers the last stable version of
// the job again if the deployment is to be reverted.
func (s *Server) failDeployment(tx *state.Tx, d *api.Deployment, why string) error {
	d.Status, d.StatusDescription = api.DeploymentStatusFailed, why
	revert := false
	for _, st := range d.TaskGroups {
		revert = revert || st.AutoRevert
	}
	if revert {
		if err := s.revert(tx, d); err != nil {
			return err
		}
	}
	if err := tx.PutDeployment(d); err != nil {
		return err
	}
	_, err := s.evaluateDeployment(tx, d)
	return err
}

func (s *Server) revert(tx *state.Tx, d *api.Deployment) error {
	job := tx.Job(d.Namespace, d.JobID)
	if job == nil || *job.Version != d.JobVersion {
		return nil
	}
	for _, v := range tx.JobVersions(d.Namespace, d.JobID, 0) {
		if *v.Version >= d.JobVersion || !deref(v.Stable) {
			continue
		}
		if string(spec(v)) == string(spec(job)) {
			d.StatusDescription += " - not rolling back to stable job version " + u64(*v.Version) + " as current job has same specification"
			return nil
		}
		d.StatusDescription += " - rolling back to job version " + u64(*v.Version)
		c := *v
		c.Stop, c.Status, c.Stable = ptr(false), job.Status, ptr(false)
		c.SubmitTime = ptr(time.Now().UnixNano())
		return s.putVersion(tx, &c, job)
	}
	d.StatusDescription += " - no stable job version to auto revert to"
	return nil
}

// checkDeployments fails deployments that made no progress in time.
func (s *Server) checkDeployments(now time.Time) (due time.Time, err error) {
	var late []string
	s.store.View(func(r state.Reader) {
		for _, d := range r.Deployments() {
			if d.Status != api.DeploymentStatusRunning {
				continue
			}
			for _, st := range d.TaskGroups {
				by := st.RequireProgressBy
				if by.IsZero() || st.HealthyAllocs >= st.DesiredTotal || canariesHealthy(r, st) {
					continue
				}
				if !now.Before(by) {
					late = append(late, d.ID)
					break
				}
				if due.IsZero() || by.Before(due) {
					due = by
				}
			}
		}
	})
	for _, id := range late {
		if _, err := s.changeDeployment(id, "fail", func(tx *state.Tx, d *api.Deployment) error {
			return s.failDeployment(tx, d, "Failed due to progress deadline")
		}); err != nil {
			return due, err
		}
	}
	return due, nil
}

// changeDeployment runs change on a copy of an active deployment.
func (s *Server) changeDeployment(id, act string, change func(tx *state.Tx, d *api.Deployment) error) (*api.DeploymentUpdateResponse, error) {
	resp := &api.DeploymentUpdateResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("DeploymentStatusUpdate")
		d := tx.Deployment(id)
		if d == nil {
			return refuse("deployment not found")
		}
		if !active(d) {
			return refuse("can't %s terminal deployment", act)
		}
		if err := change(tx, scheduler.CloneDeployment(d)); err != nil {
			return err
		}
		for _, e := range tx.EvalsOfJob(d.Namespace, d.JobID) {
			if e.CreateIndex == tx.Index() && e.TriggeredBy == triggerDeployment {
				resp.EvalID, resp.EvalCreateIndex = e.ID, e.CreateIndex
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.DeploymentModifyIndex, resp.LastIndex = index, index
	return resp, nil
}

// PromoteDeployment promotes canaries; all of them must be healthy.
func (s *Server) PromoteDeployment(id string, req *api.DeploymentPromoteRequest) (*api.DeploymentUpdateResponse, error) {
	return s.changeDeployment(id, "promote", func(tx *state.Tx, d *api.Deployment) error {
		tx.As("DeploymentPromotion")
		var groups []string
		if !req.All {
			groups = req.Groups
		}
		any := false
		for name, st := range d.TaskGroups {
			if st.DesiredCanaries == 0 || groups != nil && !slices.Contains(groups, name) {
				continue
			}
			any = true
			if !st.Promoted && !canariesHealthy(tx.Reader, st) {
				healthy := 0
				for _, cid := range st.PlacedCanaries {
					if a := tx.Alloc(cid); a != nil && a.DeploymentStatus != nil && deref(a.DeploymentStatus.Healthy) {
						healthy++
					}
				}
				return refuse("Task group %q has %d/%d healthy allocations", name, healthy, st.DesiredCanaries)
			}
		}
		if !any {
			return refuse("no canaries to promote")
		}
		return s.promote(tx, d, groups)
	})
}

// FailDeployment ends a deployment by hand.
func (s *Server) FailDeployment(id string) (*api.DeploymentUpdateResponse, error) {
	return s.changeDeployment(id, "fail", func(tx *state.Tx, d *api.Deployment) error {
		return s.failDeployment(tx, d, "Deployment marked as failed")
	})
}

// PauseDeployment pauses a deployment or resumes it.
func (s *Server) PauseDeployment(id string, pause bool) (*api.DeploymentUpdateResponse, error) {
	return s.changeDeployment(id, "pause", func(tx *state.Tx, d *api.Deployment) error {
		d.Status, d.StatusDescription = api.DeploymentStatusRunning, "Deployment is running"
		if pause {
			d.Status, d.StatusDescription = api.DeploymentStatusPaused, "Deployment is paused"
			return tx.PutDeployment(d)
		}
		return s.advance(tx, d)
	})
}

// SetAllocHealth sets the health of a deployment's allocations by hand.
func (s *Server) SetAllocHealth(id string, req *api.DeploymentAllocHealthRequest) (*api.DeploymentUpdateResponse, error) {
	return s.changeDeployment(id, "set the health of allocations of a", func(tx *state.Tx, d *api.Deployment) error {
		tx.As("DeploymentAllocHealth")
		set := func(ids []string, healthy bool) error {
			for _, aid := range ids {
				a := tx.Alloc(aid)
				if a == nil || a.DeploymentID != id {
					return refuse("alloc %q is not part of deployment %q", aid, id)
				}
				c := *a
				c.DeploymentStatus = &api.AllocDeploymentStatus{Healthy: &healthy, Timestamp: time.Now(), ModifyIndex: tx.Index(),
					Canary: a.DeploymentStatus != nil && a.DeploymentStatus.Canary}
				if err := tx.PutAlloc(&c, false); err != nil {
					return err
				}
				if err := s.countHealth(tx, a, &c); err != nil {
					return err
				}
			}
			return nil
		}
		if err := set(req.HealthyAllocationIDs, true); err != nil {
			return err
		}
		return set(req.UnhealthyAllocationIDs, false)
	})
}
