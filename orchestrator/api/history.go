package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/orchestrator/run"
)

// EventPage is a page of a run's events.
type EventPage struct {
	Events []run.Event `json:"events"`
	// Last is the number of the last event given, to ask for those after.
	Last int64 `json:"last"`
}

// MetricPage is a page of a run's metrics.
type MetricPage struct {
	Points []run.MetricPoint `json:"points"`
	// Truncated tells that there are more than the limit; ask for one node,
	// metric or range of steps.
	Truncated bool `json:"truncated,omitempty"`
}

// maxWait bounds a request that waits for an event.
const maxWait = 60 * time.Second

func (s *server) registerHistory(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/runs/{id}/events", Tags: []string{"runs"},
		Summary: "List a run's events, the oldest first",
		Description: "With wait, a request for events that are not there yet is answered when the first one comes, or empty " +
			"after that time. So a client that asks again after the last event that it got misses none.",
	}, s.listEvents)
	huma.Register(api, huma.Operation{
		OperationID: "list-metrics", Method: http.MethodGet, Path: "/v1/runs/{id}/metrics", Tags: []string{"runs"},
		Summary: "List the values of a run's metrics",
	}, s.listMetrics)
	huma.Register(api, huma.Operation{
		OperationID: "get-logs", Method: http.MethodGet, Path: "/v1/runs/{id}/logs", Tags: []string{"runs"},
		Summary:     "Read a step's output",
		Description: "Plain text. With follow, goes on until the task ends.",
		Responses: map[string]*huma.Response{"200": {Description: "The output", Content: map[string]*huma.MediaType{
			"text/plain": {Schema: &huma.Schema{Type: "string"}},
		}}},
	}, s.getLogs)
	huma.Register(api, huma.Operation{
		OperationID: "get-lineage", Method: http.MethodGet, Path: "/v1/lineage/{digest}", Tags: []string{"artifacts"},
		Summary: "Say where an artefact comes from and what was made of it",
	}, s.getLineage)
}

func (s *server) listEvents(ctx context.Context, in *struct {
	RunPath
	After int64  `query:"after" minimum:"0" doc:"Only events after this one"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"Events a page"`
	Wait  string `query:"wait" maxLength:"16" doc:"How long to wait for an event, such as 30s; at most 60s"`
}) (*struct{ Body EventPage }, error) {
	wait, err := waitOf(in.Wait)
	if err != nil {
		return nil, err
	}
	events, err := s.cfg.History.Events(ctx, in.id(), in.After, in.Limit)
	if err == nil && len(events) == 0 && wait > 0 {
		if err = s.await(ctx, in.id(), in.After, wait); err == nil {
			events, err = s.cfg.History.Events(ctx, in.id(), in.After, in.Limit)
		}
	}
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body EventPage }{EventPage{Events: events, Last: in.After}}
	if n := len(events); n > 0 {
		out.Body.Last = events[n-1].Seq
	} else {
		out.Body.Events = []run.Event{}
	}
	return out, nil
}

func waitOf(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 {
		return 0, invalid("validation failed", &huma.ErrorDetail{Location: "query.wait", Message: "want a duration such as 30s", Value: text})
	}
	return min(wait, maxWait), nil
}

// await waits for an event after the given one. Running out of time is no
// error.
func (s *server) await(ctx context.Context, id run.ID, after int64, wait time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	events, err := s.cfg.History.Watch(waiting, id, after)
	if err != nil {
		return err
	}
	select {
	case <-events: // or closed: the run has ended
	case <-waiting.Done():
	}
	return ctx.Err()
}

// maxPoints is how many values of metrics one request gets.
const maxPoints = 100_000

func (s *server) listMetrics(ctx context.Context, in *struct {
	RunPath
	NodeQuery
	Metric    string `query:"metric" maxLength:"256" doc:"Only this metric"`
	AfterStep int64  `query:"after_step" default:"-1" doc:"Only values of later steps"`
	Limit     int    `query:"limit" minimum:"1" maximum:"100000" default:"10000" doc:"Values a page"`
}) (*struct{ Body MetricPage }, error) {
	f := run.MetricFilter{Node: in.node(), Trial: in.trial(), Metric: in.Metric, Limit: min(in.Limit+1, maxPoints)}
	if in.AfterStep >= 0 {
		f.AfterStep = &in.AfterStep
	}
	points, err := s.cfg.History.Metrics(ctx, in.id(), f)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	out := &struct{ Body MetricPage }{MetricPage{Points: points}}
	if len(points) > in.Limit {
		out.Body.Points, out.Body.Truncated = points[:in.Limit], true
	}
	if points == nil {
		out.Body.Points = []run.MetricPoint{}
	}
	return out, nil
}

func (s *server) getLogs(ctx context.Context, in *struct {
	RunPath
	NodeQuery
	Rank    int    `query:"rank" minimum:"-1" default:"-1" doc:"The member of a gang; -1 for rank 0, or the one that has failed"`
	Attempt int    `query:"attempt" minimum:"0" doc:"The attempt; 0 for the last"`
	Stream  string `query:"stream" enum:"stdout,stderr" default:"stdout"`
	Tail    int64  `query:"tail" minimum:"0" maximum:"104857600" doc:"Only this many bytes from the end; 0 for all"`
	Follow  bool   `query:"follow" doc:"Go on until the task ends"`
}) (*huma.StreamResponse, error) {
	selector := run.LogSelector{
		Node: in.node(), Trial: in.trial(), Attempt: in.Attempt, Stream: in.Stream, Tail: in.Tail, Follow: in.Follow,
	}
	if in.Rank >= 0 {
		selector.Rank = &in.Rank
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		ctx := hc.Context()
		w := &textWriter{w: hc.BodyWriter().(http.ResponseWriter)}
		err := s.cfg.History.Logs(ctx, in.id(), selector, w)
		switch {
		case err == nil:
			w.begin()
		case !w.begun:
			writeError(w.w, s.problem(ctx, err))
		case ctx.Err() == nil:
			s.cfg.Logger.Warn("sending logs", "run", in.ID, "node", in.Node, "error", err)
			panic(http.ErrAbortHandler) // the client must not take the log for whole
		}
	}}, nil
}

// textWriter begins a plain text answer with the first byte of it, so that an
// error before that can still be told, and flushes every write, so that a line
// is seen when it is written.
type textWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (t *textWriter) begin() {
	if !t.begun {
		t.begun = true
		t.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		t.w.Header().Set("X-Content-Type-Options", "nosniff")
		t.w.WriteHeader(http.StatusOK)
	}
}

func (t *textWriter) Write(p []byte) (int, error) {
	t.begin()
	n, err := t.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(t.w).Flush()
}

func (s *server) getLineage(ctx context.Context, in *struct {
	DigestPath
	WorkspaceQuery
}) (*struct{ Body run.Lineage }, error) {
	l, err := s.cfg.History.Lineage(ctx, in.Workspace, in.Digest)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	return &struct{ Body run.Lineage }{l}, nil
}
