// Package server puts Drover together: state, artefact store, run engine, API
// and gateway, against one Nomad cluster. It is what drover server runs, and
// drover dev beside a devcluster of its own.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/catalog"
	"github.com/drover-ml/drover/orchestrator/cluster"
	"github.com/drover-ml/drover/orchestrator/gateway"
	"github.com/drover-ml/drover/orchestrator/gateway/http1"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Config says what a server is made of. DataDir and Nomad are required.
type Config struct {
	// DataDir keeps the server's state. Only one server may use it at a time.
	DataDir string
	// Nomad is how to reach the cluster.
	Nomad *nomad.Config
	// StoreURL is the artefact store's. Default: the folder artifacts in
	// DataDir. Nodes of the cluster must be able to reach it.
	StoreURL string
	// Listen is the API's address. Default 127.0.0.1:4680. One that is not a
	// loopback address needs Tokens.
	Listen string
	// GatewayListen is the gateway's address, "" for no gateway in here.
	GatewayListen string
	// GatewayURL is where clients find the gateway, if it is not in here.
	GatewayURL string
	Tokens     *api.Tokens // nil: the API is open to this machine
	// Jobs says where in the cluster jobs go. Its StoreURL is set here.
	Jobs   jobspec.Cluster
	Logger *slog.Logger // default: slog.Default()
}

// DefaultListen is the API's address unless told otherwise.
const DefaultListen = "127.0.0.1:4680"

// Server is a running server.
type Server struct {
	cfg       Config
	db        *store.DB
	artifacts *artifact.Store
	engine    *run.Engine
	queue     *admission.Scheduler
	// workspaces are the definitions that the queue goes by.
	workspaces *workspace.Service
	api        *service
	gateway    *service // nil if there is none
	group      *errgroup.Group
	stop       context.CancelFunc
}

