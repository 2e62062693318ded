package store

import (
	"context"
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// LoadQueue reads what the queue holds.
func (db *DB) LoadQueue(ctx context.Context) ([]admission.Row, admission.Memory, error) {
	rows, err := query(ctx, db.readers, scanDoc[admission.Row], `SELECT doc FROM queue_jobs ORDER BY id`)
	if err != nil {
		return nil, admission.Memory{}, fmt.Errorf("loading the queue: %w", err)
	}
	memory, err := query(ctx, db.readers, scanDoc[admission.Memory], `SELECT doc FROM queue_memory`)
	if err != nil {
		return nil, admission.Memory{}, fmt.Errorf("loading the queue: %w", err)
	}
	if len(memory) == 0 {
		return rows, admission.Memory{}, nil
	}
	return rows, memory[0], nil
}

// durationsOf bounds how many runs are looked at for [DB.Durations].
const durationsOf = 50

// Durations is how long the newest attempts at a node of a pipeline took that have
// succeeded, trials included: limit at most.
func (db *DB) Durations(ctx context.Context, workspace, pipelineName string, node pipeline.NodeID, limit int) ([]time.Duration, error) {
	all, err := query(ctx, db.readers, scanDoc[run.AttemptState], `SELECT attempts.doc FROM
		(SELECT id FROM runs WHERE workspace = ? AND pipeline = ? ORDER BY id DESC LIMIT ?) newest
		JOIN attempts ON attempts.run = newest.id AND attempts.node = ? ORDER BY attempts.run DESC, attempts.trial, attempts.number`,
		workspace, pipelineName, durationsOf, node)
	if err != nil {
		return nil, fmt.Errorf("reading how long %s took before: %w", node, err)
	}
	var out []time.Duration
	for _, a := range all {
		if len(out) < limit && a.Phase == run.Succeeded && a.Started != nil && a.Ended != nil {
			out = append(out, a.Ended.Sub(*a.Started))
		}
	}
	return out, nil
}

// SaveQueue stores a decision.
func (db *DB) SaveQueue(ctx context.Context, c admission.Change) error {
	err := db.writer.do(ctx, func(t *tx) error {
		for _, r := range c.Put {
			if err := t.execDoc(`INSERT INTO queue_jobs (id, doc) VALUES (?, ?) ON CONFLICT DO UPDATE SET doc = excluded.doc`, r, r.ID); err != nil {
				return err
			}
		}
		for _, id := range c.Delete {
			if err := t.exec(`DELETE FROM queue_jobs WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return t.execDoc(`INSERT INTO queue_memory (id, doc) VALUES (1, ?) ON CONFLICT DO UPDATE SET doc = excluded.doc`, c.Memory)
	})
	if err != nil {
		return fmt.Errorf("storing a decision of the queue: %w", err)
	}
	return nil
}
