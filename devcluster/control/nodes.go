package control

import (
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// keptNodeEvents is how many events of a node are kept.
const keptNodeEvents = 10

// RegisterNode stores a node as its client describes it, now ready. What the
// server decides about nodes (eligibility, drain) is kept.
func (s *Server) RegisterNode(n *api.Node) error {
	s.beat(n.ID)
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("NodeRegistration")
		c := *n
		c.Status, c.StatusDescription = api.NodeStatusReady, ""
		old := tx.Node(n.ID)
		message := "Node registered"
		if old != nil {
			c.SchedulingEligibility, c.Drain, c.DrainStrategy = old.SchedulingEligibility, old.Drain, old.DrainStrategy
			c.LastDrain, c.Events, c.CreateIndex = old.LastDrain, old.Events, old.CreateIndex
			c.StatusUpdatedAt = old.StatusUpdatedAt
			message = "Node re-registered"
		} else {
			c.SchedulingEligibility = api.NodeSchedulingEligible
		}
		if old == nil || old.Status != api.NodeStatusReady {
			c.StatusUpdatedAt = time.Now().Unix()
			c.Events = addNodeEvent(c.Events, "Cluster", message, tx.Index())
		}
		if tx.NodePool(c.NodePool) == nil {
			if err := tx.PutNodePool(&api.NodePool{Name: c.NodePool}); err != nil {
				return err
			}
		}
		if err := tx.PutNode(&c); err != nil {
			return err
		}
		s.capacityChanged(tx)
		if old == nil || old.Status != api.NodeStatusReady {
			_, err := s.evaluateNode(tx, &c, triggerNode)
			return err
		}
		return nil
	})
	return err
}

func addNodeEvent(events []*api.NodeEvent, subsystem, message string, index uint64) []*api.NodeEvent {
	events = append(slices.Clone(events), &api.NodeEvent{
		Subsystem: subsystem, Message: message, Timestamp: time.Now(), CreateIndex: index})
	return events[max(0, len(events)-keptNodeEvents):]
}

// evaluateNode creates evaluations for all jobs that a change of a node
// concerns: those with allocations there, and system jobs.
func (s *Server) evaluateNode(tx *state.Tx, n *api.Node, trigger string) ([]string, error) {
	concerned := map[string]*api.Job{}
	for _, a := range tx.LiveAllocsOn(n.ID) {
		concerned[state.Key(a.Namespace, a.JobID)] = a.Job
	}
	for _, j := range tx.Jobs() {
		if (*j.Type == scheduler.System || *j.Type == scheduler.SysBatch) && !*j.Stop && !j.IsPeriodic() && !j.IsParameterized() {
			concerned[state.Key(*j.Namespace, *j.ID)] = j
		}
	}
	var ids []string
	for _, j := range concerned {
		e := newEval(j, trigger)
		e.NodeID, e.NodeModifyIndex = n.ID, tx.Index()
		ids = append(ids, e.ID)
		if err := tx.PutEval(e); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// Heartbeat says that a node is alive. It returns false if the node is not
// known or counts as down, so that the client registers again.
func (s *Server) Heartbeat(nodeID string) bool {
	s.beat(nodeID)
	ready := false
	s.store.View(func(r state.Reader) {
		n := r.Node(nodeID)
		ready = n != nil && n.Status == api.NodeStatusReady
	})
	return ready
}

func (s *Server) beat(nodeID string) {
	s.mu.Lock()
	s.lastSeen[nodeID] = time.Now()
	s.mu.Unlock()
}

// checkHeartbeats marks nodes that were silent for too long as down.
func (s *Server) checkHeartbeats(now time.Time) (due time.Time, err error) {
	var silent []string
	s.mu.Lock()
	seen := make(map[string]time.Time, len(s.lastSeen))
	for id, t := range s.lastSeen {
		seen[id] = t
	}
	s.mu.Unlock()
	s.store.View(func(r state.Reader) {
		for _, n := range r.Nodes() {
			if n.Status == api.NodeStatusDown {
				continue
			}
			deadline := seen[n.ID].Add(s.ttl)
			if !now.Before(deadline) {
				silent = append(silent, n.ID)
			} else if due.IsZero() || deadline.Before(due) {
				due = deadline
			}
		}
	})
	for _, id := range silent {
		if err := s.markDown(id); err != nil {
			return due, err
		}
	}
	return due, nil
}

func (s *Server) markDown(id string) error {
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("NodeStreamEvent")
		n := tx.Node(id)
		if n == nil || n.Status == api.NodeStatusDown {
			return nil
		}
		c := *n
		c.Status, c.StatusUpdatedAt = api.NodeStatusDown, time.Now().Unix()
		c.Events = addNodeEvent(n.Events, "Cluster", "Node heartbeat missed", tx.Index())
		if err := tx.PutNode(&c); err != nil {
			return err
		}
		for _, a := range tx.LiveAllocsOn(id) {
			if err := s.dropServices(tx, a.ID); err != nil {
				return err
			}
		}
		s.capacityChanged(tx)
		_, err := s.evaluateNode(tx, &c, triggerNode)
		return err
	})
	return err
}

