// Package store keeps Drover's state in one SQLite file.
//
// What it promises: when a write returns, it is on disk (WAL with
// synchronous=FULL), and whatever the machine does next, the file holds all of
// that write or nothing. Only one process may have a store open. Writes from
// many goroutines that come at the same time share one sync of the disk.
//
// The schema is made by the numbered files in migrations/, which run when a
// store is opened. A file of a newer schema than this program knows is refused.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is an open store. Its methods may be called from many goroutines.
type DB struct {
	readers *sql.DB
	writer  *writer
	lock    *os.File

	closing sync.Once
	closed  error
}

// ErrInUse is returned by Open for a file that another process has open.
var ErrInUse = errors.New("the store is in use by another process")

// Open opens the store in a file, which is made if it is not there. The
// caller closes it.
func Open(ctx context.Context, path string) (_ *DB, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the store's folder: %w", err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	db := &DB{lock: lock}
	defer func() {
		if err != nil {
			db.Close()
			err = fmt.Errorf("opening store %s: %w", path, err)
		}
	}()
	// SQLite would make it with the mode of the umask.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()

	writers, err := sql.Open("sqlite", dsn(path, "synchronous(FULL)", "foreign_keys(ON)"))
	if err != nil {
		return nil, err
	}
	writers.SetMaxOpenConns(1)
	db.writer = &writer{db: writers}
	if err := migrate(ctx, writers); err != nil {
		return nil, err
	}
	if err := db.writer.start(ctx); err != nil {
		return nil, err
	}
	db.readers, err = sql.Open("sqlite", dsn(path, "query_only(ON)"))
	if err != nil {
		return nil, err
	}
	db.readers.SetMaxOpenConns(4)
	return db, nil
}

// dsn names a database with what every connection to it sets: bounded memory,
// a write-ahead log, and patience with a checkpoint that holds the lock.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{
		"journal_mode(WAL)", "busy_timeout(10000)", "cache_size(-8192)",
		"journal_size_limit(67108864)",
	}, pragmas...), "_txlock": {"immediate"}}
	return (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: q.Encode()}).String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	current, known, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if current > known {
		return fmt.Errorf("its schema has version %d and this program knows versions up to %d: use a newer drover", current, known)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bringing the schema from version %d to %d: %w", current, known, err)
	}
	return nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// Close ends the writes that have begun and closes the file. It may be called
// twice.
func (db *DB) Close() error {
	db.closing.Do(func() {
		var errs []error
		if db.readers != nil {
			errs = append(errs, db.readers.Close())
		}
		// The last connection to close moves the log into the file; readers may
		// not write.
		if db.writer != nil {
			errs = append(errs, db.writer.close())
		}
		db.closed = errors.Join(append(errs, db.lock.Close())...)
	})
	return db.closed
}
