package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// pluginName is that of HashiCorp's plugin, whose place this one takes.
const pluginName = "nvidia-gpu"

// leastInterval is the shortest one between statistics, whatever the agent
// asks for: reading a driver holds up the work on its GPUs.
const leastInterval = time.Second

// plugin is the Nomad side. It opens the GPUs on first use, not in SetConfig:
// an agent's start launches it three times, twice only to ask about itself.
type plugin struct {
	log  hclog.Logger
	open func(settings) gpu.Source
	end  func() // ends the process

	mu       sync.Mutex
	settings settings
	node     *node // nil until first used
}

var _ device.Plugin = (*plugin)(nil)

func newPlugin(log hclog.Logger) *plugin {
	p := &plugin{log: log, end: func() { os.Exit(1) }}
	p.settings, _ = defaultConfig().check() // the defaults are right
	p.open = func(s settings) gpu.Source { return openSource(s, log) }
	return p
}

func (p *plugin) Info() base.Info {
	return base.Info{Type: base.TypeDevice, Name: pluginName, Version: version.Version}
}

func (p *plugin) ConfigSchema() *schema.Spec { return configSchema() }

// SetConfig fails on a wrong configuration only, which stops the agent with
// the message; missing GPUs and drivers are no reason to.
func (p *plugin) SetConfig(_ context.Context, c base.Config) error {
	config := defaultConfig()
	if err := c.Decode(&config); err != nil {
		return fmt.Errorf("reading the configuration of plugin %s: %w", pluginName, err)
	}
	s, err := config.check()
	if err != nil {
		return fmt.Errorf("configuration of plugin %s: %w", pluginName, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = s
	return p.closeLocked()
}

// Close releases the GPUs. The plugin opens them again if it is used again.
func (p *plugin) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closeLocked()
}

func (p *plugin) closeLocked() error {
	if p.node == nil {
		return nil
	}
	err := p.node.Close()
	p.node = nil
	return err
}

// errDisabled is why a plugin offers nothing that was told to.
var errDisabled = errors.New("the plugin is disabled by its configuration")

// current is the node, which it opens if need be.
func (p *plugin) current() (*node, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.settings.enabled {
		return nil, errDisabled
	}
	if p.node == nil {
		n, err := newNode(p.log, p.open(p.settings), p.settings)
		if err != nil {
			return nil, err
		}
		n.end = p.end
		p.node = n
	}
	return p.node, nil
}

func (p *plugin) Fingerprint(ctx context.Context, publish func([]device.Group) error) error {
	n, err := p.current()
	if err != nil {
		p.log.Info("offering no GPUs", "reason", err)
		if err := publish(nil); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	n.start(ctx)
	for ctx.Err() == nil {
		_, groups, changed := n.current()
		if err := publish(groups); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

func (p *plugin) Reserve(ctx context.Context, ids []string) (*device.Reservation, error) {
	n, err := p.current()
	switch {
	case err != nil && len(ids) == 0:
		return &device.Reservation{}, nil
	case err != nil:
		return nil, fmt.Errorf("reserving GPUs: %w", err)
	}
	gpus := make([]gpu.ID, len(ids))
	for i, id := range ids {
		gpus[i] = gpu.ID(id)
	}
	return n.reserve(ctx, gpus)
}

func (p *plugin) Stats(ctx context.Context, interval time.Duration, publish func([]device.GroupStats) error) error {
	n, err := p.current()
	if err != nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(max(interval, leastInterval))
	defer ticker.Stop()
	trouble := ""
	for {
		stats, err := n.stats(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// The agent keeps the last readings, which carry their time.
			if err.Error() != trouble {
				trouble = err.Error()
				p.log.Warn("GPU statistics cannot be read", "error", err)
			}
		default:
			trouble = ""
			if err := publish(stats); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
