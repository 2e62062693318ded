package task

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Event is something about a task that people are shown. It is a line of
// events.jsonl:
//
//	{"key":"sealed-120","time":"2026-01-02T03:04:05Z","message":"Checkpoint 120 sealed"}
type Event struct {
	// Key says which event it is; a second one with the same key is dropped.
	Key     string            `json:"key"`
	Time    time.Time         `json:"time"`
	Message string            `json:"message"`
	Details map[string]string `json:"details,omitempty"`
}

// maxJournal bounds a task's events, in bytes: a task that makes checkpoints
// without end has them sealed, but not told of without end.
const maxJournal = 4 << 20

// Journal writes a task's events. The driver writes until the supervisor runs,
// and from then on only the supervisor does.
type Journal struct {
	file string
	mu   sync.Mutex
	keys map[string]bool
	now  func() time.Time
}

// Journal opens the task's events for writing.
func (d Dir) Journal() (*Journal, error) {
	j := &Journal{file: filepath.Join(string(d), "events.jsonl"), keys: map[string]bool{}, now: time.Now}
	b, err := os.ReadFile(j.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the task's events: %w", err)
	}
	events, whole := parseEvents(b)
	for _, e := range events {
		j.keys[e.Key] = true
	}
	if whole < len(b) { // cut short by kill -9
		if err := os.Truncate(j.file, int64(whole)); err != nil {
			return nil, fmt.Errorf("mending the task's events: %w", err)
		}
	}
	return j, nil
}

// keyFull is the key of the last event that a Journal takes.
const keyFull = "full"

// Add writes an event, unless there is one with its key. It is safe for
// concurrent use.
func (j *Journal) Add(key, message string, details map[string]string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.keys[key] || j.keys[keyFull] {
		return nil
	}
	if info, err := os.Stat(j.file); err == nil && info.Size() > maxJournal {
		key, message, details = keyFull, "No more events of this task are shown: there are too many", nil
	}
	line, err := json.Marshal(Event{Key: key, Time: j.now().UTC(), Message: message, Details: details})
	if err != nil {
		return err
	}
	if err := appendLine(j.file, line); err != nil {
		return fmt.Errorf("writing the task's events: %w", err)
	}
	j.keys[key] = true
	return nil
}

// appendLine appends all of a line or nothing, as on a full disk.
func appendLine(file string, line []byte) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	return nil
}

// parseEvents reads whole lines and says how many bytes those are. A line that
// is no event is skipped.
func parseEvents(b []byte) (events []Event, whole int) {
	for {
		i := bytes.IndexByte(b[whole:], '\n')
		if i < 0 {
			return events, whole
		}
		var e Event
		if json.Unmarshal(b[whole:whole+i], &e) == nil && e.Key != "" {
			events = append(events, e)
		}
		whole += i + 1
	}
}

// Reader hands out a task's events, each once, also over a restart of the
// driver: how far it got is stored.
type Reader struct {
	events, seen string
	offset       int64
}

// Reader opens the task's events for reading, where the last Reader ended.
func (d Dir) Reader() (*Reader, error) {
	r := &Reader{events: filepath.Join(string(d), "events.jsonl"), seen: filepath.Join(string(d), "events.seen")}
	b, err := os.ReadFile(r.seen)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		r.offset, err = strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the next event to show: %w", err)
	}
	return r, nil
}

// Next passes every event that is new to show, in order, until that returns an
// error; the event for which it did comes again.
func (r *Reader) Next(show func(Event) error) error {
	f, err := os.Open(r.events)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the task's events: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(r.offset, io.SeekStart); err != nil {
		return fmt.Errorf("reading the task's events: %w", err)
	}
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil // the rest is still being written
		}
		if err != nil {
			return fmt.Errorf("reading the task's events: %w", err)
		}
		var e Event
		if json.Unmarshal(line, &e) == nil && e.Key != "" {
			if err := show(e); err != nil {
				return err
			}
		}
		r.offset += int64(len(line))
		if err := os.WriteFile(r.seen+".new", []byte(strconv.FormatInt(r.offset, 10)), 0o600); err != nil {
			return fmt.Errorf("noting the shown event: %w", err)
		}
		if err := os.Rename(r.seen+".new", r.seen); err != nil {
			return fmt.Errorf("noting the shown event: %w", err)
		}
	}
}
