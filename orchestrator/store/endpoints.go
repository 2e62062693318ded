package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Endpoints lists a workspace's endpoints by name.
func (db *DB) Endpoints(ctx context.Context, workspace string) ([]registry.Endpoint, error) {
	all, err := query(ctx, db.readers, scanDoc[registry.Endpoint], `SELECT doc FROM endpoints WHERE workspace = ? ORDER BY name`, workspace)
	if err != nil {
		return nil, fmt.Errorf("listing endpoints: %w", err)
	}
	return all, nil
}

// Endpoint returns one endpoint.
func (db *DB) Endpoint(ctx context.Context, workspace, name string) (registry.Endpoint, error) {
	e, err := first(query(ctx, db.readers, scanDoc[registry.Endpoint], `SELECT doc FROM endpoints WHERE workspace = ? AND name = ?`, workspace, name))
	if errors.Is(err, sql.ErrNoRows) {
		return e, problem.New(problem.NotFound, "workspace %q has no endpoint %q", workspace, name)
	}
	if err != nil {
		return e, fmt.Errorf("reading endpoint %q: %w", name, err)
	}
	return e, nil
}

// Deploy makes a deployment the pending revision of its endpoint, once for
// each run, node and attempt.
func (db *DB) Deploy(ctx context.Context, d registry.Deployment) (out registry.Deployment, err error) {
	err = db.writer.do(ctx, func(t *tx) error {
		out = d
		var text string
		switch err := t.get(`SELECT doc FROM deployments WHERE run = ? AND node = ? AND attempt = ?`, []any{d.Run, d.Node, d.Attempt}, &text); {
		case err == nil:
			return decode(text, &out)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if err := t.get(`SELECT coalesce(max(revision), 0) + 1 FROM deployments WHERE workspace = ? AND endpoint = ?`,
			[]any{d.Workspace, d.Endpoint}, &out.Revision); err != nil {
			return err
		}
		if err := t.execDoc(`INSERT INTO deployments (run, node, attempt, workspace, endpoint, revision, doc) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			out, out.Run, out.Node, out.Attempt, out.Workspace, out.Endpoint, out.Revision); err != nil {
			return err
		}
		e, err := t.endpoint(d.Workspace, d.Endpoint)
		if err != nil {
			return err
		}
		if e.Revision == 0 {
			e.Status, e.Run, e.Node, e.Namespace = registry.Deploying, out.Run, out.Node, out.Namespace
		}
		e.Pending, e.JobID, e.Service, e.Reason = out.Revision, out.JobID, out.Service, ""
		return t.putEndpoint(e)
	})
	if err != nil {
		return registry.Deployment{}, fmt.Errorf("storing a revision of endpoint %q: %w", d.Endpoint, err)
	}
	return out, nil
}

// Deployed ends a revision that was pending: it serves, or (reason set) never
// will. A revision older than the live one changes nothing.
func (db *DB) Deployed(ctx context.Context, d registry.Deployment, reason string) error {
	err := db.writer.do(ctx, func(t *tx) error {
		e, err := t.endpoint(d.Workspace, d.Endpoint)
		if err != nil {
			return err
		}
		if e.Pending == d.Revision {
			e.Pending = 0
		}
		switch {
		case reason == "" && d.Revision >= e.Revision:
			e.Model, e.Version, e.Revision = d.Model, d.Version, d.Revision
			e.Namespace, e.JobID, e.Service, e.Run, e.Node = d.Namespace, d.JobID, d.Service, d.Run, d.Node
			e.Status, e.Reason = registry.Live, ""
		case reason != "" && e.Pending == 0:
			e.Reason = fmt.Sprintf("revision %d: %s", d.Revision, reason)
			if e.Revision == 0 {
				e.Status = registry.Broken
			}
		}
		return t.putEndpoint(e)
	})
	if err != nil {
		return fmt.Errorf("storing how revision %d of endpoint %q ended: %w", d.Revision, d.Endpoint, err)
	}
	return nil
}

// DeleteEndpoint forgets an endpoint.
func (db *DB) DeleteEndpoint(ctx context.Context, workspace, name string) error {
	err := db.writer.do(ctx, func(t *tx) error {
		return t.exec(`DELETE FROM endpoints WHERE workspace = ? AND name = ?`, workspace, name)
	})
	if err != nil {
		return fmt.Errorf("deleting endpoint %q: %w", name, err)
	}
	return nil
}

// endpoint reads an endpoint, a new one if there is none.
func (t *tx) endpoint(workspace, name string) (registry.Endpoint, error) {
	e := registry.Endpoint{Workspace: workspace, Name: name}
	var text string
	err := t.get(`SELECT doc FROM endpoints WHERE workspace = ? AND name = ?`, []any{workspace, name}, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	return e, decode(text, &e)
}

func (t *tx) putEndpoint(e registry.Endpoint) error {
	e.Updated = time.Now().UTC()
	return t.execDoc(`INSERT INTO endpoints (workspace, name, doc) VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET doc = excluded.doc`, e, e.Workspace, e.Name)
}
