package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/registry"
)

// ModelPage is a page of models, by name.
type ModelPage struct {
	Models []registry.Model `json:"models"`
	Next   string           `json:"next,omitempty"`
}

// VersionPage is a page of a model's versions, the newest first.
type VersionPage struct {
	Versions []registry.Version `json:"versions"`
	Next     string             `json:"next,omitempty"`
}

// AliasMovePage is a page of the history of a model's aliases, the newest
// first.
type AliasMovePage struct {
	Moves []registry.AliasMove `json:"moves"`
	Next  string               `json:"next,omitempty"`
}

// AliasTarget is where an alias is to point.
type AliasTarget struct {
	Version int    `json:"version" minimum:"1"`
	Reason  string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the history"`
}

// ModelPath names a model.
type ModelPath struct {
	WorkspaceQuery
	Model string `path:"model" minLength:"1" maxLength:"128" doc:"The model"`
}

// AliasPath names an alias of a model.
type AliasPath struct {
	ModelPath
	Alias string `path:"alias" minLength:"1" maxLength:"128" doc:"The alias"`
}

func (s *server) registerModels(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "list-models", Method: http.MethodGet, Path: "/v1/models", Tags: []string{"models"},
		Summary: "List models",
	}, s.listModels)
	huma.Register(api, huma.Operation{
		OperationID: "get-model", Method: http.MethodGet, Path: "/v1/models/{model}", Tags: []string{"models"},
		Summary: "Get a model with its aliases",
	}, func(ctx context.Context, in *ModelPath) (*struct{ Body registry.Model }, error) {
		m, err := s.cfg.Models.Model(ctx, in.Workspace, in.Model)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &struct{ Body registry.Model }{m}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-versions", Method: http.MethodGet, Path: "/v1/models/{model}/versions", Tags: []string{"models"},
		Summary: "List a model's versions, the newest first",
	}, s.listVersions)
	huma.Register(api, huma.Operation{
		OperationID: "list-alias-moves", Method: http.MethodGet, Path: "/v1/models/{model}/aliases/history", Tags: []string{"models"},
		Summary: "Say who moved a model's aliases, and why",
	}, s.listAliasMoves)
	huma.Register(api, huma.Operation{
		OperationID: "set-alias", Method: http.MethodPut, Path: "/v1/models/{model}/aliases/{alias}", Tags: []string{"models"},
		Summary: "Point an alias at a version",
		Description: "Readers see the old version or the new one, never neither. An endpoint that serves the alias's old version " +
			"goes on serving it until a run deploys again.",
	}, func(ctx context.Context, in *struct {
		AliasPath
		Body AliasTarget
	}) (*struct{ Body registry.AliasMove }, error) {
		return s.moveAlias(ctx, in.AliasPath, in.Body)
	})
	huma.Register(api, huma.Operation{
		OperationID: "delete-alias", Method: http.MethodDelete, Path: "/v1/models/{model}/aliases/{alias}", Tags: []string{"models"},
		Summary: "Remove an alias", DefaultStatus: http.StatusOK,
	}, func(ctx context.Context, in *AliasPath) (*struct{ Body registry.AliasMove }, error) {
		return s.moveAlias(ctx, *in, AliasTarget{})
	})
}

func (s *server) listModels(ctx context.Context, in *struct {
	WorkspaceQuery
	PageQuery
}) (*struct{ Body ModelPage }, error) {
	models, err := s.cfg.Models.Models(ctx, in.Workspace)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body ModelPage }{}
	out.Body.Models, out.Body.Next = page(models, in.PageQuery, func(m registry.Model) string { return m.Name })
	return out, nil
}

func (s *server) listVersions(ctx context.Context, in *struct {
	ModelPath
	PageQuery
}) (*struct{ Body VersionPage }, error) {
	versions, err := s.cfg.Models.Versions(ctx, in.Workspace, in.Model)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body VersionPage }{}
	out.Body.Versions, out.Body.Next = page(versions, in.PageQuery, func(v registry.Version) string { return strconv.Itoa(v.Number) })
	return out, nil
}

func (s *server) listAliasMoves(ctx context.Context, in *struct {
	ModelPath
	PageQuery
}) (*struct{ Body AliasMovePage }, error) {
	moves, err := s.cfg.Models.AliasMoves(ctx, in.Workspace, in.Model)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body AliasMovePage }{}
	out.Body.Moves, out.Body.Next = page(moves, in.PageQuery, func(m registry.AliasMove) string { return m.Alias + "@" + m.At.UTC().Format(timeKey) })
	return out, nil
}

// timeKey tells moments apart in the keys of pages.
const timeKey = "20060102T150405.000000000"

func (s *server) moveAlias(ctx context.Context, at AliasPath, to AliasTarget) (*struct{ Body registry.AliasMove }, error) {
	move, err := s.cfg.Models.MoveAlias(ctx, registry.AliasMove{
		Workspace: at.Workspace, Model: at.Model, Alias: at.Alias, To: to.Version, By: userOf(ctx), Reason: to.Reason,
	})
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	return &struct{ Body registry.AliasMove }{move}, nil
}
