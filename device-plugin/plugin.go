package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml"
	"github.com/drover-ml/drover/device-plugin/simulated"
	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

const (
	// pluginName is that of HashiCorp's plugin, whose place this one takes.
	pluginName = "nvidia-gpu"
	// patience is how long a call into the driver may take. It is below the
	// 50 seconds for which an agent's start waits for a first fingerprint.
	patience = 20 * time.Second
)

// plugin is the Nomad side. It opens the GPUs on first use, not in SetConfig:
// an agent's start launches it three times, twice only to ask about itself.
type plugin struct {
	log  hclog.Logger
	open func(settings) gpu.Source

	mu       sync.Mutex
	settings settings
	node     *node // nil until first used
}

var _ device.Plugin = (*plugin)(nil)

func newPlugin(log hclog.Logger) *plugin {
	p := &plugin{log: log, settings: settings{enabled: true, period: time.Minute}}
	p.open = func(s settings) gpu.Source { return openSource(s, log) }
	return p
}

// openSource never fails and does not touch the driver yet.
func openSource(s settings, log hclog.Logger) gpu.Source {
	if s.machine != nil {
		return simulated.New(simulated.Config{Machine: *s.machine, FaultFile: s.faults, Logger: log})
	}
	return &patient{Source: nvml.New(nvml.Config{}), limit: patience}
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

// current opens the GPUs if need be.
func (p *plugin) current() (*node, settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil && p.settings.enabled {
		p.node = newNode(p.log, p.open(p.settings), p.settings)
	}
	return p.node, p.settings
}

func (p *plugin) Fingerprint(ctx context.Context, publish func([]device.Group) error) error {
	n, s := p.current()
	if !s.enabled {
		p.log.Info("offering no GPUs", "reason", "the plugin is disabled by its configuration")
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
	n, s := p.current()
	if !s.enabled {
		if len(ids) == 0 {
			return &device.Reservation{}, nil
		}
		return nil, errors.New("reserving GPUs: the plugin is disabled by its configuration")
	}
	gpus := make([]gpu.ID, len(ids))
	for i, id := range ids {
		gpus[i] = gpu.ID(id)
	}
	return n.reserve(ctx, gpus)
}

func (p *plugin) Stats(ctx context.Context, interval time.Duration, publish func([]device.GroupStats) error) error {
	n, s := p.current()
	if !s.enabled {
		<-ctx.Done()
		return nil
	}
	if interval <= 0 {
		interval = time.Second
	}
	ticker := time.NewTicker(interval)
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
