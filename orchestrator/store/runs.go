package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

var _ run.Store = (*DB)(nil)

// runDoc is the doc column of runs: a run without its nodes.
type runDoc struct {
	run.Run
	Nodes       []run.Node `json:"nodes,omitempty"` // always empty
	Round       int        `json:"round"`
	CancelledBy string     `json:"cancelled_by,omitempty"`
}

func docOf(s *run.State) runDoc {
	d := runDoc{Run: s.Run, Round: s.Round, CancelledBy: s.CancelledBy}
	d.Run.Nodes = nil
	return d
}

// trialColumn is a trial as the tables have it.
func trialColumn(t *int) int {
	if t == nil {
		return -1
	}
	return *t
}

func trialOf(column int) *int {
	if column < 0 {
		return nil
	}
	return &column
}

// Create stores a new run, or finds the one that has its key.
func (db *DB) Create(ctx context.Context, s run.State, events []run.Event) (id run.ID, created bool, err error) {
	err = db.writer.do(ctx, func(t *tx) error {
		id, created = s.ID, false
		var key any
		if s.Submission.Key != "" {
			key = s.Submission.Key
			err := t.get(`SELECT id FROM runs WHERE workspace = ? AND key = ?`, []any{s.Workspace, key}, &id)
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		submission, err := doc(s.Submission)
		if err != nil {
			return err
		}
		if err := t.execDoc(`INSERT INTO runs (id, workspace, pipeline, phase, key, submission, doc) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			docOf(&s), s.ID, s.Workspace, s.Pipeline, s.Phase, key, submission); err != nil {
			return err
		}
		for i, n := range s.Nodes {
			if err := t.execDoc(`INSERT INTO nodes (run, node, position, doc) VALUES (?, ?, ?, ?)`, bare(n), s.ID, n.ID, i); err != nil {
				return err
			}
		}
		created = true
		return t.events(s.ID, events)
	})
	if err != nil {
		return "", false, fmt.Errorf("storing run %s: %w", s.ID, err)
	}
	return id, created, nil
}

// bare is a node without what has tables of its own.
func bare(n run.Node) run.Node {
	n.Attempts, n.Trials = nil, nil
	return n
}

// Commit stores a transition.
func (db *DB) Commit(ctx context.Context, c run.Change) error {
	err := db.writer.do(ctx, func(t *tx) error { return t.change(c) })
	if err != nil {
		return fmt.Errorf("storing a change of run %s: %w", c.ID, err)
	}
	return nil
}

func (t *tx) change(c run.Change) error {
	if c.Run != nil {
		if err := t.execDoc(`UPDATE runs SET phase = ?2, doc = ?3 WHERE id = ?1`, docOf(c.Run), c.ID, c.Run.Phase); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := t.execDoc(`UPDATE nodes SET doc = ?3 WHERE run = ?1 AND node = ?2`, bare(n), c.ID, n.ID); err != nil {
			return err
		}
		if err := t.uses(c.ID, n.ID, nil, n.Phase, n.Inputs, n.Outputs); err != nil {
			return err
		}
	}
	for _, tr := range c.Trials {
		if err := t.execDoc(`INSERT INTO trials (run, node, trial, doc) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET doc = excluded.doc`, tr.Trial, c.ID, tr.Node, tr.Index); err != nil {
			return err
		}
		if err := t.uses(c.ID, tr.Node, &tr.Index, tr.Phase, nil, tr.Outputs); err != nil {
			return err
		}
	}
	for _, a := range c.Attempts {
		if err := t.execDoc(`INSERT INTO attempts (run, node, trial, number, incident, doc) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET incident = excluded.incident, doc = excluded.doc`, a, c.ID, a.Node, trialColumn(a.Trial), a.Number, incidentColumn(a)); err != nil {
			return err
		}
	}
	for _, e := range c.Cache {
		if err := t.execDoc(`INSERT INTO cache (workspace, key, doc) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET doc = excluded.doc`, e, e.Workspace, e.Key); err != nil {
			return err
		}
	}
	if err := t.metrics(c.ID, c.Metrics); err != nil {
		return err
	}
	return t.events(c.ID, c.Events)
}

func (t *tx) events(id run.ID, events []run.Event) error {
	for _, e := range events {
		if err := t.exec(`INSERT INTO events (run, seq, time, node, trial, type, phase, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`,
			id, e.Seq, e.Time.UnixNano(), e.Node, trialColumn(e.Trial), e.Type, e.Phase, e.Message); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) metrics(id run.ID, points []run.MetricPoint) error {
	for _, p := range points {
		if err := t.exec(`INSERT INTO metrics (run, node, trial, metric, step, value, time) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET value = excluded.value, time = excluded.time`,
			id, p.Node, trialColumn(p.Trial), p.Metric, p.Step, p.Value, p.Time.UnixNano()); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) uses(id run.ID, node pipeline.NodeID, trial *int, phase run.Phase, inputs map[string]string, outputs map[string]run.Output) error {
	if phase != run.Succeeded {
		return nil
	}
	use := func(role, name, digest string) error {
		return t.exec(`INSERT INTO uses (digest, role, run, node, trial, name) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			digest, role, id, node, trialColumn(trial), name)
	}
	for name, digest := range inputs {
		if err := use("input", name, digest); err != nil {
			return err
		}
	}
	for name, o := range outputs {
		if err := use("output", name, o.Digest); err != nil {
			return err
		}
	}
	return nil
}

// Active returns the runs that have not ended, oldest first.
func (db *DB) Active(ctx context.Context) ([]run.ID, error) {
	ids, err := query(ctx, db.readers, func(r *sql.Rows) (id run.ID, err error) { return id, r.Scan(&id) },
		`SELECT id FROM runs WHERE phase NOT IN (?, ?, ?) ORDER BY id`, run.Succeeded, run.Failed, run.Cancelled)
	if err != nil {
		return nil, fmt.Errorf("listing the runs that go on: %w", err)
	}
	return ids, nil
}

// Cached returns a workspace's newest result for a cache key.
func (db *DB) Cached(ctx context.Context, workspace, key string) (run.CacheEntry, bool, error) {
	e, err := first(query(ctx, db.readers, scanDoc[run.CacheEntry], `SELECT doc FROM cache WHERE workspace = ? AND key = ?`, workspace, key))
	if errors.Is(err, sql.ErrNoRows) {
		return e, false, nil
	}
	if err != nil {
		return e, false, fmt.Errorf("looking up cache key %s: %w", key, err)
	}
	return e, true, nil
}

// Load returns a run with all that the engine needs.
func (db *DB) Load(ctx context.Context, id run.ID) (run.State, error) {
	s, err := db.load(ctx, id)
	if err != nil {
		return run.State{}, fmt.Errorf("loading run %s: %w", id, err)
	}
	return s, nil
}

func (db *DB) load(ctx context.Context, id run.ID) (run.State, error) {
	var text, submission string
	s := run.State{}
	// One snapshot of all tables.
	t, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s, err
	}
	defer t.Rollback()
	err = t.QueryRowContext(ctx, `SELECT doc, submission, (SELECT coalesce(max(seq), 0) FROM events WHERE run = runs.id) FROM runs WHERE id = ?`, id).
		Scan(&text, &submission, &s.Clock)
	if errors.Is(err, sql.ErrNoRows) {
		return s, problem.New(problem.NotFound, "there is no run %q", id)
	}
	if err != nil {
		return s, err
	}
	var d runDoc
	if err := decode(text, &d); err != nil {
		return s, err
	}
	s.Run, s.Round, s.CancelledBy = d.Run, d.Round, d.CancelledBy
	if err := decode(submission, &s.Submission); err != nil {
		return s, err
	}
	if s.Nodes, err = query(ctx, t, scanDoc[run.Node], `SELECT doc FROM nodes WHERE run = ? ORDER BY position`, id); err != nil {
		return s, err
	}
	trials, err := query(ctx, t, scanTrial, `SELECT node, doc FROM trials WHERE run = ? ORDER BY node, trial`, id)
	if err != nil {
		return s, err
	}
	byNode := make(map[pipeline.NodeID]*run.Node, len(s.Nodes))
	for i := range s.Nodes {
		byNode[s.Nodes[i].ID] = &s.Nodes[i]
	}
	for _, tr := range trials {
		if n := byNode[tr.Node]; n != nil {
			n.Trials = append(n.Trials, tr.Trial)
		}
	}
	s.Attempts, err = query(ctx, t, scanDoc[run.AttemptState], `SELECT doc FROM attempts WHERE run = ? ORDER BY node, trial, number`, id)
	return s, err
}

func scanTrial(r *sql.Rows) (t run.TrialState, err error) {
	var text string
	if err := r.Scan(&t.Node, &text); err != nil {
		return t, err
	}
	return t, decode(text, &t.Trial)
}

// Run returns a run as readers see it.
func (db *DB) Run(ctx context.Context, id run.ID) (run.Run, error) {
	s, err := db.load(ctx, id)
	if err != nil {
		return run.Run{}, fmt.Errorf("reading run %s: %w", id, err)
	}
	byNode := make(map[pipeline.NodeID]*run.Node, len(s.Nodes))
	for i := range s.Nodes {
		byNode[s.Nodes[i].ID] = &s.Nodes[i]
	}
	for _, a := range s.Attempts {
		if n := byNode[a.Node]; n != nil {
			n.Attempts = append(n.Attempts, a.Attempt)
		}
	}
	return s.Run, nil
}

// Runs lists runs without their nodes, the newest first.
func (db *DB) Runs(ctx context.Context, f run.Filter) ([]run.Run, error) {
	const most = 1000
	if f.Limit <= 0 || f.Limit > most {
		f.Limit = most
	}
	if f.Before == "" {
		f.Before = "~" // after every ID
	}
	runs, err := query(ctx, db.readers, scanDoc[runDoc], `SELECT doc FROM runs WHERE id < ?1
		AND (?2 = '' OR workspace = ?2) AND (?3 = '' OR pipeline = ?3) AND (?4 = '' OR phase = ?4)
		ORDER BY id DESC LIMIT ?5`, f.Before, f.Workspace, f.Pipeline, f.Phase, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	out := make([]run.Run, len(runs))
	for i, d := range runs {
		out[i] = d.Run
	}
	return out, nil
}

// Events returns events of a run after a number.
func (db *DB) Events(ctx context.Context, id run.ID, afterSeq int64, limit int) ([]run.Event, error) {
	const most = 1000
	if limit <= 0 || limit > most {
		limit = most
	}
	events, err := query(ctx, db.readers, func(r *sql.Rows) (e run.Event, err error) {
		var ns int64
		var trial int
		err = r.Scan(&e.Run, &e.Seq, &ns, &e.Node, &trial, &e.Type, &e.Phase, &e.Message)
		e.Time, e.Trial = time.Unix(0, ns).UTC(), trialOf(trial)
		return e, err
	}, `SELECT run, seq, time, node, trial, type, phase, message FROM events WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?`, id, afterSeq, limit)
	if err != nil {
		return nil, fmt.Errorf("reading events of run %s: %w", id, err)
	}
	return events, nil
}

// Metrics returns points of a run's metrics.
func (db *DB) Metrics(ctx context.Context, id run.ID, f run.MetricFilter) ([]run.MetricPoint, error) {
	const most = 100_000
	if f.Limit <= 0 || f.Limit > most {
		f.Limit = most
	}
	var after any
	if f.AfterStep != nil {
		after = *f.AfterStep
	}
	var trial any
	if f.Trial != nil {
		trial = *f.Trial
	}
	points, err := query(ctx, db.readers, func(r *sql.Rows) (p run.MetricPoint, err error) {
		var ns int64
		var trial int
		err = r.Scan(&p.Node, &trial, &p.Metric, &p.Step, &p.Value, &ns)
		p.Time, p.Trial = time.Unix(0, ns).UTC(), trialOf(trial)
		return p, err
	}, `SELECT node, trial, metric, step, value, time FROM metrics WHERE run = ?1
		AND (?2 = '' OR node = ?2) AND (?3 IS NULL OR trial = ?3) AND (?4 = '' OR metric = ?4) AND (?5 IS NULL OR step > ?5)
		ORDER BY node, trial, metric, step LIMIT ?6`, id, f.Node, trial, f.Metric, after, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("reading metrics of run %s: %w", id, err)
	}
	return points, nil
}

// Origins returns the succeeded nodes that have an artefact as an output or
// as an input, oldest first.
func (db *DB) Origins(ctx context.Context, workspace, digest string) (produced, consumed []run.Use, err error) {
	type use struct {
		run.Use
		role string
	}
	uses, err := query(ctx, db.readers, func(r *sql.Rows) (u use, err error) {
		var trial int
		var text string
		if err := r.Scan(&u.role, &u.Run, &u.Pipeline, &u.Node, &trial, &u.Name, &text); err != nil {
			return u, err
		}
		var n run.Node
		if err := decode(text, &n); err != nil {
			return u, err
		}
		u.Trial, u.Cached, u.Params, u.Metrics, u.Inputs, u.Kind, u.Ended = trialOf(trial), n.Cached, n.Params, n.Metrics, n.Inputs, n.Kind, n.Ended
		return u, nil
	}, `SELECT u.role, u.run, r.pipeline, u.node, u.trial, u.name, n.doc
		FROM uses u JOIN runs r ON r.id = u.run JOIN nodes n ON n.run = u.run AND n.node = u.node
		WHERE u.digest = ? AND r.workspace = ? ORDER BY u.run, n.position, u.trial LIMIT 1000`, digest, workspace)
	if err != nil {
		return nil, nil, fmt.Errorf("reading where %s comes from: %w", digest, err)
	}
	for _, u := range uses {
		if u.role == "output" {
			produced = append(produced, u.Use)
		} else {
			consumed = append(consumed, u.Use)
		}
	}
	return produced, consumed, nil
}
