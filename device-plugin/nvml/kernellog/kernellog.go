// Package kernellog reads what NVIDIA's driver writes into the kernel's log:
// error codes (Xid) with the GPU, the process and the driver's own words, some
// of which NVML does not tell.
package kernellog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// replayFor is how old a line may be that was written before the log was
	// opened. It spans the restart of an agent, or of the machine: what the
	// driver reported meanwhile counts. What is older has been acted on, and
	// where it lasts it shows in the vitals. Lines from before the driver was
	// last loaded are not replayed either: loading it begins anew.
	replayFor = 10 * time.Minute
	// backlogPatience is how long reading the old lines may take. They come at
	// once, and what is written meanwhile is read with them.
	backlogPatience = 200 * time.Millisecond
	// driverLoaded begins what the driver says when it is loaded.
	driverLoaded = "NVRM: loading NVIDIA"
)

// Log is a log as /dev/kmsg is one: reading waits for the next record until
// the deadline, or until it is closed.
type Log interface {
	io.ReadCloser
	SetReadDeadline(t time.Time) error
}

// Reader reads the log. It remembers how far it got.
type Reader struct {
	// Open opens the log at its beginning. Nil is a machine where it cannot be
	// read.
	Open func() (Log, error)
	// Uptime is the time since the machine's start, by the clock of the log;
	// nil is a machine that has just been started.
	Uptime func() time.Duration

	mu   sync.Mutex
	next uint64 // sequence number of the first record that was not read
}

// record is one line of the kernel log.
type record struct {
	sequence uint64
	since    time.Duration // the machine's start
	text     string
}

// parseRecord reads "6,339,5140900,-;NVRM: loading ...", as /dev/kmsg has it.
// Lines that programs wrote into the log are no records: what they say of GPUs
// the driver did not say.
func parseRecord(line string) (record, bool) {
	prefix, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ";")
	parts := strings.SplitN(prefix, ",", 4)
	if !ok || len(parts) < 3 {
		return record{}, false
	}
	priority, err1 := strconv.ParseUint(parts[0], 10, 32)
	sequence, err2 := strconv.ParseUint(parts[1], 10, 64)
	micros, err3 := strconv.ParseInt(parts[2], 10, 64)
	const mostMicros = int64(1<<63-1) / int64(time.Microsecond)
	if err1 != nil || err2 != nil || err3 != nil || micros < 0 || micros > mostMicros {
		return record{}, false
	}
	if facility := priority >> 3; facility != 0 { // 0 is the kernel's
		return record{}, false
	}
	return record{sequence, time.Duration(micros) * time.Microsecond, text}, true
}

// Follow calls tell for each line about a GPU, and for those of the last ten
// minutes that were there before, until ctx ends, and then returns nil. It
// calls loaded when the driver was loaded anew. A second call goes on where
// the first ended.
func (r *Reader) Follow(ctx context.Context, tell func(time.Time, Line), loaded func()) error {
	if r.Open == nil {
		return errors.New("reading the kernel log: there is none")
	}
	log, err := r.Open()
	if err != nil {
		return fmt.Errorf("reading the kernel log: %w", err)
	}
	defer log.Close()
	defer context.AfterFunc(ctx, func() { _ = log.Close() })() // which ends a read

	booted := time.Now()
	if r.Uptime != nil {
		booted = booted.Add(-r.Uptime())
	}
	lines := bufio.NewReaderSize(log, 64<<10) // a record is at most 8 KiB, and read as a whole
	next := func() (record, error) { return r.read(lines) }

	backlog, err := readBacklog(log, next)
	if err != nil {
		return ended(ctx, err)
	}
	report := func(one record) {
		at := booted.Add(one.since)
		if l, ok := Parse(one.text); ok && time.Since(at) <= replayFor {
			tell(at, l)
		}
	}
	for _, old := range backlog {
		report(old)
	}
	for {
		one, err := next()
		if err != nil {
			return ended(ctx, err)
		}
		if strings.Contains(one.text, driverLoaded) {
			loaded()
		}
		report(one)
	}
}

// ended is nil if reading ended because it was asked to.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("reading the kernel log: %w", err)
}

// mostBacklog bounds the old lines that are kept.
const mostBacklog = 10_000

// readBacklog reads the lines of the driver that are there already, from when
// it was last loaded on.
func readBacklog(log Log, next func() (record, error)) ([]record, error) {
	if err := log.SetReadDeadline(time.Now().Add(backlogPatience)); err != nil {
		return nil, err
	}
	var backlog []record
	for len(backlog) < mostBacklog {
		one, err := next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		switch {
		case err != nil:
			return nil, err
		case strings.Contains(one.text, driverLoaded):
			backlog = nil
		case strings.Contains(one.text, "NVRM: "):
			backlog = append(backlog, one)
		}
	}
	return backlog, log.SetReadDeadline(time.Time{})
}

// read reads the next record that was not read before.
func (r *Reader) read(lines *bufio.Reader) (record, error) {
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, syscall.EPIPE) {
			continue // the kernel overwrote what was not read yet; the next is there
		}
		if err != nil {
			return record{}, err
		}
		one, ok := parseRecord(line)
		r.mu.Lock()
		fresh := ok && one.sequence >= r.next
		if fresh {
			r.next = one.sequence + 1
		}
		r.mu.Unlock()
		if fresh {
			return one, nil
		}
	}
}
