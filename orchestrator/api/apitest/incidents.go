package apitest

import (
	"context"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/problem"
)

// AddIncident puts an incident into the world, newer than those there are.
func (w *World) AddIncident(i failover.Incident) *World {
	w.incidents = append(w.incidents, i)
	return w
}

// Incidents lists incidents, the newest first.
func (w *World) Incidents(_ context.Context, f failover.Filter) ([]failover.Incident, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []failover.Incident
	older := f.Before == ""
	for _, i := range slices.Backward(w.incidents) {
		if older && strings.HasPrefix(i.Device, f.Device) && (f.Node == "" || f.Node == i.NodeName || f.Node == i.NodeID) &&
			(!f.Open || i.Ended == nil) && len(out) < f.Limit {
			out = append(out, i)
		}
		older = older || i.ID == f.Before
	}
	return out, w.Fail
}

// Incident returns an incident.
func (w *World) Incident(_ context.Context, id string) (failover.Incident, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.incidents {
		if i.ID == id {
			return i, w.Fail
		}
	}
	return failover.Incident{}, problem.New(problem.NotFound, "there is no incident %q", id)
}
