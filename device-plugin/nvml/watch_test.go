package nvml

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/kernellog"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

// hostOf is a machine with a kernel log.
func hostOf(l *nvmltest.Log) Host {
	return Host{
		Files:     fstest.MapFS{},
		KernelLog: func() (kernellog.Log, error) { return l.File(), nil },
		Uptime:    func() time.Duration { return l.Uptime },
	}
}

// watching starts to watch, and waits until the boards are registered.
func watching(t *testing.T, s *Source, boards ...*nvmltest.Board) (events <-chan gpu.Event, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	found := make(chan gpu.Event, 1000)
	result := make(chan error, 1)
	go func() { result <- s.Watch(ctx, func(e gpu.Event) { found <- e }) }()
	stopped := false
	stop = func() error { cancel(); stopped = true; return receive(t, result) }
	t.Cleanup(func() {
		if !stopped {
			if err := stop(); err != nil {
				t.Errorf("watching: %v", err)
			}
		}
	})
	m := s.lib.(*nvmltest.Machine)
	for _, b := range boards {
		registered(t, m, b)
	}
	return found, stop
}

// registered waits until a board is in an event set.
func registered(t *testing.T, m *nvmltest.Machine, b *nvmltest.Board) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); m.Registered(b) == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not registered", b.UUID)
		}
	}
}

func TestWatchEvents(t *testing.T) {
	m := a100()
	b := m.Boards[2]
	i := func(n int) *int { return &n }
	tests := []struct {
		name       string
		kind, data uint64
		gi, ci     uint32
		want       gpu.Event
		none       bool
	}{
		{"code", lib.EventTypeXidCriticalError, 79, nvmltest.Whole, nvmltest.Whole, gpu.Event{XID: 79}, false},
		{"code of a slice", lib.EventTypeXidCriticalError, 94, 3, 0, gpu.Event{XID: 94, GPUInstance: i(3), ComputeInstance: i(0)}, false},
		{"double-bit error", lib.EventTypeDoubleBitEccError, 0, nvmltest.Whole, nvmltest.Whole, gpu.Event{XID: 48, Text: "double-bit ECC error"}, false},
		{"MIG", lib.EventMigConfigChange, 0, nvmltest.Whole, nvmltest.Whole, gpu.Event{}, true},
		{"no code", lib.EventTypeXidCriticalError, 0, nvmltest.Whole, nvmltest.Whole, gpu.Event{}, true},
		{"absurd code", lib.EventTypeXidCriticalError, 1 << 60, nvmltest.Whole, nvmltest.Whole, gpu.Event{}, true},
	}
	s := sourceOf(t, m)
	events, stop := watching(t, s, b)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m.Emit(b, tt.kind, tt.data, tt.gi, tt.ci)
			if tt.none {
				m.Emit(b, lib.EventTypeXidCriticalError, 31, nvmltest.Whole, nvmltest.Whole)
				tt.want = gpu.Event{XID: 31}
			}
			tt.want.Board = idOf(b)
			got := receive(t, events)
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(gpu.Event{}, "Time")); diff != "" || got.Time.IsZero() {
				t.Errorf("event at %v (-want +got):\n%s", got.Time, diff)
			}
			receive(t, s.Changes())
		})
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if sets, _ := m.Leaks(); sets != 0 {
		t.Errorf("%d event sets are left", sets)
	}
}

