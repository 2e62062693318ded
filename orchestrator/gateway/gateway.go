// Package gateway routes requests to the ready instances of endpoints.
//
// It finds instances through a catalog, asks each one itself whether it is
// ready (a registered instance may still be loading its model), and sends a
// request to the less busy of two ready ones. It needs nothing else, so
// predictions go on while the rest of Drover is down.
//
// A request is sent to another instance only if the first could not be
// connected to, so nothing is served twice. An answer that has begun is never
// replayed.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-ml/drover/orchestrator/catalog"
)

// WorkspaceHeader names the workspace whose endpoint a /v2 request is for.
const WorkspaceHeader = "Drover-Workspace"

// DefaultWorkspace is the workspace of requests that name none.
const DefaultWorkspace = "default"

// Catalog tells which instances there are.
type Catalog interface {
	// Watch calls update with all instances, at once and on every change,
	// until ctx ends.
	Watch(ctx context.Context, update func([]catalog.Instance)) error
}

// Config configures a Gateway. Only Catalog is needed.
type Config struct {
	Catalog Catalog
	Logger  *slog.Logger
	// MaxBody is the largest request body in bytes. Default 64 MiB.
	MaxBody int64
	// Timeout bounds the wait for an instance's answer to begin. Default 60 s.
	Timeout time.Duration
	// ProbeInterval is the time between readiness probes of an instance that
	// is ready. Default 2 s; one that is not ready is asked five times as often.
	ProbeInterval time.Duration
	Registerer    prometheus.Registerer // nil: no metrics
}

// Gateway is an http.Handler. Run keeps its routes up to date.
type Gateway struct {
	cfg     Config
	routes  atomic.Pointer[table]
	metrics *metrics
	// synced is closed when the catalog has been read once.
	synced chan struct{}
}

// table is an immutable set of routes.
type table struct {
	endpoints map[key]*endpoint
}

type key struct{ workspace, name string }

// New makes a Gateway.
func New(cfg Config) *Gateway {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 64 << 20
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 60 * time.Second
	}
	if cfg.ProbeInterval == 0 {
		cfg.ProbeInterval = 2 * time.Second
	}
	g := &Gateway{cfg: cfg, metrics: newMetrics(cfg.Registerer), synced: make(chan struct{})}
	g.routes.Store(&table{})
	return g
}

// ServeHTTP serves the Open Inference Protocol v2 under /v2, where a model's
// name is an endpoint's, and passes everything below
// /endpoints/<workspace>/<endpoint>/ through.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	switch {
	case path == "/v2/health/live":
		writeJSON(w, http.StatusOK, map[string]bool{"live": true})
	case path == "/v2/health/ready":
		g.serveReady(w)
	case path == "/v2", path == "/v2/":
		writeJSON(w, http.StatusOK, map[string]any{"name": "drover-gateway", "version": "2", "extensions": []string{}})
	case strings.HasPrefix(path, "/v2/models/"):
		name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/v2/models/"), "/")
		workspace := r.Header.Get(WorkspaceHeader)
		if workspace == "" {
			workspace = DefaultWorkspace
		}
		g.serveModel(w, r, key{workspace, name}, rest)
	case strings.HasPrefix(path, "/endpoints/"):
		workspace, rest, _ := strings.Cut(strings.TrimPrefix(path, "/endpoints/"), "/")
		name, rest, slash := strings.Cut(rest, "/")
		if name == "" || workspace == "" || !slash {
			writeProblem(w, http.StatusNotFound, "No such path", "write /endpoints/<workspace>/<endpoint>/<path>")
			return
		}
		g.forward(w, r, key{workspace, name}, "/"+rest)
	case path == "/endpoints":
		g.serveEndpoints(w)
	default:
		writeProblem(w, http.StatusNotFound, "No such path",
			"the gateway serves /v2/models/<endpoint>/infer, /endpoints/<workspace>/<endpoint>/<path> and /endpoints")
	}
}

func (g *Gateway) serveModel(w http.ResponseWriter, r *http.Request, k key, rest string) {
	if k.name == "" {
		writeProblem(w, http.StatusNotFound, "No endpoint named", "write /v2/models/<endpoint>/infer")
		return
	}
	if rest == "ready" {
		e, ok := g.routes.Load().endpoints[k]
		switch {
		case !ok:
			g.unknown(w, k)
		case e.ready() == 0:
			g.notReady(w, k, e)
		default:
			writeJSON(w, http.StatusOK, map[string]any{"name": k.name, "ready": true})
		}
		return
	}
	target := "/v2/models/" + k.name
	if rest != "" {
		target += "/" + rest
	}
	g.forward(w, r, k, target)
}

// serveReady says that the gateway knows its routes. Whether an endpoint is
// ready is asked of the endpoint.
func (g *Gateway) serveReady(w http.ResponseWriter) {
	select {
	case <-g.synced:
		writeJSON(w, http.StatusOK, map[string]bool{"ready": true})
	default:
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, "Not ready", "the services have not been read yet")
	}
}

