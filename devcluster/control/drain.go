package control

import (
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// DrainNode starts a drain, or with a nil spec ends one.
func (s *Server) DrainNode(id string, req *api.NodeUpdateDrainRequest) (*api.NodeDrainUpdateResponse, error) {
	resp := &api.NodeDrainUpdateResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("NodeDrain")
		n := tx.Node(id)
		if n == nil {
			return notFound("node not found")
		}
		now := time.Now().UTC()
		c := *n
		if req.DrainSpec == nil {
			c.Drain, c.DrainStrategy = false, nil
			if req.MarkEligible {
				c.SchedulingEligibility = api.NodeSchedulingEligible
			}
			if n.LastDrain != nil && n.DrainStrategy != nil {
				c.LastDrain = lastDrain(n.LastDrain, api.DrainStatusCanceled, now)
			}
			c.Events = addNodeEvent(n.Events, "Drain", "Node drain disabled", tx.Index())
		} else {
			c.Drain, c.SchedulingEligibility = true, api.NodeSchedulingIneligible
			c.DrainStrategy = &api.DrainStrategy{DrainSpec: *req.DrainSpec, StartedAt: now}
			if d := req.DrainSpec.Deadline; d > 0 {
				c.DrainStrategy.ForceDeadline = now.Add(d)
			}
			c.LastDrain = &api.DrainMetadata{StartedAt: now, UpdatedAt: now, Status: api.DrainStatusDraining, Meta: req.Meta}
			c.Events = addNodeEvent(n.Events, "Drain", "Node drain strategy set", tx.Index())
		}
		if err := tx.PutNode(&c); err != nil {
			return err
		}
		s.capacityChanged(tx)
		if req.DrainSpec == nil {
			var err error
			resp.EvalIDs, err = s.evaluateNode(tx, &c, triggerNode)
			resp.EvalCreateIndex = tx.Index()
			return err
		}
		return nil
	})
	resp.NodeModifyIndex, resp.LastIndex = index, index
	return resp, err
}

func lastDrain(d *api.DrainMetadata, status api.DrainStatus, now time.Time) *api.DrainMetadata {
	c := *d
	c.Status, c.UpdatedAt = status, now
	return &c
}

// checkDrains moves drains on: it has allocations migrated as fast as their
// groups allow, lets batch work finish until the deadline, and ends a drain
// when nothing is left.
func (s *Server) checkDrains(now time.Time) (due time.Time, err error) {
	var draining []string
	s.store.View(func(r state.Reader) {
		for _, n := range r.Nodes() {
			if d := n.DrainStrategy; d != nil {
				draining = append(draining, n.ID)
				if f := d.ForceDeadline; !f.IsZero() && f.After(now) && (due.IsZero() || f.Before(due)) {
					due = f
				}
			}
		}
	})
	for _, id := range draining {
		if err := s.drain(id, now); err != nil {
			return due, err
		}
	}
	return due, nil
}

func (s *Server) drain(id string, now time.Time) error {
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("AllocationUpdateDesiredStatus")
		n := tx.Node(id)
		if n == nil || n.DrainStrategy == nil {
			return nil
		}
		d := n.DrainStrategy
		force := d.Deadline < 0 || !d.ForceDeadline.IsZero() && !now.Before(d.ForceDeadline)
		var remaining, system []*api.Allocation
		for _, a := range tx.LiveAllocsOn(id) {
			switch {
			case *a.Job.Type == scheduler.System:
				system = append(system, a)
			default:
				remaining = append(remaining, a)
			}
		}
		move := pickMigrations(tx.Reader, remaining, force)
		if len(remaining) == 0 && !d.IgnoreSystemJobs {
			move = append(move, withoutMigrate(system)...)
		}
		jobs := map[string]*api.Job{}
		for _, a := range move {
			c := *a
			c.DesiredTransition.Migrate = ptr(true)
			if err := tx.PutAlloc(&c, false); err != nil {
				return err
			}
			jobs[state.Key(a.Namespace, a.JobID)] = a.Job
		}
		for _, j := range jobs {
			e := newEval(j, triggerDrain)
			e.NodeID = id
			if err := tx.PutEval(e); err != nil {
				return err
			}
		}
		if len(remaining) > 0 || !d.IgnoreSystemJobs && len(system) > 0 {
			return nil
		}
		tx.As("NodeDrain")
		c := *n
		c.Drain, c.DrainStrategy = false, nil
		c.LastDrain = lastDrain(n.LastDrain, api.DrainStatusComplete, now.UTC())
		c.Events = addNodeEvent(n.Events, "Drain", "Node drain complete", tx.Index())
		return tx.PutNode(&c)
	})
	return err
}

func withoutMigrate(allocs []*api.Allocation) (list []*api.Allocation) {
	for _, a := range allocs {
		if !deref(a.DesiredTransition.Migrate) && !scheduler.ServerTerminal(a) {
			list = append(list, a)
		}
	}
	return list
}

// pickMigrations chooses what to migrate next: of each group no more at a
// time than its migrate block allows.
func pickMigrations(r state.Reader, allocs []*api.Allocation, force bool) (move []*api.Allocation) {
	moving := map[string]int{}
	for _, a := range withoutMigrate(allocs) {
		if force {
			move = append(move, a)
			continue
		}
		if *a.Job.Type == scheduler.Batch || *a.Job.Type == scheduler.SysBatch {
			continue // until the deadline
		}
		tg := groupNamed(a.Job, a.TaskGroup)
		key := state.Key(a.Namespace, a.JobID, a.TaskGroup)
		if _, counted := moving[key]; !counted {
			moving[key] = inMotion(r, a)
		}
		limit := 1
		if tg != nil && tg.Migrate != nil && tg.Migrate.MaxParallel != nil {
			limit = *tg.Migrate.MaxParallel
		}
		if moving[key] < limit {
			moving[key]++
			move = append(move, a)
		}
	}
	return move
}

// inMotion counts a group's allocations that are being migrated, or whose
// replacements do not run well yet.
func inMotion(r state.Reader, of *api.Allocation) int {
	total := 0
	for _, a := range r.AllocsOfJob(of.Namespace, of.JobID) {
		if a.TaskGroup != of.TaskGroup {
			continue
		}
		if deref(a.DesiredTransition.Migrate) {
			if next := r.Alloc(a.NextAllocation); next == nil {
				if !scheduler.ClientTerminal(a) {
					total++
				}
			} else if !scheduler.ClientTerminal(next) && next.ClientStatus != api.AllocClientStatusRunning ||
				next.ClientStatus == api.AllocClientStatusRunning && (next.DeploymentStatus == nil || next.DeploymentStatus.Healthy == nil) {
				total++
			}
		}
	}
	return total
}
