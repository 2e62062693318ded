// Package client is a pretend node: it runs plugin processes and tasks as a
// Nomad client does, with real processes on this machine and made-up
// resources.
//
// What it has to know again after a crash is in its journal before it counts:
// a task's configuration before the driver is asked to start it, and the
// driver's handle before the task is reported as running. So after a kill at
// any moment each task is either taken up again or, with the same ID, started
// again, and an exit that happened meanwhile is delivered.
package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/client/logmon"
	"github.com/drover-ml/drover/devcluster/client/plugins"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
)

// Server is what a node asks of the cluster's server.
type Server interface {
	RegisterNode(n *api.Node) error
	// Heartbeat returns false if the node has to register again.
	Heartbeat(nodeID string) bool
	NodeAllocs(ctx context.Context, nodeID string, index uint64) ([]*api.Allocation, uint64, error)
	Alloc(id string) *api.Allocation
	UpdateAllocs(updates []*api.Allocation) error
	RegisterServices(regs []*api.ServiceRegistration) error
	DeregisterServices(allocID string, ids []string) error
	Variable(namespace, path string) *api.Variable
}

// Config describes a node.
type Config struct {
	Name, Datacenter, Class, Pool string
	Meta, Attributes              map[string]string
	// CPUMHz, MemoryMiB and DiskMiB are what the node claims to have.
	CPUMHz, MemoryMiB, DiskMiB int
	// MinPort to MaxPort are the node's dynamic ports.
	MinPort, MaxPort int
	// Dir is where the node keeps everything.
	Dir string
	// HTTPAddr is the API's address, host:port.
	HTTPAddr string
	// Plugins are the plugins to run, with their encoded configurations.
	Plugins []Plugin
	Server  Server
	// HeartbeatEvery is the pause between heartbeats. Default 1 s.
	HeartbeatEvery time.Duration
	Logger         hclog.Logger
}

// Plugin is a plugin to run.
type Plugin struct {
	Binary *plugins.Binary
	Config []byte
}

// MarkEnv is set, to the node's folder, in the environment of all that a node
// starts, so that a power failure can find it.
const MarkEnv = "DROVER_DEVCLUSTER_NODE"

// Node is a running node.
type Node struct {
	cfg    Config
	id     string
	log    hclog.Logger
	store  *store
	link   *link
	logs   *logs
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	plugins map[string]*plugins.Instance // by plugin name
	reports *reporter

	mu       sync.Mutex
	print    fingerprint
	printed  chan struct{} // closed and replaced when print changes
	allocs   map[string]*allocRunner
	devStats map[string][]device.GroupStats // by plugin
	stopped  bool
}

// Start starts a node: its plugins first, then, once they have told what they
// have, what ran on it before.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.HeartbeatEvery == 0 {
		cfg.HeartbeatEvery = time.Second
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, allocsDir), 0o755); err != nil {
		return nil, fmt.Errorf("creating node folder: %w", err)
	}
	st, err := openStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger.Named(cfg.Name), store: st, link: newLink(cfg.Server),
		plugins: map[string]*plugins.Instance{}, printed: make(chan struct{}),
		allocs: map[string]*allocRunner{}, devStats: map[string][]device.GroupStats{}}
	n.print.init()
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.reports = newReporter(n)
	if n.id, err = st.nodeID(uuid.NewString); err != nil {
		return nil, errors.Join(err, st.close())
	}
	n.logs = &logs{dir: filepath.Join(cfg.Dir, "logmon")}
	if err := n.logs.connect(ctx); err != nil {
		return nil, errors.Join(err, st.close())
	}
	n.startPlugins()
	n.awaitFingerprints(ctx)
	if err := n.link.RegisterNode(n.describe()); err != nil {
		n.Stop()
		return nil, fmt.Errorf("registering node %s: %w", cfg.Name, err)
	}
	n.restore()
	n.wg.Go(n.beat)
	n.wg.Go(n.republish)
	n.wg.Go(n.watchAllocs)
	n.wg.Go(n.reports.run)
	n.reports.all() // what could not be told before a crash
	n.wg.Go(n.collectFiles)
	return n, nil
}

const allocsDir = "allocs"

// ID is the node's ID.
func (n *Node) ID() string { return n.id }

// Name is the node's name.
func (n *Node) Name() string { return n.cfg.Name }