// EvaluateNode has all jobs of a node scheduled again.
func (s *Server) EvaluateNode(id string) (ids []string, index uint64, err error) {
	index, err = s.store.Update(func(tx *state.Tx) error {
		tx.As("EvaluationUpdated")
		n := tx.Node(id)
		if n == nil {
			return notFound("node not found")
		}
		ids, err = s.evaluateNode(tx, n, triggerNode)
		return err
	})
	return ids, index, err
}

// SetEligibility allows or forbids new allocations on a node.
func (s *Server) SetEligibility(id, eligibility string) (*api.NodeEligibilityUpdateResponse, error) {
	resp := &api.NodeEligibilityUpdateResponse{}
	if eligibility != api.NodeSchedulingEligible && eligibility != api.NodeSchedulingIneligible {
		return nil, invalid("invalid scheduling eligibility %q", eligibility)
	}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("NodeEligibility")
		n := tx.Node(id)
		if n == nil {
			return notFound("node not found")
		}
		if n.DrainStrategy != nil && eligibility == api.NodeSchedulingEligible {
			return refuse("can not set node's scheduling eligibility to eligible while it is draining")
		}
		c := *n
		c.SchedulingEligibility = eligibility
		word := "eligible"
		if eligibility == api.NodeSchedulingIneligible {
			word = "ineligible"
		}
		c.Events = addNodeEvent(n.Events, "Cluster", "Node marked as "+word+" for scheduling", tx.Index())
		if err := tx.PutNode(&c); err != nil {
			return err
		}
		s.capacityChanged(tx)
		if eligibility == api.NodeSchedulingEligible && n.SchedulingEligibility != eligibility {
			var err error
			if resp.EvalIDs, err = s.evaluateNode(tx, &c, triggerNode); err != nil {
				return err
			}
			resp.EvalCreateIndex = tx.Index()
		}
		return nil
	})
	resp.NodeModifyIndex, resp.LastIndex = index, index
	return resp, err
}

// PurgeNode forgets a node; what ran there is lost.
func (s *Server) PurgeNode(id string) (*api.NodePurgeResponse, error) {
	resp := &api.NodePurgeResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("NodeDeregistration")
		n := tx.Node(id)
		if n == nil {
			return notFound("node not found")
		}
		var err error
		if resp.EvalIDs, err = s.evaluateNode(tx, n, triggerNode); err != nil {
			return err
		}
		for _, a := range tx.LiveAllocsOn(id) {
			if err := s.dropServices(tx, a.ID); err != nil {
				return err
			}
		}
		s.capacityChanged(tx)
		return tx.DeleteNode(n)
	})
	resp.NodeModifyIndex, resp.EvalCreateIndex = index, index
	return resp, err
}
