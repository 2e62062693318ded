package control

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// Evaluation statuses.
const (
	evalPending   = "pending"
	evalBlocked   = "blocked"
	evalComplete  = "complete"
	evalFailed    = "failed"
	evalCancelled = "canceled"
)

// What triggers evaluations.
const (
	triggerRegister   = "job-register"
	triggerDeregister = "job-deregister"
	triggerPeriodic   = "periodic-job"
	triggerDrain      = "node-drain"
	triggerNode       = "node-update"
	triggerAllocStop  = "alloc-stop"
	triggerDeployment = "deployment-watcher"
	triggerFailure    = "alloc-failure"
	triggerQueued     = "queued-allocs"
	triggerScaling    = "job-scaling"
)

// evaluateAll evaluates what is pending and due, most important first, and
// what is blocked whenever there may be room for it.
func (s *Server) evaluateAll(ctx context.Context) {
	var tried uint64 // the capacity count that blocked evaluations were last tried at
	for ctx.Err() == nil {
		var id string
		var due time.Time
		var index uint64
		s.store.View(func(r state.Reader) {
			index = r.Index()
			id, due = nextEval(r, time.Now())
		})
		if id != "" {
			if err := s.evaluate(id); err != nil {
				s.log.Error("evaluation could not be done and will be tried again", "eval_id", id, "error", err)
				pause(ctx, time.Second)
			}
			continue
		}
		if count := s.capacityCount(); count != tried {
			tried = count
			s.tryBlocked(ctx)
			continue
		}
		waitCtx, cancel := ctx, context.CancelFunc(func() {})
		if !due.IsZero() {
			waitCtx, cancel = context.WithDeadline(ctx, due)
		}
		s.store.Await(waitCtx, func(r state.Reader) bool { return r.Index() > index })
		cancel()
	}
}

// nextEval returns the evaluation to do now, or when the next one is due.
func nextEval(r state.Reader, now time.Time) (id string, due time.Time) {
	var best *api.Evaluation
	for _, e := range r.EvalsWithStatus(evalPending) {
		if e.WaitUntil.After(now) {
			if due.IsZero() || e.WaitUntil.Before(due) {
				due = e.WaitUntil
			}
			continue
		}
		if best == nil || e.Priority > best.Priority {
			best = e
		}
	}
	if best == nil {
		return "", due
	}
	return best.ID, due
}

// input gathers what an evaluation looks at.
func input(r state.Reader, e *api.Evaluation, now time.Time) scheduler.Input {
	return scheduler.Input{
		Now: now, Eval: e, Job: r.Job(e.Namespace, e.JobID), Allocs: r.AllocsOfJob(e.Namespace, e.JobID),
		Nodes: r.Nodes(), OnNode: r.LiveAllocsOn, Deployment: r.LatestDeployment(e.Namespace, e.JobID),
		// Clusters share the machine's ports, so that each must start elsewhere.
		NewID: newID, Seed: rand.Uint64(),
	}
}

// evaluate carries one evaluation out: its plan, then its own new status.
// Doing it twice is harmless: the second plan finds nothing left to do.
func (s *Server) evaluate(id string) error {
	var plan *scheduler.Plan
	var planErr error
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("PlanResult")
		e := tx.Eval(id)
		if e == nil || e.Status != evalPending && e.Status != evalBlocked {
			return nil
		}
		plan, planErr = scheduler.Evaluate(input(tx.Reader, e, time.Now()))
		if planErr != nil {
			return nil
		}
		return s.apply(tx, e, plan)
	})
	if err != nil {
		return err
	}
	_, err = s.store.Update(func(tx *state.Tx) error {
		tx.As("EvaluationUpdated")
		e := tx.Eval(id)
		if e == nil || plan == nil && planErr == nil {
			return nil
		}
		return s.conclude(tx, e, plan, planErr)
	})
	return err
}

