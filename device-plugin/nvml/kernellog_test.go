package nvml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testLog is a kernel log that can be written to, and opened once for each
// time that it is made anew.
type testLog struct {
	t        *testing.T
	w, r     *os.File
	sequence int
	uptime   time.Duration
}

func newLog(t *testing.T, uptime time.Duration) *testLog {
	l := &testLog{t: t, uptime: uptime}
	l.renew()
	return l
}

// renew makes an empty log, with sequence numbers as before.
func (l *testLog) renew() {
	l.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { r.Close(); w.Close() })
	l.r, l.w = r, w
}

// write adds a line of the kernel, so old, under the next number.
func (l *testLog) write(age time.Duration, text string) {
	l.record(6, age, text)
}

func (l *testLog) record(priority int, age time.Duration, text string) {
	l.t.Helper()
	if _, err := fmt.Fprintf(l.w, "%d,%d,%d,-;%s\n", priority, l.sequence, (l.uptime - age).Microseconds(), text); err != nil {
		l.t.Fatal(err)
	}
	l.sequence++
}

func (l *testLog) host() Host {
	return Host{
		Files:     fstest.MapFS{},
		KernelLog: func() (KernelLog, error) { return l.r, nil },
		Uptime:    func() time.Duration { return l.uptime },
	}
}

// told starts to watch a log. It ends with the test, or when stop is called.
func told(t *testing.T, s *Source) (lines <-chan xidLine, stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	found := make(chan xidLine, 100)
	result := make(chan error, 1)
	go func() {
		result <- s.watchKernelLog(ctx, func(at time.Time, x xidLine) {
			if age := time.Since(at); age < -time.Minute || age > time.Hour {
				t.Errorf("%q is %s old", x.text, age)
			}
			found <- x
		})
	}()
	var ended bool
	var err error
	stop = func() error {
		if cancel(); !ended {
			err, ended = receive(t, result), true
		}
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("watching the kernel log: %v", err)
		}
	})
	return found, stop
}

func xid(code int) string { return fmt.Sprintf("NVRM: Xid (PCI:0000:07:00): %d, pid=1, x", code) }

func TestBacklog(t *testing.T) {
	l := newLog(t, time.Hour)
	l.write(50*time.Minute, "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01")
	l.write(40*time.Minute, xid(31)) // long ago
	l.write(5*time.Minute, xid(79))  // before the driver was loaded anew
	l.write(4*time.Minute, "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  550.54.15")
	l.write(3*time.Minute, xid(48))
	l.record(14, 0, xid(64)) // by a program, of facility 1
	l.write(0, "usb 1-1: new device")
	l.write(0, "NVRM: something else")
	s := New(Config{Library: a100(), Host: l.host()})
	lines, stop := told(t, s)
	if x := receive(t, lines); x.xid != 48 {
		t.Errorf("the first is %+v", x)
	}
	l.write(0, xid(13))
	if x := receive(t, lines); x.xid != 13 {
		t.Errorf("then came %+v", x)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}

	// A second call goes on where the first ended, whatever the log has.
	written := l.sequence
	l.renew()
	l.sequence = written - 1
	l.write(0, xid(13))
	l.write(0, xid(95))
	lines, _ = told(t, s)
	if x := receive(t, lines); x.xid != 95 {
		t.Errorf("after a while came %+v", x)
	}
	if len(lines) > 0 {
		t.Errorf("and then %+v", <-lines)
	}
}

// overrun is a log whose first read finds that the kernel was faster.
type overrun struct {
	KernelLog
	reads int
}

func (o *overrun) Read(p []byte) (int, error) {
	if o.reads++; o.reads == 1 {
		return 0, syscall.EPIPE
	}
	return o.KernelLog.Read(p)
}

func TestLogOverrun(t *testing.T) {
	l := newLog(t, time.Hour)
	host := l.host()
	host.KernelLog = func() (KernelLog, error) { return &overrun{KernelLog: l.r}, nil }
	lines, _ := told(t, New(Config{Library: a100(), Host: host}))
	l.write(0, xid(48))
	if x := receive(t, lines); x.xid != 48 {
		t.Errorf("read %+v", x)
	}
}

func TestNoLog(t *testing.T) {
	closed := newLog(t, time.Hour)
	closed.w.Close()
	denied := closed.host()
	denied.KernelLog = func() (KernelLog, error) { return nil, os.ErrPermission }
	for name, host := range map[string]Host{"none": {Files: fstest.MapFS{}}, "denied": denied, "ends": closed.host()} {
		err := New(Config{Library: a100(), Host: host}).watchKernelLog(t.Context(), nil)
		if err == nil || name == "denied" && !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRecord(t *testing.T) {
	tests := []struct {
		line string
		want record
		ok   bool
	}{
		{"6,339,5140900,-;NVRM: loading NVIDIA\n", record{339, 5140900 * time.Microsecond, "NVRM: loading NVIDIA"}, true},
		{"4,7,0,c,caller=T1;a;b", record{7, 0, "a;b"}, true},
		{"12,7,0,-;a program's", record{}, false},
		{" SUBSYSTEM=pci\n", record{}, false},
		{"6,x,0,-;a", record{}, false},
		{"6,1,99999999999999999999,-;a", record{}, false},
		{"6,1,9223372036854775807,-;a", record{}, false},
		{"", record{}, false},
	}
	for _, tt := range tests {
		got, ok := parseRecord(tt.line)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(record{})); ok != tt.ok || diff != "" {
			t.Errorf("%q: %t, (-want +got):\n%s", tt.line, ok, diff)
		}
	}
}

// TestThisKernelLog reads the machine's own, where it may.
func TestThisKernelLog(t *testing.T) {
	log, err := thisHost().KernelLog()
	if err != nil {
		t.Skipf("the kernel log of this machine cannot be read: %v", err)
	}
	log.Close()
	_, stop := told(t, New(Config{Library: a100()}))
	if err := stop(); err != nil {
		t.Error(err)
	}
}