// EndpointStatus is what /endpoints lists.
type EndpointStatus struct {
	Workspace string           `json:"workspace"`
	Name      string           `json:"name"`
	Ready     int              `json:"ready"`
	Instances []InstanceStatus `json:"instances"`
}

// InstanceStatus is an instance as the gateway sees it.
type InstanceStatus struct {
	AllocID  string `json:"alloc_id"`
	Address  string `json:"address"`
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason,omitempty"` // why it is not ready
	Revision string `json:"revision,omitempty"`
	Model    string `json:"model,omitempty"`
	Version  string `json:"version,omitempty"`
	InFlight int64  `json:"in_flight"`
}

// Endpoints tells the endpoints and their instances, sorted by name.
func (g *Gateway) Endpoints() []EndpointStatus { return g.routes.Load().status() }

func (g *Gateway) serveEndpoints(w http.ResponseWriter) {
	writeJSON(w, http.StatusOK, g.Endpoints())
}

// forward sends r to a ready instance of the endpoint, as target.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, k key, target string) {
	e, ok := g.routes.Load().endpoints[k]
	if !ok {
		g.unknown(w, k)
		return
	}
	if r.ContentLength > g.cfg.MaxBody {
		writeProblem(w, http.StatusRequestEntityTooLarge, "Request too large",
			"the body may have at most "+strconv.FormatInt(g.cfg.MaxBody, 10)+" bytes")
		return
	}
	if r.Body != nil && r.ContentLength < 0 {
		r.Body = http.MaxBytesReader(w, r.Body, g.cfg.MaxBody)
	}
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	start := time.Now()
	var tried *instance
	for {
		in := e.pick(tried)
		if in == nil {
			g.notReady(w, k, e)
			g.metrics.observe(e, http.StatusServiceUnavailable, start)
			return
		}
		code, err := g.attempt(w, r, in, target)
		if errors.Is(err, errNotConnected) && r.Context().Err() == nil {
			// Nothing was sent: another instance may serve it.
			in.lost(err)
			tried = in
			continue
		}
		if err != nil {
			code = g.fail(w, r, in, err)
		}
		g.metrics.observe(e, code, start)
		return
	}
}

func (g *Gateway) attempt(w http.ResponseWriter, r *http.Request, in *instance, target string) (int, error) {
	in.inFlight.Add(1)
	defer in.inFlight.Add(-1)
	return in.pool.roundTrip(w, r, target, g.cfg.Timeout)
}

// fail answers a request that an instance did not. It returns the status that
// the client saw.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, in *instance, err error) int {
	var begun *begunError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &begun):
		// The client has part of the answer; cutting the connection is the
		// only honest way to say that there is no more.
		g.cfg.Logger.Warn("answer broke off", "instance", in.Address, "error", err)
		g.metrics.brokenOff.Inc()
		panic(http.ErrAbortHandler)
	case r.Context().Err() != nil:
		return 499 // the client left
	case errors.As(err, &tooLarge):
		writeProblem(w, http.StatusRequestEntityTooLarge, "Request too large",
			"the body may have at most "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errTimeout):
		writeProblem(w, http.StatusGatewayTimeout, "No answer in time",
			"the instance did not begin its answer within "+g.cfg.Timeout.String())
		return http.StatusGatewayTimeout
	case errors.Is(err, errUpgrade):
		writeProblem(w, http.StatusNotImplemented, "Not supported", "the gateway does not pass connection upgrades on")
		return http.StatusNotImplemented
	default:
		g.cfg.Logger.Warn("request failed", "instance", in.Address, "error", err)
		writeProblem(w, http.StatusBadGateway, "The instance did not answer", "it closed the connection or answered with something that is not HTTP; the request may have been processed")
		return http.StatusBadGateway
	}
}

func (g *Gateway) unknown(w http.ResponseWriter, k key) {
	writeProblem(w, http.StatusNotFound, "No such endpoint",
		"no endpoint "+strconv.Quote(k.name)+" is registered in workspace "+strconv.Quote(k.workspace)+"; /endpoints lists them")
}

func (g *Gateway) notReady(w http.ResponseWriter, k key, e *endpoint) {
	w.Header().Set("Retry-After", "1")
	writeProblem(w, http.StatusServiceUnavailable, "Endpoint not ready",
		"none of the "+strconv.Itoa(len(e.instances))+" instances of endpoint "+strconv.Quote(k.name)+" is ready yet")
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	write(w, code, "application/json", v)
}

// writeProblem answers with problem details (RFC 9457). Clients of the Open
// Inference Protocol read "error".
func writeProblem(w http.ResponseWriter, code int, title, detail string) {
	write(w, code, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Error  string `json:"error"`
	}{title, code, detail, title + ": " + detail})
}

func write(w http.ResponseWriter, code int, contentType string, v any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // people read these, and <endpoint> is for them
	if err := enc.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(code)
	_, _ = w.Write(body.Bytes()) // a client that has left needs none
}
