package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/api"
)

// Queue returns what runs, and what waits in order; f.Limit zero is the server's.
func (c *Client) Queue(ctx context.Context, f admission.Filter) (admission.View, error) {
	q := selection(f)
	if f.Waiting {
		q.Set("waiting", "true")
	}
	var v admission.View
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/queue", query: q}, &v)
	return v, err
}

// QueueTask returns a task in the queue.
func (c *Client) QueueTask(ctx context.Context, task string) (admission.Entry, error) {
	var e admission.Entry
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/queue/task", query: url.Values{"task": {task}}}, &e)
	return e, err
}

// WhatIf compares the queue with what it would be, and changes nothing.
func (c *Client) WhatIf(ctx context.Context, w api.WhatIfRequest, f admission.Filter) (admission.Comparison, error) {
	var v admission.Comparison
	err := c.do(ctx, request{method: http.MethodPost, path: "/v1/queue/what-if", query: selection(f), body: w, again: true}, &v)
	return v, err
}

func selection(f admission.Filter) url.Values {
	q := url.Values{}
	setText(q, "workspace", f.Workspace)
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}
