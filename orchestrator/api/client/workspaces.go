package client

import (
	"context"
	"net/http"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Workspaces returns the definitions of all workspaces.
func (c *Client) Workspaces(ctx context.Context) (workspace.Stored, error) {
	var s workspace.Stored
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/workspaces"}, &s)
	return s, err
}

// WorkspaceStatus returns how a declared workspace stands.
func (c *Client) WorkspaceStatus(ctx context.Context, name string) (workspace.Status, error) {
	var s workspace.Status
	err := c.do(ctx, request{method: http.MethodGet, path: workspacePath(name)}, &s)
	return s, err
}

// PlanWorkspaces says what applying definitions would change.
func (c *Client) PlanWorkspaces(ctx context.Context, d workspace.Definitions) (workspace.Plan, error) {
	var p workspace.Plan
	err := c.do(ctx, request{method: http.MethodPost, path: "/v1/workspaces/plan", body: api.WorkspacePlanRequest{Definitions: d}, again: true}, &p)
	return p, err
}

// ApplyWorkspaces replaces the definitions of a version, all of them or none.
// IsConflict tells that another version holds.
func (c *Client) ApplyWorkspaces(ctx context.Context, d workspace.Definitions, version int64) (workspace.Plan, error) {
	var p workspace.Plan
	body := api.WorkspaceApplyRequest{Version: version, Definitions: d}
	err := c.do(ctx, request{method: http.MethodPut, path: "/v1/workspaces", body: body}, &p)
	return p, err
}

// DeleteWorkspace removes a workspace's definition.
func (c *Client) DeleteWorkspace(ctx context.Context, name string) (workspace.Plan, error) {
	var p workspace.Plan
	err := c.do(ctx, request{method: http.MethodDelete, path: workspacePath(name)}, &p)
	return p, err
}

func workspacePath(name string) string { return "/v1/workspaces/" + segment(name) }
