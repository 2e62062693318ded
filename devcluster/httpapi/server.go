// Package httpapi speaks the part of Nomad's HTTP API that Drover and the
// nomad/api client need, in that client's own types. What it does not have
// answers 501 with a message, never with a silent success.
//
// Differences from Nomad that a client can see: events are streamed at once
// instead of being batched, the event history starts anew with the process,
// and there are no ACLs.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/state"
)

// Version is the Nomad version that the API follows.
const Version = "2.0.5"

// maxBody bounds request bodies.
const maxBody = 16 << 20

// Clients finds the node that runs an allocation.
type Clients interface {
	// Client returns a node of this process by ID, or nil if there is none or
	// it cannot be reached.
	Client(nodeID string) NodeClient
}

// NodeClient is what the API asks of a node about the allocations there.
type NodeClient interface {
	// AllocDir is the allocation's folder on this machine.
	AllocDir(allocID string) (string, error)
	AllocStats(allocID string) (*api.AllocResourceUsage, error)
	AllocChecks(allocID string) (map[string]api.AllocCheckStatus, error)
	// RestartAlloc restarts a task, or with task "" all that run; with all,
	// also those that have ended.
	RestartAlloc(allocID, task string, all bool) error
	SignalAlloc(allocID, task, signal string) error
	ExecAlloc(ctx context.Context, allocID, task string, x Exec) (exitCode int, err error)
	// CollectAlloc removes an ended allocation's files.
	CollectAlloc(allocID string) error
	HostStats() *api.HostStats
}

// Exec is a command to run beside a task.
type Exec struct {
	Command []string
	TTY     bool
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan api.TerminalSize
}

// Config configures a Server.
type Config struct {
	Control *control.Server
	Clients Clients
	Logger  hclog.Logger
	// Addr is where the server listens, host:port.
	Addr string
	// EventDelay is how long events are held back; nil for not at all.
	EventDelay func() time.Duration
}

// Server answers the API's requests.
type Server struct {
	Config
	store *state.Store
	mux   *http.ServeMux
}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.EventDelay == nil {
		cfg.EventDelay = func() time.Duration { return 0 }
	}
	s := &Server{Config: cfg, store: cfg.Control.Store(), mux: http.NewServeMux()}
	s.routes()
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r)
}

func (s *Server) routes() {
	s.jobRoutes()
	s.allocRoutes()
	s.nodeRoutes()
	s.catalogRoutes()
	s.agentRoutes()
	s.clientRoutes()
	s.mux.HandleFunc("GET /v1/event/stream", s.streamEvents)
	s.mux.HandleFunc("/", s.unknown)
}

func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		http.Error(w, "Drover's development cluster serves a part of Nomad's API below /v1/", http.StatusNotFound)
		return
	}
	s.fail(w, r, &control.Error{Status: http.StatusNotImplemented, Message: fmt.Sprintf(
		"%s %s is not part of this development cluster; use a real Nomad for it", r.Method, r.URL.Path)})
}

// fail writes an error as Nomad does: its text, with the status it stands for.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var known interface{ HTTPStatus() int }
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &known):
		status = known.HTTPStatus()
	case errors.As(err, &tooBig):
		status = http.StatusRequestEntityTooLarge
	}
	s.Logger.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, err.Error())
}

func badRequest(format string, args ...any) error {
	return &control.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func missing(what string) error {
	return &control.Error{Status: http.StatusNotFound, Message: what + " not found"}
}

// missingID is missing for what has UUIDs, of which Nomad looks at the length.
func missingID(what, id string) error {
	const uuidLength = 36
	if len(id) != uuidLength {
		return &control.Error{Status: http.StatusInternalServerError,
			Message: what + " lookup failed: index error: UUID must be 36 characters"}
	}
	return missing(what)
}

func (s *Server) reply(w http.ResponseWriter, r *http.Request, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	if q := r.URL.Query(); q.Has("pretty") {
		enc.SetIndent("", "    ")
	}
	if err := enc.Encode(v); err != nil {
		s.Logger.Debug("writing a reply", "path", r.URL.Path, "error", err)
	}
}

func indexHeaders(w http.ResponseWriter, index uint64) {
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(index, 10))
	w.Header().Set("X-Nomad-KnownLeader", "true")
	w.Header().Set("X-Nomad-LastContact", "0")
}

// result is what a read found, and the index that it is of. err ends the
// request unless it blocks for something to appear.
type result struct {
	value any
	index uint64
	err   error
	next  string // the token of the next page
}

// read registers a blocking query: with ?index it is answered once its result
// is newer than that, or after ?wait. A query whose index is that of tables
// names them, so that it is not asked after every other change.
func (s *Server) read(pattern string, query func(st state.Reader, r *http.Request) result, tables ...string) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		after, wait, err := blocking(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		var res result
		if after == 0 {
			s.store.View(func(st state.Reader) { res = query(st, r) })
		} else {
			ctx, cancel := context.WithTimeout(r.Context(), wait)
			defer cancel()
			newer := s.store.Await(ctx, func(st state.Reader) bool {
				if len(tables) > 0 && st.TableIndex(tables...) <= after {
					return false
				}
				res = query(st, r)
				return res.index > after
			})
			if !newer {
				s.store.View(func(st state.Reader) { res = query(st, r) })
			}
		}
		indexHeaders(w, max(1, res.index))
		if res.next != "" {
			w.Header().Set("X-Nomad-Nexttoken", res.next)
		}
		if res.err != nil {
			s.fail(w, r, res.err)
			return
		}
		s.reply(w, r, res.value)
	})
}

func blocking(r *http.Request) (after uint64, wait time.Duration, err error) {
	const longest = 10 * time.Minute
	q := r.URL.Query()
	wait = 5 * time.Minute
	if v := q.Get("wait"); v != "" {
		if wait, err = time.ParseDuration(v); err != nil {
			return 0, 0, badRequest("Invalid wait time")
		}
	}
	if v := q.Get("index"); v != "" {
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			return 0, 0, badRequest("Invalid index")
		}
	}
	return after, min(wait, longest), nil
}

// write registers a change.
func (s *Server) write(pattern string, do func(r *http.Request) (v any, index uint64, err error)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v, index, err := do(r)
		if index > 0 {
			indexHeaders(w, index)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if v == nil {
			w.WriteHeader(http.StatusOK)
			return
		}
		s.reply(w, r, v)
	})
}

// writes registers a change for both PUT and POST, which Nomad treats alike.
func (s *Server) writes(path string, do func(r *http.Request) (v any, index uint64, err error)) {
	s.write("PUT "+path, do)
	s.write("POST "+path, do)
}

// body decodes a JSON request body. Unknown fields are passed over, as newer
// clients may send some.
func body(r *http.Request, v any) error {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) {
			return err
		}
		return badRequest("%v", err)
	}
	return nil
}

// optionalBody is body for requests that may have none.
func optionalBody(r *http.Request, v any) error {
	err := json.NewDecoder(r.Body).Decode(v)
	if err != nil && !errors.Is(err, io.EOF) {
		return badRequest("%v", err)
	}
	return nil
}

// namespace is the request's namespace; "*" stands for all where that makes sense.
func namespace(r *http.Request) string {
	if ns := r.URL.Query().Get("namespace"); ns != "" {
		return ns
	}
	return "default"
}

func inNamespace(r *http.Request, ns string) bool {
	want := namespace(r)
	return want == "*" || want == ns
}

func flag(r *http.Request, name string) bool {
	v, err := strconv.ParseBool(r.URL.Query().Get(name))
	return err == nil && v
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
