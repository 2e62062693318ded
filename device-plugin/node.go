package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/metrics"
	"github.com/drover-ml/drover/device-plugin/sharing/mps"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/topology"
	"github.com/drover-ml/drover/nomadplugin/device"
)

const (
	// retryPause is how soon what failed is tried again: reading the GPUs (if
	// the fingerprint period is longer), writing a file, watching for events.
	retryPause = 10 * time.Second
	// endAfter is how old a process is before it ends to be started anew: an
	// agent starts a plugin that ends at once again, without a pause.
	endAfter = time.Minute
	// freshFor is for how long a look at the GPUs is good enough to promise
	// one of them to a task.
	freshFor = 2 * time.Second
)

// node is the machine's GPUs as the plugin sees and offers them. What is known
// of them comes from several parts, each of which runs on its own and tells
// what it knows by put; the node makes one offer of it all, and tells whoever
// waits for it.
type node struct {
	log      hclog.Logger
	machine  machine
	settings settings
	report   reporter
	health   judge
	exporter *metrics.Exporter
	daemons  *mps.Daemons // nil on a simulated machine
	// end ends the process, for the agent to start another; nil does not.
	end  func()
	born time.Time

	started sync.Once
	stop    context.CancelFunc
	running sync.WaitGroup
	kick    chan struct{} // asks for a look at the GPUs

	mu       sync.Mutex
	state    gpu.State
	boards   []gpu.Board            // of the last good look
	lookedAt time.Time              // zero before the first look
	known    map[string]gpu.Overlay // by part
	wiring   topology.Graph
	offer    gpu.Offer
	groups   []device.Group
	changed  chan struct{} // closed, and replaced, when the groups change
	// sampledAt is when the devices were sampled last.
	sampledAt time.Time
}

// judge decides which devices are healthy, from all that is seen of them.
type judge interface {
	ObserveInventory(gpu.Inventory)
	ObserveFailure(error)
	Faults() map[gpu.ID]gpu.Fault
	Report() health.Report
	// Run watches until ctx ends; Keep keeps what was learnt in the state
	// folder meanwhile.
	Run(context.Context) error
	Keep(context.Context) error
}

func newNode(log hclog.Logger, src gpu.Source, s settings) (*node, error) {
	n := &node{
		log: log, machine: machineOf(src), settings: s, report: reporter{log: log}, born: time.Now(),
		kick: make(chan struct{}, 1), known: map[string]gpu.Overlay{}, changed: make(chan struct{}),
	}
	n.exporter = n.newExporter()
	n.daemons = n.newDaemons()
	var err error
	n.health, err = n.newMonitor()
	return n, err
}

// start looks at the GPUs, and goes on doing so and everything else until
// Close. A second start does nothing.
func (n *node) start(ctx context.Context) {
	n.started.Do(func() {
		if n.machine.mig != nil {
			_, _, _ = n.newReconciler() // for its cordons; tried again, and then reported, by its part
		}
		_ = n.look(ctx)          // reported; the first offer is made of what there is
		_ = n.learnTopology(ctx) // tried again, and then reported, by its part
		parts, stop := context.WithCancel(context.Background())
		n.mu.Lock()
		n.stop = stop
		n.mu.Unlock()
		n.run(parts, "watching the GPUs", n.lookOften)
		n.run(parts, "watching the health of the GPUs", n.health.Run)
		n.run(parts, "reading how the GPUs are connected", n.readTopology)
		n.run(parts, "keeping state", n.withState)
		if n.machine.mig != nil {
			n.run(parts, "changing MIG layouts", n.resliceBoards)
		}
		if n.settings.cdiDir != "" {
			n.run(parts, "writing CDI devices", n.onChange(n.writeCDI))
		}
		if n.settings.metricsAddress != "" {
			n.run(parts, "serving metrics", n.export)
			n.run(parts, "sampling for metrics", n.sampleOften)
			n.run(parts, "collecting for metrics", n.collectOften)
		}
	})
}

// run runs a part until ctx ends. One that fails or panics is started again
// after a pause; none can take another down.
func (n *node) run(ctx context.Context, doing string, part func(context.Context) error) {
	n.running.Go(func() {
		trouble := ""
		for {
			err := guard(func() error { return part(ctx) })
			if ctx.Err() != nil {
				return
			}
			if text := fmt.Sprint(err); text != trouble {
				trouble = text
				n.log.Warn("a part of the GPU plugin failed, and is tried again", "doing", doing, "error", err, "pause", retryPause)
			}
			if !sleep(ctx, retryPause) {
				return
			}
		}
	})
}

// guard turns a panic into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

// sleep reports whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Close ends all parts and releases the GPUs. It does not wait for a driver
// that hangs.
func (n *node) Close() error {
	n.mu.Lock()
	stop := n.stop
	n.mu.Unlock()
	if stop != nil {
		stop()
		done := make(chan struct{})
		go func() { n.running.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(closePatience):
		}
	}
	return n.machine.Close()
}

