package nvmltest

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// Log is a kernel log that can be written to, and opened once for each time
// that it is made anew.
type Log struct {
	// Uptime is that of the machine, which does not pass.
	Uptime time.Duration
	// Next is the sequence number of the next line.
	Next int

	t    *testing.T
	w, r *os.File
}

// NewLog makes an empty log.
func NewLog(t *testing.T, uptime time.Duration) *Log {
	l := &Log{t: t, Uptime: uptime}
	l.Renew()
	return l
}

// Renew empties the log. Sequence numbers go on.
func (l *Log) Renew() {
	l.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { r.Close(); w.Close() })
	l.r, l.w = r, w
}

// End ends the log, as no real one does.
func (l *Log) End() { l.w.Close() }

// Write adds a line of the kernel that is so old.
func (l *Log) Write(age time.Duration, text string) { l.Record(6, age, text) }

// Record adds a line with a priority, which tells who wrote it.
func (l *Log) Record(priority int, age time.Duration, text string) {
	l.t.Helper()
	if _, err := fmt.Fprintf(l.w, "%d,%d,%d,-;%s\n", priority, l.Next, (l.Uptime - age).Microseconds(), text); err != nil {
		l.t.Fatal(err)
	}
	l.Next++
}

// File is the end to read from.
func (l *Log) File() *os.File { return l.r }