func (n *Node) startPlugins() {
	for _, p := range n.cfg.Plugins {
		name := p.Binary.Info.Name
		env := []string{MarkEnv + "=" + n.cfg.Dir}
		inst := plugins.New(p.Binary, p.Config, env, n.log, plugins.Hooks{
			Driver:    func(f driver.Fingerprint) { n.setPrint(func(fp *fingerprint) { fp.drivers[name] = f }) },
			TaskEvent: n.taskEvent,
			Devices:   func(g []device.Group) { n.setPrint(func(fp *fingerprint) { fp.devices[name] = g }) },
			Stats:     func(g []device.GroupStats) { n.setStats(name, g) },
			Launched: func(info host.ReattachInfo) {
				if err := n.store.put(tablePlugins, name, info); err != nil {
					n.log.Error("a plugin process could not be noted: it will not be taken up after a crash", "plugin", name, "error", err)
				}
			},
		})
		n.plugins[name] = inst
		var old *host.ReattachInfo
		if info, ok := n.store.plugins[name]; ok {
			old = &info
		}
		n.wg.Go(func() { inst.Run(n.ctx, old) })
	}
}

func (n *Node) setPrint(change func(*fingerprint)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.print)
	close(n.printed)
	n.printed = make(chan struct{})
}

// awaitFingerprints gives plugins a while to tell what they have.
func (n *Node) awaitFingerprints(ctx context.Context) {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		n.mu.Lock()
		missing, changed := 0, n.printed
		for name, p := range n.plugins {
			_, isDriver := n.print.drivers[name]
			_, isDevice := n.print.devices[name]
			if p.Info.Type == base.TypeDriver && !isDriver || p.Info.Type == base.TypeDevice && !isDevice {
				missing++
			}
		}
		n.mu.Unlock()
		if missing == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			n.log.Warn("not all plugins have told what they have yet", "missing", missing)
			return
		}
	}
}

func (n *Node) describe() *api.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.print.node(n.cfg, n.id)
}

// republish registers the node anew whenever plugins tell something new.
func (n *Node) republish() {
	last := n.describe()
	for {
		n.mu.Lock()
		changed := n.printed
		n.mu.Unlock()
		if now := n.describe(); !sameNode(last, now) {
			if err := n.link.RegisterNode(now); err != nil {
				n.log.Debug("registering again", "error", err)
				if !n.pause(time.Second) {
					return
				}
				continue
			}
			last = now
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return
		}
	}
}

// pause waits, and reports whether the node still runs.
func (n *Node) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-n.ctx.Done():
		return false
	}
}

func (n *Node) beat() {
	for {
		if !n.link.Heartbeat(n.id) {
			if err := n.link.RegisterNode(n.describe()); err != nil {
				n.log.Debug("registering again", "error", err)
			} else {
				n.tellAll()
			}
		}
		if !n.pause(n.cfg.HeartbeatEvery) {
			return
		}
	}
}

