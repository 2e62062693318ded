package cli

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// plannedRun stands for the ID that a run would get.
const plannedRun = "plan"

// planOffline says what a submission would do if nothing were cached.
func planOffline(sub run.Submission) (run.Plan, error) {
	source := []byte(sub.Source)
	p, diags := pipeline.Parse(sub.Filename, source, pipeline.Options{
		Vars:    sub.Vars,
		Sources: func(path string) (string, bool) { d, ok := sub.Uploads[path]; return d, ok },
	})
	if diags.HasErrors() {
		return run.Plan{}, fmt.Errorf("planning: %w", diags)
	}
	o := offline{sub: sub, pipeline: p, known: pipeline.Results{}}
	plan := run.Plan{Pipeline: p.Name, Variables: p.Variables, Nodes: make([]run.PlannedNode, len(p.Nodes))}
	for i, n := range p.Nodes {
		planned, err := o.node(n)
		if err != nil {
			return run.Plan{}, err
		}
		plan.Nodes[i] = planned
	}
	return plan, nil
}

// offline plans nodes by what is known before anything has run: data sets, and
// that what is skipped is skipped.
type offline struct {
	sub      run.Submission
	pipeline *pipeline.Pipeline
	known    pipeline.Results
}

func (o *offline) node(n *pipeline.Node) (run.PlannedNode, error) {
	planned := run.PlannedNode{ID: n.ID, Kind: n.Kind, DependsOn: n.DependsOn, Action: run.ActDecide}
	switch n.Kind {
	case pipeline.KindDataset:
		o.known[n.ID] = pipeline.Result{Status: pipeline.Succeeded, Outputs: map[string]string{"data": o.sub.Uploads[n.Dataset.Path]}}
		planned.Action = run.ActRun
		return planned, nil
	case pipeline.KindStep, pipeline.KindSweep:
	default:
		return planned, nil
	}
	for _, d := range n.DependsOn {
		if _, ok := o.known[d]; !ok {
			planned.Action, planned.Reason = run.ActUnknown, fmt.Sprintf("waits for %s", d)
			return planned, nil
		}
	}
	runs, diags := n.When(o.known)
	if diags.HasErrors() {
		return planned, o.fail(n, diags)
	}
	if !runs {
		o.known[n.ID] = pipeline.Result{Status: pipeline.Skipped}
		planned.Action, planned.Reason = run.ActSkip, n.SkipReason(o.known)
		return planned, nil
	}
	planned.Action = run.ActRun
	var err error
	planned.Jobs, err = o.jobs(n)
	return planned, err
}

func (o *offline) jobs(n *pipeline.Node) ([]*nomad.Job, error) {
	if n.Kind == pipeline.KindSweep {
		tasks, diags := n.Trials(o.known)
		if diags.HasErrors() {
			return nil, o.fail(n, diags)
		}
		jobs := make([]*nomad.Job, len(tasks))
		for i, t := range tasks {
			job, err := o.job(n, t, &i)
			if err != nil {
				return nil, err
			}
			jobs[i] = job
		}
		return jobs, nil
	}
	t, diags := n.Resolve(o.known)
	if diags.HasErrors() {
		return nil, o.fail(n, diags)
	}
	job, err := o.job(n, t, nil)
	return []*nomad.Job{job}, err
}

func (o *offline) job(n *pipeline.Node, t pipeline.Task, trial *int) (*nomad.Job, error) {
	return jobspec.Task(jobspec.Identity{
		Run: plannedRun, Node: n.ID, Trial: trial, Attempt: 1, Workspace: o.sub.Workspace, Pipeline: o.pipeline.Name,
	}, t, jobspec.Cluster{})
}

func (o *offline) fail(n *pipeline.Node, diags hcl.Diagnostics) error {
	return fmt.Errorf("planning %s: %w", n.ID, diags)
}
