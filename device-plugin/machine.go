package main

import (
	"context"
	"net/url"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/metrics"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml"
	"github.com/drover-ml/drover/device-plugin/simulated"
	"github.com/drover-ml/drover/internal/topology"
)

// patience is how long a call into the driver may take. It is below the 50
// seconds for which an agent's start waits for a first fingerprint.
const patience = 20 * time.Second

// openSource never fails and does not touch the driver yet.
func openSource(s settings, log hclog.Logger) gpu.Source {
	if s.machine != nil {
		c := simulated.Config{Machine: *s.machine, FaultFile: s.faults, Logger: log}
		if s.stateDir != "" {
			c.StateFile = filepath.Join(s.stateDir, "simulated-"+url.PathEscape(s.machine.Node)+".json")
		}
		return simulated.New(c)
	}
	return nvml.New(nvml.Config{Logger: log.Named("nvml")})
}

// machine is everything that can be asked of a machine with GPUs. Parts that
// it cannot tell are nil. A driver that hangs keeps nobody waiting for ever,
// except those who watch for events and who change MIG instances.
type machine struct {
	gpu.Source
	events    health.Watcher
	vitals    health.VitalsReader
	wiring    topology.Source
	processes metrics.ProcessLister
	mig       mig.Controller
}

func machineOf(src gpu.Source) machine {
	p := &patient{Source: src, limit: patience}
	m := machine{Source: p}
	m.events, _ = src.(health.Watcher)
	m.mig, _ = src.(mig.Controller)
	if v, ok := src.(health.VitalsReader); ok {
		m.vitals = patientVitals{p, v}
	}
	if w, ok := src.(topology.Source); ok {
		m.wiring = patientWiring{p, w}
	}
	if l, ok := src.(metrics.ProcessLister); ok {
		m.processes = patientProcesses{p, l}
	}
	return m
}

type patientVitals struct {
	*patient
	inner health.VitalsReader
}

func (p patientVitals) Vitals(ctx context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	return readEach(ctx, &p.vitals, p.limit, boards, p.inner.Vitals)
}

type patientWiring struct {
	*patient
	inner topology.Source
}

func (p patientWiring) Topology(ctx context.Context) (topology.Graph, error) {
	return p.wiring.wait(ctx, p.limit, p.inner.Topology)
}

type patientProcesses struct {
	*patient
	inner metrics.ProcessLister
}

func (p patientProcesses) Processes(ctx context.Context) ([]gpu.Process, error) {
	return p.processes.wait(ctx, p.limit, p.inner.Processes)
}
