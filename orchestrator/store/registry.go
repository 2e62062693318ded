package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Models lists a workspace's models by name.
func (db *DB) Models(ctx context.Context, workspace string) ([]registry.Model, error) {
	models, err := db.models(ctx, workspace)
	if err != nil {
		return nil, fmt.Errorf("listing models: %w", err)
	}
	return models, nil
}

func (db *DB) models(ctx context.Context, workspace string) ([]registry.Model, error) {
	t, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer t.Rollback()
	models, err := query(ctx, t, func(r *sql.Rows) (m registry.Model, err error) {
		var created, updated int64
		err = r.Scan(&m.Name, &m.Latest, &created, &updated)
		m.Workspace, m.Aliases = workspace, map[string]int{}
		m.Created, m.Updated = time.Unix(0, created).UTC(), time.Unix(0, updated).UTC()
		return m, err
	}, `SELECT model, max(number), min(created), max(created) FROM versions WHERE workspace = ? GROUP BY model ORDER BY model`, workspace)
	if err != nil {
		return nil, err
	}
	aliases, err := readAliases(ctx, t, workspace, "")
	if err != nil {
		return nil, err
	}
	for _, a := range aliases {
		i, found := slices.BinarySearchFunc(models, a.model, func(m registry.Model, name string) int { return cmp.Compare(m.Name, name) })
		if found {
			models[i].Aliases[a.alias] = a.number
		}
	}
	return models, nil
}

type aliasRow struct {
	model, alias string
	number       int
}

// readAliases reads the aliases of a model, or of all if model is "".
func readAliases(ctx context.Context, q querier, workspace, model string) ([]aliasRow, error) {
	return query(ctx, q, func(r *sql.Rows) (a aliasRow, err error) { return a, r.Scan(&a.model, &a.alias, &a.number) },
		`SELECT model, alias, number FROM aliases WHERE workspace = ?1 AND (?2 = '' OR model = ?2) ORDER BY model, alias`, workspace, model)
}

// Versions lists a model's versions, the newest first.
func (db *DB) Versions(ctx context.Context, workspace, model string) ([]registry.Version, error) {
	versions, err := db.versions(ctx, workspace, model)
	if err != nil {
		return nil, fmt.Errorf("listing versions of model %q: %w", model, err)
	}
	if len(versions) == 0 {
		return nil, problem.New(problem.NotFound, "workspace %q has no model %q", workspace, model)
	}
	return versions, nil
}

func (db *DB) versions(ctx context.Context, workspace, model string) ([]registry.Version, error) {
	t, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer t.Rollback()
	versions, err := query(ctx, t, scanDoc[registry.Version],
		`SELECT doc FROM versions WHERE workspace = ? AND model = ? ORDER BY number DESC`, workspace, model)
	if err != nil {
		return nil, err
	}
	aliases, err := readAliases(ctx, t, workspace, model)
	if err != nil {
		return nil, err
	}
	for _, a := range aliases {
		for i := range versions {
			if versions[i].Number == a.number {
				versions[i].Aliases = append(versions[i].Aliases, a.alias)
			}
		}
	}
	return versions, nil
}

// VersionsOf lists the versions whose files are an artefact, oldest first.
func (db *DB) VersionsOf(ctx context.Context, workspace, digest string) ([]registry.Version, error) {
	versions, err := query(ctx, db.readers, scanDoc[registry.Version],
		`SELECT doc FROM versions WHERE digest = ? AND workspace = ? ORDER BY model, number`, digest, workspace)
	if err != nil {
		return nil, fmt.Errorf("listing the versions of artefact %s: %w", digest, err)
	}
	return versions, nil
}

