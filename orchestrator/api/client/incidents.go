package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/failover"
)

// IncidentFilter selects incidents; zero fields select all.
type IncidentFilter struct {
	Device string // an ID, or how it begins
	Node   string // name or ID
	Open   bool   // only those that go on
	Limit  int    // of the page; default 100
	Before string
}

// Incidents lists a page of incidents, the newest first.
func (c *Client) Incidents(ctx context.Context, f IncidentFilter) (api.IncidentPage, error) {
	q := url.Values{}
	setText(q, "device", f.Device)
	setText(q, "node", f.Node)
	setText(q, "before", f.Before)
	setInt(q, "limit", int64(f.Limit))
	if f.Open {
		q.Set("open", "true")
	}
	var page api.IncidentPage
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/incidents", query: q}, &page)
	return page, err
}

// Incident returns an incident.
func (c *Client) Incident(ctx context.Context, id string) (failover.Incident, error) {
	var i failover.Incident
	err := c.do(ctx, request{method: http.MethodGet, path: "/v1/incidents/" + segment(id)}, &i)
	return i, err
}
