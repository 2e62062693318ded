package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
)

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// query scans each row of a query's result.
func query[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), text string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// first returns the first of a query's results, sql.ErrNoRows if there is none.
func first[T any](all []T, err error) (T, error) {
	if err == nil && len(all) == 0 {
		err = sql.ErrNoRows
	}
	if err != nil {
		var none T
		return none, err
	}
	return all[0], nil
}

// scanDoc scans rows that are one doc each.
func scanDoc[T any](r *sql.Rows) (v T, err error) {
	var text string
	if err := r.Scan(&text); err != nil {
		return v, err
	}
	return v, decode(text, &v)
}

func decode(text string, into any) error {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("decoding a stored %T: %w", into, err)
	}
	return nil
}
