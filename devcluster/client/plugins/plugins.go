// Package plugins runs a node's plugin processes as a Nomad client does: two
// throw-away launches for what the binary is and whether its configuration is
// good, then the real one, which is launched again whenever it dies.
package plugins

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

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// agentPorts is the port range that an agent tells its plugins by default.
var agentPorts = base.AgentConfig{MinPort: 14000, MaxPort: 14512}

// Binary is a plugin executable and what it says of itself.
type Binary struct {
	Path   string
	Args   []string
	Info   base.Info
	schema *schema.Spec
}

// Discover launches every executable of a folder to ask what it is. Other
// files are passed over; an executable that is no plugin is an error, as it is
// for a Nomad agent.
func Discover(ctx context.Context, dir string, logger hclog.Logger) ([]*Binary, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for plugins: %w", err)
	}
	var found []*Binary
	var errs []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, e := range entries {
		if !isPluginName(e.Name()) {
			continue
		}
		fi, err := os.Stat(filepath.Join(dir, e.Name())) // a link to a plugin is one
		if err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
			continue
		}
		wg.Go(func() {
			b, err := Inspect(ctx, filepath.Join(dir, e.Name()), nil, logger)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else {
				found = append(found, b)
			}
		})
	}
	wg.Wait()
	return found, errors.Join(errs...)
}

// isPluginName tells plugins from other programs in their folder. An agent is
// told by a plugin block which are which; here the name says it.
func isPluginName(name string) bool {
	return strings.HasPrefix(name, "nomad-driver-") || strings.HasPrefix(name, "nomad-device-")
}

// Inspect launches a plugin once to ask what it is.
func Inspect(ctx context.Context, path string, args []string, logger hclog.Logger) (*Binary, error) {
	p, err := host.Launch(ctx, host.Config{Path: path, Args: args, Logger: logger})
	if err != nil {
		return nil, err
	}
	defer p.Shutdown()
	b := &Binary{Path: path, Args: args}
	if b.Info, err = p.Info(ctx); err != nil {
		return nil, fmt.Errorf("asking plugin %s what it is: %w", path, err)
	}
	if b.schema, err = p.ConfigSchema(ctx); err != nil {
		return nil, fmt.Errorf("asking plugin %s for its configuration: %w", path, err)
	}
	return b, nil
}

// Configure encodes a configuration for the plugin and has a throw-away
// process of it accept it.
func (b *Binary) Configure(ctx context.Context, config map[string]any, logger hclog.Logger) ([]byte, error) {
	if b.schema == nil {
		if len(config) > 0 {
			return nil, fmt.Errorf("plugin %s takes no configuration", b.Info.Name)
		}
		return nil, nil
	}
	encoded, err := schema.Encode(b.schema, config)
	if err != nil {
		return nil, fmt.Errorf("configuring plugin %s: %w", b.Info.Name, err)
	}
	p, err := host.Launch(ctx, host.Config{Path: b.Path, Args: b.Args, Logger: logger})
	if err != nil {
		return nil, err
	}
	defer p.Shutdown()
	for range 2 {
		if err := p.SetConfig(ctx, base.Config{MsgPack: encoded, APIVersion: base.APIVersion}); err != nil {
			return nil, fmt.Errorf("configuring plugin %s: %w", b.Info.Name, err)
		}
	}
	return encoded, nil
}

// Hooks are called with what a plugin tells. They must not block.
type Hooks struct {
	Driver    func(driver.Fingerprint)
	TaskEvent func(driver.TaskEvent)
	Devices   func([]device.Group)
	Stats     func([]device.GroupStats)
	// Launched is told of every new process, so that it can be found again.
	Launched func(host.ReattachInfo)
}

// Instance keeps one plugin process of a node running.
type Instance struct {
	*Binary
	config []byte
	env    []string
	log    hclog.Logger
	hooks  Hooks

	mu      sync.Mutex
	current *host.Process // nil between two processes
	changed chan struct{}
}

// New makes an instance; Run runs it. Env is added to the process's environment.
func New(b *Binary, config []byte, env []string, logger hclog.Logger, hooks Hooks) *Instance {
	return &Instance{Binary: b, config: config, env: env, log: logger.Named(b.Info.Name), hooks: hooks, changed: make(chan struct{})}
}

