// Package mps runs the daemons of NVIDIA's Multi-Process Service that boards
// and slices shared by MPS need, one for each, and tells whether the limits of
// their replicas hold.
//
// It fails closed: a device is good for tasks only while its daemon answers and
// tells the very limits that its replicas have. Daemons outlive this process,
// as the tasks do that use them: the next one takes them over. One without
// clients is ended with the plugin.
package mps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// DefaultProgram is NVIDIA's control program, which the driver brings.
const DefaultProgram = "nvidia-cuda-mps-control"

// Config is what a Daemons needs to know.
type Config struct {
	// Dir is the folder for the daemons' pipes and logs, one folder each. Every
	// user that tasks run as must be able to pass through it.
	Dir string
	// Program is the control program; "" is DefaultProgram, looked up in PATH.
	Program string
	Logger  hclog.Logger // nil logs nothing

	Check      time.Duration // between two looks at a daemon; 0 is 30 seconds
	Patience   time.Duration // for one answer of it; 0 is 5 seconds
	Startup    time.Duration // until a new daemon answers; 0 is 15 seconds
	FirstPause time.Duration // before a daemon is started again, doubled each time up to a minute; 0 is 1 second
}

const longestPause = time.Minute

// Daemons are the MPS daemons of a machine. Its methods may be called at the
// same time.
type Daemons struct {
	Config

	mu      sync.Mutex
	wanted  map[gpu.ID]sharing.Share
	keepers map[gpu.ID]*keeper
	kick    chan struct{} // Run has something to do
	changed chan struct{} // closed, and replaced, on every change of a fault
}

// New makes the Daemons of a machine. It starts none: Run does.
func New(c Config) *Daemons {
	if c.Program == "" {
		c.Program = DefaultProgram
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&c.Check, 30 * time.Second}, {&c.Patience, 5 * time.Second}, {&c.Startup, 15 * time.Second}, {&c.FirstPause, time.Second}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	return &Daemons{
		Config: c, wanted: map[gpu.ID]sharing.Share{}, keepers: map[gpu.ID]*keeper{},
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

// Want tells how the machine's devices are shared from now on. Those that are
// not shared by MPS need no daemon, and shares with a Problem get no new one.
func (d *Daemons) Want(shares []sharing.Share) {
	wanted := make(map[gpu.ID]sharing.Share)
	for _, s := range shares {
		if s.Mode == sharing.MPS {
			wanted[s.Device] = s
		}
	}
	d.mu.Lock()
	d.wanted = wanted
	d.mu.Unlock()
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// Faults are those of the devices whose daemons are not as they must be, and of
// those that are shared no longer and have tasks yet that think they are.
func (d *Daemons) Faults() map[gpu.ID]gpu.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	faults := make(map[gpu.ID]gpu.Fault)
	for id := range d.wanted {
		faults[id] = d.faultLocked(id)
	}
	for id := range d.keepers {
		faults[id] = d.faultLocked(id)
	}
	for id, f := range faults {
		if f.OK() {
			delete(faults, id)
		}
	}
	return faults
}

func (d *Daemons) faultLocked(id gpu.ID) gpu.Fault {
	reason := notStarted
	if k, ok := d.keepers[id]; ok {
		reason = k.trouble
	}
	if reason == "" {
		return gpu.Fault{}
	}
	// What runs there may finish; if its daemon is gone, it knows already.
	return gpu.Fault{Reason: reason, Action: gpustatus.Keep}
}

const notStarted = "its MPS daemon has not been started yet"

// Changed is closed when Faults would answer differently.
func (d *Daemons) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// ErrNotEnforced is what Access wraps where limits do not hold.
var ErrNotEnforced = errors.New("the limits of its replicas are not enforced")

// Access is how a task reaches the daemon of its replica, after a look at
// whether its limits hold this very moment.
func (d *Daemons) Access(ctx context.Context, s sharing.Share) (sharing.Access, error) {
	d.mu.Lock()
	fault := gpu.Worst(s.Fault(), d.faultLocked(s.Device))
	d.mu.Unlock()
	if !fault.OK() {
		return sharing.Access{}, fmt.Errorf("%s: %w: %s", s.Device, ErrNotEnforced, fault.Reason)
	}
	c := d.control(s.Device)
	if err := c.verify(ctx, s); err != nil {
		return sharing.Access{}, fmt.Errorf("%s: %w: asking its MPS daemon: %w", s.Device, ErrNotEnforced, err)
	}
	return sharing.Access{PipeDir: c.pipeDir()}, nil
}

func (d *Daemons) control(id gpu.ID) control {
	// Slices of old drivers have slashes in their IDs.
	name := strings.ReplaceAll(string(id), "/", "_")
	return control{program: d.Program, folder: filepath.Join(d.Dir, name), patience: d.Patience}
}

// Run keeps a daemon for each device that wants one, until ctx ends, and then
// ends those that nobody uses. It also ends daemons that an earlier process
// left and that are not wanted, once their clients are gone: so Want comes
// first.
func (d *Daemons) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer func() {
		running.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.keepers) // nobody looks at the limits any more
		d.tellLocked()
	}()
	if err := os.MkdirAll(d.Dir, 0o755); err != nil {
		return fmt.Errorf("making the folder for MPS daemons: %w", err)
	}
	left, err := os.ReadDir(d.Dir)
	if err != nil {
		return fmt.Errorf("looking for MPS daemons of earlier: %w", err)
	}
	d.mu.Lock()
	wanted := make(map[string]bool)
	for id := range d.wanted {
		wanted[filepath.Base(d.control(id).folder)] = true
	}
	for _, dir := range left {
		if dir.IsDir() && !wanted[dir.Name()] {
			d.keepLocked(ctx, gpu.ID(dir.Name()), nil, &running)
		}
	}
	d.mu.Unlock()
	for {
		d.reconcile(ctx, &running)
		select {
		case <-ctx.Done():
			return nil
		case <-d.kick:
		}
	}
}

// reconcile gives every device the keeper that it needs.
func (d *Daemons) reconcile(ctx context.Context, running *sync.WaitGroup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, s := range d.wanted {
		k, ok := d.keepers[id]
		switch {
		case s.Problem != "":
			// It has a fault already; tasks of before keep their daemon.
		case !ok || k.share == nil || *k.share != s:
			d.keepLocked(ctx, id, &s, running)
		}
	}
	for id, k := range d.keepers {
		if _, ok := d.wanted[id]; !ok && k.share != nil {
			d.keepLocked(ctx, id, nil, running)
		}
	}
}

// keepLocked puts a keeper in the place of that of a device. A nil share is of
// a device that needs no daemon any more.
func (d *Daemons) keepLocked(ctx context.Context, id gpu.ID, s *sharing.Share, running *sync.WaitGroup) {
	before := d.keepers[id]
	kept, cancel := context.WithCancel(ctx)
	k := &keeper{
		daemons: d, id: id, share: s, control: d.control(id), cancel: cancel, done: make(chan struct{}),
		trouble: "its MPS daemon is starting",
	}
	if s == nil {
		k.trouble = "its MPS daemon of before is ending"
	}
	d.keepers[id] = k
	d.tellLocked()
	running.Go(func() {
		defer close(k.done)
		defer cancel()
		if before != nil {
			before.cancel()
			<-before.done
			k.child = before.child
		}
		k.run(kept)
		if ctx.Err() != nil {
			k.leave()
		}
	})
}

func (d *Daemons) tellLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}
