package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/drover-ml/drover/orchestrator/admission"
)

// Queue returns what runs, and what waits in order; workspace "" stands for all.
func (c *Client) Queue(ctx context.Context, workspace string, waiting bool) (admission.View, error) {
	q := url.Values{}
	setText(q, "workspace", workspace)
	if waiting {
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
