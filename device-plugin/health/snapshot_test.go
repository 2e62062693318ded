package health_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// restart continues a node with a new tracker, as a new process does.
func (n *node) restart(boot string, c health.Config) {
	n.t.Helper()
	data, err := n.tracker.Snapshot(n.now)
	if err != nil {
		n.t.Fatal(err)
	}
	tracker, err := health.NewTracker(c, boot)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := tracker.Restore(n.now, data); err != nil {
		n.t.Fatal(err)
	}
	n.tracker = tracker
}

// TestRestartAtEveryStep walks a GPU out of service and back twice, with and
// without a restart of the plugin before each step: there must be no
// difference.
func TestRestartAtEveryStep(t *testing.T) {
	steps := []func(*node){
		func(n *node) { n.xid(0, 13) },
		func(n *node) { n.xid(0, 119) },
		func(n *node) { n.set(1, func(v *gpu.Vitals) { v.RemappedRows.Pending = true }) },
		func(n *node) { n.pass(time.Minute) },
		func(n *node) { n.reset(0) },
		func(n *node) { n.pass(time.Minute) },
		func(n *node) { n.check(errors.New("no")) },
		func(n *node) { n.pass(2 * time.Minute) },
		func(n *node) { n.check(nil) },
		func(n *node) { n.xid(0, 48) },
		func(n *node) { n.xid(2, 48) },
		func(n *node) { n.xid(3, 48) }, // the breaker trips
		func(n *node) { n.reset(0) },
		func(n *node) { n.pass(4 * time.Minute) },
		func(n *node) { n.check(nil) },
		func(n *node) { n.set(1, func(*gpu.Vitals) {}) },
		func(n *node) { n.pass(40 * time.Minute) },
		func(n *node) { n.check(nil) },
		func(n *node) { n.xid(0, 62) },
		func(n *node) { n.reset(0) },
		func(n *node) { n.pass(time.Hour) },
	}
	plain, restarted := newNode(t, 4, quick()), newNode(t, 4, quick())
	for i, step := range steps {
		restarted.restart("boot-1", quick())
		if diff := cmp.Diff(plain.tracker.Faults(), restarted.tracker.Faults()); diff != "" {
			t.Fatalf("after a restart before step %d, before anything was read (-plain +restarted):\n%s", i, diff)
		}
		restarted.look()
		restarted.read()
		plain.look()
		plain.read()
		step(plain)
		step(restarted)
		if diff := cmp.Diff(plain.tracker.Report(), restarted.tracker.Report()); diff != "" {
			t.Fatalf("after step %d (-plain +restarted):\n%s", i, diff)
		}
	}
	if plain.state(0) != health.Out {
		t.Errorf("the walk ends in state %s", plain.state(0))
	}
}

// TestReboot restarts the node while GPUs are out of service.
func TestReboot(t *testing.T) {
	n := newNode(t, 8, quick())
	n.xid(0, 79)
	n.set(1, func(v *gpu.Vitals) { v.RemappedRows.Pending = true })
	n.set(2, func(v *gpu.Vitals) { v.RemappedRows.Failed = true })
	n.xid(3, 92)
	n.set(4, func(v *gpu.Vitals) { v.NVLinks[0].Active = false })
	n.restart("boot-1", quick())
	if n.state(0) != health.Condemned {
		t.Error("a restart of the plugin repairs a GPU")
	}
	n.restart("boot-2", quick())
	want := map[int]health.State{0: health.Waiting, 1: health.Condemned, 2: health.Condemned, 3: health.Condemned, 4: health.Condemned, 5: health.Healthy}
	for board, state := range want {
		if got := n.state(board); got != state {
			t.Errorf("after a restart of the node GPU-%d is %s, want %s", board, got, state)
		}
	}
	if n.check(nil) != 0 {
		t.Error("a GPU is checked that no inventory has listed yet")
	}
	n.look()
	n.pass(time.Minute)
	if n.check(nil) != 1 || n.state(0) != health.Healthy {
		t.Errorf("GPU-0 is %s after its check", n.state(0))
	}
	n.set(1, func(*gpu.Vitals) {})
	n.set(2, func(*gpu.Vitals) {}) // the board's word does not repair it
	n.set(4, func(v *gpu.Vitals) { v.NVLinks[0].Active = false })
	want = map[int]health.State{1: health.Waiting, 2: health.Condemned, 4: health.Condemned}
	for board, state := range want {
		if got := n.state(board); got != state {
			t.Errorf("after readings GPU-%d is %s, want %s", board, got, state)
		}
	}
	n.inv.Boards = n.inv.Boards[1:]
	n.restart("boot-3", quick())
	n.look()
	if n.state(0) != health.Condemned {
		t.Error("a GPU that is missing after a restart of the node is not noticed")
	}
}

// TestErrorsWhileAway has memory errors while no plugin runs.
func TestErrorsWhileAway(t *testing.T) {
	n := newNode(t, 4, quick())
	n.restart("boot-1", quick())
	n.look()
	n.set(0, func(v *gpu.Vitals) { *v.ECC.VolatileUncorrected, *v.ECC.SRAMUncorrected = 3, 3 })
	if n.state(0) != health.Condemned {
		t.Error("errors that happened while the plugin did not run are not noticed")
	}
}

