package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-ml/drover/orchestrator/run"
)

// measured is a store that counts the transitions that go through it, so that
// the engine need not know of metrics.
type measured struct {
	run.Store
	submitted prometheus.Counter
	runs      *prometheus.CounterVec
	nodes     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	attempts  *prometheus.CounterVec
}

// scrapeFor bounds how long /metrics waits for the store.
const scrapeFor = time.Second

func newMeasured(s run.Store, reg prometheus.Registerer) *measured {
	m := &measured{
		Store: s,
		submitted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "drover_runs_submitted_total", Help: "Runs that were submitted.",
		}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_runs_ended_total", Help: "Runs that ended, by how.",
		}, []string{"phase"}),
		nodes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_nodes_ended_total", Help: "Steps and other nodes that ended, by kind and how. Taken from the cache is cached.",
		}, []string{"kind", "phase"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "drover_node_seconds", Help: "From a node's start to its end, for nodes that succeeded and were not cached.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 10),
		}, []string{"kind"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_attempts_ended_total", Help: "Nomad jobs of steps and trials that ended, by how.",
		}, []string{"phase"}),
	}
	active := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "drover_runs_active", Help: "Runs that have not ended.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeFor)
		defer cancel()
		ids, err := s.Active(ctx)
		if err != nil {
			return -1 // no reading
		}
		return float64(len(ids))
	})
	reg.MustRegister(m.submitted, m.runs, m.nodes, m.seconds, m.attempts, active)
	return m
}

// Create counts a new run.
func (m *measured) Create(ctx context.Context, s run.State, events []run.Event) (run.ID, bool, error) {
	id, created, err := m.Store.Create(ctx, s, events)
	if err == nil && created {
		m.submitted.Inc()
	}
	return id, created, err
}

// Commit counts what a transition ended.
func (m *measured) Commit(ctx context.Context, c run.Change) error {
	if err := m.Store.Commit(ctx, c); err != nil {
		return err
	}
	if c.Run != nil && c.Run.Phase.Ended() {
		m.runs.WithLabelValues(string(c.Run.Phase)).Inc()
	}
	for i := range c.Nodes {
		m.node(&c.Nodes[i])
	}
	for i := range c.Attempts {
		if p := c.Attempts[i].Phase; p.Ended() {
			m.attempts.WithLabelValues(string(p)).Inc()
		}
	}
	return nil
}

func (m *measured) node(n *run.Node) {
	switch {
	case !n.Phase.Ended():
	case n.Cached != "":
		m.nodes.WithLabelValues(string(n.Kind), "cached").Inc()
	default:
		m.nodes.WithLabelValues(string(n.Kind), string(n.Phase)).Inc()
		if n.Phase == run.Succeeded && n.Started != nil && n.Ended != nil {
			m.seconds.WithLabelValues(string(n.Kind)).Observe(n.Ended.Sub(*n.Started).Seconds())
		}
	}
}
