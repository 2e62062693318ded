package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// MaxRecordBytes bounds one record.
const MaxRecordBytes = 8 << 20

const recordSuffix = ".json"

// PutRecord stores v, as JSON, under key, in place of what was there. When it
// returns nil the record survives a loss of power; readers see the old record
// or the new one, whole.
//
// A key is a slash-separated path of names made of letters, digits, ".", "_"
// and "-", such as "results/run-7.train.1". It is given without ".json".
func (s *Store) PutRecord(ctx context.Context, key string, v any) error {
	return s.writeRecord(ctx, key, v, os.Rename)
}

// CreateRecord is PutRecord where there is no record yet. If there is one, it
// stays as it is, and the error is ErrExists: of several who create a record at
// the same time, on any number of nodes, one succeeds.
func (s *Store) CreateRecord(ctx context.Context, key string, v any) error {
	return s.writeRecord(ctx, key, v, func(tmp, file string) error {
		err := os.Link(tmp, file)
		if errors.Is(err, fs.ErrExist) && !sameFile(tmp, file) {
			return ErrExists
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return os.Remove(tmp)
	})
}

// sameFile reports whether two names are of one file: a network file system may
// do what it is asked twice, and report the second time.
func sameFile(a, b string) bool {
	x, err := os.Lstat(a)
	if err != nil {
		return false
	}
	y, err := os.Lstat(b)
	return err == nil && os.SameFile(x, y)
}

// writeRecord writes a record to a temporary file, which publish brings to its
// place.
func (s *Store) writeRecord(ctx context.Context, key string, v any, publish func(tmp, file string) error) error {
	file, err := s.recordFile(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := encodeJSON(v)
	if err != nil {
		return fmt.Errorf("encoding record %q: %w", key, err)
	}
	if len(data) > MaxRecordBytes {
		return fmt.Errorf("record %q of %d bytes exceeds the limit of %d", key, len(data), MaxRecordBytes)
	}
	tmp, err := s.writeTemp(data, 0o644)
	if err != nil {
		return fmt.Errorf("writing record %q: %w", key, err)
	}
	if err := s.publishRecord(tmp, file, publish); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("writing record %q: %w", key, err)
	}
	return nil
}

func (s *Store) publishRecord(tmp, file string, publish func(tmp, file string) error) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	if err := publish(tmp, file); err != nil {
		return err
	}
	// Another process may have made these folders a moment ago and not synced
	// them yet, so that it was there already is no reason to leave one out.
	for top := s.path(recordsDir); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
		if dir == top {
			return nil
		}
	}
}

// GetRecord decodes the record under key into v. It returns ErrNotFound if
// there is none.
func (s *Store) GetRecord(ctx context.Context, key string, v any) error {
	file, err := s.recordFile(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := readLimited(file, MaxRecordBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record %q: %w", key, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("reading record %q: %w", key, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decoding record %q: %w", key, err)
	}
	return nil
}

// ListRecords returns the keys below a folder of keys, sorted; "" lists all.
func (s *Store) ListRecords(ctx context.Context, folder string) ([]string, error) {
	top, dir := s.path(recordsDir), s.path(recordsDir)
	if folder != "" {
		if err := validateKey(folder); err != nil {
			return nil, err
		}
		dir = filepath.Join(top, filepath.FromSlash(folder))
	}
	var keys []string
	err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // nothing under this folder, or gone since it was listed
		case err != nil:
			return err
		case e.IsDir():
			return nil
		}
		rel, err := filepath.Rel(top, file)
		if key, ok := strings.CutSuffix(filepath.ToSlash(rel), recordSuffix); ok {
			keys = append(keys, key)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing records in %q: %w", folder, err)
	}
	slices.Sort(keys)
	return keys, nil
}

// DeleteRecord removes the record under key. There being none is no error.
func (s *Store) DeleteRecord(ctx context.Context, key string) error {
	file, err := s.recordFile(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("deleting record %q: %w", key, err)
	}
	return nil
}

func (s *Store) recordFile(key string) (string, error) {
	if err := validateKey(key); err != nil {
		return "", err
	}
	return s.path(recordsDir, filepath.FromSlash(key)+recordSuffix), nil
}

// validateKey refuses names that end in ".json", so that the record "a" and
// the folder "a.json" cannot want the same place.
func validateKey(key string) error {
	const maxKeyBytes, maxKeyNameBytes = 1024, maxNameBytes - len(recordSuffix)
	if len(key) > maxKeyBytes {
		return fmt.Errorf("record key %q is longer than %d bytes", clip(key), maxKeyBytes)
	}
	for name := range strings.SplitSeq(key, "/") {
		switch {
		case name == "" || strings.Trim(name, ".") == "" || strings.ContainsFunc(name, notKeyRune):
			return fmt.Errorf("record key %q is not a slash path of names made of letters, digits, '.', '_' and '-'", clip(key))
		case strings.HasSuffix(name, recordSuffix):
			return fmt.Errorf("record key %q: names must not end in %s; it is added by the store", clip(key), recordSuffix)
		case len(name) > maxKeyNameBytes:
			return fmt.Errorf("record key %q has a name longer than %d bytes", clip(key), maxKeyNameBytes)
		}
	}
	return nil
}

func notKeyRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		return false
	}
	return true
}
