package run

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
)

// Plan is what a submission would do.
type Plan struct {
	Pipeline  string         `json:"pipeline"`
	Variables map[string]any `json:"variables,omitempty"`
	Nodes     []PlannedNode  `json:"nodes"`
	// NoQueue is why nothing is said of the queue, though there is one.
	NoQueue string `json:"no_queue,omitempty" doc:"Why nothing is said of the queue"`
}

// Action is what a plan says of a node.
type Action string

// The actions.
const (
	ActCached  Action = "cached"  // an earlier result is taken over
	ActRun     Action = "run"     // its jobs are registered
	ActSkip    Action = "skip"    // its condition does not hold
	ActDecide  Action = "decide"  // datasets, gates, models and endpoints, once their time comes
	ActUnknown Action = "unknown" // its task depends on results that are not there yet
	ActFail    Action = "fail"    // its task cannot be made
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
	// Jobs are those that would be registered (with "plan" in the place of the
	// run's ID); none while their tasks depend on results that are not there.
	Jobs []*api.Job `json:"jobs,omitempty"`
	// Queue is what the queue would do with the tasks that would be queued at once;
	// without a queue, nothing.
	Queue []admission.Entry `json:"queue,omitempty" doc:"What would become of its tasks in the queue now: when and where they start, why not at once, who makes room"`
}

// planID stands for the run in a plan's jobs.
const planID = "plan"

// Plan says what a submission would do, and does nothing. What it names need
// not have been uploaded.
func (e *Engine) Plan(ctx context.Context, s Submission) (Plan, error) {
	p, asks, err := plan(s, e.jobCluster(s.Workspace), func(kind pipeline.Kind, t pipeline.Task) (*CacheEntry, string) {
		return e.cached(ctx, s, kind, t)
	})
	if err != nil || e.config.Queue == nil || len(asks) == 0 {
		return p, err
	}
	return p, e.outlook(ctx, &p, asks)
}

// asking is what a task that would run asks of the queue.
type asking struct {
	node     int // of the plan
	declares bool
	admission.Request
}

// outlook adds to a plan what the queue would do.
func (e *Engine) outlook(ctx context.Context, p *Plan, asks []asking) error {
	requests := make([]admission.Request, len(asks))
	for i, a := range asks {
		if !a.declares {
			if err := e.learn(ctx, &a.Request, p.Pipeline, p.Nodes[a.node].ID); err != nil {
				return err
			}
		}
		requests[i] = a.Request
	}
	entries, err := e.config.Queue.Outlook(ctx, requests)
	switch {
	case problem.Is(err, problem.Unavailable): // the rest of the plan holds
		p.NoQueue = err.Error()
		return nil
	case err != nil:
		return fmt.Errorf("asking the queue when tasks would start: %w", err)
	}
	for i, entry := range entries {
		n := &p.Nodes[asks[i].node]
		n.Queue = append(n.Queue, entry)
	}
	return nil
}

// PlanAlone is Plan without an engine: nothing is known to be cached.
func PlanAlone(s Submission, c jobspec.Cluster) (Plan, error) {
	p, _, err := plan(s, c, func(kind pipeline.Kind, t pipeline.Task) (*CacheEntry, string) {
		return nil, t.CacheKey(kind)
	})
	return p, err
}

func plan(s Submission, c jobspec.Cluster, cached func(pipeline.Kind, pipeline.Task) (*CacheEntry, string)) (Plan, []asking, error) {
	p, err := inspect(&s)
	if err != nil {
		return Plan{}, nil, err
	}
	plan := Plan{Pipeline: p.Name, Variables: p.Variables}
	pl := planner{submission: s, pipeline: p.Name, cluster: c, cached: cached, known: pipeline.Results{}}
	for i, n := range p.Nodes {
		x := PlannedNode{ID: n.ID, Kind: n.Kind, DependsOn: n.DependsOn}
		pl.at = i
		if err := pl.node(n, &x); err != nil {
			return Plan{}, nil, fmt.Errorf("planning %s: %w", n.ID, err)
		}
		plan.Nodes = append(plan.Nodes, x)
	}
	return plan, pl.asks, nil
}

// planner goes through a graph with the results that are known without
// running anything.
type planner struct {
	submission Submission
	pipeline   string
	cluster    jobspec.Cluster
	// cached looks up a task's result, nil if there is none, and gives its key.
	cached func(pipeline.Kind, pipeline.Task) (*CacheEntry, string)
	known  pipeline.Results
	at     int      // the node
	asks   []asking // of the tasks that would run
}

