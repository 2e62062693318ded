package kernellog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

// reader is of a log in a test.
func reader(l *nvmltest.Log) *Reader {
	return &Reader{
		Open:   func() (Log, error) { return l.File(), nil },
		Uptime: func() time.Duration { return l.Uptime },
	}
}

// followed starts to follow a log. It ends with the test, or when stop is
// called.
func followed(t *testing.T, r *Reader) (lines <-chan Line, stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	found := make(chan Line, 10_000)
	result := make(chan error, 1)
	go func() {
		result <- r.Follow(ctx, func(at time.Time, l Line) {
			if age := time.Since(at); age < -time.Minute || age > time.Hour {
				t.Errorf("%q is %s old", l.Text, age)
			}
			found <- l
		}, func() { found <- Line{Text: "loaded"} })
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
	l := nvmltest.NewLog(t, time.Hour)
	l.Write(50*time.Minute, "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01")
	l.Write(40*time.Minute, xid(31)) // long ago
	l.Write(5*time.Minute, xid(79))  // before the driver was loaded anew
	l.Write(4*time.Minute, "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  550.54.15")
	l.Write(3*time.Minute, xid(48))
	l.Record(14, 0, xid(64)) // by a program, of facility 1
	l.Write(0, "usb 1-1: new device")
	l.Write(0, "NVRM: something else")
	r := reader(l)
	lines, stop := followed(t, r)
	if x := receive(t, lines); x.XID != 48 {
		t.Errorf("the first is %+v", x)
	}
	l.Write(0, xid(13))
	if x := receive(t, lines); x.XID != 13 {
		t.Errorf("then came %+v", x)
	}
	l.Write(0, "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  560.1")
	if x := receive(t, lines); x.Text != "loaded" {
		t.Errorf("when the driver was loaded there came %+v", x)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}

	// A second call goes on where the first ended, whatever the log has.
	written := l.Next
	l.Renew()
	l.Next = written - 1
	l.Write(0, xid(13))
	l.Write(0, xid(95))
	lines, _ = followed(t, r)
	if x := receive(t, lines); x.XID != 95 {
		t.Errorf("after a while came %+v", x)
	}
	if len(lines) > 0 {
		t.Errorf("and then %+v", <-lines)
	}
}

// TestBusyLog is that a log which is written to all the time is read all the
// same.
func TestBusyLog(t *testing.T) {
	l := nvmltest.NewLog(t, time.Hour)
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			select {
			case <-done:
				return
			default:
				l.Write(0, xid(13))
			}
		}
	}()
	lines, _ := followed(t, reader(l))
	for range 300 {
		receive(t, lines)
	}
	close(done)
	<-stopped
}

// overrun is a log whose first read finds that the kernel was faster.
type overrun struct {
	Log
	reads int
}

func (o *overrun) Read(p []byte) (int, error) {
	if o.reads++; o.reads == 1 {
		return 0, syscall.EPIPE
	}
	return o.Log.Read(p)
}

func TestOverrun(t *testing.T) {
	l := nvmltest.NewLog(t, time.Hour)
	r := reader(l)
	r.Open = func() (Log, error) { return &overrun{Log: l.File()}, nil }
	lines, _ := followed(t, r)
	l.Write(0, xid(48))
	if x := receive(t, lines); x.XID != 48 {
		t.Errorf("read %+v", x)
	}
}

func TestNoLog(t *testing.T) {
	ends := nvmltest.NewLog(t, time.Hour)
	ends.End()
	denied := &Reader{Open: func() (Log, error) { return nil, os.ErrPermission }}
	for name, r := range map[string]*Reader{"none": {}, "denied": denied, "ends": reader(ends)} {
		err := r.Follow(t.Context(), nil, nil)
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

// TestThisLog reads the machine's own, where it may.
func TestThisLog(t *testing.T) {
	log, err := os.Open("/dev/kmsg")
	if err != nil {
		t.Skipf("the kernel log of this machine cannot be read: %v", err)
	}
	_, stop := followed(t, &Reader{Open: func() (Log, error) { return log, nil }})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
