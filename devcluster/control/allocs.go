package control

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// NodeAllocs waits until allocations have changed since index, or ctx ends,
// and returns those that hold resources of a node, with the index to wait for
// next. One that the client still runs and that is not among them has to be
// stopped: it counts as lost, or was forgotten.
func (s *Server) NodeAllocs(ctx context.Context, nodeID string, index uint64) (allocs []*api.Allocation, next uint64, err error) {
	ok := s.store.Await(ctx, func(r state.Reader) bool {
		if next = r.TableIndex(state.Allocs); next <= index {
			return false
		}
		allocs = slices.Collect(maps.Values(r.LiveAllocsOn(nodeID)))
		return true
	})
	if !ok {
		return nil, index, ctx.Err()
	}
	return allocs, next, nil
}

// Alloc returns an allocation, or nil.
func (s *Server) Alloc(id string) (a *api.Allocation) {
	s.store.View(func(r state.Reader) { a = r.Alloc(id) })
	return a
}

// UpdateAllocs takes what a client reports of its allocations: status, task
// states, health in a deployment.
func (s *Server) UpdateAllocs(updates []*api.Allocation) error {
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("AllocationUpdated")
		jobs := map[string]*api.Allocation{}
		for _, u := range updates {
			old := tx.Alloc(u.ID)
			if old == nil {
				continue // collected meanwhile
			}
			if err := s.updateAlloc(tx, old, u); err != nil {
				return err
			}
			jobs[state.Key(old.Namespace, old.JobID)] = old
		}
		for _, a := range jobs {
			if err := s.refreshJob(tx, a.Namespace, a.JobID); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func (s *Server) updateAlloc(tx *state.Tx, old, u *api.Allocation) error {
	c := *old
	if old.ClientStatus != api.AllocClientStatusLost || scheduler.ClientTerminal(u) {
		// A lost allocation that runs again is being stopped: it stays lost
		// until it has ended.
		c.ClientStatus, c.ClientDescription = u.ClientStatus, u.ClientDescription
	}
	c.TaskStates, c.NetworkStatus = u.TaskStates, u.NetworkStatus
	c.ModifyTime = time.Now().UnixNano()
	healthChanged := u.DeploymentStatus != nil && u.DeploymentStatus.Healthy != nil && u.DeploymentID == old.DeploymentID &&
		(old.DeploymentStatus == nil || old.DeploymentStatus.Healthy == nil || *old.DeploymentStatus.Healthy != *u.DeploymentStatus.Healthy)
	if healthChanged {
		h := *u.DeploymentStatus
		h.Canary = old.DeploymentStatus != nil && old.DeploymentStatus.Canary
		h.ModifyIndex = tx.Index()
		c.DeploymentStatus = &h
	}
	if err := tx.PutAlloc(&c, true); err != nil {
		return err
	}
	ended := scheduler.ClientTerminal(&c) && !scheduler.ClientTerminal(old)
	if ended {
		s.capacityChanged(tx)
		if err := s.dropServices(tx, c.ID); err != nil {
			return err
		}
		if err := s.evaluateEnded(tx, &c); err != nil {
			return err
		}
	}
	if healthChanged {
		return s.countHealth(tx, old, &c)
	}
	return nil
}

// evaluateEnded has the job of an allocation that ended looked at, if the
// allocation may have to be replaced.
func (s *Server) evaluateEnded(tx *state.Tx, a *api.Allocation) error {
	job := tx.Job(a.Namespace, a.JobID)
	if job == nil || *job.Stop || scheduler.ServerTerminal(a) {
		return nil
	}
	if a.ClientStatus != api.AllocClientStatusFailed && *job.Type != scheduler.Service && *job.Type != scheduler.System {
		return nil
	}
	for _, e := range tx.EvalsOfJob(a.Namespace, a.JobID) {
		if e.Status == evalPending && e.TriggeredBy == triggerFailure && e.WaitUntil.IsZero() {
			return nil // it will see this one too
		}
	}
	return tx.PutEval(newEval(job, triggerFailure))
}

// StopAlloc stops an allocation; its job's scheduler replaces it.
func (s *Server) StopAlloc(id string, noShutdownDelay bool) (evalID string, index uint64, err error) {
	index, err = s.store.Update(func(tx *state.Tx) error {
		tx.As("AllocationUpdateDesiredStatus")
		a := tx.Alloc(id)
		if a == nil {
			return notFound("allocation not found")
		}
		e := newEval(a.Job, triggerAllocStop)
		if job := tx.Job(a.Namespace, a.JobID); job != nil {
			e = newEval(job, triggerAllocStop)
		}
		evalID = e.ID
		c := *a
		c.DesiredTransition.Migrate = ptr(true)
		if noShutdownDelay {
			c.DesiredTransition.NoShutdownDelay = ptr(true)
		}
		if err := tx.PutAlloc(&c, false); err != nil {
			return err
		}
		return tx.PutEval(e)
	})
	return evalID, index, err
}

// RegisterServices stores services of running allocations.
func (s *Server) RegisterServices(regs []*api.ServiceRegistration) error {
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("ServiceRegistration")
		for _, r := range regs {
			a := tx.Alloc(r.AllocID)
			if a == nil || scheduler.ClientTerminal(a) {
				continue // it ended while the request was on its way
			}
			old := tx.Service(r.ID)
			if old != nil && old.Address == r.Address && old.Port == r.Port && slices.Equal(old.Tags, r.Tags) {
				continue
			}
			c := *r
			if err := tx.PutService(&c); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// DeregisterServices forgets the services of an allocation with the given
// IDs, or all of them if ids is nil.
func (s *Server) DeregisterServices(allocID string, ids []string) error {
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("ServiceDeregistration")
		for _, r := range tx.ServicesOfAlloc(allocID) {
			if ids == nil || slices.Contains(ids, r.ID) {
				if err := tx.DeleteService(r); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return err
}

// DeregisterService forgets one registration by hand.
func (s *Server) DeregisterService(namespace, name, id string) (uint64, error) {
	return s.store.Update(func(tx *state.Tx) error {
		tx.As("ServiceDeregistration")
		r := tx.Service(id)
		if r == nil || r.Namespace != namespace || r.ServiceName != name {
			return notFound("service registration not found")
		}
		return tx.DeleteService(r)
	})
}

func (s *Server) dropServices(tx *state.Tx, allocID string) error {
	for _, r := range tx.ServicesOfAlloc(allocID) {
		if err := tx.DeleteService(r); err != nil {
			return err
		}
	}
	return nil
}
