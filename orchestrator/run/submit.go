package run

import (
	"context"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/orchestrator/problem"
)

// InvalidPipelineError is a problem.Invalid of a submission whose pipeline file
// is wrong; errors.As finds it. Diags are all of its problems.
type InvalidPipelineError struct {
	Filename string
	Source   []byte
	Diags    hcl.Diagnostics
}

func (e *InvalidPipelineError) Error() string { return e.Diags.Error() }

// Start goes on with all runs that have not ended, and takes new ones. It
// returns once they are loaded; the cluster need not be there yet.
func (e *Engine) Start(ctx context.Context) error {
	return problem.New(problem.Unavailable, "not in place yet")
}

// Stop ends the engine's work and waits for that. Tasks in the cluster go on.
func (e *Engine) Stop() {}

// Submit stores a new run and starts it. If the workspace has a run with the
// submission's key, that run is returned and created is false.
func (e *Engine) Submit(ctx context.Context, s Submission) (r Run, created bool, err error) {
	return Run{}, false, problem.New(problem.Unavailable, "not in place yet")
}

// Cancel ends a run: its tasks are stopped, its other nodes are cancelled, and
// then its clean-up steps run. Cancelling it again ends those too. A run that
// has ended is a problem.Conflict.
func (e *Engine) Cancel(ctx context.Context, id ID, by string) error {
	return problem.New(problem.Unavailable, "not in place yet")
}

// Retry runs the nodes of an ended run again that did not succeed.
func (e *Engine) Retry(ctx context.Context, id ID, by string) (Run, error) {
	return Run{}, problem.New(problem.Unavailable, "not in place yet")
}
