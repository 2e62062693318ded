// Package devcluster is one process that stands in for a Nomad cluster: the
// part of Nomad's HTTP API that Drover and nomad/api need, a scheduler, and
// pretend nodes that launch real plugin processes and real tasks on this
// machine.
//
// It is for trying things out and for tests. Resources other than devices are
// only accounted for, nothing is isolated, and anyone who can reach its port
// can run commands as its user: it listens on loopback only.
//
// All that it has accepted is on disk before it answers. Killed at any moment
// and started again on the same folder it goes on where it was: tasks have
// kept running, and are taken up again.
package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/devcluster/client"
	"github.com/drover-ml/drover/devcluster/client/logmon"
	"github.com/drover-ml/drover/devcluster/client/plugins"
	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/faults"
	"github.com/drover-ml/drover/devcluster/httpapi"
	"github.com/drover-ml/drover/devcluster/state"
)

// MaybeRunHelper turns this process into a helper of a devcluster if it was
// started as one, and then does not return. Programs and test binaries that
// start a cluster call it first in main or TestMain.
func MaybeRunHelper() {
	dir := os.Getenv(logmon.EnvDir)
	if dir == "" {
		return
	}
	if err := logmon.Serve(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Config configures a cluster.
type Config struct {
	// DataDir is where all is kept. Required.
	DataDir string
	// Listen is the API's address, on loopback. Default 127.0.0.1:0.
	Listen string
	// Nodes are the pretend nodes. Without any, and without GPUs, there is one.
	Nodes []NodeConfig
	// GPUs adds nodes with simulated GPUs: "<preset>" or "<preset>:<nodes>",
	// such as "dgx-h100:2". The presets are those of nomad-device-gpu.
	GPUs []string
	// PluginDir is the folder with nomad-driver-ml and nomad-device-gpu.
	// Every executable in it named nomad-driver-… or nomad-device-… is launched
	// as a plugin. Required.
	PluginDir string
	// PluginConfig is the config block of each plugin, by file name, on all
	// nodes. A node's own settings win.
	PluginConfig map[string]map[string]any
	// HeartbeatTTL is how long a node may be silent until it counts as down.
	// Default 5 s.
	HeartbeatTTL time.Duration
	Logger       hclog.Logger
}

// NodeConfig describes a pretend node. Zero fields have defaults.
type NodeConfig struct {
	Name       string // default node-1, node-2, …
	Datacenter string // default dc1
	Class      string
	Pool       string // default "default"
	Meta       map[string]string
	Attributes map[string]string
	// CPUMHz, MemoryMiB and DiskMiB are what the node claims to have, whatever
	// the machine has. Defaults: 32000, 131072, 512000.
	CPUMHz, MemoryMiB, DiskMiB int
	// GPUs is a simulation preset, or a board file; "" is none.
	GPUs string
	// PluginConfig is as in Config, for this node.
	PluginConfig map[string]map[string]any
}

// File names of the plugins whose settings a cluster fills in.
const (
	gpuPlugin = "nomad-device-gpu"
	mlPlugin  = "nomad-driver-ml"
)

// Cluster is a running cluster.
type Cluster struct {
	cfg      Config
	log      hclog.Logger
	lock     *os.File
	addr     string
	faults   *faults.Faults
	binaries []*plugins.Binary

	mu      sync.Mutex
	ended   bool
	running *generation
	killed  map[string]bool // nodes that were powered off, by name
}

// generation is what a restart replaces.
type generation struct {
	store  *state.Store
	ctl    *control.Server
	http   *http.Server
	nodes  map[string]*client.Node // by name
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start starts a cluster, or goes on with the one that was in DataDir. It
// returns when the API answers and the nodes are ready.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := complete(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the cluster's folder: %w", err)
	}
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, log: cfg.Logger.Named("devcluster"), lock: lock, faults: &faults.Faults{}, killed: map[string]bool{}}
	if c.binaries, err = plugins.Discover(ctx, cfg.PluginDir, c.log); err != nil {
		lock.Close()
		return nil, fmt.Errorf("starting plugins: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.start(ctx); err != nil {
		lock.Close()
		return nil, err
	}
	return c, nil
}

// complete fills in defaults and the nodes that GPUs stand for.
func complete(cfg Config) (Config, error) {
	if cfg.DataDir == "" || cfg.PluginDir == "" {
		return cfg, errors.New("a devcluster needs a DataDir and a PluginDir")
	}
	var err error
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return cfg, err
	}
	if cfg.PluginDir, err = filepath.Abs(cfg.PluginDir); err != nil {
		return cfg, err
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return cfg, fmt.Errorf("listen address %q: %w", cfg.Listen, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return cfg, fmt.Errorf("listen address %q is not on loopback: a devcluster has no access control", cfg.Listen)
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	nodes := append([]NodeConfig{}, cfg.Nodes...)
	for _, spec := range cfg.GPUs {
		preset, count, err := parseGPUs(spec)
		if err != nil {
			return cfg, err
		}
		for range count {
			nodes = append(nodes, NodeConfig{GPUs: preset})
		}
	}
	if len(nodes) == 0 {
		nodes = []NodeConfig{{}}
	}
	seen := map[string]bool{}
	for i := range nodes {
		n := &nodes[i]
		setDefault(&n.Name, fmt.Sprintf("node-%d", i+1))
		setDefault(&n.Datacenter, "dc1")
		setDefault(&n.Pool, "default")
		setDefault(&n.CPUMHz, 32000)
		setDefault(&n.MemoryMiB, 131072)
		setDefault(&n.DiskMiB, 512000)
		if !nodeName.MatchString(n.Name) || seen[n.Name] {
			return cfg, fmt.Errorf("node name %q is taken or has characters other than letters, digits, dots, dashes and underscores", n.Name)
		}
		seen[n.Name] = true
	}
	cfg.Nodes = nodes
	return cfg, nil
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// parseGPUs reads "<preset>[:<nodes>]". A board file's path may have colons,
// so only a number after the last one counts.
func parseGPUs(spec string) (preset string, nodes int, err error) {
	const most = 64
	if i := strings.LastIndexByte(spec, ':'); i >= 0 {
		if n, err := strconv.Atoi(spec[i+1:]); err == nil {
			if n < 1 || n > most || i == 0 {
				return "", 0, fmt.Errorf("GPUs %q: want <preset>[:<nodes>] with 1 to %d nodes", spec, most)
			}
			return spec[:i], n, nil
		}
	}
	if spec == "" {
		return "", 0, errors.New("GPUs: a preset is missing")
	}
	return spec, 1, nil
}

// lockDir keeps a second cluster out of a folder.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cluster's folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another devcluster runs in %s: stop it first, or use another folder", dir)
	}
	return f, nil
}

// start brings up a generation. c.mu is held.
func (c *Cluster) start(ctx context.Context) error {
	store, err := state.Open(filepath.Join(c.cfg.DataDir, "server"))
	if err != nil {
		return err
	}
	ctl, err := control.New(store, control.Config{Logger: c.log, HeartbeatTTL: c.cfg.HeartbeatTTL})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	listen := c.cfg.Listen
	if c.addr != "" {
		listen = c.addr // a restart keeps the port
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listening: %w", err), store.Close())
	}
	c.addr = ln.Addr().String()
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g := &generation{store: store, ctl: ctl, nodes: map[string]*client.Node{}, cancel: cancel}
	c.running = g
	g.wg.Go(func() { ctl.Run(runCtx) })
	if err := c.startNodes(ctx, g); err != nil {
		ln.Close()
		return errors.Join(err, c.stopGeneration(g))
	}
	api := httpapi.New(httpapi.Config{Control: ctl, Clients: clients{c}, Logger: c.log, Addr: c.addr, EventDelay: c.faults.EventDelay})
	mux := http.NewServeMux()
	mux.Handle("/v1/devcluster/", c.faultAPI())
	mux.Handle("/", c.faults.Wrap(api))
	g.http = &http.Server{Handler: localOnly(mux), BaseContext: func(net.Listener) context.Context { return runCtx },
		ReadHeaderTimeout: 10 * time.Second}
	g.wg.Go(func() {
		if err := g.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("the API ended", "error", err)
		}
	})
	return nil
}

