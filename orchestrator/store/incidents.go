package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

// incidentDoc is the doc column of incidents.
type incidentDoc struct {
	failover.Incident
	Instances []failover.Move     `json:"instances,omitempty"`
	Affected  []failover.Affected `json:"affected,omitempty"` // always empty
}

func incidentDocOf(i failover.Incident) incidentDoc {
	d := incidentDoc{Incident: i, Instances: i.Instances}
	d.Incident.Affected = nil
	return d
}

func (d incidentDoc) incident() failover.Incident {
	i := d.Incident
	i.Instances = d.Instances
	return i
}

// OpenIncident stores an incident that begins, or goes on with the one that its
// device has.
func (db *DB) OpenIncident(ctx context.Context, i failover.Incident) (out failover.Incident, err error) {
	err = db.writer.do(ctx, func(t *tx) error {
		out = i
		var text string
		err := t.get(`SELECT doc FROM incidents WHERE node = ? AND device = ? AND (ended IS NULL OR ended > ?) ORDER BY id DESC LIMIT 1`,
			[]any{i.NodeID, i.Device, i.Seen.Add(-failover.Flapping).UnixNano()}, &text)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return t.putIncident(out)
		case err != nil:
			return err
		}
		var d incidentDoc
		if err := decode(text, &d); err != nil {
			return err
		}
		out = d.incident()
		if out.Ended != nil {
			out.Ended = nil
			out.Times++
		}
		out.Fault = i.Fault
		return t.putIncident(out)
	})
	if err != nil {
		return failover.Incident{}, fmt.Errorf("storing an incident of device %s: %w", i.Device, err)
	}
	return out, nil
}

// UpdateIncident changes an incident.
func (db *DB) UpdateIncident(ctx context.Context, id string, change func(*failover.Incident)) (out failover.Incident, err error) {
	err = db.writer.do(ctx, func(t *tx) error {
		var text string
		if err := t.get(`SELECT doc FROM incidents WHERE id = ?`, []any{id}, &text); errors.Is(err, sql.ErrNoRows) {
			return noIncident(id)
		} else if err != nil {
			return err
		}
		var d incidentDoc
		if err := decode(text, &d); err != nil {
			return err
		}
		out = d.incident()
		change(&out)
		return t.putIncident(out)
	})
	if err != nil {
		return failover.Incident{}, fmt.Errorf("changing incident %s: %w", id, err)
	}
	return out, nil
}

func noIncident(id string) error {
	return problem.New(problem.NotFound, "there is no incident %q", id)
}

func (t *tx) putIncident(i failover.Incident) error {
	var ended any
	if i.Ended != nil {
		ended = i.Ended.UnixNano()
	}
	moving := 0
	for _, m := range i.Instances {
		if m.Open() || m.Phase == failover.Left {
			moving = 1
		}
	}
	return t.execDoc(`INSERT INTO incidents (id, node, name, device, ended, moving, doc) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET name = excluded.name, ended = excluded.ended, moving = excluded.moving, doc = excluded.doc`,
		incidentDocOf(i), i.ID, i.NodeID, i.NodeName, i.Device, ended, moving)
}

// Unfinished are the incidents that are not over.
func (db *DB) Unfinished(ctx context.Context) ([]failover.Incident, error) {
	docs, err := query(ctx, db.readers, scanDoc[incidentDoc], `SELECT doc FROM incidents WHERE ended IS NULL OR moving = 1 ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("listing incidents that go on: %w", err)
	}
	return incidentsOf(docs), nil
}

func incidentsOf(docs []incidentDoc) []failover.Incident {
	out := make([]failover.Incident, len(docs))
	for i, d := range docs {
		out[i] = d.incident()
	}
	return out
}

// Incident returns an incident with what it has touched.
func (db *DB) Incident(ctx context.Context, id string) (failover.Incident, error) {
	all, err := db.incidents(ctx, `SELECT doc FROM incidents WHERE id = ?`, id)
	switch {
	case err != nil:
		return failover.Incident{}, fmt.Errorf("reading incident %s: %w", id, err)
	case len(all) == 0:
		return failover.Incident{}, noIncident(id)
	}
	return all[0], nil
}

// Incidents lists incidents with what they have touched, the newest first.
func (db *DB) Incidents(ctx context.Context, f failover.Filter) ([]failover.Incident, error) {
	const most = 1000
	if f.Limit <= 0 || f.Limit > most {
		f.Limit = most
	}
	if f.Before == "" {
		f.Before = "~" // after every ID
	}
	all, err := db.incidents(ctx, `SELECT doc FROM incidents WHERE id < ?1
		AND (?2 = '' OR substr(device, 1, length(?2)) = ?2) AND (?3 = '' OR node = ?3 OR name = ?3) AND (NOT ?4 OR ended IS NULL)
		ORDER BY id DESC LIMIT ?5`, f.Before, f.Device, f.Node, f.Open, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing incidents: %w", err)
	}
	return all, nil
}

// incidents reads incidents with what they have touched, in one snapshot.
func (db *DB) incidents(ctx context.Context, text string, args ...any) ([]failover.Incident, error) {
	t, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer t.Rollback()
	docs, err := query(ctx, t, scanDoc[incidentDoc], text, args...)
	if err != nil {
		return nil, err
	}
	all := incidentsOf(docs)
	byID := make(map[string]*failover.Incident, len(all))
	ids := make([]any, len(all))
	for j := range all {
		i := &all[j]
		byID[i.ID], ids[j] = i, i.ID
		i.Affected = []failover.Affected{}
		for _, m := range i.Instances {
			i.Affected = append(i.Affected, failover.Affected{Workspace: m.Workspace, Endpoint: m.Endpoint, Move: m})
		}
	}
	if len(ids) == 0 {
		return all, nil
	}
	touched, err := query(ctx, t, scanAffected, `SELECT r.workspace, a.run, a.doc FROM attempts a JOIN runs r ON r.id = a.run
		WHERE a.incident IN (?`+strings.Repeat(", ?", len(ids)-1)+`) ORDER BY a.run, a.node, a.trial, a.number`, ids...)
	if err != nil {
		return nil, err
	}
	for _, x := range touched {
		i := byID[x.Incident]
		i.Affected = append(i.Affected, x)
	}
	return all, nil
}

func scanAffected(r *sql.Rows) (x failover.Affected, err error) {
	var text string
	if err := r.Scan(&x.Workspace, &x.Run, &text); err != nil {
		return x, err
	}
	var a run.AttemptState
	if err := decode(text, &a); err != nil {
		return x, err
	}
	x.Step, x.Trial, x.Attempt, x.Move = string(a.Node), a.Trial, a.Number, *a.Move
	return x, nil
}

// incidentColumn is an attempt's incident as the tables have it.
func incidentColumn(a run.AttemptState) any {
	if a.Move == nil {
		return nil
	}
	return a.Move.Incident
}
