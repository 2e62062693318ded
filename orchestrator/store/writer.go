package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// maxBatch is how many writes share a commit at most, so that the first of
// them does not wait long for the last.
const maxBatch = 256

// errClosed is what writes get once the store is closed.
var errClosed = errors.New("the store is closed")

// writer is the one goroutine that writes. Writes that wait while it syncs
// are committed together next; each still succeeds or fails on its own.
type writer struct {
	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt

	mu      sync.RWMutex // held for reading while sending on pending
	stopped bool
	pending chan *write
	done    chan struct{}
}

type write struct {
	f    func(*tx) error
	err  error
	done chan struct{}
}

func (w *writer) start(ctx context.Context) error {
	conn, err := w.db.Conn(ctx)
	if err != nil {
		return err
	}
	w.conn, w.stmts = conn, map[string]*sql.Stmt{}
	w.pending = make(chan *write, maxBatch)
	w.done = make(chan struct{})
	go w.loop()
	return nil
}

func (w *writer) close() error {
	w.mu.Lock()
	stopped := w.stopped
	w.stopped = true
	if w.pending != nil && !stopped {
		close(w.pending)
	}
	w.mu.Unlock()
	if w.pending != nil {
		<-w.done
	}
	var errs []error
	for _, s := range w.stmts {
		errs = append(errs, s.Close())
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	return errors.Join(append(errs, w.db.Close())...)
}

// do runs f in a transaction and returns once that is on disk. f may run again
// if the commit that it shared was refused because of the disk; it must set
// its results anew. A ctx that ends before f has begun is honoured; after
// that, do waits for the outcome, which would be unknown otherwise.
func (w *writer) do(ctx context.Context, f func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := &write{f: f, done: make(chan struct{})}
	w.mu.RLock()
	if w.stopped {
		w.mu.RUnlock()
		return errClosed
	}
	w.pending <- p
	w.mu.RUnlock()
	<-p.done
	return p.err
}

func (w *writer) loop() {
	defer close(w.done)
	for first := range w.pending {
		batch := []*write{first}
	collect:
		for len(batch) < maxBatch {
			select {
			case p, ok := <-w.pending:
				if !ok {
					break collect
				}
				batch = append(batch, p)
			default:
				break collect
			}
		}
		w.commit(batch)
		for _, p := range batch {
			close(p.done)
		}
	}
}

// commit runs a batch in one transaction, each write in a savepoint.
func (w *writer) commit(batch []*write) {
	t := &tx{w: w}
	if err := t.exec("BEGIN IMMEDIATE"); err != nil {
		failAll(batch, fmt.Errorf("beginning a transaction: %w", err))
		return
	}
	for _, p := range batch {
		p.err = t.savepoint(p.f)
	}
	if err := t.exec("COMMIT"); err != nil {
		// The rollback's own error says nothing that the commit's does not.
		_ = t.exec("ROLLBACK")
		failAll(batch, fmt.Errorf("committing: %w", err))
	}
}

func failAll(batch []*write, err error) {
	for _, p := range batch {
		if p.err == nil {
			p.err = err
		}
	}
}

// tx is the transaction that a write runs in.
type tx struct{ w *writer }

func (t *tx) savepoint(f func(*tx) error) error {
	if err := t.exec("SAVEPOINT one"); err != nil {
		return err
	}
	err := f(t)
	if err != nil {
		if undo := t.exec("ROLLBACK TO one"); undo != nil {
			return errors.Join(err, undo)
		}
	}
	return errors.Join(err, t.exec("RELEASE one"))
}

// stmt prepares a query once for the connection's life.
func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if s := t.w.stmts[query]; s != nil {
		return s, nil
	}
	s, err := t.w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("preparing %.60q: %w", query, err)
	}
	t.w.stmts[query] = s
	return s, nil
}

func (t *tx) exec(query string, args ...any) error {
	s, err := t.stmt(query)
	if err != nil {
		return err
	}
	_, err = s.Exec(args...)
	return err
}

// get scans the first row of a query, sql.ErrNoRows if there is none.
func (t *tx) get(query string, args []any, into ...any) error {
	s, err := t.stmt(query)
	if err != nil {
		return err
	}
	return s.QueryRow(args...).Scan(into...)
}

// doc is a value that is stored as JSON.
func doc(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding a %T: %w", v, err)
	}
	return string(b), nil
}

// execDoc is exec with v's JSON as the last argument.
func (t *tx) execDoc(query string, v any, args ...any) error {
	d, err := doc(v)
	if err != nil {
		return err
	}
	return t.exec(query, append(args, d)...)
}
