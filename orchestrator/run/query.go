package run

import (
	"context"
	"io"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Lineage is where an artefact comes from and what was made of it.
type Lineage struct {
	Digest string `json:"digest"`
	// Produced and Consumed are the nodes that have it as an output or input.
	Produced []Use `json:"produced"`
	Consumed []Use `json:"consumed"`
	// Ancestors are the nodes that its producers' inputs come from, nearest
	// first, each once.
	Ancestors []Use              `json:"ancestors,omitempty"`
	Versions  []registry.Version `json:"versions,omitempty"`
}

// LogSelector names a task's log.
type LogSelector struct {
	Node    pipeline.NodeID
	Trial   *int   // of a sweep
	Attempt int    // 0: the newest
	Stream  string // "stdout" (default) or "stderr"
	Tail    int64  // only the last bytes; 0: all
	Follow  bool   // go on until the task ends
}

// Get returns a run as it stands.
func (e *Engine) Get(ctx context.Context, id ID) (Run, error) {
	return e.config.Store.Run(ctx, id)
}

// List returns runs without their nodes, the newest first.
func (e *Engine) List(ctx context.Context, f Filter) ([]Run, error) {
	return e.config.Store.Runs(ctx, f)
}

// Events returns a run's events after a number, at most limit (0: 1,000).
func (e *Engine) Events(ctx context.Context, id ID, afterSeq int64, limit int) ([]Event, error) {
	return e.config.Store.Events(ctx, id, afterSeq, limit)
}

// Watch sends a run's events after a number, those to come too. The channel is
// closed when the run has ended and all has been sent, or when ctx ends.
func (e *Engine) Watch(ctx context.Context, id ID, afterSeq int64) (<-chan Event, error) {
	return nil, problem.New(problem.Unavailable, "not in place yet")
}

// Metrics returns points of a run's metrics, by node, trial, metric and step.
func (e *Engine) Metrics(ctx context.Context, id ID, f MetricFilter) ([]MetricPoint, error) {
	return e.config.Store.Metrics(ctx, id, f)
}

// Logs copies a task's log to w.
func (e *Engine) Logs(ctx context.Context, id ID, s LogSelector, w io.Writer) error {
	return problem.New(problem.Unavailable, "not in place yet")
}

// Lineage tells where an artefact comes from and what was made of it.
func (e *Engine) Lineage(ctx context.Context, workspace, digest string) (Lineage, error) {
	return Lineage{}, problem.New(problem.Unavailable, "not in place yet")
}

// Endpoints lists a workspace's endpoints by name.
func (e *Engine) Endpoints(ctx context.Context, workspace string) ([]registry.Endpoint, error) {
	return e.config.Store.Endpoints(ctx, workspace)
}

// Endpoint returns one endpoint.
func (e *Engine) Endpoint(ctx context.Context, workspace, name string) (registry.Endpoint, error) {
	return e.config.Store.Endpoint(ctx, workspace, name)
}

// DeleteEndpoint stops an endpoint's instances and forgets it.
func (e *Engine) DeleteEndpoint(ctx context.Context, workspace, name, by string) error {
	return problem.New(problem.Unavailable, "not in place yet")
}