func (c *Cluster) startNodes(ctx context.Context, g *generation) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for i, nc := range c.cfg.Nodes {
		if c.killed[nc.Name] {
			continue
		}
		wg.Go(func() {
			n, err := c.startNode(ctx, g, i, nc)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("starting node %s: %w", nc.Name, err))
				return
			}
			g.nodes[nc.Name] = n
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Dynamic ports of all nodes, which share this machine's.
const (
	minPort = 20000
	maxPort = 32000
)

func (c *Cluster) startNode(ctx context.Context, g *generation, i int, nc NodeConfig) (*client.Node, error) {
	dir := c.nodeDir(nc.Name)
	var list []client.Plugin
	for _, b := range c.binaries {
		config := c.pluginConfig(b, nc, dir)
		encoded, err := b.Configure(ctx, config, c.log)
		if err != nil {
			return nil, err
		}
		list = append(list, client.Plugin{Binary: b, Config: encoded})
	}
	share := (maxPort - minPort) / len(c.cfg.Nodes)
	return client.Start(ctx, client.Config{
		Name: nc.Name, Datacenter: nc.Datacenter, Class: nc.Class, Pool: nc.Pool, Meta: nc.Meta, Attributes: nc.Attributes,
		CPUMHz: nc.CPUMHz, MemoryMiB: nc.MemoryMiB, DiskMiB: nc.DiskMiB,
		MinPort: minPort + i*share, MaxPort: minPort + (i+1)*share - 1,
		Dir: dir, HTTPAddr: c.addr, Plugins: list, Server: server{g.ctl}, Logger: c.log,
		HeartbeatEvery: max(50*time.Millisecond, c.cfg.HeartbeatTTL/5),
	})
}

func (c *Cluster) nodeDir(name string) string { return filepath.Join(c.cfg.DataDir, "nodes", name) }

func (c *Cluster) faultFile(node string) string {
	return filepath.Join(c.nodeDir(node), "gpu-faults.hcl")
}

// pluginConfig is a plugin's configuration on a node: what the cluster fills
// in, then what it was told for all nodes, then for this one.
func (c *Cluster) pluginConfig(b *plugins.Binary, nc NodeConfig, dir string) map[string]any {
	file := filepath.Base(b.Path)
	config := map[string]any{}
	switch file {
	case gpuPlugin:
		if nc.GPUs == "" {
			config["enabled"] = false
			break
		}
		config["simulate"], config["simulate_node"] = nc.GPUs, nc.Name
		config["simulate_faults"] = c.faultFile(nc.Name)
		config["fingerprint_period"] = "500ms"
		config["state_dir"] = filepath.Join(dir, "gpu")
		// What was broken on purpose, and was healed, is needed again at once.
		config["health"] = map[string]any{"hold_down": "1s", "settle": "1s", "vitals_period": "1s"}
	case mlPlugin:
		config["state_dir"] = filepath.Join(dir, "driver-ml")
		config["log_file"] = filepath.Join(dir, "driver-ml.log")
	}
	for _, m := range []map[string]any{c.cfg.PluginConfig[file], nc.PluginConfig[file]} {
		for k, v := range m {
			config[k] = v
		}
	}
	return config
}

// Addr is the API's address: http://127.0.0.1:<port>.
func (c *Cluster) Addr() string { return "http://" + c.addr }

// Faults is where errors are injected.
func (c *Cluster) Faults() *faults.Faults { return c.faults }

// Stop ends the cluster. Tasks keep running: the next Start on the same
// folder takes them up. It may be called twice.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	err := c.stopGeneration(c.running)
	return errors.Join(err, c.lock.Close())
}

func (c *Cluster) stopGeneration(g *generation) error {
	var wg sync.WaitGroup
	if g.http != nil {
		_ = g.http.Close() // streams would never end by themselves
	}
	for _, n := range g.nodes {
		wg.Go(n.Stop)
	}
	wg.Wait()
	g.cancel()
	g.wg.Wait()
	return g.store.Close()
}

// Destroy stops all tasks and ends the cluster. The folder stays.
func (c *Cluster) Destroy(ctx context.Context) error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return nil
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, n := range c.running.nodes {
		wg.Go(func() {
			if err := n.Destroy(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	c.mu.Unlock()
	return errors.Join(append(errs, c.Stop(ctx))...)
}

// Restart ends the cluster's process in all but name and starts it again:
// connections break, plugins are launched anew, tasks keep running.
func (c *Cluster) Restart(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errors.New("the cluster has ended")
	}
	if err := c.stopGeneration(c.running); err != nil {
		return fmt.Errorf("restarting: %w", err)
	}
	return c.start(ctx)
}
