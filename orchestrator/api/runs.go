package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// maxSubmission limits a submission's body, in bytes: a pipeline file of some
// 50,000 steps.
const maxSubmission = 16 << 20

// RunPage is a page of runs, the newest first.
type RunPage struct {
	Runs []RunSummary `json:"runs"`
	Next string       `json:"next,omitempty" doc:"Give it as before to get the next page; empty on the last one"`
}

// RunSummary is a run without its nodes.
type RunSummary struct {
	ID        run.ID     `json:"id"`
	Pipeline  string     `json:"pipeline"`
	Workspace string     `json:"workspace"`
	Phase     run.Phase  `json:"phase"`
	Error     string     `json:"error,omitempty"`
	By        string     `json:"by,omitempty"`
	Submitted time.Time  `json:"submitted"`
	Started   *time.Time `json:"started,omitempty"`
	Ended     *time.Time `json:"ended,omitempty"`
}

func summarize(r run.Run) RunSummary {
	return RunSummary{
		ID: r.ID, Pipeline: r.Pipeline, Workspace: r.Workspace, Phase: r.Phase, Error: r.Error, By: r.By,
		Submitted: r.Submitted, Started: r.Started, Ended: r.Ended,
	}
}

// RunPath names a run.
type RunPath struct {
	ID string `path:"id" minLength:"1" maxLength:"32" pattern:"^[a-z0-9]+$" doc:"The run"`
}

func (p RunPath) id() run.ID { return run.ID(p.ID) }

type runBody struct{ Body run.Run }

// submittedBody is a run that a submission made, or had made before.
type submittedBody struct {
	Status int // 201, or 200 for the run that had the key already
	Body   run.Run
}

func (s *server) registerRuns(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "submit-run", Method: http.MethodPost, Path: "/v1/runs", Tags: []string{"runs"},
		Summary: "Submit a pipeline",
		Description: "Parses the pipeline, stores the run and starts it. Nothing is stored if anything is wrong. " +
			"A second submission with the same key in the same workspace is the same run.",
		DefaultStatus: http.StatusCreated, MaxBodyBytes: maxSubmission, BodyReadTimeout: bodyTimeout,
	}, s.submitRun)
	huma.Register(api, huma.Operation{
		OperationID: "plan-run", Method: http.MethodPost, Path: "/v1/plan", Tags: []string{"runs"},
		Summary:      "Say what a submission would do",
		Description:  "Parses the pipeline and looks up what is cached. Nothing is stored or started.",
		MaxBodyBytes: maxSubmission, BodyReadTimeout: bodyTimeout,
	}, s.planRun)
	huma.Register(api, huma.Operation{
		OperationID: "list-runs", Method: http.MethodGet, Path: "/v1/runs", Tags: []string{"runs"},
		Summary: "List runs, the newest first",
	}, s.listRuns)
	huma.Register(api, huma.Operation{
		OperationID: "get-run", Method: http.MethodGet, Path: "/v1/runs/{id}", Tags: []string{"runs"},
		Summary: "Get a run with its nodes",
	}, func(ctx context.Context, in *RunPath) (*runBody, error) {
		return s.getRun(ctx, in.id())
	})
	huma.Register(api, huma.Operation{
		OperationID: "cancel-run", Method: http.MethodPost, Path: "/v1/runs/{id}/cancel", Tags: []string{"runs"},
		Summary:     "Cancel a run",
		Description: "Stops its tasks; steps that run on exit still run. Cancelling a run that has ended is a conflict.",
	}, func(ctx context.Context, in *RunPath) (*runBody, error) {
		if err := s.cfg.Runs.Cancel(ctx, in.id(), userOf(ctx)); err != nil {
			return nil, s.problem(ctx, err)
		}
		return s.getRun(ctx, in.id())
	})
	huma.Register(api, huma.Operation{
		OperationID: "retry-run", Method: http.MethodPost, Path: "/v1/runs/{id}/retry", Tags: []string{"runs"},
		Summary:     "Take up a run that failed or was cancelled",
		Description: "What succeeded stays; everything else is tried again.",
	}, func(ctx context.Context, in *RunPath) (*runBody, error) {
		r, err := s.cfg.Runs.Retry(ctx, in.id(), userOf(ctx))
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &runBody{r}, nil
	})
}

type submissionBody struct {
	Body run.Submission
}

// submission is what the request asks for, by whom the request is from.
func (b *submissionBody) submission(ctx context.Context) run.Submission {
	sub := b.Body
	if name := userOf(ctx); name != "" {
		sub.By = name
	}
	return sub
}

func (s *server) submitRun(ctx context.Context, in *submissionBody) (*submittedBody, error) {
	r, created, err := s.cfg.Runs.Submit(ctx, in.submission(ctx))
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	if !created {
		return &submittedBody{Status: http.StatusOK, Body: r}, nil
	}
	return &submittedBody{Status: http.StatusCreated, Body: r}, nil
}

func (s *server) planRun(ctx context.Context, in *submissionBody) (*struct{ Body run.Plan }, error) {
	plan, err := s.cfg.Runs.Plan(ctx, in.submission(ctx))
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	return &struct{ Body run.Plan }{plan}, nil
}

func (s *server) getRun(ctx context.Context, id run.ID) (*runBody, error) {
	r, err := s.cfg.Runs.Get(ctx, id)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	return &runBody{r}, nil
}

func (s *server) listRuns(ctx context.Context, in *struct {
	WorkspaceQuery
	Pipeline string `query:"pipeline" maxLength:"128" doc:"Only runs of this pipeline"`
	Phase    string `query:"phase" enum:"waiting,queued,running,succeeded,failed,skipped,cancelled" doc:"Only runs in this phase"`
	Limit    int    `query:"limit" minimum:"1" maximum:"999" default:"100" doc:"Runs a page"`
	Before   string `query:"before" maxLength:"32" doc:"Only runs older than this one"`
}) (*struct{ Body RunPage }, error) {
	runs, err := s.cfg.Runs.List(ctx, run.Filter{
		Workspace: in.Workspace, Pipeline: in.Pipeline, Phase: run.Phase(in.Phase), Limit: in.Limit + 1, Before: run.ID(in.Before),
	})
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	more := len(runs) > in.Limit
	runs = runs[:min(len(runs), in.Limit)]
	out := &struct{ Body RunPage }{RunPage{Runs: make([]RunSummary, len(runs))}}
	for i, r := range runs {
		out.Body.Runs[i] = summarize(r)
	}
	if more {
		out.Body.Next = string(runs[len(runs)-1].ID)
	}
	return out, nil
}

// NodeQuery names a node, and a trial of it. The engine knows which there are.
type NodeQuery struct {
	Node  string `query:"node" maxLength:"256" doc:"The node, as step.train"`
	Trial int    `query:"trial" minimum:"-1" default:"-1" doc:"The trial of a sweep; -1 for none"`
}

func (q NodeQuery) node() pipeline.NodeID { return pipeline.NodeID(q.Node) }

func (q NodeQuery) trial() *int {
	if q.Trial < 0 {
		return nil
	}
	return &q.Trial
}