// Start starts a server. It goes on until Stop, or until a part of it fails,
// which Wait tells. The cluster need not answer yet.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Listen == "" {
		cfg.Listen = DefaultListen
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := checkListen(cfg.Listen, cfg.Tokens); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	s := &Server{cfg: cfg, group: group, stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	client, err := nomad.NewClient(cfg.Nomad)
	if err != nil {
		return nil, fmt.Errorf("connecting to Nomad: %w", err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	jobs := cfg.Jobs
	jobs.StoreURL = s.artifacts.URL()
	jobs.Namespace = cmp.Or(jobs.Namespace, cfg.Nomad.Namespace, nomad.DefaultNamespace)
	if s.workspaces, err = workspace.Open(ctx, s.db, nil); err != nil {
		return nil, err
	}
	s.queue = admission.New(admission.Config{
		Store: s.db, Cluster: cluster.NewInventory(client), Workspaces: s.workspaces, Logger: cfg.Logger,
	})
	s.workspaces.SetUsing(s.queue.Using)
	s.engine = run.New(run.Config{
		Store: newMeasured(s.db, metrics), Cluster: cluster.New(client), Artifacts: s.artifacts, Queue: s.queue, JobCluster: jobs, Logger: cfg.Logger,
		Workspaces: s.workspaces,
	})
	if err := s.engine.Start(ctx); err != nil {
		return nil, err
	}
	if err := s.startGateway(ctx, client, metrics); err != nil {
		return nil, err
	}
	return s, s.startAPI(ctx, metrics)
}

// open opens what is kept in the data folder.
func (s *Server) open(ctx context.Context) (err error) {
	dir, err := filepath.Abs(s.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("opening the data folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("opening the data folder: %w", err)
	}
	if s.db, err = store.Open(ctx, filepath.Join(dir, "drover.db")); err != nil {
		return err
	}
	storeURL := s.cfg.StoreURL
	if storeURL == "" {
		storeURL = (&url.URL{Scheme: "file", Path: filepath.Join(dir, "artifacts")}).String()
	}
	s.artifacts, err = artifact.Open(storeURL)
	return err
}

func (s *Server) startAPI(ctx context.Context, metrics *prometheus.Registry) (err error) {
	gatewayURL := s.cfg.GatewayURL
	if s.gateway != nil {
		gatewayURL = s.gateway.url()
	}
	handler := api.New(api.Config{
		Runs: s.engine, History: s.engine, Models: s.engine.Registry(), Endpoints: s.engine, Incidents: s.engine, Queue: s.queue, Workspaces: s.workspaces, Artifacts: s.artifacts,
		Tokens: s.cfg.Tokens, Gateway: gatewayURL, Version: version.Version, Metrics: metrics, Logger: s.cfg.Logger,
	})
	s.api, err = serveHTTP(ctx, s.group, s.cfg.Listen, handler)
	return err
}

func (s *Server) startGateway(ctx context.Context, client *nomad.Client, metrics prometheus.Registerer) (err error) {
	if s.cfg.GatewayListen == "" {
		return nil
	}
	s.gateway, err = startGateway(ctx, s.group, client, s.cfg.GatewayListen, metrics, s.cfg.Logger)
	return err
}

// Addr is the API's base URL.
func (s *Server) Addr() string { return s.api.url() }

// GatewayAddr is the gateway's base URL, "" if there is none in here.
func (s *Server) GatewayAddr() string {
	if s.gateway == nil {
		return ""
	}
	return s.gateway.url()
}

// Wait returns when the server has ended, with the error that ended it, nil
// after Stop.
func (s *Server) Wait() error {
	err := s.group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Stop ends the server and waits for that. Tasks in the cluster go on, and the
// next start on the same data folder takes them up. It is safe to call twice.
func (s *Server) Stop() error {
	s.stop()
	err := s.Wait()
	if s.engine != nil {
		s.engine.Stop()
	}
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	if s.artifacts != nil {
		err = errors.Join(err, s.artifacts.Close())
	}
	return err
}

// checkListen refuses an address that others can reach if there are no tokens.
func checkListen(listen string, tokens *api.Tokens) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("listen address %q: write it as HOST:PORT", listen)
	}
	if tokens != nil || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen address %q can be reached by other machines, and without tokens whoever does may run anything; "+
		"give a -token-file (drover token NAME makes one) or listen on 127.0.0.1", listen)
}

// service is an HTTP server that listens.
type service struct {
	listener net.Listener
}

func (s *service) url() string { return "http://" + s.listener.Addr().String() }

// Limits of the HTTP servers. Bodies and answers have no time limit of their
// own: uploads, logs and waiting requests may take long.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 5 * time.Second
)

// httpServer is what net/http's server and the gateway's have in common.
type httpServer interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// serveHTTP answers a plain handler's requests on an address until ctx ends.
func serveHTTP(ctx context.Context, group *errgroup.Group, listen string, handler http.Handler) (*service, error) {
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10,
		// Requests that wait end when the server does.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	return serve(ctx, group, listen, srv, func(error) error { return srv.Close() })
}

func startGateway(ctx context.Context, group *errgroup.Group, client *nomad.Client, listen string, metrics prometheus.Registerer, log *slog.Logger) (*service, error) {
	g := gateway.New(gateway.Config{Catalog: catalog.NewNomad(client, log), Logger: log, Registerer: metrics})
	svc, err := serve(ctx, group, listen, &http1.Server{Handler: g, Logger: log}, func(err error) error {
		log.Warn("requests were cut at the gateway's end", "error", err)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("starting the gateway: %w", err)
	}
	group.Go(func() error { return g.Run(ctx) })
	return svc, nil
}

// serve answers requests on an address until ctx ends. Then those under way
// get a while; late is told if they outlast it.
func serve(ctx context.Context, group *errgroup.Group, listen string, srv httpServer, late func(error) error) (*service, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	group.Go(func() error {
		if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving %s: %w", listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := srv.Shutdown(stopping); err != nil {
			return late(err)
		}
		return nil
	})
	return &service{listener}, nil
}
