package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Queue tells what waits and what runs. *admission.Scheduler does.
type Queue interface {
	Queue(ctx context.Context, f admission.Filter) (admission.View, error)
	WhatIf(ctx context.Context, s admission.Supposition, f admission.Filter) (admission.Comparison, error)
}

// WhatIfRequest is what might be otherwise.
type WhatIfRequest struct {
	Nodes       []admission.MoreNodes  `json:"nodes,omitempty" maxItems:"100" doc:"Nodes that are added to the cluster, empty and healthy; 10,000 in all at most"`
	Definitions *workspace.Definitions `json:"definitions,omitempty" doc:"Definitions in the place of all that hold"`
}

// QueueSelection says which tasks are told of.
type QueueSelection struct {
	Workspace string `query:"workspace" maxLength:"63" doc:"Only that of this workspace"`
	Limit     int    `query:"limit" minimum:"1" maximum:"10000" default:"100"`
}

func (s *server) registerQueue(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "get-queue", Method: http.MethodGet, Path: "/v1/queue", Tags: []string{"platform"},
		Summary: "See what waits, in order, and what runs",
		Description: "Work that waits has one reason, and a forecast: when it starts if nothing else is submitted and everything runs as long as it declares. " +
			"The forecast is made by the code that decides. Of those that wait, the first limit are listed; of those that run, the newest.",
	}, func(ctx context.Context, in *struct {
		QueueSelection
		Waiting bool `query:"waiting" doc:"Only what waits"`
	}) (*struct{ Body admission.View }, error) {
		view, err := s.cfg.Queue.Queue(ctx, admission.Filter{Workspace: in.Workspace, Waiting: in.Waiting, Limit: in.Limit})
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return &struct{ Body admission.View }{view}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-queue-task", Method: http.MethodGet, Path: "/v1/queue/task", Tags: []string{"platform"},
		Summary: "See one task in the queue",
	}, s.getQueueTask)
	huma.Register(api, huma.Operation{
		OperationID: "what-if", Method: http.MethodPost, Path: "/v1/queue/what-if", Tags: []string{"platform"},
		Summary: "Compare the queue with what it would be", MaxBodyBytes: maxDefinitions,
		Description: "With more nodes, with other definitions of workspaces, or both. Both forecasts are made from one snapshot by the code that decides. " +
			"Nothing is changed. Tasks whose start is another one come first.",
	}, s.whatIf)
}

func (s *server) getQueueTask(ctx context.Context, in *struct {
	Task string `query:"task" required:"true" minLength:"1" maxLength:"1024" doc:"RUN/NODE, or RUN/NODE/TRIAL"`
}) (*struct{ Body admission.Entry }, error) {
	view, err := s.cfg.Queue.Queue(ctx, admission.Filter{Task: queue.JobID(in.Task)})
	switch {
	case err != nil:
		return nil, s.problem(ctx, err)
	case len(view.Entries) == 0:
		return nil, s.problem(ctx, problem.New(problem.NotFound, "no task %q waits or runs", in.Task))
	}
	return &struct{ Body admission.Entry }{view.Entries[0]}, nil
}

func (s *server) whatIf(ctx context.Context, in *struct {
	QueueSelection
	Body WhatIfRequest
}) (*struct{ Body admission.Comparison }, error) {
	if d := in.Body.Definitions; d != nil { // which says whether they are valid
		if plan, err := s.cfg.Workspaces.Plan(ctx, *d); err != nil {
			_, err = s.workspacePlan(ctx, plan, err)
			return nil, err
		}
	}
	sup := admission.Supposition{Nodes: in.Body.Nodes, Definitions: in.Body.Definitions}
	c, err := s.cfg.Queue.WhatIf(ctx, sup, admission.Filter{Workspace: in.Workspace, Limit: in.Limit})
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	return &struct{ Body admission.Comparison }{c}, nil
}
