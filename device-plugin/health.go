package main

import (
	"context"
	"path/filepath"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health/monitor"
)

// newMonitor makes what judges the health of the GPUs. It knows what an
// earlier plugin learnt, if that was kept.
func (n *node) newMonitor() (*monitor.Monitor, error) {
	c := monitor.Config{
		Health: n.settings.health, Boot: monitor.BootID(), Inventory: n.machine.Inventory,
		File: filepath.Join(n.settings.stateDir, monitor.FileName), Log: n.log.Named("health"),
		Publish: func(map[gpu.ID]gpu.Fault) { n.again() }, // asks for the latest itself
	}
	if n.machine.events != nil {
		c.Watcher = heardEvents{n}
	}
	if n.machine.vitals != nil {
		c.Vitals = n.exporter.Reader(n.machine.vitals)
	}
	return monitor.New(c)
}

// heardEvents are the driver's events. Each is reason to look at the GPUs
// beside what health makes of it.
type heardEvents struct{ n *node }

func (h heardEvents) Watch(ctx context.Context, emit func(gpu.Event)) error {
	return h.n.machine.events.Watch(ctx, func(e gpu.Event) {
		emit(e)
		h.n.lookSoon()
	})
}