// TestWatchBoth is that what NVML and the kernel log tell is told once, with
// the process that only the log knows.
func TestWatchBoth(t *testing.T) {
	m := a100()
	b := m.Boards[0] // at 07:00
	l := nvmltest.NewLog(t, time.Hour)
	s := New(Config{Library: m, Host: hostOf(l)})
	defer s.Close()
	events, _ := watching(t, s, b)
	l.Write(0, "NVRM: Xid (PCI:0000:07:00): 79, pid=4711, name=python3, GPU has fallen off the bus.")
	if e := receive(t, events); e.XID != 79 || e.PID != 4711 || e.Board != idOf(b) || !strings.Contains(e.Text, "python3") {
		t.Errorf("event %+v", e)
	}
	l.Write(0, "NVRM: GPU 0000:07:00.0: GPU has fallen off the bus.")
	m.Emit(b, lib.EventTypeXidCriticalError, 79, nvmltest.Whole, nvmltest.Whole)
	l.Write(0, "NVRM: Xid (PCI:0000:99:00): 79, pid=1, of a board that is not listed")
	l.Write(0, "NVRM: Xid (PCI:0000:07:00): 48, pid=0, x")
	if e := receive(t, events); e.XID != 48 {
		t.Errorf("event %+v", e)
	}
	m.Emit(b, lib.EventTypeXidCriticalError, 13, nvmltest.Whole, nvmltest.Whole)
	if e := receive(t, events); e.XID != 13 {
		t.Errorf("event %+v", e)
	}
}

// TestWatchLostBoard is that a board which is lost does not keep the others'
// events away, and is heard again when it is back.
func TestWatchLostBoard(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	gone, other := m.Boards[3], m.Boards[4]
	events, _ := watching(t, s, gone, other)
	gone.Lose(lost)
	receive(t, s.Changes())
	inventory(t, s)
	for m.Registered(gone) > 0 {
		runtime.Gosched()
	}
	registered(t, m, other)
	m.Emit(other, lib.EventTypeXidCriticalError, 48, nvmltest.Whole, nvmltest.Whole)
	if e := receive(t, events); e.XID != 48 || e.Board != idOf(other) {
		t.Errorf("event %+v", e)
	}
	gone.Lose(lib.SUCCESS)
	inventory(t, s)
	registered(t, m, gone)
	m.Emit(gone, lib.EventTypeXidCriticalError, 63, nvmltest.Whole, nvmltest.Whole)
	if e := receive(t, events); e.XID != 63 || e.Board != idOf(gone) {
		t.Errorf("event %+v", e)
	}
}

// TestWatchDriverReload is that an error of the driver as a whole ends
// watching, and that the next call works again.
func TestWatchDriverReload(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- s.Watch(ctx, func(gpu.Event) {}) }()
	registered(t, m, m.Boards[0])
	m.InitFunc = func() lib.Return { return lib.ERROR_LIB_RM_VERSION_MISMATCH }
	m.Boards[0].Lose(lib.ERROR_DRIVER_NOT_LOADED)
	if err := receive(t, result); err == nil || !strings.Contains(err.Error(), "mismatch") {
		t.Errorf("watching ended with %v", err)
	}
	m.InitFunc = func() lib.Return { return lib.SUCCESS }
	m.Boards[0].Lose(lib.SUCCESS)
	events, _ := watching(t, s, m.Boards[0])
	m.Emit(m.Boards[0], lib.EventTypeXidCriticalError, 48, nvmltest.Whole, nvmltest.Whole)
	if e := receive(t, events); e.XID != 48 {
		t.Errorf("event %+v", e)
	}
}