// apply stores a plan.
func (s *Server) apply(tx *state.Tx, e *api.Evaluation, plan *scheduler.Plan) error {
	if plan.Empty() {
		return nil
	}
	planned := *e
	if err := tx.PutEval(&planned); err != nil {
		return err
	}
	for _, d := range plan.Deployments {
		if err := tx.PutDeployment(d); err != nil {
			return err
		}
	}
	for _, f := range plan.FollowUps {
		if err := tx.PutEval(f); err != nil {
			return err
		}
	}
	for _, list := range [][]*api.Allocation{plan.Stop, plan.Update, plan.Place} {
		for _, a := range list {
			if err := tx.PutAlloc(a, false); err != nil {
				return err
			}
			if a.ClientStatus == api.AllocClientStatusLost {
				if err := s.dropServices(tx, a.ID); err != nil {
					return err
				}
				s.capacityChanged(tx)
			}
		}
	}
	if err := s.linkNext(tx, plan); err != nil {
		return err
	}
	return s.refreshJob(tx, e.Namespace, e.JobID)
}

// linkNext tells allocations that are not stopped by the plan, such as failed
// ones, which allocation followed them.
func (s *Server) linkNext(tx *state.Tx, plan *scheduler.Plan) error {
	for _, a := range plan.Place {
		prev := tx.Alloc(a.PreviousAllocation)
		if prev == nil || prev.NextAllocation != "" {
			continue
		}
		c := *prev
		c.NextAllocation = a.ID
		if err := tx.PutAlloc(&c, false); err != nil {
			return err
		}
	}
	return nil
}

// conclude stores an evaluation's outcome and, if allocations remain to be
// placed, the blocked evaluation that will place them.
func (s *Server) conclude(tx *state.Tx, old *api.Evaluation, plan *scheduler.Plan, planErr error) error {
	e := *old
	if planErr != nil {
		e.Status, e.StatusDescription = evalFailed, planErr.Error()
		if err := tx.PutEval(&e); err != nil {
			return err
		}
		return s.refreshJob(tx, e.Namespace, e.JobID)
	}
	e.Status, e.StatusDescription = evalComplete, ""
	e.QueuedAllocations = map[string]int{}
	for group := range plan.Desired {
		e.QueuedAllocations[group] = plan.Queued[group]
	}
	e.FailedTGAllocs, e.ClassEligibility, e.SnapshotIndex = nil, nil, tx.Index()-1
	if len(plan.FollowUps) > 0 {
		e.NextEval = plan.FollowUps[0].ID
	}
	if len(plan.Failed) > 0 {
		e.FailedTGAllocs = plan.Failed
		if err := s.block(tx, &e); err != nil {
			return err
		}
	} else if err := s.cancelBlocked(tx, e.Namespace, e.JobID, e.ID, fmt.Sprintf("evaluation %q successful", e.ID)); err != nil {
		return err
	}
	if err := tx.PutEval(&e); err != nil {
		return err
	}
	history := *tx.History(e.Namespace, e.JobID)
	history.Queued = e.QueuedAllocations
	if tx.Job(e.Namespace, e.JobID) != nil {
		if err := tx.PutHistory(&history); err != nil {
			return err
		}
	}
	return s.refreshJob(tx, e.Namespace, e.JobID)
}

// block keeps what could not be placed waiting: e itself if it was the
// waiting one, else an evaluation that takes the place of any that waits.
func (s *Server) block(tx *state.Tx, e *api.Evaluation) error {
	if e.TriggeredBy == triggerQueued {
		// Room that came up since the plan was made has moved the capacity
		// count, so this one is tried again.
		e.Status = evalBlocked
		e.StatusDescription = "created to place remaining allocations"
		return nil
	}
	b := &api.Evaluation{
		ID: newID(), Namespace: e.Namespace, Priority: e.Priority, Type: e.Type, TriggeredBy: triggerQueued,
		JobID: e.JobID, JobModifyIndex: e.JobModifyIndex, DeploymentID: e.DeploymentID, Status: evalBlocked,
		StatusDescription: "created to place remaining allocations", PreviousEval: e.ID,
		FailedTGAllocs: e.FailedTGAllocs, QueuedAllocations: e.QueuedAllocations,
	}
	if err := s.cancelBlocked(tx, e.Namespace, e.JobID, "", fmt.Sprintf("existing blocked evaluation exists for job %q", e.JobID)); err != nil {
		return err
	}
	e.BlockedEval = b.ID
	return tx.PutEval(b)
}

