package monitor

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// machine is a driver that does as told.
type machine struct {
	events chan gpu.Event

	mu        sync.Mutex
	inventory gpu.Inventory
	vitals    map[gpu.ID]gpu.Vitals
	hang      chan struct{} // vitals wait for it, if it is set
	reads     int

	watchError, vitalsError, inventoryError error
}

func newMachine(boards ...gpu.ID) *machine {
	m := &machine{events: make(chan gpu.Event), vitals: map[gpu.ID]gpu.Vitals{}}
	for i, id := range boards {
		m.inventory.Boards = append(m.inventory.Boards, gpu.Board{ID: id, Index: i, Product: "H100"})
		m.vitals[id] = gpu.Vitals{EnergyMJ: ref[int64](1000), ECC: &gpu.ECC{VolatileUncorrected: ref[int64](0)}}
	}
	return m
}

func ref[T any](v T) *T { return &v }

func (m *machine) Inventory(context.Context) (gpu.Inventory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inventory, m.inventoryError
}

func (m *machine) Watch(ctx context.Context, emit func(gpu.Event)) error {
	m.mu.Lock()
	err := m.watchError
	m.mu.Unlock()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-m.events:
			emit(e)
		}
	}
}

func (m *machine) Vitals(_ context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	m.mu.Lock()
	hang := m.hang
	m.reads++
	m.mu.Unlock()
	if hang != nil {
		<-hang
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.vitals), m.vitalsError
}

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// reset is a reset of a board, after which counting begins anew.
func (m *machine) reset(id gpu.ID) {
	m.set(func() {
		m.vitals[id] = gpu.Vitals{EnergyMJ: ref[int64](0), ECC: &gpu.ECC{VolatileUncorrected: ref[int64](0)}}
	})
}

// watched is a monitor at work.
type watched struct {
	*Monitor
	*machine
	log  *bytes.Buffer
	stop func()

	published chan map[gpu.ID]gpu.Fault
}

func watch(t *testing.T, m *machine, change func(*Config)) *watched {
	t.Helper()
	w := &watched{machine: m, log: &bytes.Buffer{}, published: make(chan map[gpu.ID]gpu.Fault, 100)}
	c := Config{
		Health: health.DefaultConfig(), Boot: "boot-1", Inventory: m.Inventory, Watcher: m, Vitals: m,
		Publish: func(f map[gpu.ID]gpu.Fault) { w.published <- f },
		Log:     hclog.New(&hclog.LoggerOptions{Output: w.log, Level: hclog.Debug}),
	}
	if change != nil {
		change(&c)
	}
	var err error
	if w.Monitor, err = New(c); err != nil {
		t.Fatal(err)
	}
	w.ObserveInventory(m.inventory)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		if err := w.Keep(ctx); err != nil {
			t.Error(err)
		}
	})
	w.stop = func() { cancel(); running.Wait() }
	t.Cleanup(w.stop)
	if f := <-w.published; len(f) != 0 && c.File == "" {
		t.Fatalf("at first: %v", f)
	}
	return w
}

func TestOutAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, newMachine("GPU-0", "GPU-1"), nil)
		time.Sleep(time.Minute) // of the test's clock
		began := time.Now()
		w.events <- gpu.Event{Board: "GPU-1", XID: 119}
		if f := <-w.published; len(f) != 1 || !strings.HasPrefix(f["GPU-1"].Reason, "Xid 119") {
			t.Fatalf("after an event: %v", f)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the event was told after %s", took)
		}
		w.reset("GPU-1")
		if f := <-w.published; !strings.Contains(f["GPU-1"].Reason, "check 1 of 3 is due") {
			t.Fatalf("after a reset: %v", f)
		}
		if f := <-w.published; len(f) != 0 {
			t.Fatalf("after a check: %v", f)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 2*time.Minute+20*time.Second {
			t.Errorf("it came back after %s, with a hold-down of 2 minutes", took)
		}
		w.stop()
		for _, want := range []string{"GPU is out of service: id=GPU-1 state=condemned", "GPU was checked: id=GPU-1 passed=true", "GPU is back in service: id=GPU-1"} {
			if !strings.Contains(w.log.String(), want) {
				t.Errorf("no %q in the log:\n%s", want, w.log)
			}
		}
	})
}

