package store

import (
	"context"
	"fmt"

	"github.com/drover-ml/drover/orchestrator/admission"
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
