package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/registry"
)

// EndpointPage is a page of endpoints, by name.
type EndpointPage struct {
	Endpoints []registry.Endpoint `json:"endpoints"`
	Next      string              `json:"next,omitempty"`
}

// EndpointPath names an endpoint.
type EndpointPath struct {
	WorkspaceQuery
	Endpoint string `path:"endpoint" minLength:"1" maxLength:"128" doc:"The endpoint"`
}

func (s *server) registerEndpoints(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "list-endpoints", Method: http.MethodGet, Path: "/v1/endpoints", Tags: []string{"endpoints"},
		Summary: "List endpoints",
	}, s.listEndpoints)
	huma.Register(api, huma.Operation{
		OperationID: "get-endpoint", Method: http.MethodGet, Path: "/v1/endpoints/{endpoint}", Tags: []string{"endpoints"},
		Summary: "Get an endpoint",
	}, func(ctx context.Context, in *EndpointPath) (*struct{ Body registry.Endpoint }, error) {
		e, err := s.cfg.Endpoints.Endpoint(ctx, in.Workspace, in.Endpoint)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &struct{ Body registry.Endpoint }{e}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "delete-endpoint", Method: http.MethodDelete, Path: "/v1/endpoints/{endpoint}", Tags: []string{"endpoints"},
		Summary: "Stop an endpoint's instances and forget it",
	}, func(ctx context.Context, in *EndpointPath) (*struct{}, error) {
		if err := s.cfg.Endpoints.DeleteEndpoint(ctx, in.Workspace, in.Endpoint, userOf(ctx)); err != nil {
			return nil, s.problem(ctx, err)
		}
		return nil, nil
	})
}

func (s *server) listEndpoints(ctx context.Context, in *struct {
	WorkspaceQuery
	PageQuery
}) (*struct{ Body EndpointPage }, error) {
	endpoints, err := s.cfg.Endpoints.Endpoints(ctx, in.Workspace)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body EndpointPage }{}
	out.Body.Endpoints, out.Body.Next = page(endpoints, in.PageQuery, func(e registry.Endpoint) string { return e.Name })
	return out, nil
}