// TestWatchWithout is what is left if NVML has no events, or the log cannot be
// read, or both.
func TestWatchWithout(t *testing.T) {
	t.Run("events", func(t *testing.T) {
		m := a100()
		m.Lack("nvmlEventSetCreate")
		l := nvmltest.NewLog(t, time.Hour)
		s := New(Config{Library: m, Host: hostOf(l)})
		defer s.Close()
		events, _ := watching(t, s)
		l.Write(0, "NVRM: Xid (PCI:0000:07:00): 79, pid=1, x")
		if e := receive(t, events); e.XID != 79 || e.Board != idOf(m.Boards[0]) {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("events of a board", func(t *testing.T) {
		m := a100()
		m.Boards[0].Events = 0
		events, _ := watching(t, sourceOf(t, m), m.Boards[1:]...)
		m.Emit(m.Boards[7], lib.EventTypeXidCriticalError, 48, nvmltest.Whole, nvmltest.Whole)
		if e := receive(t, events); e.Board != idOf(m.Boards[7]) || m.Registered(m.Boards[0]) != 0 {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("both", func(t *testing.T) {
		m := a100()
		m.Lack("nvmlDeviceRegisterEvents")
		err := sourceOf(t, m).Watch(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "lacks nvmlDeviceRegisterEvents") || !strings.Contains(err.Error(), "kernel log") {
			t.Errorf("watching: %v", err)
		}
	})
	t.Run("a driver", func(t *testing.T) {
		m := a100()
		m.InitFunc = func() lib.Return { return lib.ERROR_LIBRARY_NOT_FOUND }
		s := New(Config{Library: m, Host: Host{Files: fstest.MapFS{}}})
		if err := s.Watch(t.Context(), nil); !errors.Is(err, gpu.ErrNoDriver) {
			t.Errorf("watching: %v", err)
		}
	})
}

// TestJoinWithKernelLog is B03: NVML's padded bus ID is the slot that a line of
// the kernel log has.
func TestJoinWithKernelLog(t *testing.T) {
	s := newMachine(t).source()
	inventory(t, s)
	line, ok := kernellog.Parse("NVRM: Xid (PCI:0000:07:00): 79, pid=0, GPU has fallen off the bus.")
	if id, known := s.boardAt(line.At); !ok || !known || id != "GPU-0" {
		t.Errorf("the board of %+v is %q, %t", line, id, known)
	}
}

// TestWatchKeepsNobodyWaiting is that a wait for events does not hold up
// readings.
func TestWatchKeepsNobodyWaiting(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	watching(t, s, m.Boards[0])
	start := time.Now()
	for range 20 {
		if _, err := s.Sample(t.Context(), []gpu.ID{idOf(m.Boards[0])}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > 20*eventPatience/4 {
		t.Errorf("20 samples took %s", took)
	}
}

// TestGoneBoardIsKnown is that the kernel log's words on a board that is gone
// are still its.
func TestGoneBoardIsKnown(t *testing.T) {
	m := a100()
	l := nvmltest.NewLog(t, time.Hour)
	s := New(Config{Library: m, Host: hostOf(l)})
	defer s.Close()
	inventory(t, s)
	m.Boards[0].Lose(lost)
	inventory(t, s)
	events, _ := watching(t, s, m.Boards[1])
	l.Write(0, "NVRM: Xid (PCI:0000:07:00): 79, pid=0, GPU has fallen off the bus.")
	if e := receive(t, events); e.Board != idOf(m.Boards[0]) {
		t.Errorf("event %+v", e)
	}
}

// TestTogether calls everything at the same time, while boards come and go.
// The race detector and the mocks, which panic on what is freed twice, judge.
func TestTogether(t *testing.T) {
	m := h100()
	s := sourceOf(t, m)
	cut(t, s, m.Boards[1], instanceAt("3g.40gb", 0, 4, 3))
	var ids []gpu.ID
	for _, b := range m.Boards {
		ids = append(ids, idOf(b))
	}
	ids = append(ids, inventory(t, s).Boards[1].Slices[0].ID)
	watching(t, s, m.Boards[7])
	var all sync.WaitGroup
	for _, do := range []func() error{
		func() error { _, err := s.Inventory(t.Context()); return err },
		func() error { _, err := s.Sample(t.Context(), ids); return err },
		func() error { _, err := s.Vitals(t.Context(), ids[:8]); return err },
		func() error { _, err := s.Topology(t.Context()); return err },
		func() error { _, err := s.Processes(t.Context()); return err },
		func() error { m.Boards[3].Lose(lost); m.Boards[3].Lose(lib.SUCCESS); return nil },
		func() error {
			m.Emit(m.Boards[7], lib.EventTypeXidCriticalError, 13, nvmltest.Whole, nvmltest.Whole)
			return nil
		},
		func() error {
			if err := s.Create(t.Context(), m.Boards[1].UUID, instanceAt("1g.10gb", 5, 1, 1)); err != nil {
				return err
			}
			return s.Destroy(t.Context(), m.Boards[1].UUID, 7)
		},
	} {
		all.Go(func() {
			for range 20 {
				if err := do(); err != nil && !strings.Contains(err.Error(), "closed meanwhile") {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if sets, _ := m.Leaks(); sets > 1 {
		t.Errorf("%d event sets", sets)
	}
}