// Run keeps a process running until ctx ends, then shuts it down. A driver
// process from an earlier run is taken up again if old says where it is.
func (i *Instance) Run(ctx context.Context, old *host.ReattachInfo) {
	const (
		firstPause = 50 * time.Millisecond
		maxPause   = 5 * time.Second
		longEnough = 10 * time.Second
	)
	wait := firstPause
	for ctx.Err() == nil {
		started := time.Now()
		p, err := i.start(ctx, old)
		old = nil
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			i.log.Error("plugin could not be started and will be tried again", "error", err, "pause", wait)
			pause(ctx, wait)
			wait = min(2*wait, maxPause)
			continue
		}
		i.set(p)
		i.serve(ctx, p)
		i.set(nil)
		if ctx.Err() != nil {
			p.Shutdown()
			return
		}
		p.Kill()
		i.log.Warn("plugin process ended and is launched again")
		if time.Since(started) > longEnough {
			wait = firstPause
		} else {
			pause(ctx, wait)
			wait = min(2*wait, maxPause)
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

func (i *Instance) start(ctx context.Context, old *host.ReattachInfo) (*host.Process, error) {
	if old != nil {
		if p := i.reattach(ctx, *old); p != nil {
			return p, nil
		}
	}
	p, err := host.Launch(ctx, host.Config{Path: i.Path, Args: i.Args, Env: i.env, Logger: i.log})
	if err != nil {
		return nil, err
	}
	agent := agentPorts
	err = p.SetConfig(ctx, base.Config{MsgPack: i.config, APIVersion: base.APIVersion, Agent: &agent})
	if err == nil && i.Info.Type == base.TypeDriver {
		err = p.Driver().Init(ctx)
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("setting plugin %s up: %w", i.Info.Name, err)
	}
	if i.hooks.Launched != nil {
		i.hooks.Launched(p.ReattachInfo())
	}
	return p, nil
}

// reattach takes up a driver's process from an earlier run; nil if there is
// none that answers. Device plugins always start afresh, as with an agent.
func (i *Instance) reattach(ctx context.Context, old host.ReattachInfo) *host.Process {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := host.Reattach(ctx, old, i.log)
	if err == nil && i.Info.Type == base.TypeDriver {
		if err = p.Driver().Init(ctx); err == nil {
			return p
		}
	}
	if p != nil {
		p.Kill()
	}
	if err != nil && !errors.Is(err, host.ErrGone) {
		i.log.Warn("plugin process of an earlier run could not be taken up", "pid", old.PID, "error", err)
	}
	return nil
}

// serve reads the plugin's streams until the process ends or ctx does.
func (i *Instance) serve(ctx context.Context, p *host.Process) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	stream := func(name string, read func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := read()
				select {
				case <-p.Done():
					return
				case <-ctx.Done():
					return
				default:
				}
				i.log.Warn("plugin ended a stream", "stream", name, "error", err)
				pause(ctx, time.Second)
			}
		})
	}
	const statsEvery = time.Second
	if i.Info.Type == base.TypeDriver {
		stream("fingerprint", func() error {
			return p.Driver().Fingerprint(ctx, func(f driver.Fingerprint) error { i.hooks.Driver(f); return nil })
		})
		stream("task events", func() error {
			return p.Driver().TaskEvents(ctx, func(e driver.TaskEvent) error { i.hooks.TaskEvent(e); return nil })
		})
	} else {
		stream("fingerprint", func() error {
			return p.Device().Fingerprint(ctx, func(g []device.Group) error { i.hooks.Devices(g); return nil })
		})
		stream("stats", func() error {
			return p.Device().Stats(ctx, statsEvery, func(g []device.GroupStats) error { i.hooks.Stats(g); return nil })
		})
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
	cancel()
	wg.Wait()
}

func (i *Instance) set(p *host.Process) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.current = p
	close(i.changed)
	i.changed = make(chan struct{})
}

// Process waits for a running process.
func (i *Instance) Process(ctx context.Context) (*host.Process, error) {
	for {
		i.mu.Lock()
		p, changed := i.current, i.changed
		i.mu.Unlock()
		if p != nil {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Current is the running process, or nil.
func (i *Instance) Current() *host.Process {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current
}

// Died reports whether a call failed because the process ended.
func Died(p *host.Process, err error) bool {
	if errors.Is(err, host.ErrExited) {
		return true
	}
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}