// AddVersion registers a version, once for each run and node. If the alias (or
// without one, the newest version) names one that is the same in everything
// that was learnt, that one is returned and nothing is registered.
func (db *DB) AddVersion(ctx context.Context, v registry.Version, alias string) (out registry.Version, err error) {
	err = db.writer.do(ctx, func(t *tx) error {
		var text string
		switch err := t.get(`SELECT doc FROM versions WHERE run = ? AND node = ?`, []any{v.Run, v.Node}, &text); {
		case err == nil:
			out = registry.Version{}
			return decode(text, &out)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		same, found, err := t.sameVersion(v, alias)
		if err != nil || found {
			out = same
			return err
		}
		out = v
		out.Aliases = nil
		if err := t.get(`SELECT coalesce(max(number), 0) + 1 FROM versions WHERE workspace = ? AND model = ?`,
			[]any{v.Workspace, v.Model}, &out.Number); err != nil {
			return err
		}
		if err := t.execDoc(`INSERT INTO versions (workspace, model, number, run, node, digest, created, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			out, out.Workspace, out.Model, out.Number, out.Run, out.Node, out.Digest, out.Created.UnixNano()); err != nil {
			return err
		}
		if alias == "" {
			return nil
		}
		_, err = t.moveAlias(registry.AliasMove{
			Workspace: v.Workspace, Model: v.Model, Alias: alias, To: out.Number,
			By: v.By, Reason: fmt.Sprintf("registered by %s of run %s", v.Node, v.Run), At: v.Created,
		})
		return err
	})
	if err != nil {
		return registry.Version{}, fmt.Errorf("registering a version of model %q: %w", v.Model, err)
	}
	return out, nil
}

// sameVersion finds the version that alias names, or the newest one, if it has
// v's content, metrics and parameters.
func (t *tx) sameVersion(v registry.Version, alias string) (registry.Version, bool, error) {
	q, args := `SELECT doc FROM versions WHERE workspace = ? AND model = ? ORDER BY number DESC LIMIT 1`, []any{v.Workspace, v.Model}
	if alias != "" {
		q = `SELECT v.doc FROM versions v JOIN aliases a USING (workspace, model, number) WHERE a.workspace = ? AND a.model = ? AND a.alias = ?`
		args = append(args, alias)
	}
	var text string
	var had registry.Version
	switch err := t.get(q, args, &text); {
	case errors.Is(err, sql.ErrNoRows):
		return had, false, nil
	case err != nil:
		return had, false, err
	}
	if err := decode(text, &had); err != nil {
		return had, false, err
	}
	// As it would be read again: empty maps are not stored.
	stored, err := json.Marshal(v)
	if err == nil {
		v = registry.Version{}
		err = json.Unmarshal(stored, &v)
	}
	if err != nil {
		return had, false, err
	}
	learnt := func(v registry.Version) ([]byte, error) {
		return json.Marshal([]any{v.Digest, v.Source, v.Metrics, v.Params, v.Inputs})
	}
	a, err := learnt(had)
	if err != nil {
		return had, false, err
	}
	b, err := learnt(v)
	return had, bytes.Equal(a, b), err
}

// MoveAlias points an alias at another version.
func (db *DB) MoveAlias(ctx context.Context, m registry.AliasMove) (out registry.AliasMove, err error) {
	err = db.writer.do(ctx, func(t *tx) (err error) {
		out, err = t.moveAlias(m)
		return err
	})
	if err != nil {
		return registry.AliasMove{}, fmt.Errorf("moving alias %q of model %q: %w", m.Alias, m.Model, err)
	}
	return out, nil
}

func (t *tx) moveAlias(m registry.AliasMove) (registry.AliasMove, error) {
	m.From = 0
	err := t.get(`SELECT number FROM aliases WHERE workspace = ? AND model = ? AND alias = ?`, []any{m.Workspace, m.Model, m.Alias}, &m.From)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return m, err
	}
	if m.To == 0 {
		if m.From == 0 {
			return m, problem.New(problem.NotFound, "model %q has no alias %q", m.Model, m.Alias)
		}
		err = t.exec(`DELETE FROM aliases WHERE workspace = ? AND model = ? AND alias = ?`, m.Workspace, m.Model, m.Alias)
	} else {
		var n int
		if err := t.get(`SELECT count(*) FROM versions WHERE workspace = ? AND model = ? AND number = ?`, []any{m.Workspace, m.Model, m.To}, &n); err != nil {
			return m, err
		}
		if n == 0 {
			return m, problem.New(problem.NotFound, "model %q has no version %d", m.Model, m.To)
		}
		err = t.exec(`INSERT INTO aliases (workspace, model, alias, number) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET number = excluded.number`, m.Workspace, m.Model, m.Alias, m.To)
	}
	if err != nil {
		return m, err
	}
	return m, t.execDoc(`INSERT INTO alias_moves (workspace, model, doc) VALUES (?, ?, ?)`, m, m.Workspace, m.Model)
}

// AliasMoves lists the moves of a model's aliases, the newest first.
func (db *DB) AliasMoves(ctx context.Context, workspace, model string) ([]registry.AliasMove, error) {
	moves, err := query(ctx, db.readers, scanDoc[registry.AliasMove],
		`SELECT doc FROM alias_moves WHERE workspace = ? AND model = ? ORDER BY id DESC LIMIT 1000`, workspace, model)
	if err != nil {
		return nil, fmt.Errorf("reading the alias history of model %q: %w", model, err)
	}
	return moves, nil
}