// lookOften looks at the GPUs every period, and at once when there is reason
// to.
func (n *node) lookOften(ctx context.Context) error {
	pause := n.settings.period
	if !n.hasLooked() {
		pause = 0 // the first look was cut short
	}
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-n.machine.Changes():
		case <-n.kick:
		case <-timer.C:
		}
		timer.Stop()
		pause = n.settings.period
		if err := n.look(ctx); err != nil && !errors.Is(err, gpu.ErrNoDriver) {
			pause = min(pause, retryPause)
		}
	}
}

// lookSoon asks for a look at the GPUs without waiting for it.
func (n *node) lookSoon() {
	select {
	case n.kick <- struct{}{}:
	default: // asked for already
	}
}

// look reads the machine. After an error too the offer is right: what was seen
// before is in it, unhealthy.
func (n *node) look(ctx context.Context) error {
	started := time.Now()
	inv, err := n.machine.Inventory(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookedAt = time.Now()
	switch {
	case err == nil:
		n.state = n.state.Next(inv)
		n.boards = inv.Boards
		n.health.ObserveInventory(inv)
		n.report.inventory(inv, n.settings.policy.Filter)
		n.report.sharing(n.settings.sharing.Unmatched(n.state.Devices))
	case len(n.state.Devices) > 0:
		n.state = n.state.Failed(err.Error())
		n.health.ObserveFailure(err)
	}
	n.exporter.Looked(started, err)
	n.report.trouble(err, len(n.state.Devices))
	n.renew()
	if errors.Is(err, gpu.ErrRestart) && n.end != nil && time.Since(n.born) >= endAfter {
		n.log.Warn("ending, so that the agent starts the plugin anew: what runs on the GPUs goes on", "reason", err)
		n.end()
	}
	return err
}

// put replaces what a part knows of the GPUs.
func (n *node) put(part string, o gpu.Overlay) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known[part] = o
	n.renew()
}

// again makes the offer anew, since something that it is made of has changed.
func (n *node) again() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.renew()
}

// renew makes the offer anew, and tells of it if it is another. The lock is
// held.
func (n *node) renew() {
	found := n.health.Faults()
	known := []gpu.Overlay{{Faults: found}, n.shared()}
	for _, part := range slices.Sorted(maps.Keys(n.known)) {
		known = append(known, n.known[part])
	}
	before := n.offer
	n.offer = n.state.Offer(n.settings.policy, gpu.Merge(known...))
	n.report.devices(before, n.offer, found)
	n.exporter.Devices(n.state.DriverVersion, n.offer.Devices, n.boards)
	n.exporter.Health(n.health.Report())
	groups := n.offer.Groups()
	if !reflect.DeepEqual(groups, n.groups) {
		n.groups = groups
		close(n.changed)
		n.changed = make(chan struct{})
	}
}

// onChange is a part that does something with every new offer.
func (n *node) onChange(do func(gpu.Offer) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			offer, _, changed := n.current()
			if err := do(offer); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	}
}

// current is the offer, its groups, and a channel that is closed when the
// groups change.
func (n *node) current() (gpu.Offer, []device.Group, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.offer, n.groups, n.changed
}

// reserve answers from a look at the GPUs that is fresh: one may have vanished
// meanwhile, or recovered, or the plugin may have been started just now.
func (n *node) reserve(ctx context.Context, ids []gpu.ID) (*device.Reservation, error) {
	if len(ids) == 0 {
		return &device.Reservation{}, nil
	}
	offer, _, _ := n.current()
	devices, err := offer.Select(ids)
	if err != nil || !n.isFresh() {
		lookErr := n.look(ctx)
		offer, _, _ = n.current()
		if devices, err = offer.Select(ids); err != nil && lookErr != nil && errors.Is(err, gpu.ErrUnknownGPU) {
			return nil, fmt.Errorf("%w (%w)", err, lookErr)
		}
	}
	if err != nil {
		return nil, err
	}
	r := offer.Reservation(devices)
	addHints(r.Env, n.connections(), devices)
	if err := n.addShares(ctx, r, devices); err != nil {
		return nil, err
	}
	if n.settings.stateDir != "" {
		r.Env[gpustatus.Variable] = n.statusPath()
	}
	return r, nil
}

func (n *node) connections() topology.Graph {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wiring
}

func (n *node) hasLooked() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.lookedAt.IsZero()
}

func (n *node) isFresh() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.lookedAt.IsZero() && time.Since(n.lookedAt) < freshFor
}

// stats reads the devices that are offered.
func (n *node) stats(ctx context.Context) ([]device.GroupStats, error) {
	if !n.hasLooked() {
		if err := n.look(ctx); err != nil {
			return nil, err
		}
	}
	offer, _, _ := n.current()
	if _, err := n.sample(ctx, offer); err != nil {
		return nil, err
	}
	return gpu.Stats(offer.Devices, n.exporter.Latest()), nil
}
