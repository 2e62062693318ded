package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Workspaces is who may use how much of the cluster. *workspace.Service is one.
type Workspaces interface {
	Current() workspace.Stored
	Status(ctx context.Context, name string) (workspace.Status, error)
	Plan(ctx context.Context, d workspace.Definitions) (workspace.Plan, error)
	Apply(ctx context.Context, d workspace.Definitions, version int64, by string) (workspace.Plan, error)
	Delete(ctx context.Context, name, by string) (workspace.Plan, error)
}

// maxDefinitions limits definitions in a request, in bytes.
const maxDefinitions = 8 << 20

// WorkspacePlanRequest is definitions to compare with those that hold.
type WorkspacePlanRequest struct {
	Definitions workspace.Definitions `json:"definitions"`
}

// WorkspaceApplyRequest is definitions that are to hold.
type WorkspaceApplyRequest struct {
	Version     int64                 `json:"version" minimum:"0" doc:"The version that they take the place of; 0 if there is none"`
	Definitions workspace.Definitions `json:"definitions"`
}

// WorkspacePath names a workspace.
type WorkspacePath struct {
	Workspace string `path:"workspace" pattern:"^[A-Za-z0-9][A-Za-z0-9_-]*$" maxLength:"63" doc:"The workspace"`
}

// amount stands for workspace.Amount in the OpenAPI document.
type amount struct{}

func (amount) Schema(huma.Registry) *huma.Schema {
	least, most := 0.0, float64(queue.MaxAmount)/float64(queue.One)
	return &huma.Schema{Type: huma.TypeNumber, Minimum: &least, Maximum: &most, Description: "A number with three decimals at most"}
}

// duration stands for workspace.Duration in the OpenAPI document.
type duration struct{}

func (duration) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: `^([0-9]{1,9}(\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h)){1,6}$`, PatternDescription: "a duration such as 1h30m",
		Examples: []any{"1h30m"},
	}
}

func (s *server) registerWorkspaces(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "get-workspaces", Method: http.MethodGet, Path: "/v1/workspaces", Tags: []string{"workspaces"},
		Summary:     "Get the definitions of all workspaces, cohorts, flavors and priority classes",
		Description: "Version 0 means that nothing was ever declared: workspaces have no limits then.",
	}, func(context.Context, *struct{}) (*struct{ Body workspace.Stored }, error) {
		return &struct{ Body workspace.Stored }{s.cfg.Workspaces.Current()}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "put-workspaces", Method: http.MethodPut, Path: "/v1/workspaces", Tags: []string{"workspaces"},
		Summary: "Replace all definitions", MaxBodyBytes: maxDefinitions,
		Description: "All or nothing. It is refused with 409 if another version than the given one holds: get them again, or plan again, and decide anew. " +
			"Definitions that hold already change nothing, and their version stays.",
	}, func(ctx context.Context, in *struct{ Body WorkspaceApplyRequest }) (*struct{ Body workspace.Plan }, error) {
		plan, err := s.cfg.Workspaces.Apply(ctx, in.Body.Definitions, in.Body.Version, userOf(ctx))
		return s.workspacePlan(ctx, plan, err)
	})
	huma.Register(api, huma.Operation{
		OperationID: "plan-workspaces", Method: http.MethodPost, Path: "/v1/workspaces/plan", Tags: []string{"workspaces"},
		Summary: "Say what replacing all definitions would change", MaxBodyBytes: maxDefinitions,
	}, func(ctx context.Context, in *struct{ Body WorkspacePlanRequest }) (*struct{ Body workspace.Plan }, error) {
		plan, err := s.cfg.Workspaces.Plan(ctx, in.Body.Definitions)
		return s.workspacePlan(ctx, plan, err)
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-workspace", Method: http.MethodGet, Path: "/v1/workspaces/{workspace}", Tags: []string{"workspaces"},
		Summary:     "Get a workspace with what it uses",
		Description: "Quotas are those of this moment, as schedules make them. A workspace that nobody declared is not found, and has no limits.",
	}, func(ctx context.Context, in *WorkspacePath) (*struct{ Body workspace.Status }, error) {
		status, err := s.cfg.Workspaces.Status(ctx, in.Workspace)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &struct{ Body workspace.Status }{status}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "delete-workspace", Method: http.MethodDelete, Path: "/v1/workspaces/{workspace}", Tags: []string{"workspaces"},
		Summary: "Remove a workspace's definition", DefaultStatus: http.StatusOK,
		Description: "What runs in it goes on. It is a workspace without limits then, as all that nobody declares.",
	}, func(ctx context.Context, in *WorkspacePath) (*struct{ Body workspace.Plan }, error) {
		plan, err := s.cfg.Workspaces.Delete(ctx, in.Workspace, userOf(ctx))
		return s.workspacePlan(ctx, plan, err)
	})
}

// workspacePlan answers with a plan, or with what is wrong with definitions.
func (s *server) workspacePlan(ctx context.Context, plan workspace.Plan, err error) (*struct{ Body workspace.Plan }, error) {
	var bad *workspace.InvalidError
	switch {
	case errors.As(err, &bad):
		p := invalid("The definitions have problems.")
		for _, x := range bad.Problems {
			if !x.Warning {
				p.Add(&huma.ErrorDetail{Location: "body.definitions." + x.Path, Message: x.Summary + ": " + x.Detail})
			}
		}
		return nil, p
	case err != nil:
		return nil, s.problem(ctx, err)
	}
	return &struct{ Body workspace.Plan }{plan}, nil
}
