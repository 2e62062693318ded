package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Workspaces is the definitions of workspaces that hold; version 0 if there were
// never any.
func (db *DB) Workspaces(ctx context.Context) (workspace.Stored, error) {
	s, err := first(query(ctx, db.readers, scanDoc[workspace.Stored], `SELECT doc FROM workspaces ORDER BY version DESC LIMIT 1`))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return workspace.Stored{}, nil
	case err != nil:
		return workspace.Stored{}, fmt.Errorf("reading the definitions of workspaces: %w", err)
	}
	return s, nil
}

// PutWorkspaces stores definitions after the version before theirs. If another
// one is the last, nothing changes: problem.Conflict.
func (db *DB) PutWorkspaces(ctx context.Context, s workspace.Stored) error {
	err := db.writer.do(ctx, func(t *tx) error {
		var last int64
		if err := t.get(`SELECT coalesce(max(version), 0) FROM workspaces`, nil, &last); err != nil {
			return err
		}
		if last != s.Version-1 {
			return problem.New(problem.Conflict, "the definitions have version %d, not %d: somebody else applied some; plan anew", last, s.Version-1)
		}
		return t.execDoc(`INSERT INTO workspaces (version, doc) VALUES (?, ?)`, s, s.Version)
	})
	if err != nil {
		return fmt.Errorf("storing version %d of the definitions of workspaces: %w", s.Version, err)
	}
	return nil
}

const (
	secondsPerDay = 24 * 60 * 60
	// maxCharge is how long an attempt may be charged at once, in seconds.
	maxCharge = 10 * 366 * secondsPerDay
)

// AddUsage counts what charges add to what is counted of the same attempts.
func (db *DB) AddUsage(ctx context.Context, charges []workspace.Charge) error {
	err := db.writer.do(ctx, func(t *tx) error {
		sums := map[usageKey]queue.Amount{}
		for _, c := range charges {
			if err := t.charge(c, sums); err != nil {
				return fmt.Errorf("of %s, attempt %d: %w", c.Job, c.Attempt, err)
			}
		}
		for k, seconds := range sums {
			if err := t.exec(`INSERT INTO usage (day, workspace, flavor, seconds) VALUES (?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET seconds = min(seconds + excluded.seconds, ?)`,
				k.day, k.workspace, k.flavor, seconds, mostSeconds); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("counting use: %w", err)
	}
	return nil
}

// usageKey is the primary key of usage.
type usageKey struct {
	day       int64
	workspace string
	flavor    queue.Flavor
}

// mostSeconds is where sums stay that would overflow.
const mostSeconds queue.Amount = 1 << 61

// charge adds to sums what c adds to what is counted, and notes that it is. It
// counts whole seconds, so that parts add up exactly.
func (t *tx) charge(c workspace.Charge, sums map[usageKey]queue.Amount) error {
	from, to := c.From.Unix(), c.To.Unix()
	if c.Amount < 0 || c.Amount > queue.MaxAmount || from < 0 || to-from > maxCharge {
		return fmt.Errorf("%s of %s from %s to %s is no use", c.Amount, c.Flavor, c.From, c.To)
	}
	var until int64
	err := t.get(`SELECT until FROM charged WHERE job = ? AND attempt = ? AND flavor = ?`, []any{c.Job, c.Attempt, c.Flavor}, &until)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	from = max(from, until)
	if to <= from {
		return nil
	}
	for at := from; at < to; {
		day := at / secondsPerDay
		end := min(to, (day+1)*secondsPerDay)
		k := usageKey{day, c.Workspace, c.Flavor}
		sums[k] = min(sums[k]+c.Amount*queue.Amount(end-at), mostSeconds)
		at = end
	}
	return t.exec(`INSERT INTO charged (job, attempt, flavor, until) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET until = excluded.until`, c.Job, c.Attempt, c.Flavor, to)
}

// Usage is what was used on each day, from that of since on.
func (db *DB) Usage(ctx context.Context, since time.Time) ([]workspace.Use, error) {
	uses, err := query(ctx, db.readers, func(r *sql.Rows) (u workspace.Use, err error) {
		var day int64
		err = r.Scan(&day, &u.Workspace, &u.Flavor, &u.Seconds)
		u.Day = time.Unix(day*secondsPerDay, 0).UTC()
		return u, err
	}, `SELECT day, workspace, flavor, seconds FROM usage WHERE day >= ? ORDER BY day, workspace, flavor`, since.Unix()/secondsPerDay)
	if err != nil {
		return nil, fmt.Errorf("reading what was used: %w", err)
	}
	return uses, nil
}
