// Package control is the cluster's brain: it takes requests, keeps the state,
// has jobs scheduled, and sees to what is due: nodes that went silent, drains,
// deployments, reschedules, periodic launches, garbage.
//
// Everything that it decides is in the state before anyone acts on it, and is
// decided again from the state after a restart. One goroutine evaluates jobs,
// so plans never race.
package control

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/state"
)

// Error is a refusal, with the HTTP status that Nomad gives it.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// HTTPStatus is the status to answer with.
func (e *Error) HTTPStatus() int { return e.Status }

func notFound(format string, args ...any) error {
	return &Error{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

func refuse(format string, args ...any) error {
	return &Error{http.StatusInternalServerError, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

func unsupported(format string, args ...any) error {
	return &Error{http.StatusNotImplemented, fmt.Sprintf(format, args...)}
}

// Config configures a Server.
type Config struct {
	Logger hclog.Logger
	// HeartbeatTTL is how long a node may be silent before it counts as down.
	// Default 5 s.
	HeartbeatTTL time.Duration
}

// Server is the brain. Make one with New, and let it Run.
type Server struct {
	store *state.Store
	log   hclog.Logger
	ttl   time.Duration
	// collected is when garbage was last collected; only keepTime uses it.
	collected time.Time

	mu       sync.Mutex
	lastSeen map[string]time.Time // by node ID
	capacity uint64               // counts what may let blocked jobs run
}

// New makes a server for a store, and puts the rows there that every cluster has.
func New(store *state.Store, cfg Config) (*Server, error) {
	if cfg.HeartbeatTTL == 0 {
		cfg.HeartbeatTTL = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	s := &Server{store: store, log: cfg.Logger.Named("control"), ttl: cfg.HeartbeatTTL,
		lastSeen: map[string]time.Time{}}
	_, err := store.Update(func(tx *state.Tx) error {
		if tx.Namespace("default") == nil {
			if err := tx.PutNamespace(&api.Namespace{Name: "default", Description: "Default shared namespace"}); err != nil {
				return err
			}
		}
		for name, description := range map[string]string{
			api.NodePoolDefault: "Default node pool.", api.NodePoolAll: "Node pool with all nodes in the cluster.",
		} {
			if tx.NodePool(name) == nil {
				if err := tx.PutNodePool(&api.NodePool{Name: name, Description: description}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("preparing cluster state: %w", err)
	}
	return s, nil
}

// Store is the server's state.
func (s *Server) Store() *state.Store { return s.store }

// startGrace is how long after a start of the server a node may be silent on
// top of the TTL: it has to start as well, and what it runs goes on meanwhile.
const startGrace = 20 * time.Second

// Run works until ctx ends.
func (s *Server) Run(ctx context.Context) {
	s.mu.Lock()
	s.store.View(func(r state.Reader) {
		for _, n := range r.Nodes() {
			s.lastSeen[n.ID] = time.Now().Add(startGrace)
		}
	})
	s.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { s.evaluateAll(ctx) })
	wg.Go(func() { s.keepTime(ctx) })
	wg.Wait()
}

// capacityChanged notes that blocked jobs may fit now.
func (s *Server) capacityChanged(tx *state.Tx) {
	tx.OnCommit(func() {
		s.mu.Lock()
		s.capacity++
		s.mu.Unlock()
	})
}

func (s *Server) capacityCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capacity
}

// keepTime does what is due, when it is due, and looks again after changes.
func (s *Server) keepTime(ctx context.Context) {
	const (
		longest  = 5 * time.Second
		shortest = 20 * time.Millisecond // between two looks, however much changes
	)
	for {
		var index uint64
		s.store.View(func(r state.Reader) { index = r.Index() })
		next := time.Now().Add(longest)
		for _, duty := range []func(time.Time) (time.Time, error){
			s.checkHeartbeats, s.checkDrains, s.checkDeployments, s.launchPeriodic, s.collectGarbage,
		} {
			due, err := duty(time.Now())
			if err != nil {
				s.log.Error("a timed duty could not be done and will be tried again", "error", err)
			}
			if !due.IsZero() && due.Before(next) {
				next = due
			}
		}
		pause(ctx, shortest)
		waitCtx, cancel := context.WithDeadline(ctx, next)
		s.store.Await(waitCtx, func(r state.Reader) bool { return r.Index() > index })
		cancel()
		if ctx.Err() != nil {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func newID() string { return uuid.NewString() }

func ptr[T any](v T) *T { return &v }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