func (s *Server) cancelBlocked(tx *state.Tx, namespace, job, except, why string) error {
	for _, b := range tx.EvalsOfJob(namespace, job) {
		if b.Status != evalBlocked || b.ID == except {
			continue
		}
		c := *b
		c.Status, c.StatusDescription = evalCancelled, why
		if err := tx.PutEval(&c); err != nil {
			return err
		}
	}
	return nil
}

// tryBlocked carries out the blocked evaluations that can now place
// something, the most important and oldest first. The others stay untouched.
func (s *Server) tryBlocked(ctx context.Context) {
	var ids []string
	s.store.View(func(r state.Reader) {
		blocked := r.EvalsWithStatus(evalBlocked)
		slices.SortStableFunc(blocked, func(a, b *api.Evaluation) int { return cmp.Compare(b.Priority, a.Priority) })
		for _, e := range blocked {
			ids = append(ids, e.ID)
		}
	})
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		useful := false
		s.store.View(func(r state.Reader) {
			if e := r.Eval(id); e != nil && e.Status == evalBlocked {
				plan, err := scheduler.Evaluate(input(r, e, time.Now()))
				useful = err != nil || len(plan.Failed) == 0 || !plan.Empty() || newReasons(e, plan)
			}
		})
		if !useful {
			continue
		}
		if err := s.evaluate(id); err != nil {
			s.log.Error("blocked evaluation could not be done", "eval_id", id, "error", err)
		}
	}
}

// newReasons reports whether a job waits for other reasons than are on record.
func newReasons(e *api.Evaluation, plan *scheduler.Plan) bool {
	for group, m := range plan.Failed {
		old := e.FailedTGAllocs[group]
		if old == nil || old.NodesEvaluated != m.NodesEvaluated || !sameCounts(old.ConstraintFiltered, m.ConstraintFiltered) ||
			!sameCounts(old.DimensionExhausted, m.DimensionExhausted) {
			return true
		}
	}
	return len(plan.Failed) != len(e.FailedTGAllocs)
}

func sameCounts(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// newEval makes a pending evaluation of a job.
func newEval(j *api.Job, trigger string) *api.Evaluation {
	return &api.Evaluation{ID: newID(), Namespace: *j.Namespace, Priority: *j.Priority, Type: *j.Type,
		TriggeredBy: trigger, JobID: *j.ID, JobModifyIndex: deref(j.ModifyIndex), Status: evalPending}
}

// refreshJob brings a job's status in line with its allocations and evaluations.
func (s *Server) refreshJob(tx *state.Tx, namespace, id string) error {
	j := tx.Job(namespace, id)
	if j == nil {
		return nil
	}
	if status := jobStatus(tx.Reader, j); status != deref(j.Status) {
		c := *j
		c.Status = &status
		return tx.PutJob(&c, false)
	}
	return nil
}

func jobStatus(r state.Reader, j *api.Job) string {
	if *j.Type == scheduler.System || j.IsPeriodic() || j.IsParameterized() {
		if *j.Stop {
			return "dead"
		}
		return "running"
	}
	if d := r.LatestDeployment(*j.Namespace, *j.ID); d != nil && active(d) {
		return "running"
	}
	for _, a := range r.AllocsOfJob(*j.Namespace, *j.ID) {
		if !scheduler.ClientTerminal(a) && !scheduler.ServerTerminal(a) {
			return "running"
		}
	}
	evals := r.EvalsOfJob(*j.Namespace, *j.ID)
	for _, e := range evals {
		if e.Status == evalPending || e.Status == evalBlocked {
			return "pending"
		}
	}
	if len(evals) > 0 || *j.Stop || deref(j.Status) == "dead" {
		return "dead"
	}
	return "pending"
}

func active(d *api.Deployment) bool {
	switch d.Status {
	case api.DeploymentStatusSuccessful, api.DeploymentStatusFailed, api.DeploymentStatusCancelled:
		return false
	}
	return true
}