// TestClockBehind restores what a clock that was ahead has written.
func TestClockBehind(t *testing.T) {
	n := newNode(t, 4, quick())
	n.xid(0, 119)
	n.pass(1000 * time.Hour)
	n.reset(0)
	n.now = n.now.Add(-1000 * time.Hour)
	n.restart("boot-1", quick())
	n.look()
	n.pass(10 * time.Minute)
	if n.check(nil) != 1 {
		t.Error("a GPU waits for a time far in the future")
	}
}

func TestMilderOverrideAfterRestart(t *testing.T) {
	n := newNode(t, 4, quick())
	n.xid(0, 119)
	c := quick()
	c.XID = map[string]health.Override{"119": {Severity: "record"}}
	n.restart("boot-1", c)
	if n.state(0) != health.Waiting {
		t.Errorf("state %s under a configuration that does not condemn any more", n.state(0))
	}
}

// TestStoredForm reads a file of the first release.
func TestStoredForm(t *testing.T) {
	data, err := os.ReadFile("testdata/health-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := health.NewTracker(quick(), "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	if err := tracker.Restore(now, data); err != nil {
		t.Fatal(err)
	}
	got := map[gpu.ID]health.State{}
	for _, d := range tracker.Report().Devices {
		got[d.ID] = d.State
	}
	want := map[gpu.ID]health.State{"GPU-0": health.Condemned, "GPU-1": health.Waiting, "GPU-2": health.Out, "GPU-3": health.Healthy, "MIG-a": health.Healthy, "MIG-b": health.Healthy}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	again, err := tracker.Snapshot(now)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := health.NewTracker(quick(), "boot-1")
	if err := second.Restore(now, again); err != nil {
		t.Fatal(err)
	}
	if third, _ := second.Snapshot(now); !bytes.Equal(again, third) {
		t.Error("reading and writing changes it")
	}
}

func TestRestoreRefused(t *testing.T) {
	tests := map[string]string{
		``:              "unexpected end",
		`[]`:            "cannot unmarshal",
		`{"version":2}`: "it is of version 2, and this release reads 1",
		`{"version":1,"devices":{"GPU-0":{"board":"GPU-0","state":"healthy"}}}`:                                                 `its board "GPU-0" is not there`,
		`{"version":1,"boards":{"GPU-0":{}},"devices":{"GPU-0":{"board":"GPU-0","state":"fine"}}}`:                              `unknown state "fine"`,
		`{"version":1,"boards":{"GPU-0":{}},"devices":{"GPU-0":{"board":"GPU-0","state":"condemned"}}}`:                         "condemned without a cause",
		`{"version":1,"boards":{"GPU-0":{}},"devices":{"GPU-0":{"board":"GPU-0","state":"healthy","conditions":{"xid-x":{}}}}}`: `unknown signal "xid-x"`,
		`{"version":1,"boards":{"GPU-0":{}},"devices":{"GPU-0":{"board":"GPU-0","state":"out","cause":"x","action":"run"}}}`:    `unknown action "run"`,
		`{"version":1,"breakers":{"heat":{}}}`:         `breaker "heat": there is no such signal`,
		strings.Repeat(" ", health.MaxSnapshotBytes+1): "more than",
	}
	for data, want := range tests {
		n := newNode(t, 1, quick())
		n.xid(0, 79)
		if err := n.tracker.Restore(n.now, []byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", data, err, want)
		}
		if n.state(0) != health.Condemned {
			t.Errorf("%.60s: the tracker changed", data)
		}
	}
}

func FuzzRestore(f *testing.F) {
	n := newNode(f, 2, quick())
	n.xid(0, 79)
	n.set(1, func(v *gpu.Vitals) { v.RemappedRows.Pending = true })
	data, err := n.tracker.Snapshot(n.now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"boards":{"GPU-0":{}},"devices":{"GPU-0":{"board":"GPU-0","state":"healthy"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := newNode(t, 2, quick())
		if n.tracker.Restore(n.now, data) != nil {
			return
		}
		for id, fault := range n.tracker.Faults() {
			if fault.OK() {
				t.Errorf("%s has a fault without a reason", id)
			}
		}
		n.look()
		n.read()
		n.xid(0, 119)
		n.pass(time.Hour)
		n.check(nil)
		again, err := n.tracker.Snapshot(n.now)
		if err != nil {
			return // times that JSON cannot write
		}
		if err := n.tracker.Restore(n.now, again); err != nil {
			t.Errorf("it does not read what it wrote: %v\n%s", err, again)
		}
	})
}

func FuzzOverrides(f *testing.F) {
	f.Add("79", "unhealthy", "end", true)
	f.Add("unknown", "record", "", true)
	f.Add("nvlink-down", "degraded", "", false)
	f.Fuzz(func(t *testing.T, key, severity, action string, isXID bool) {
		c := quick()
		o := map[string]health.Override{key: {Severity: severity, Action: action}}
		if isXID {
			c.XID = o
		} else {
			c.Signal = o
		}
		err := c.Check()
		_, trackerErr := health.NewTracker(c, "")
		if (err == nil) != (trackerErr == nil) {
			t.Fatalf("check: %v; tracker: %v", err, trackerErr)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "health.") {
			t.Errorf("no path in: %v", err)
		}
	})
}
