// Package journal keeps a set of keyed rows in one append-only file.
//
// Each record is one transaction: it is on disk (synced) when Append returns,
// and after a crash at any moment it is either wholly there or not at all. A
// record that a crash cut short is dropped by the next Open, since its Append
// never returned.
//
// A record is a line: the CRC-32C of the JSON in eight hex digits, a space,
// the JSON of a Record, a newline:
//
//	5e1f0a3c {"i":7,"c":[{"t":"jobs","k":"default/a","v":{…}}]}
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Change sets one row of a table, or deletes it when Value is nil.
type Change struct {
	Table string          `json:"t"`
	Key   string          `json:"k"`
	Value json.RawMessage `json:"v,omitempty"`
}

// Record is one transaction.
type Record struct {
	Index   uint64   `json:"i"`
	Changes []Change `json:"c"`
}

// ErrCorrupt means that a record before the last one does not verify: the
// file was damaged, not merely cut short.
var ErrCorrupt = errors.New("journal is damaged")

// Journal is an open file. Its methods may be called concurrently.
type Journal struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
	err  error // set once an append could not be undone: the file's end is unknown
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Open opens or creates the file at path, and replays its records in order.
// It returns ErrCorrupt, wrapped, if a record in the middle does not verify.
func Open(path string, replay func(Record) error) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	size, err := read(f, replay)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading journal %s: %w", path, err)
	}
	return &Journal{path: path, file: f, size: size}, nil
}

// read replays the records of r and returns the length of what is whole.
func read(r io.Reader, replay func(Record) error) (int64, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	var size int64
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return size, nil // an unterminated line is a torn append
		}
		if err != nil {
			return 0, err
		}
		rec, err := parse(line)
		if err != nil {
			if _, peekErr := br.Peek(1); errors.Is(peekErr, io.EOF) {
				return size, nil
			}
			return 0, fmt.Errorf("%w at byte %d: %v", ErrCorrupt, size, err)
		}
		if err := replay(rec); err != nil {
			return 0, fmt.Errorf("replaying the record at byte %d: %w", size, err)
		}
		size += int64(len(line))
	}
}

func parse(line []byte) (Record, error) {
	var rec Record
	sum, body, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok {
		return rec, errors.New("no checksum")
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil {
		return rec, fmt.Errorf("checksum: %w", err)
	}
	if got := crc32.Checksum(body, castagnoli); got != uint32(want) {
		return rec, fmt.Errorf("checksum is %08x, want %08x", got, want)
	}
	return rec, json.Unmarshal(body, &rec)
}

func encode(rec Record) ([]byte, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(body)+10)
	line = fmt.Appendf(line, "%08x ", crc32.Checksum(body, castagnoli))
	line = append(line, body...)
	return append(line, '\n'), nil
}

// Append writes one record and syncs it. On an error nothing was recorded.
func (j *Journal) Append(rec Record) error {
	line, err := encode(rec)
	if err != nil {
		return fmt.Errorf("encoding journal record: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	if _, err = j.file.Write(line); err == nil {
		err = fdatasync(j.file)
	}
	if err != nil {
		return j.undo(fmt.Errorf("appending to journal %s: %w", j.path, err))
	}
	j.size += int64(len(line))
	return nil
}

// undo cuts off what a failed append may have left.
func (j *Journal) undo(cause error) error {
	if err := j.file.Truncate(j.size); err != nil {
		j.err = errors.Join(cause, err)
		return j.err
	}
	if _, err := j.file.Seek(j.size, io.SeekStart); err != nil {
		j.err = errors.Join(cause, err)
		return j.err
	}
	return cause
}

// Size is the file's length in bytes.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// Rewrite replaces the whole file by the given records, in one step.
func (j *Journal) Rewrite(records iter.Seq[Record]) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	tmp := j.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("rewriting journal: %w", err)
	}
	size, err := writeAll(f, records)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return fmt.Errorf("rewriting journal %s: %w", j.path, err)
	}
	j.file.Close()
	j.file, j.size = f, size
	return syncDir(filepath.Dir(j.path))
}

func writeAll(w io.Writer, records iter.Seq[Record]) (int64, error) {
	bw := bufio.NewWriterSize(w, 1<<20)
	var size int64
	for rec := range records {
		line, err := encode(rec)
		if err != nil {
			return 0, err
		}
		if _, err := bw.Write(line); err != nil {
			return 0, err
		}
		size += int64(len(line))
	}
	return size, bw.Flush()
}

// Close closes the file. Appends after it fail.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = os.ErrClosed
	}
	return j.file.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