func (p *planner) node(n *pipeline.Node, x *PlannedNode) error {
	if n.Kind == pipeline.KindDataset {
		x.Action = ActDecide
		p.known[n.ID] = pipeline.Result{Status: pipeline.Succeeded, Outputs: map[string]string{"data": p.submission.Uploads[n.Dataset.Path]}}
		return nil
	}
	if n.OnExit {
		x.Action, x.Reason = ActUnknown, "runs after all others have ended"
		return nil
	}
	for _, id := range n.DependsOn {
		if _, ok := p.known[id]; !ok {
			x.Action, x.Reason = ActUnknown, fmt.Sprintf("depends on what %s gives", id)
			return nil
		}
	}
	switch runs, diags := n.When(p.known); {
	case diags.HasErrors():
		x.Action, x.Reason = ActFail, explain(diags)
		return nil
	case !runs:
		x.Action, x.Reason = ActSkip, n.SkipReason(p.known)
		p.known[n.ID] = pipeline.Result{Status: pipeline.Skipped}
		return nil
	}
	switch n.Kind {
	case pipeline.KindStep:
		return p.step(n, x)
	case pipeline.KindSweep:
		return p.sweep(n, x)
	default:
		x.Action = ActDecide
		return nil
	}
}

func (p *planner) step(n *pipeline.Node, x *PlannedNode) error {
	task, diags := n.Resolve(p.known)
	if diags.HasErrors() {
		x.Action, x.Reason = ActFail, explain(diags)
		return nil
	}
	hit, err := p.task(n, nil, task, x)
	if err != nil || hit == nil {
		return err
	}
	x.Action, x.Cached = ActCached, hit.Run
	p.known[n.ID] = pipeline.Result{Status: pipeline.Succeeded, Outputs: digests(hit.Outputs), Metrics: hit.Metrics}
	return nil
}

// task adds the job of a task to x unless its result is there.
func (p *planner) task(n *pipeline.Node, trial *int, task pipeline.Task, x *PlannedNode) (*CacheEntry, error) {
	hit, key := p.cached(n.Kind, task)
	x.CacheKey, x.Action = key, ActRun
	if hit != nil {
		return hit, nil
	}
	job, err := jobspec.Task(jobspec.Identity{
		Run: planID, Node: n.ID, Trial: trial, Attempt: 1, Workspace: p.submission.Workspace, Pipeline: p.pipeline,
	}, task, p.cluster)
	if err != nil {
		return nil, err
	}
	x.Jobs = append(x.Jobs, job)
	if n.Sweep == nil || n.Sweep.Parallel == 0 || len(x.Jobs) <= n.Sweep.Parallel { // others come once these have ended
		r := requestOf(p.submission.Workspace, n, task)
		r.ID, r.Attempt, r.NomadJob = TaskID(planID, n.ID, trial), 1, *job.ID
		p.asks = append(p.asks, asking{p.at, declares(task), r})
	}
	return nil, nil
}

func (p *planner) sweep(n *pipeline.Node, x *PlannedNode) error {
	tasks, diags := n.Trials(p.known)
	if diags.HasErrors() {
		x.Action, x.Reason = ActFail, explain(diags)
		return nil
	}
	var best *Trial
	var from ID
	for i, task := range tasks {
		hit, err := p.task(n, &i, task, x)
		if err != nil {
			return err
		}
		if hit == nil {
			continue
		}
		from = hit.Run
		t := &Trial{Index: i, Params: task.Params, Metrics: hit.Metrics, Outputs: hit.Outputs}
		if better(t, best, n.Sweep.Metric, n.Sweep.Maximize) {
			best = t
		}
	}
	x.CacheKey = ""
	x.Reason = fmt.Sprintf("%d trials, %d of them cached", len(tasks), len(tasks)-len(x.Jobs))
	if len(x.Jobs) == 0 && best != nil {
		x.Action, x.Cached = ActCached, from
		p.known[n.ID] = pipeline.Result{
			Status: pipeline.Succeeded, Outputs: digests(best.Outputs), Metrics: best.Metrics,
			Best: &pipeline.Trial{Index: best.Index, Params: best.Params, Metrics: best.Metrics, Outputs: digests(best.Outputs)},
		}
	}
	return nil
}
