package admission

import (
	"context"
	"maps"
	"reflect"
	"time"
)

// follow has the cluster asked whenever it tells of a change.
func (s *Scheduler) follow(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		err := s.config.Cluster.Changes(ctx, func() { failures = 0; ring(s.stale) })
		if ctx.Err() != nil {
			return
		}
		s.config.Logger.Warn("following what the cluster has: trying again", "error", err)
		if !s.pause(ctx, failures) {
			return
		}
		ring(s.stale)
	}
}

// refresh asks the cluster for all that it has when that may have changed.
func (s *Scheduler) refresh(ctx context.Context) {
	t := time.NewTicker(s.config.RefreshEvery)
	defer t.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-s.stale:
		}
		c, err := s.askCluster(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.config.Logger.Warn("asking what the cluster has: trying again", "error", err)
			if !s.pause(ctx, failures) {
				return
			}
			failures++
			ring(s.stale)
			continue
		}
		failures = 0
		s.tell(func() { s.takeIn(c) })
		settle := time.NewTimer(s.config.Settle)
		select {
		case <-ctx.Done():
			settle.Stop()
			return
		case <-settle.C:
		}
	}
}

// askCluster asks for all that the cluster has. Services come first: an instance
// of a service that is known is among the allocations.
func (s *Scheduler) askCluster(ctx context.Context) (*cluster, error) {
	services, err := s.config.Cluster.Services(ctx)
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	nodes, allocs, err := s.config.Cluster.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	return newCluster(asked, nodes, allocs, services), nil
}

// takeIn takes in what the cluster has.
func (s *Scheduler) takeIn(c *cluster) {
	for _, r := range s.rows {
		if r.Phase == Observed && c.asked.After(r.Queued) {
			s.forget(r)
			s.reopen = true
		}
	}
	before := s.cluster
	s.cluster = c
	maps.DeleteFunc(s.gone, func(_ string, at time.Time) bool { return at.Before(c.asked) })
	if before == nil {
		s.reopen = true
		return
	}
	if reflect.DeepEqual(before.nodes, c.nodes) {
		c.fleet, c.bare, c.flavors = before.fleet, before.bare, before.flavors
	}
	if s.state == nil || c.fleet == nil || !before.fits(c) || c.asked.After(s.opened.Add(reopenEvery)) {
		s.reopen = true
		return
	}
	s.followOthers(time.Now().UTC())
}
