package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Submit starts a run in the client's workspace. A submission with a key may
// be sent twice, and so is tried again; created is false if the key's run was
// there already.
func (c *Client) Submit(ctx context.Context, s run.Submission) (r run.Run, created bool, err error) {
	s = c.complete(s)
	resp, err := c.send(ctx, request{method: http.MethodPost, path: "/v1/runs", body: s, again: s.Key != ""})
	if err != nil {
		return r, false, err
	}
	defer resp.Body.Close()
	return r, resp.StatusCode == http.StatusCreated, decode(resp.Body, &r, "the submitted run")
}

// Plan says what a submission would do.
func (c *Client) Plan(ctx context.Context, s run.Submission) (run.Plan, error) {
	var p run.Plan
	err := c.do(ctx, request{method: http.MethodPost, path: "/v1/plan", body: c.complete(s), again: true}, &p)
	return p, err
}

func (c *Client) complete(s run.Submission) run.Submission {
	if s.Workspace == "" {
		s.Workspace = c.workspace
	}
	if s.Uploads == nil {
		s.Uploads = map[string]string{}
	}
	return s
}

// RunFilter selects runs; zero fields select all.
type RunFilter struct {
	Pipeline string
	Phase    run.Phase
	Limit    int // of the page; default 100
	Before   run.ID
}

// Runs lists a page of the workspace's runs, the newest first.
func (c *Client) Runs(ctx context.Context, f RunFilter) (api.RunPage, error) {
	q := c.inWorkspace(nil)
	setText(q, "pipeline", f.Pipeline)
	setText(q, "phase", string(f.Phase))
	setText(q, "before", string(f.Before))
	setInt(q, "limit", int64(f.Limit))
	var page api.RunPage
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/runs", query: q}, &page)
	return page, err
}

// Run returns a run with its nodes.
func (c *Client) Run(ctx context.Context, id run.ID) (run.Run, error) {
	var r run.Run
	err := c.do(ctx, request{method: http.MethodGet, path: runPath(id, "")}, &r)
	return r, err
}

// Cancel ends a run.
func (c *Client) Cancel(ctx context.Context, id run.ID) (run.Run, error) {
	var r run.Run
	err := c.do(ctx, request{method: http.MethodPost, path: runPath(id, "/cancel")}, &r)
	return r, err
}

// Retry takes up a run that failed or was cancelled.
func (c *Client) Retry(ctx context.Context, id run.ID) (run.Run, error) {
	var r run.Run
	err := c.do(ctx, request{method: http.MethodPost, path: runPath(id, "/retry")}, &r)
	return r, err
}

// Events returns a run's events after a number. It waits up to wait for one;
// none by then is no error.
func (c *Client) Events(ctx context.Context, id run.ID, after int64, wait time.Duration) ([]run.Event, error) {
	q := url.Values{}
	setInt(q, "after", after)
	if wait > 0 {
		q.Set("wait", wait.String())
	}
	var page api.EventPage
	err := c.do(ctx, request{method: http.MethodGet, path: runPath(id, "/events"), query: q}, &page)
	return page.Events, err
}

// MetricFilter selects values of metrics; zero fields select all.
type MetricFilter struct {
	Node   pipeline.NodeID
	Trial  *int
	Metric string
	Limit  int // default 10,000
}

// Metrics returns values of a run's metrics by node, trial, metric and step.
func (c *Client) Metrics(ctx context.Context, id run.ID, f MetricFilter) (api.MetricPage, error) {
	q := url.Values{}
	setText(q, "node", string(f.Node))
	setTrial(q, f.Trial)
	setText(q, "metric", f.Metric)
	setInt(q, "limit", int64(f.Limit))
	var page api.MetricPage
	err := c.do(ctx, request{method: http.MethodGet, path: runPath(id, "/metrics"), query: q}, &page)
	return page, err
}

// Logs returns a task's output. The caller closes it. With s.Follow it goes on
// until the task ends.
func (c *Client) Logs(ctx context.Context, id run.ID, s run.LogSelector) (io.ReadCloser, error) {
	q := url.Values{}
	setText(q, "node", string(s.Node))
	setTrial(q, s.Trial)
	if s.Rank != nil {
		q.Set("rank", strconv.Itoa(*s.Rank))
	}
	setInt(q, "attempt", int64(s.Attempt))
	setText(q, "stream", s.Stream)
	setInt(q, "tail", s.Tail)
	if s.Follow {
		q.Set("follow", "true")
	}
	resp, err := c.send(ctx, request{method: http.MethodGet, path: runPath(id, "/logs"), query: q})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Lineage tells where an artefact comes from and what was made of it.
func (c *Client) Lineage(ctx context.Context, digest string) (run.Lineage, error) {
	var l run.Lineage
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/lineage/" + segment(digest), query: c.inWorkspace(nil)}, &l)
	return l, err
}

func runPath(id run.ID, rest string) string { return "/v1/runs/" + segment(string(id)) + rest }

func setTrial(q url.Values, trial *int) {
	if trial != nil {
		q.Set("trial", strconv.Itoa(*trial))
	}
}
