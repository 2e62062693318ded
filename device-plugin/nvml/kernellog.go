package nvml

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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
	// backlogPatience is how long to wait for the next of the old lines; they
	// come at once.
	backlogPatience = 100 * time.Millisecond
	// driverLoaded begins what the driver says when it is loaded.
	driverLoaded = "NVRM: loading NVIDIA"
)

// kernelLog remembers how far the kernel's log was read.
type kernelLog struct {
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

// watchKernelLog calls tell for each line about a GPU, and for some that were
// there before, until ctx ends. A second call goes on where the first ended.
func (s *Source) watchKernelLog(ctx context.Context, tell func(time.Time, xidLine)) error {
	if s.host.KernelLog == nil {
		return errors.New("reading the kernel log: there is none")
	}
	log, err := s.host.KernelLog()
	if err != nil {
		return fmt.Errorf("reading the kernel log: %w", err)
	}
	defer log.Close()
	defer context.AfterFunc(ctx, func() { _ = log.Close() })() // which ends a read

	booted := time.Now()
	if s.host.Uptime != nil {
		booted = booted.Add(-s.host.Uptime())
	}
	lines := bufio.NewReaderSize(log, 64<<10) // a record is at most 8 KiB, and read as a whole
	next := func() (record, error) { return s.kernel.read(lines) }

	backlog, err := readBacklog(log, next)
	if err != nil {
		return ended(ctx, err)
	}
	for _, r := range backlog {
		if x, ok := parseXid(r.text); ok && time.Since(booted.Add(r.since)) <= replayFor {
			tell(booted.Add(r.since), x)
		}
	}
	for {
		r, err := next()
		if err != nil {
			return ended(ctx, err)
		}
		if strings.Contains(r.text, driverLoaded) {
			s.changed()
		}
		if x, ok := parseXid(r.text); ok {
			tell(booted.Add(r.since), x)
		}
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
func readBacklog(log KernelLog, next func() (record, error)) ([]record, error) {
	var backlog []record
	for {
		if err := log.SetReadDeadline(time.Now().Add(backlogPatience)); err != nil {
			return nil, err
		}
		r, err := next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return backlog, log.SetReadDeadline(time.Time{})
		case err != nil:
			return nil, err
		case strings.Contains(r.text, driverLoaded):
			backlog = nil
		case strings.Contains(r.text, "NVRM: ") && len(backlog) < mostBacklog:
			backlog = append(backlog, r)
		}
		if len(backlog) == mostBacklog {
			return backlog, log.SetReadDeadline(time.Time{})
		}
	}
}

// read reads the next record that was not read before.
func (k *kernelLog) read(lines *bufio.Reader) (record, error) {
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, syscall.EPIPE) {
			continue // the kernel overwrote what was not read yet; the next is there
		}
		if err != nil {
			return record{}, err
		}
		r, ok := parseRecord(line)
		k.mu.Lock()
		fresh := ok && r.sequence >= k.next
		if fresh {
			k.next = r.sequence + 1
		}
		k.mu.Unlock()
		if fresh {
			return r, nil
		}
	}
}
