package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/failover"
)

// Incidents tells what happened to GPUs. *run.Engine does.
type Incidents interface {
	Incidents(ctx context.Context, f failover.Filter) ([]failover.Incident, error)
	Incident(ctx context.Context, id string) (failover.Incident, error)
}

// IncidentPage is a page of incidents, the newest first.
type IncidentPage struct {
	Incidents []failover.Incident `json:"incidents"`
	Next      string              `json:"next,omitempty" doc:"Give it as before to get the next page; empty on the last one"`
}

func (s *server) registerIncidents(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "list-incidents", Method: http.MethodGet, Path: "/v1/incidents", Tags: []string{"platform"},
		Summary:     "List incidents of GPUs, the newest first",
		Description: "An incident is a fault of a GPU, or a part of one, with what became of the tasks there. Those of all workspaces are listed.",
	}, s.listIncidents)
	huma.Register(api, huma.Operation{
		OperationID: "get-incident", Method: http.MethodGet, Path: "/v1/incidents/{id}", Tags: []string{"platform"},
		Summary: "Get an incident",
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" minLength:"1" maxLength:"32" pattern:"^[a-z0-9]+$" doc:"The incident"`
	}) (*struct{ Body failover.Incident }, error) {
		i, err := s.cfg.Incidents.Incident(ctx, in.ID)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &struct{ Body failover.Incident }{i}, nil
	})
}

func (s *server) listIncidents(ctx context.Context, in *struct {
	Device string `query:"device" maxLength:"256" doc:"Only those of the device with this ID, or whose ID begins so"`
	Node   string `query:"node" maxLength:"256" doc:"Only those of the node with this name or ID"`
	Open   bool   `query:"open" doc:"Only those that go on"`
	Limit  int    `query:"limit" minimum:"1" maximum:"999" default:"100" doc:"Incidents a page"`
	Before string `query:"before" maxLength:"32" doc:"Only incidents older than this one"`
}) (*struct{ Body IncidentPage }, error) {
	all, err := s.cfg.Incidents.Incidents(ctx, failover.Filter{
		Device: in.Device, Node: in.Node, Open: in.Open, Limit: in.Limit + 1, Before: in.Before,
	})
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body IncidentPage }{}
	if len(all) > in.Limit {
		all = all[:in.Limit]
		out.Body.Next = all[in.Limit-1].ID
	}
	out.Body.Incidents = all
	if all == nil {
		out.Body.Incidents = []failover.Incident{}
	}
	return out, nil
}
