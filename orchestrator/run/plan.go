package run

import (
	"context"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
)

// Plan is what a submission would do.
type Plan struct {
	Pipeline  string         `json:"pipeline"`
	Variables map[string]any `json:"variables,omitempty"`
	Nodes     []PlannedNode  `json:"nodes"`
}

// Action is what a plan says of a node.
type Action string

// The actions. Unknown nodes depend on results that are not there yet.
const (
	ActCached  Action = "cached"
	ActRun     Action = "run"
	ActSkip    Action = "skip"
	ActDecide  Action = "decide" // gates, models, endpoints: once their time comes
	ActUnknown Action = "unknown"
)

// PlannedNode is a node of a Plan.
type PlannedNode struct {
	ID        pipeline.NodeID   `json:"id"`
	Kind      pipeline.Kind     `json:"kind"`
	DependsOn []pipeline.NodeID `json:"depends_on,omitempty"`
	Action    Action            `json:"action"`
	Cached    ID                `json:"cached_from,omitempty"`
	CacheKey  string            `json:"cache_key,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	// Jobs are those that would be registered; none while their tasks depend
	// on results that are not there yet.
	Jobs []*api.Job `json:"jobs,omitempty"`
}

// Plan says what a submission would do, and does nothing.
func (e *Engine) Plan(ctx context.Context, s Submission) (Plan, error) {
	return Plan{}, problem.New(problem.Unavailable, "not in place yet")
}
