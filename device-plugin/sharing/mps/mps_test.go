package mps_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/device-plugin/sharing/mps"
	"github.com/drover-ml/drover/device-plugin/sharing/mps/mpstest"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func TestMain(m *testing.M) {
	mpstest.Main()
	os.Exit(m.Run())
}

// machine is a Daemons under test.
type machine struct {
	*mps.Daemons
	t    *testing.T
	dir  string
	stop func() // ends Run, and waits for that
}

// deadline is for what takes a few milliseconds.
const deadline = 20 * time.Second

func newMachine(t *testing.T, dir, mode string, shares ...sharing.Share) *machine {
	t.Helper()
	config := mps.Config{Dir: dir, Program: mpstest.Program(t, mode), Check: 50 * time.Millisecond, FirstPause: 10 * time.Millisecond}
	if mode == mpstest.Hangs {
		config.Patience = 300 * time.Millisecond
	}
	d := mps.New(config)
	d.Want(shares)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	m := &machine{Daemons: d, t: t, dir: dir}
	m.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("running the daemons: %v", err)
			}
		case <-time.After(deadline):
			t.Error("the daemons do not stop")
		}
	})
	t.Cleanup(func() {
		m.stop()
		m.kill()
	})
	return m
}

// shortDir is a folder of which the name leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// until waits for faults that a condition holds for.
func (m *machine) until(what string, holds func(map[gpu.ID]gpu.Fault) bool) {
	m.t.Helper()
	timeout := time.After(deadline)
	for {
		changed := m.Changed()
		faults := m.Faults()
		if holds(faults) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			m.t.Fatalf("waiting for %s; faults are %v", what, faults)
		}
	}
}

func (m *machine) untilWell() {
	m.t.Helper()
	m.until("no faults", func(f map[gpu.ID]gpu.Fault) bool { return len(f) == 0 })
}

func (m *machine) untilReason(part string) {
	m.t.Helper()
	m.until(part, func(f map[gpu.ID]gpu.Fault) bool { return strings.Contains(f[board].Reason, part) })
}

// pipe is a file in the pipe folder of the board's daemon.
func (m *machine) pipe(name string) string { return filepath.Join(m.dir, string(board), "pipe", name) }

