package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Queue tells what waits and what runs. *admission.Scheduler does.
type Queue interface {
	Queue(ctx context.Context) (admission.View, error)
}

func (s *server) registerQueue(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "get-queue", Method: http.MethodGet, Path: "/v1/queue", Tags: []string{"platform"},
		Summary: "See what waits, in order, and what runs",
		Description: "Work that waits has one reason, and a forecast: when it starts if nothing else is submitted and everything runs as long as it declares. " +
			"The forecast is made by the code that decides.",
	}, s.getQueue)
	huma.Register(api, huma.Operation{
		OperationID: "get-queue-task", Method: http.MethodGet, Path: "/v1/queue/task", Tags: []string{"platform"},
		Summary: "See one task in the queue",
	}, func(ctx context.Context, in *struct {
		Task string `query:"task" required:"true" minLength:"1" maxLength:"1024" doc:"RUN/NODE, or RUN/NODE/TRIAL"`
	}) (*struct{ Body admission.Entry }, error) {
		view, err := s.cfg.Queue.Queue(ctx)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		i := slices.IndexFunc(view.Entries, func(e admission.Entry) bool { return e.Task == queue.JobID(in.Task) })
		if i < 0 {
			return nil, s.problem(ctx, problem.New(problem.NotFound, "no task %q waits or runs", in.Task))
		}
		return &struct{ Body admission.Entry }{view.Entries[i]}, nil
	})
}

func (s *server) getQueue(ctx context.Context, in *struct {
	Workspace string `query:"workspace" maxLength:"63" doc:"Only that of this workspace"`
	Waiting   bool   `query:"waiting" doc:"Only what waits"`
}) (*struct{ Body admission.View }, error) {
	view, err := s.cfg.Queue.Queue(ctx)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	view.Entries = slices.DeleteFunc(view.Entries, func(e admission.Entry) bool {
		return in.Workspace != "" && e.Workspace != in.Workspace || in.Waiting && e.State != "waiting"
	})
	return &struct{ Body admission.View }{view}, nil
}