// restore takes up what ran here before.
func (n *Node) restore() {
	live := map[string]*api.Allocation{}
	if allocs, _, err := n.link.NodeAllocs(n.ctx, n.id, 0); err == nil {
		for _, a := range allocs {
			live[a.ID] = a
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, stored := range n.store.allocs {
		a := stored
		now, still := live[id]
		if still {
			a = now
		}
		r := newAllocRunner(n, a)
		n.allocs[id] = r
		r.restore(n.store.tasksOf(id))
		if !still {
			// It was given up while this node was away.
			r.stop("allocation is not wanted on this node any more")
		}
	}
	for _, r := range n.allocs { // once all are there: some wait for others
		n.wg.Go(r.run)
	}
}

// watchAllocs follows what the server wants to run here.
func (n *Node) watchAllocs() {
	var index uint64
	for {
		allocs, next, err := n.link.NodeAllocs(n.ctx, n.id, index)
		if n.ctx.Err() != nil {
			return
		}
		if err != nil {
			if !n.pause(100 * time.Millisecond) {
				return
			}
			continue
		}
		index = next
		n.reconcile(allocs)
	}
}

func (n *Node) reconcile(allocs []*api.Allocation) {
	wanted := map[string]bool{}
	for _, a := range allocs {
		wanted[a.ID] = true
		n.mu.Lock()
		r := n.allocs[a.ID]
		n.mu.Unlock()
		switch {
		case r != nil:
			r.update(a)
		case a.DesiredStatus != api.AllocDesiredStatusRun:
			// Stopped before it got here.
			n.reports.ended(a)
		default:
			n.begin(a)
		}
	}
	n.mu.Lock()
	var unwanted []*allocRunner
	for id, r := range n.allocs {
		if !wanted[id] && !r.ended() {
			unwanted = append(unwanted, r)
		}
	}
	n.mu.Unlock()
	for _, r := range unwanted {
		r.stop("allocation is not wanted on this node any more")
	}
}

func (n *Node) begin(a *api.Allocation) {
	if err := n.store.putAlloc(a); err != nil {
		n.log.Error("an allocation could not be noted and is tried again", "alloc_id", a.ID, "error", err)
		return
	}
	r := newAllocRunner(n, a)
	n.mu.Lock()
	n.allocs[a.ID] = r
	n.mu.Unlock()
	n.wg.Go(r.run)
}

func (n *Node) runner(allocID string) *allocRunner {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.allocs[allocID]
}

func (n *Node) taskEvent(e driver.TaskEvent) {
	if r := n.runner(e.AllocID); r != nil {
		r.driverEvent(e)
	}
}

// collectFiles removes the files of allocations that the server has forgotten.
func (n *Node) collectFiles() {
	const every = 30 * time.Second
	for n.pause(every) {
		if n.link.cut() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(n.cfg.Dir, allocsDir))
		if err != nil {
			n.log.Warn("looking for files to remove", "error", err)
			continue
		}
		for _, e := range entries {
			if n.link.Alloc(e.Name()) == nil {
				if err := n.collectAlloc(e.Name()); err != nil {
					n.log.Debug("removing an allocation's files", "alloc_id", e.Name(), "error", err)
				}
			}
		}
	}
}

func (n *Node) collectAlloc(id string) error {
	if r := n.runner(id); r != nil {
		if !r.ended() {
			return fmt.Errorf("allocation %s has not ended", id)
		}
		n.mu.Lock()
		delete(n.allocs, id)
		n.mu.Unlock()
	}
	if err := n.store.dropAlloc(id); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(n.cfg.Dir, allocsDir, id))
}

// Stop ends the node like an agent that is stopped: plugins are shut down,
// tasks go on and are taken up by the next Start.
func (n *Node) Stop() {
	n.mu.Lock()
	already := n.stopped
	n.stopped = true
	n.mu.Unlock()
	if already {
		return
	}
	n.cancel()
	n.wg.Wait()
	n.logs.close()
	if err := n.store.close(); err != nil {
		n.log.Warn("closing the node's journal", "error", err)
	}
}

// runners are the node's allocations as they stand.
func (n *Node) runners() []*allocRunner {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.allocs))
}

// Destroy stops all tasks, then the node.
func (n *Node) Destroy(ctx context.Context) error {
	all := n.runners()
	for _, r := range all {
		r.stop("the development cluster is being destroyed")
	}
	for _, r := range all {
		select {
		case <-r.done:
		case <-ctx.Done():
			n.PowerOff()
			return fmt.Errorf("stopping the tasks of node %s: %w; they were killed", n.cfg.Name, ctx.Err())
		}
	}
	n.Stop()
	return nil
}

// SetPartitioned cuts the node off from the server, or reconnects it. What it
// runs goes on.
func (n *Node) SetPartitioned(yes bool) {
	n.link.set(yes)
	if !yes {
		n.tellAll()
	}
}

// tellAll tells the server what it may have missed.
func (n *Node) tellAll() {
	n.reports.all()
	for _, r := range n.runners() {
		if !r.ended() {
			r.services.refresh()
		}
	}
}

// Partitioned reports whether the node is cut off.
func (n *Node) Partitioned() bool { return n.link.cut() }

// logs is the connection to the node's log collector, renewed when it breaks.
type logs struct {
	mu     sync.Mutex
	dir    string
	client *logmon.Client
}

func (l *logs) connect(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := logmon.Connect(ctx, l.dir)
	if err == nil {
		l.client = c
	}
	return err
}

// call does fn, on a new collector if the one there was is gone.
func (l *logs) call(ctx context.Context, fn func(*logmon.Client) error) error {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c != nil {
		if err := fn(c); err == nil {
			return nil
		}
		c.Close()
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	c = l.client
	l.mu.Unlock()
	return fn(c)
}

func (l *logs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		l.client.Close()
		l.client = nil
	}
}

func (l *logs) pid() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil {
		return 0
	}
	return l.client.PID()
}