// TestErrorsDuringCheck has memory errors rise between the readings of a check.
func TestErrorsDuringCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1")
		w := watch(t, m, func(c *Config) { c.Health.MaxAttempts = 1 })
		w.events <- gpu.Event{Board: "GPU-0", XID: 62}
		<-w.published
		w.reset("GPU-0")
		<-w.published
		time.Sleep(2*time.Minute + 16*time.Second) // into the check, about
		for i := range int64(20) {
			m.set(func() { m.vitals["GPU-0"] = gpu.Vitals{ECC: &gpu.ECC{VolatileUncorrected: ref(i + 1)}} })
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		for _, d := range w.Report().Devices {
			if d.ID == "GPU-0" && d.State == health.Healthy {
				t.Errorf("it is back in service: %+v", d)
			}
		}
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1")
		w := watch(t, m, nil)
		time.Sleep(time.Minute)
		hang := make(chan struct{})
		m.set(func() { m.hang = hang })
		began := time.Now()
		f := <-w.published
		if len(f) != 2 || f["GPU-0"].Action != "keep" || !strings.Contains(f["GPU-0"].Reason, "nobody watches") {
			t.Fatalf("while the driver hangs: %v", f)
		}
		if took := time.Since(began); took < 90*time.Second || took > 5*time.Minute {
			t.Errorf("noticed after %s", took)
		}
		// Events are heard even so.
		w.events <- gpu.Event{Board: "GPU-1", XID: 79}
		if f := <-w.published; f["GPU-1"].Action != "end" {
			t.Errorf("an event meanwhile: %v", f)
		}
		m.set(func() { m.hang = nil })
		close(hang)
		if f := <-w.published; len(f) != 1 || f["GPU-1"].OK() {
			t.Errorf("after it answers: %v", f)
		}
	})
}

// TestVitalsFail is a driver that answers with errors.
func TestVitalsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1")
		w := watch(t, m, nil)
		time.Sleep(time.Minute)
		m.set(func() { m.vitalsError = errors.New("no answer for 20s") })
		if f := <-w.published; !strings.HasPrefix(f["GPU-0"].Reason, "nobody watches the health of the GPUs: no answer for 20s, since ") {
			t.Fatalf("published %v", f)
		}
		m.set(func() { m.vitalsError = nil })
		if f := <-w.published; len(f) != 0 {
			t.Errorf("after it answers: %v", f)
		}
	})
}

// TestCheckWithoutDriver has the driver fail just when a check is due.
func TestCheckWithoutDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1")
		w := watch(t, m, nil)
		w.events <- gpu.Event{Board: "GPU-0", XID: 119}
		<-w.published
		w.reset("GPU-0")
		<-w.published
		m.set(func() { m.inventoryError = errors.New("driver/library version mismatch") })
		if f := <-w.published; len(f) != 2 || !strings.HasPrefix(f["GPU-1"].Reason, "driver/library version mismatch") {
			t.Fatalf("published %v", f)
		}
		time.Sleep(time.Hour)
		for _, d := range w.Report().Devices {
			if d.Attempts != 0 {
				t.Errorf("%s has used %d attempts", d.ID, d.Attempts)
			}
		}
		m.set(func() { m.inventoryError = nil })
		w.ObserveInventory(m.inventory)
		for f := <-w.published; len(f) > 0; f = <-w.published {
		}
	})
}

func TestFloodOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1")
		w := watch(t, m, nil)
		time.Sleep(time.Minute)
		m.set(func() { m.reads = 0 })
		for range 1000 {
			w.events <- gpu.Event{Board: "GPU-0", XID: 13}
			time.Sleep(10 * time.Millisecond)
		}
		m.set(func() {
			if m.reads > 12 {
				t.Errorf("1000 events in 10 seconds made %d readings", m.reads)
			}
		})
		select {
		case f := <-w.published:
			t.Errorf("published %v", f)
		default:
		}
	})
}

func TestCannotWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0")
		m.watchError = errors.New("not supported")
		w := watch(t, m, nil)
		time.Sleep(time.Minute)
		if got := w.Report().Warnings; len(got) != 1 || !strings.Contains(got[0], "events of the driver are not heard: not supported") {
			t.Errorf("warnings %q", got)
		}
		m.set(func() { m.watchError = nil })
		time.Sleep(20 * time.Second)
		w.events <- gpu.Event{Board: "GPU-0", XID: 13}
		synctest.Wait()
		if got := w.Report().Warnings; len(got) != 0 {
			t.Errorf("warnings %q after it can", got)
		}
		w.stop()
		if n := strings.Count(w.log.String(), "GPU events cannot be watched"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

func TestKept(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	keep := func(c *Config) { c.File = file }
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, newMachine("GPU-0", "GPU-1"), keep)
		w.events <- gpu.Event{Board: "GPU-1", XID: 79}
		<-w.published
		synctest.Wait() // no more than it takes to write: then it may be killed
		crashed, err := New(w.config)
		if err != nil {
			t.Fatal(err)
		}
		if f := crashed.Faults(); f["GPU-1"].Action != "end" {
			t.Errorf("after a crash, before anything was read: %v", f)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, newMachine("GPU-0", "GPU-1"), func(c *Config) { keep(c); c.Boot = "boot-2" })
		var f map[gpu.ID]gpu.Fault
		for f = <-w.published; len(f) > 0; f = <-w.published {
		}
		w.stop()
		if !strings.Contains(w.log.String(), "passed=true") {
			t.Error("no check after a restart of the node")
		}
	})
}

func TestUnreadableFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, newMachine("GPU-0"), func(c *Config) { c.File = file })
		w.stop()
		if !strings.Contains(w.log.String(), "what was known of the health of the GPUs is lost") {
			t.Errorf("log:\n%s", w.log)
		}
	})
	if kept, err := os.ReadFile(file + ".unreadable"); err != nil || string(kept) != "{" {
		t.Errorf("set aside: %q, %v", kept, err)
	}
	if _, err := New(Config{Health: health.DefaultConfig(), File: file}); err != nil {
		t.Error(err)
	}
}

func TestClear(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	const slice = "MIG-GPU-0/1/0" // the old form has slashes
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("GPU-0", "GPU-1")
		w := watch(t, m, func(c *Config) { c.File, c.Health.MaxAttempts = file, 1 })
		w.events <- gpu.Event{Board: "GPU-1", XID: 64}
		<-w.published
		done, err := RequestClear(dir, "GPU-1")
		if err != nil {
			t.Fatal(err)
		}
		unknown, err := RequestClear(dir, slice)
		if err != nil {
			t.Fatal(err)
		}
		if done() {
			t.Error("done before anything happened")
		}
		for f := <-w.published; len(f) > 0; f = <-w.published {
		}
		if !done() || !unknown() {
			t.Error("a request is left")
		}
		w.stop()
		if !strings.Contains(w.log.String(), "clearing "+slice+": no such GPU or slice") {
			t.Errorf("log:\n%s", w.log)
		}
	})
}

func TestRunCommand(t *testing.T) {
	tests := []struct {
		name    string
		script  string
		timeout time.Duration
		want    string
	}{
		{"passes", `test "$CUDA_VISIBLE_DEVICES" = GPU-7 && test "$NVIDIA_VISIBLE_DEVICES" = GPU-7`, time.Minute, ""},
		{"fails and says why", "echo begin; echo memory test failed >&2; exit 3", time.Minute, "validate_command sh: exit status 3: memory test failed"},
		{"fails and says nothing", "exit 3", time.Minute, "validate_command sh: exit status 3"},
		{"says too much", "yes | head -c 1000000; exit 1", time.Minute, "exit status 1: y"},
		{"hangs, and its children too", "sleep 600 & sleep 600", 100 * time.Millisecond, "validate_command sh did not end within 100ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := runCommand(t.Context(), []string{"sh", "-c", tt.script}, "GPU-7", tt.timeout)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if err := runCommand(t.Context(), []string{"/nonexistent"}, "GPU-7", time.Minute); err == nil {
		t.Error("a command that is not there passes")
	}
}

// TestCheckUsesTheCommand fails a GPU whose readings are good.
func TestCheckUsesTheCommand(t *testing.T) {
	m := newMachine("GPU-0")
	c := Config{Health: health.DefaultConfig(), Inventory: m.Inventory}
	c.Health.ValidateCommand = []string{"sh", "-c", "echo broken; exit 1"}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.examine(t.Context(), health.Check{Device: "GPU-0", Board: "GPU-0"}); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("%v", err)
	}
	for _, change := range []func(*gpu.Board){func(b *gpu.Board) { b.Fault = "lost" }, func(b *gpu.Board) { b.ID = "GPU-other" }} {
		boards := slices.Clone(m.inventory.Boards)
		change(&m.inventory.Boards[0])
		if err := w.examine(t.Context(), health.Check{Device: "GPU-0", Board: "GPU-0"}); err == nil || strings.Contains(err.Error(), "broken") {
			t.Errorf("a GPU that is not what it was: %v", err)
		}
		m.inventory.Boards = boards
	}
}
