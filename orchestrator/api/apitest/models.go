package apitest

import (
	"context"
	"slices"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Models lists models.
func (w *World) Models(_ context.Context, workspace string) ([]registry.Model, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []registry.Model
	for _, m := range w.models {
		if m.Workspace == workspace {
			out = append(out, m)
		}
	}
	return out, w.Fail
}

// Model returns a model.
func (w *World) Model(ctx context.Context, workspace, name string) (registry.Model, error) {
	models, err := w.Models(ctx, workspace)
	if err != nil {
		return registry.Model{}, err
	}
	i := slices.IndexFunc(models, func(m registry.Model) bool { return m.Name == name })
	if i < 0 {
		return registry.Model{}, problem.New(problem.NotFound, "workspace %q has no model %q", workspace, name)
	}
	return models[i], nil
}

// Versions lists a model's versions, the newest first.
func (w *World) Versions(ctx context.Context, workspace, model string) ([]registry.Version, error) {
	if _, err := w.Model(ctx, workspace, model); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []registry.Version
	for _, v := range w.versions {
		if v.Workspace == workspace && v.Model == model {
			out = append(out, v)
		}
	}
	return out, nil
}

// MoveAlias moves an alias.
func (w *World) MoveAlias(ctx context.Context, m registry.AliasMove) (registry.AliasMove, error) {
	versions, err := w.Versions(ctx, m.Workspace, m.Model)
	if err != nil {
		return m, err
	}
	if m.To > 0 && !slices.ContainsFunc(versions, func(v registry.Version) bool { return v.Number == m.To }) {
		return m, problem.New(problem.NotFound, "model %q has no version %d", m.Model, m.To)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, model := range w.models {
		if model.Name == m.Model {
			m.From, m.At = model.Aliases[m.Alias], Epoch
			model.Aliases[m.Alias] = m.To
		}
	}
	w.moves = append([]registry.AliasMove{m}, w.moves...)
	return m, nil
}

// AliasMoves lists moves, the newest first.
func (w *World) AliasMoves(ctx context.Context, workspace, model string) ([]registry.AliasMove, error) {
	if _, err := w.Model(ctx, workspace, model); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.moves), nil
}

// Endpoints lists endpoints.
func (w *World) Endpoints(_ context.Context, workspace string) ([]registry.Endpoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []registry.Endpoint
	for _, e := range w.endpoints {
		if e.Workspace == workspace {
			out = append(out, e)
		}
	}
	return out, w.Fail
}

// Endpoint returns an endpoint.
func (w *World) Endpoint(ctx context.Context, workspace, name string) (registry.Endpoint, error) {
	endpoints, err := w.Endpoints(ctx, workspace)
	if err != nil {
		return registry.Endpoint{}, err
	}
	i := slices.IndexFunc(endpoints, func(e registry.Endpoint) bool { return e.Name == name })
	if i < 0 {
		return registry.Endpoint{}, problem.New(problem.NotFound, "workspace %q has no endpoint %q", workspace, name)
	}
	return endpoints[i], nil
}

// DeleteEndpoint deletes an endpoint.
func (w *World) DeleteEndpoint(ctx context.Context, workspace, name, _ string) error {
	if _, err := w.Endpoint(ctx, workspace, name); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endpoints = slices.DeleteFunc(w.endpoints, func(e registry.Endpoint) bool { return e.Workspace == workspace && e.Name == name })
	return nil
}
