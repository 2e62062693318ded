// Package api is Drover's HTTP API.
//
// Every operation is described by the OpenAPI document at /openapi.json (and
// .yaml), which /docs shows without needing anything from elsewhere. Errors
// are problem details (RFC 9457). Listings come in pages, bodies have limits,
// and nothing that fails is half done.
package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Runs starts, ends and lists runs. *run.Engine is one.
type Runs interface {
	Submit(ctx context.Context, s run.Submission) (r run.Run, created bool, err error)
	Plan(ctx context.Context, s run.Submission) (run.Plan, error)
	Get(ctx context.Context, id run.ID) (run.Run, error)
	List(ctx context.Context, f run.Filter) ([]run.Run, error)
	Cancel(ctx context.Context, id run.ID, by string) error
	Retry(ctx context.Context, id run.ID, by string) (run.Run, error)
}

// History tells what runs did. *run.Engine is one.
type History interface {
	Events(ctx context.Context, id run.ID, after int64, limit int) ([]run.Event, error)
	Watch(ctx context.Context, id run.ID, after int64) (<-chan run.Event, error)
	Metrics(ctx context.Context, id run.ID, f run.MetricFilter) ([]run.MetricPoint, error)
	Logs(ctx context.Context, id run.ID, s run.LogSelector, w io.Writer) error
	Lineage(ctx context.Context, workspace, digest string) (run.Lineage, error)
}

// Models is the model registry. *registry.Registry is one.
type Models interface {
	Models(ctx context.Context, workspace string) ([]registry.Model, error)
	Model(ctx context.Context, workspace, name string) (registry.Model, error)
	Versions(ctx context.Context, workspace, model string) ([]registry.Version, error)
	MoveAlias(ctx context.Context, m registry.AliasMove) (registry.AliasMove, error)
	AliasMoves(ctx context.Context, workspace, model string) ([]registry.AliasMove, error)
}

// Endpoints are the models that are served. *run.Engine has them.
type Endpoints interface {
	Endpoints(ctx context.Context, workspace string) ([]registry.Endpoint, error)
	Endpoint(ctx context.Context, workspace, name string) (registry.Endpoint, error)
	DeleteEndpoint(ctx context.Context, workspace, name, by string) error
}

// Config is what the API is made of. Runs, History, Models, Endpoints,
// Incidents, Queue, Workspaces and Artifacts are required.
type Config struct {
	Runs       Runs
	History    History
	Models     Models
	Endpoints  Endpoints
	Incidents  Incidents
	Queue      Queue
	Workspaces Workspaces
	Artifacts  Artifacts

	// Tokens that requests must bring one of. Without, the API is open to
	// whoever reaches it: bind it to a loopback address then, whose requests
	// are checked to come from this machine's own names.
	Tokens *Tokens
	// Gateway is the base URL at which clients find the gateway.
	Gateway string
	// Version of Drover, as /v1/health tells it.
	Version string
	// MaxBlobBytes limits an uploaded blob. Default 64 GiB.
	MaxBlobBytes int64
	// Metrics is what /metrics shows; default: a new registry. The API adds
	// its own.
	Metrics *prometheus.Registry
	Logger  *slog.Logger // default: slog.Default()
}

type server struct {
	cfg Config
}

// bodyTimeout bounds how long a request with a large body may take to arrive.
const bodyTimeout = 5 * time.Minute

// New makes the API's handler.
func New(cfg Config) http.Handler {
	if cfg.MaxBlobBytes == 0 {
		cfg.MaxBlobBytes = 64 << 30
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = prometheus.NewRegistry()
	}
	s := &server{cfg: cfg}
	mux := http.NewServeMux()
	spec := s.register(mux)
	serveDocs(mux, spec)
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { noSuchPath(mux, w, r) })

	var handler http.Handler = mux
	if cfg.Tokens != nil {
		handler = cfg.Tokens.require(handler)
	} else {
		handler = onlyLocal(handler)
	}
	return observe(cfg.Metrics, mux, recoverPanics(cfg.Logger, handler))
}

// register adds the operations to mux and returns their description.
func (s *server) register(mux *http.ServeMux) *huma.OpenAPI {
	config := huma.DefaultConfig("Drover", "1")
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	config.Info.Description = "Production machine learning on Nomad: runs, artefacts, models and endpoints."
	config.CreateHooks = nil // no $schema fields in bodies
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.RejectUnknownQueryParameters = true
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[nomad.Job](), reflect.TypeFor[nomadJob]())
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[workspace.Amount](), reflect.TypeFor[amount]())
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[workspace.Duration](), reflect.TypeFor[duration]())
	if s.cfg.Tokens != nil {
		config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
		config.Security = []map[string][]string{{"token": {}}}
	}
	api := humago.New(mux, config)
	s.registerHealth(api)
	s.registerRuns(api)
	s.registerHistory(api)
	s.registerModels(api)
	s.registerEndpoints(api)
	s.registerArtifacts(api)
	s.registerIncidents(api)
	s.registerQueue(api)
	s.registerWorkspaces(api)
	return api.OpenAPI()
}

// nomadJob stands for Nomad's job in the OpenAPI document.
type nomadJob struct{}

func (nomadJob) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Description: "A Nomad job, as Nomad's own API takes it"}
}

// Health is what /v1/health tells.
type Health struct {
	Status  string `json:"status" enum:"ok"`
	Version string `json:"version"`
	Gateway string `json:"gateway,omitempty" doc:"Base URL of the gateway"`
}

func (s *server) registerHealth(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "health", Method: http.MethodGet, Path: "/v1/health", Tags: []string{"platform"},
		Summary: "Say that the server is up", Security: []map[string][]string{},
	}, func(context.Context, *struct{}) (*struct{ Body Health }, error) {
		return &struct{ Body Health }{Health{Status: "ok", Version: s.cfg.Version, Gateway: s.cfg.Gateway}}, nil
	})
}

// WorkspaceQuery names the workspace of what is asked for.
type WorkspaceQuery struct {
	Workspace string `query:"workspace" default:"default" pattern:"^[A-Za-z0-9][A-Za-z0-9_-]*$" maxLength:"63" doc:"The workspace"`
}

// PageQuery asks for a page of a listing that is sorted by name or number.
type PageQuery struct {
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Items a page"`
	After string `query:"after" maxLength:"256" doc:"Give the items after this one: next of the page before"`
}

// page cuts a listing that came whole. next is what to ask for the page after.
func page[T any](items []T, q PageQuery, key func(T) string) (_ []T, next string) {
	limit := q.Limit
	if after := q.After; after != "" {
		start := len(items)
		for i, item := range items {
			if key(item) == after {
				start = i + 1
				break
			}
		}
		items = items[start:]
	}
	if len(items) > limit {
		items = items[:limit]
		next = key(items[limit-1])
	}
	if items == nil {
		items = []T{}
	}
	return items, next
}

// schemaName names a type in the OpenAPI document. Some names are those of types
// in several packages.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	prefix := ""
	switch path.Base(t.PkgPath()) {
	case "workspace":
		prefix = "Workspace"
	case "admission":
		prefix = "Queue"
	}
	if strings.HasPrefix(name, prefix) {
		return name
	}
	return prefix + name
}
