package main

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/metrics"
	"github.com/drover-ml/drover/device-plugin/sysfs"
)

const (
	// samplePeriod is how often the devices are sampled for metrics, where the
	// agent does not ask more often.
	samplePeriod = 5 * time.Second
	// collectPeriod is how often processes and network cards are looked at.
	collectPeriod = 15 * time.Second
)

// newExporter makes what keeps the last readings, and answers to Prometheus if
// that is on.
func (n *node) newExporter() *metrics.Exporter {
	return metrics.New(metrics.Config{
		Node: n.settings.nodeName(), Tasks: attribution.New(attribution.Config{}).Tasks,
		Ages: metrics.Ages{
			Inventory: 3 * n.settings.period, Samples: 3 * samplePeriod, Vitals: 3 * n.settings.health.VitalsPeriod,
			Processes: 3 * collectPeriod, Network: 3 * collectPeriod,
		},
	})
}

// export is a part that answers to Prometheus.
func (n *node) export(ctx context.Context) error {
	return n.exporter.Serve(ctx, n.settings.metricsAddress)
}

// sampleOften is a part that samples the devices for the metrics, unless the
// agent asks for statistics anyway.
func (n *node) sampleOften(ctx context.Context) error {
	for sleep(ctx, samplePeriod) {
		n.mu.Lock()
		sampled := n.sampledAt
		n.mu.Unlock()
		if time.Since(sampled) < samplePeriod/2 {
			continue
		}
		offer, _, _ := n.current()
		_, _ = n.sample(ctx, offer) // the metrics tell that it failed
	}
	return nil
}

// collectOften is a part that looks at what is shown but read for nobody else.
func (n *node) collectOften(ctx context.Context) error {
	for {
		n.collect(ctx)
		if !sleep(ctx, collectPeriod) {
			return nil
		}
	}
}

func (n *node) collect(ctx context.Context) {
	if n.machine.processes != nil {
		started := time.Now()
		processes, err := n.machine.processes.Processes(ctx)
		n.exporter.Processes(started, processes, err)
	}
	n.exporter.Health(n.health.Report()) // counts of harmless events change it too
	started := time.Now()
	sys := os.DirFS("/sys")
	interfaces, err := sysfs.Network(sys)
	n.exporter.Network(started, interfaces, sysfs.RDMA(sys), err)
}

// sample reads the devices on offer, and all boards: of slices much is known
// by their boards only, and the metrics show those that are kept from Nomad
// too.
func (n *node) sample(ctx context.Context, o gpu.Offer) (map[gpu.ID]gpu.Sample, error) {
	var ids []gpu.ID
	add := func(id gpu.ID) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, d := range o.Devices {
		add(d.Hardware)
	}
	n.mu.Lock()
	boards := n.boards
	n.mu.Unlock()
	for _, b := range boards {
		add(b.ID)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	started := time.Now()
	samples, err := n.machine.Sample(ctx, ids)
	n.mu.Lock()
	n.sampledAt = started
	n.mu.Unlock()
	n.exporter.Samples(started, samples, err)
	return samples, err
}
