package registry

import (
	"context"
	"regexp"
	"slices"

	"github.com/drover-ml/drover/orchestrator/problem"
)

// Registry answers questions about models, and moves their aliases.
type Registry struct{ store Store }

// New returns a registry over a store.
func New(s Store) *Registry { return &Registry{store: s} }

// Names of models, aliases and workspaces have nothing in them that means
// something to a path or a URL; those of workspaces are part of job IDs and
// service names, too.
var (
	namePattern      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
	workspacePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,31}$`)
)

// CheckWorkspace returns a problem if name is not a valid name of a workspace.
func CheckWorkspace(name string) error {
	if !workspacePattern.MatchString(name) {
		return problem.At("workspace", "workspace: a name is 1 to 32 letters, digits and '-', starting with a letter or digit")
	}
	return nil
}

// CheckName returns a problem about field if name is not a valid name.
func CheckName(field, name string) error {
	if !namePattern.MatchString(name) {
		return problem.At(field, "%s: a name is 1 to 128 letters, digits, '.', '_' and '-', starting and ending with a letter or digit", field)
	}
	return nil
}

// Models lists a workspace's models by name.
func (r *Registry) Models(ctx context.Context, workspace string) ([]Model, error) {
	if err := CheckWorkspace(workspace); err != nil {
		return nil, err
	}
	return r.store.Models(ctx, workspace)
}

// Model returns one model.
func (r *Registry) Model(ctx context.Context, workspace, name string) (Model, error) {
	if err := CheckName("model", name); err != nil {
		return Model{}, err
	}
	models, err := r.Models(ctx, workspace)
	if err != nil {
		return Model{}, err
	}
	i := slices.IndexFunc(models, func(m Model) bool { return m.Name == name })
	if i < 0 {
		return Model{}, problem.New(problem.NotFound, "workspace %q has no model %q", workspace, name)
	}
	return models[i], nil
}

// Versions lists a model's versions, the newest first.
func (r *Registry) Versions(ctx context.Context, workspace, model string) ([]Version, error) {
	if err := check(workspace, model); err != nil {
		return nil, err
	}
	return r.store.Versions(ctx, workspace, model)
}

// Version returns one version of a model.
func (r *Registry) Version(ctx context.Context, workspace, model string, number int) (Version, error) {
	versions, err := r.Versions(ctx, workspace, model)
	if err != nil {
		return Version{}, err
	}
	i := slices.IndexFunc(versions, func(v Version) bool { return v.Number == number })
	if i < 0 {
		return Version{}, problem.New(problem.NotFound, "model %q has no version %d", model, number)
	}
	return versions[i], nil
}

// ByAlias returns the version that an alias points at, false if there is none.
// An unknown model has no aliases.
func (r *Registry) ByAlias(ctx context.Context, workspace, model, alias string) (Version, bool, error) {
	versions, err := r.Versions(ctx, workspace, model)
	if problem.Is(err, problem.NotFound) {
		return Version{}, false, nil
	}
	if err != nil {
		return Version{}, false, err
	}
	for _, v := range versions {
		if slices.Contains(v.Aliases, alias) {
			return v, true, nil
		}
	}
	return Version{}, false, nil
}

// MoveAlias points an alias at a version, in one step that readers see whole.
// m.To 0 removes the alias. It returns the move with what it moved from.
func (r *Registry) MoveAlias(ctx context.Context, m AliasMove) (AliasMove, error) {
	if err := check(m.Workspace, m.Model); err != nil {
		return AliasMove{}, err
	}
	if err := CheckName("alias", m.Alias); err != nil {
		return AliasMove{}, err
	}
	if m.To < 0 {
		return AliasMove{}, problem.At("version", "version %d: versions start at 1", m.To)
	}
	return r.store.MoveAlias(ctx, m)
}

// AliasMoves is the history of a model's aliases, the newest first.
func (r *Registry) AliasMoves(ctx context.Context, workspace, model string) ([]AliasMove, error) {
	if err := check(workspace, model); err != nil {
		return nil, err
	}
	return r.store.AliasMoves(ctx, workspace, model)
}

func check(workspace, model string) error {
	if err := CheckWorkspace(workspace); err != nil {
		return err
	}
	return CheckName("model", model)
}