func (m *machine) read(name string) string {
	m.t.Helper()
	content, err := os.ReadFile(m.pipe(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(content)
}

func (m *machine) pid() int {
	m.t.Helper()
	pid, err := strconv.Atoi(m.read("pid"))
	if err != nil {
		m.t.Fatal(err)
	}
	return pid
}

// setClients makes processes clients of the daemon; "" has none.
func (m *machine) setClients(pids string) {
	m.t.Helper()
	if err := os.WriteFile(m.pipe("clients"), []byte(pids), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// kill ends a daemon that outlives the test.
func (m *machine) kill() {
	content, err := os.ReadFile(m.pipe("pid"))
	if err != nil {
		return // it never ran, or its folder went with it
	}
	if pid, err := strconv.Atoi(string(content)); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
}

const board = gpu.ID("GPU-52a")

var quarter = sharing.Share{
	Device: board, Mode: sharing.MPS, Replicas: 4, Limits: sharing.Enforced, ThreadPercent: 25, MemoryMiB: 5120,
}

func TestLimitsAreSetAndVerified(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "secret")
	m := newMachine(t, shortDir(t), mpstest.Honest, quarter, sharing.Share{Device: "GPU-other", Mode: sharing.TimeSlicing})
	m.untilWell()
	access, err := m.Access(t.Context(), quarter)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sharing.Access{PipeDir: filepath.Join(m.dir, string(board), "pipe")}, access); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}
	if got := m.read("devices"); got != string(board) {
		t.Errorf("the daemon is for devices %q, want %s", got, board)
	}
	if got, want := m.read("limits"), "25.0 5120M"; got != want {
		t.Errorf("the daemon begins with limits %q, want %q", got, want)
	}
	if strings.Contains(m.read("environment"), "secret") {
		t.Error("the daemon has the environment of the plugin")
	}
	if _, err := os.Stat(filepath.Join(m.dir, "GPU-other")); err == nil {
		t.Error("a board shared by time-slicing has a daemon")
	}
}

func TestFailsClosed(t *testing.T) {
	tests := []struct{ name, mode, reason string }{
		{"the daemon does not keep a limit", mpstest.NoLimits, `its limit of memory is "0", not 5120 MiB`},
		{"the limit cannot be read back", mpstest.StrangeWords, `its limit of memory is "limit: some", not 5120 MiB`},
		{"the daemon does not start", mpstest.Crashes, "it ended: exit status 1: Failed to create an MPS context"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, shortDir(t), tt.mode, quarter)
			m.untilReason(tt.reason)
			if f := m.Faults()[board]; f.Action != gpustatus.Keep {
				t.Errorf("fault %+v; what runs may go on", f)
			}
			if _, err := m.Access(t.Context(), quarter); !errors.Is(err, mps.ErrNotEnforced) {
				t.Errorf("error %v, want ErrNotEnforced", err)
			}
		})
	}
	t.Run("the program is not there", func(t *testing.T) {
		d := mps.New(mps.Config{Dir: shortDir(t), Program: "/nowhere/nvidia-cuda-mps-control"})
		m := &machine{Daemons: d, t: t}
		d.Want([]sharing.Share{quarter})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		m.untilReason("/nowhere/nvidia-cuda-mps-control: no such file")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("nobody runs the daemons", func(t *testing.T) {
		d := mps.New(mps.Config{Dir: shortDir(t), Program: mpstest.Program(t, mpstest.Honest)})
		d.Want([]sharing.Share{quarter})
		if f := d.Faults()[board]; f.OK() {
			t.Error("no fault")
		}
		if _, err := d.Access(t.Context(), quarter); !errors.Is(err, mps.ErrNotEnforced) {
			t.Errorf("error %v, want ErrNotEnforced", err)
		}
	})
	t.Run("the path is too long", func(t *testing.T) {
		m := newMachine(t, filepath.Join(shortDir(t), strings.Repeat("x", 100)), mpstest.Honest, quarter)
		m.untilReason("set a shorter state_dir")
	})
}

// TestHangingDaemon is of one that tasks may depend on: it is left alone.
func TestHangingDaemon(t *testing.T) {
	m := newMachine(t, shortDir(t), mpstest.Hangs, quarter)
	m.untilReason("its MPS daemon does not keep the limits: set_default_active_thread_percentage 25: no answer within")
	pid := m.pid()
	m.untilReason("and it cannot be replaced yet: get_server_list: no answer within")
	if got := m.pid(); got != pid {
		t.Errorf("daemon %d runs beside %d", got, pid)
	}
	if _, err := m.Access(t.Context(), quarter); !errors.Is(err, mps.ErrNotEnforced) {
		t.Errorf("error %v, want ErrNotEnforced", err)
	}
}

func TestCrashedDaemonIsStartedAgain(t *testing.T) {
	m := newMachine(t, shortDir(t), mpstest.Honest, quarter)
	m.untilWell()
	before := m.pid()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.until("another daemon", func(f map[gpu.ID]gpu.Fault) bool { return len(f) == 0 && m.pid() != before })
	if _, err := m.Access(t.Context(), quarter); err != nil {
		t.Error(err)
	}
}

// TestCrashIsNoticedAtOnce has no look at the daemon between crash and Access.
func TestCrashIsNoticedAtOnce(t *testing.T) {
	m := newMachine(t, shortDir(t), mpstest.Honest, quarter)
	m.untilWell()
	m.stop() // a daemon without clients ends with the plugin
	if _, err := m.Access(t.Context(), quarter); !errors.Is(err, mps.ErrNotEnforced) {
		t.Errorf("error %v, want ErrNotEnforced", err)
	}
}

func TestDaemonWithClientsOutlivesThePlugin(t *testing.T) {
	dir := shortDir(t)
	first := newMachine(t, dir, mpstest.Honest, quarter)
	first.untilWell()
	pid := first.pid()
	first.setClients("77\n78\n")
	first.stop()
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the daemon ended with the plugin: %v", err)
	}

	second := newMachine(t, dir, mpstest.Honest, quarter)
	second.untilWell()
	if got := second.pid(); got != pid {
		t.Errorf("daemon %d runs, want that of before, %d", got, pid)
	}
	second.stop()

	// Other limits do not reach clients that are there already.
	half := quarter
	half.Replicas, half.ThreadPercent = 2, 50
	third := newMachine(t, dir, mpstest.Honest, half)
	third.untilReason("cannot be replaced yet: tasks use it: 2 processes")
	third.setClients("")
	third.untilWell()
	if third.pid() == pid {
		t.Error("the daemon with the limits of before still runs")
	}
}

func TestDeviceIsSharedNoLonger(t *testing.T) {
	dir := shortDir(t)
	m := newMachine(t, dir, mpstest.Honest, quarter)
	m.untilWell()
	m.setClients("77")
	m.Want(nil)
	m.untilReason("it is not shared by MPS any more, and its daemon is still there: tasks use it")
	m.setClients("")
	m.untilWell()
	if _, err := os.Stat(filepath.Join(dir, string(board))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder stays: %v", err)
	}
}

func TestDaemonLeftByAnotherConfiguration(t *testing.T) {
	dir := shortDir(t)
	first := newMachine(t, dir, mpstest.Honest, quarter)
	first.untilWell()
	first.setClients("77")
	first.stop()

	second := newMachine(t, dir, mpstest.Honest) // shares nothing
	second.untilReason("its daemon is still there: tasks use it")
	second.setClients("")
	second.untilWell()
}

// TestProblemsGetNoDaemon is of a share that cannot be kept to.
func TestProblemsGetNoDaemon(t *testing.T) {
	bad := quarter
	bad.Problem = "its memory is not known"
	other := quarter
	other.Device = "GPU-good"
	m := newMachine(t, shortDir(t), mpstest.Honest, bad, other)
	m.until("a daemon for the other", func(f map[gpu.ID]gpu.Fault) bool { _, faulty := f[other.Device]; return !faulty })
	if _, faulty := m.Faults()[board]; !faulty {
		t.Error("no fault of the device with a problem")
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == string(board) }) {
		t.Error("it has a daemon")
	}
	m.Want(nil)
	m.untilWell()
}
