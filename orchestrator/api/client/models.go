package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Models lists the workspace's models by name.
func (c *Client) Models(ctx context.Context) ([]registry.Model, error) {
	return all(func(q url.Values) ([]registry.Model, string, error) {
		var page api.ModelPage
		err := c.do(ctx, request{method: http.MethodGet, path: "/v1/models", query: c.inWorkspace(q)}, &page)
		return page.Models, page.Next, err
	})
}

// Model returns a model with its aliases.
func (c *Client) Model(ctx context.Context, name string) (registry.Model, error) {
	var m registry.Model
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/models/" + segment(name), query: c.inWorkspace(nil)}, &m)
	return m, err
}

// Versions lists a model's versions, the newest first.
func (c *Client) Versions(ctx context.Context, model string) ([]registry.Version, error) {
	return all(func(q url.Values) ([]registry.Version, string, error) {
		var page api.VersionPage
		err := c.do(ctx, request{method: http.MethodGet, path: "/v1/models/" + segment(model) + "/versions", query: c.inWorkspace(q)}, &page)
		return page.Versions, page.Next, err
	})
}

// AliasMoves is the history of a model's aliases, the newest first.
func (c *Client) AliasMoves(ctx context.Context, model string) ([]registry.AliasMove, error) {
	return all(func(q url.Values) ([]registry.AliasMove, string, error) {
		var page api.AliasMovePage
		err := c.do(ctx, request{method: http.MethodGet, path: "/v1/models/" + segment(model) + "/aliases/history", query: c.inWorkspace(q)}, &page)
		return page.Moves, page.Next, err
	})
}

// SetAlias points an alias at a version, for a reason that the history keeps.
func (c *Client) SetAlias(ctx context.Context, model, alias string, version int, reason string) (registry.AliasMove, error) {
	var m registry.AliasMove
	err := c.do(ctx, request{method: http.MethodPut, path: aliasPath(model, alias), query: c.inWorkspace(nil),
		body: api.AliasTarget{Version: version, Reason: reason}}, &m)
	return m, err
}

// DeleteAlias removes an alias.
func (c *Client) DeleteAlias(ctx context.Context, model, alias string) (registry.AliasMove, error) {
	var m registry.AliasMove
	err := c.do(ctx, request{method: http.MethodDelete, path: aliasPath(model, alias), query: c.inWorkspace(nil)}, &m)
	return m, err
}

func aliasPath(model, alias string) string {
	return "/v1/models/" + segment(model) + "/aliases/" + segment(alias)
}

// Endpoints lists the workspace's endpoints by name.
func (c *Client) Endpoints(ctx context.Context) ([]registry.Endpoint, error) {
	return all(func(q url.Values) ([]registry.Endpoint, string, error) {
		var page api.EndpointPage
		err := c.do(ctx, request{method: http.MethodGet, path: "/v1/endpoints", query: c.inWorkspace(q)}, &page)
		return page.Endpoints, page.Next, err
	})
}

// Endpoint returns one endpoint.
func (c *Client) Endpoint(ctx context.Context, name string) (registry.Endpoint, error) {
	var e registry.Endpoint
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/endpoints/" + segment(name), query: c.inWorkspace(nil)}, &e)
	return e, err
}

// DeleteEndpoint stops an endpoint's instances and forgets it.
func (c *Client) DeleteEndpoint(ctx context.Context, name string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/v1/endpoints/" + segment(name), query: c.inWorkspace(nil)}, nil)
}

// all reads every page of a listing.
func all[T any](get func(q url.Values) ([]T, string, error)) ([]T, error) {
	var items []T
	for after := ""; ; {
		q := url.Values{"limit": {"1000"}}
		setText(q, "after", after)
		page, next, err := get(q)
		if err != nil {
			return nil, err
		}
		items = append(items, page...)
		if next == "" {
			return items, nil
		}
		after = next
	}
}

func decode(r io.Reader, v any, what string) error {
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	return nil
}
