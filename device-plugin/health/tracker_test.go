package health_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// TestFieldReport is the case that operators report of other plugins: faults
// of applications take GPUs out for good, codes that need a reset are ignored,
// and nothing ever returns.
func TestFieldReport(t *testing.T) {
	n := newNode(t, 9, quick())
	harmless := []int{13, 31, 43, 45, 94}
	fatal := []int{109, 48, 79, 95}
	for i, code := range harmless {
		n.xid(i, code)
	}
	if f := n.tracker.Faults(); len(f) != 0 {
		t.Fatalf("after faults of applications: %v", f)
	}
	for i, code := range harmless {
		if d := n.device(id(i)); len(d.XIDs) != 1 || d.XIDs[0].Code != code {
			t.Errorf("Xid %d was not recorded: %+v", code, d.XIDs)
		}
	}
	for i, code := range fatal {
		n.xid(len(harmless)+i, code)
	}
	if f := n.tracker.Faults(); len(f) != len(fatal) {
		t.Fatalf("after faults of GPUs: %v", f)
	}

	// Time and good readings alone bring nothing back: a reset is needed.
	n.keepReading(2 * time.Hour)
	if f := n.tracker.Faults(); len(f) != len(fatal) {
		t.Fatalf("without a reset: %v", f)
	}
	for i := range fatal {
		n.reset(len(harmless) + i)
	}
	if n.check(nil) != 0 || len(n.tracker.Faults()) != len(fatal) {
		t.Fatal("a GPU is checked before its hold-down is over")
	}
	n.pass(time.Minute)
	if got := n.check(nil); got != len(fatal) {
		t.Fatalf("%d checks are due after the hold-down, want %d", got, len(fatal))
	}
	if f := n.tracker.Faults(); len(f) != 0 {
		t.Errorf("after reset, hold-down and check: %v", f)
	}
}

// TestReasons follows one GPU out of service and back.
func TestReasons(t *testing.T) {
	c := quick()
	c.MaxAttempts = 2
	n := newNode(t, 4, c)
	reason := func(want string, action gpustatus.Action) {
		t.Helper()
		got := n.fault(id(1))
		if diff := cmp.Diff(gpu.Fault{Reason: want, Action: action}, got); diff != "" {
			t.Errorf("fault (-want +got):\n%s", diff)
		}
	}
	n.event(gpu.Event{Board: id(1), XID: 48, PID: 7})
	reason("Xid 48: double-bit ECC error (process 7), at 2026-03-01 12:00:00Z; back in service after a reset and a check passes", "move")
	n.pass(time.Minute)
	n.xid(1, 79)
	reason("Xid 79: GPU has fallen off the bus, at 2026-03-01 12:01:00Z; also xid-48; back in service after a restart of the node and a check passes", "end")
	n.reset(1)
	reason("Xid 79: GPU has fallen off the bus, at 2026-03-01 12:01:00Z; this is over, and check 1 of 2 is due at 2026-03-01 12:02:00Z", "end")
	n.pass(time.Minute)
	n.check(errors.New("uncorrectable memory errors rise"))
	reason("Xid 79: GPU has fallen off the bus, at 2026-03-01 12:01:00Z; this is over, and check 2 of 2 is due at 2026-03-01 12:04:00Z (the last one failed: uncorrectable memory errors rise)", "end")
	n.pass(2 * time.Minute)
	n.check(errors.New("no\nluck"))
	reason("Xid 79: GPU has fallen off the bus, at 2026-03-01 12:01:00Z; none of its 2 checks is left (the last one failed: no luck); out of service until it is repaired and cleared: nomad-device-gpu health -clear GPU-1", "end")
	n.pass(100 * time.Hour)
	if n.check(nil) != 0 || n.state(1) != health.Out {
		t.Error("a GPU without attempts left is checked")
	}
	if err := n.tracker.Clear(n.now, "GPU-x"); err == nil || !strings.Contains(err.Error(), "GPU-x") {
		t.Errorf("clearing an unknown GPU: %v", err)
	}
	if err := n.tracker.Clear(n.now, id(1)); err != nil {
		t.Fatal(err)
	}
	if n.state(1) != health.Waiting {
		t.Error("a GPU that was cleared needs no check")
	}
	if n.check(nil) != 1 || n.state(1) != health.Healthy {
		t.Error("a GPU that was cleared does not come back")
	}
}

func TestAttempts(t *testing.T) {
	n := newNode(t, 4, quick()) // three attempts
	for round, hold := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		n.xid(0, 119)
		n.reset(0)
		n.pass(hold - time.Second)
		if n.check(nil) != 0 {
			t.Fatalf("round %d: checked before %s", round, hold)
		}
		n.pass(time.Second)
		if n.check(nil) != 1 || n.state(0) != health.Healthy {
			t.Fatalf("round %d: state %s", round, n.state(0))
		}
	}
	n.xid(0, 119)
	if r := n.fault(id(0)).Reason; !strings.Contains(r, "none of its 3 checks is left, so it stays out") || !strings.Contains(r, "-clear GPU-0") {
		t.Errorf("reason %q", r)
	}
	n.reset(0)
	n.pass(time.Hour)
	if n.check(nil) != 0 || n.state(0) != health.Out {
		t.Errorf("state %s after all attempts", n.state(0))
	}

	// One that stays healthy for long has all attempts again.
	n.xid(1, 119)
	n.reset(1)
	n.pass(time.Minute)
	n.check(nil)
	n.pass(24 * time.Hour)
	if d := n.device(id(1)); d.Attempts != 0 {
		t.Errorf("%d attempts after a day of health", d.Attempts)
	}
}

// TestCheckOvertaken is a check that passes after the GPU failed anew.
func TestCheckOvertaken(t *testing.T) {
	n := newNode(t, 4, quick())
	n.xid(0, 119)
	n.reset(0)
	n.pass(time.Minute)
	due := n.tracker.Due(n.now)
	n.xid(0, 48)
	n.tracker.ObserveCheck(n.now, due[0], nil)
	if n.state(0) != health.Condemned {
		t.Errorf("state %s", n.state(0))
	}
	n.vitals[id(0)] = good()
	n.read()
	n.reset(0)
	n.tracker.ObserveCheck(n.now, due[0], nil)
	if n.state(0) != health.Waiting {
		t.Errorf("state %s", n.state(0))
	}
}

func TestLost(t *testing.T) {
	n := newNode(t, 8, quick())
	broken := n.inv.Boards[3]
	broken.Fault, broken.FaultAction = "GPU is lost", gpustatus.End
	n.inv.Boards[3] = broken
	n.look()
	if f := n.tracker.Faults(); len(f) != 1 || f[id(3)].Action != gpustatus.End || !strings.HasPrefix(f[id(3)].Reason, "GPU is lost, at ") {
		t.Fatalf("a lost GPU: %v", f)
	}
	without := n.inv
	without.Boards = append(append([]gpu.Board{}, n.inv.Boards[:3]...), n.inv.Boards[4:]...)
	without.Lost = []gpu.Lost{{Index: 7, Reason: "does not answer"}}
	n.tracker.ObserveInventory(n.now, without)
	if f := n.fault(id(3)); !strings.HasPrefix(f.Reason, "does not answer") || f.Action != gpustatus.End {
		t.Errorf("lost at another index: %+v", f)
	}
	n.pass(time.Hour)
	if n.check(nil) != 0 {
		t.Error("a GPU that is not there is checked")
	}

	// What needed a reset is repaired when it comes back.
	n.xid(3, 79)
	n.inv.Boards[3].Fault = ""
	n.look()
	if n.state(3) != health.Waiting {
		t.Errorf("state %s of a GPU that is back", n.state(3))
	}
	n.pass(time.Minute)
	if n.check(nil) != 1 || len(n.tracker.Faults()) != 0 {
		t.Errorf("faults %v", n.tracker.Faults())
	}

	// One that was taken out is forgotten when that is what an operator says.
	n.tracker.ObserveInventory(n.now, without)
	if err := n.tracker.Clear(n.now, id(3)); err != nil {
		t.Fatal(err)
	}
	if got := len(n.tracker.Report().Devices); got != 7 {
		t.Errorf("%d devices are known", got)
	}
}

func TestDriverFailure(t *testing.T) {
	n := newNode(t, 2, quick())
	n.xid(1, 79)
	n.tracker.ObserveFailure(n.now, errors.New("driver/library version mismatch"))
	f := n.tracker.Faults()
	if len(f) != 2 || f[id(0)].Action != gpustatus.Keep || !strings.Contains(f[id(0)].Reason, "driver/library version mismatch, since") {
		t.Errorf("faults %v", f)
	}
	if f[id(1)].Action != gpustatus.End {
		t.Errorf("a GPU that was condemned before: %+v", f[id(1)])
	}
	n.look()
	if f := n.tracker.Faults(); len(f) != 1 {
		t.Errorf("after it works again: %v", f)
	}
	n.tracker.ObserveStall(n.now.Add(-2*time.Minute), nil)
	if f := n.fault(id(0)); f.Action != gpustatus.Keep || !strings.Contains(f.Reason, "nobody watches the health") {
		t.Errorf("stalled: %+v", f)
	}
	n.tracker.ObserveStall(time.Time{}, nil)
	if f := n.fault(id(0)); !f.OK() {
		t.Errorf("after the stall: %+v", f)
	}
}

// TestNoCheckWithoutDriver must not use up attempts for what no GPU can help.
func TestNoCheckWithoutDriver(t *testing.T) {
	n := newNode(t, 2, quick())
	n.xid(0, 119)
	n.reset(0)
	n.tracker.ObserveFailure(n.now, errors.New("no answer"))
	n.pass(time.Hour)
	if n.check(nil) != 0 {
		t.Error("checked without a driver")
	}
	n.look()
	n.tracker.ObserveStall(n.now, errors.New("no answer"))
	if n.check(nil) != 0 {
		t.Error("checked while nobody watches")
	}
	n.tracker.ObserveStall(time.Time{}, nil)
	if n.check(nil) != 1 || n.device(id(0)).Attempts != 1 {
		t.Error("not checked when it works again")
	}
}

// TestSlices sends events that name a part of a board.
func TestSlices(t *testing.T) {
	slice := func(n, gi, ci int) gpu.Slice {
		return gpu.Slice{ID: gpu.ID("MIG-" + string(rune('a'+n))), Index: n, Profile: "1g.10gb", GPUInstance: ref(gi), ComputeInstance: ref(ci)}
	}
	tests := []struct {
		name  string
		event gpu.Event
		want  []gpu.ID
	}{
		{"a context switch timeout of one slice", gpu.Event{XID: 109, GPUInstance: ref(2), ComputeInstance: ref(0)}, []gpu.ID{"MIG-b"}},
		{"of a GPU instance with two slices", gpu.Event{XID: 109, GPUInstance: ref(5)}, []gpu.ID{"MIG-c", "MIG-d"}},
		{"of one of the two", gpu.Event{XID: 109, GPUInstance: ref(5), ComputeInstance: ref(1)}, []gpu.ID{"MIG-d"}},
		{"of no slice in particular", gpu.Event{XID: 109}, []gpu.ID{"GPU-0", "MIG-a", "MIG-b", "MIG-c", "MIG-d"}},
		{"of a slice that is not there", gpu.Event{XID: 109, GPUInstance: ref(9)}, []gpu.ID{"GPU-0", "MIG-a", "MIG-b", "MIG-c", "MIG-d"}},
		{"an uncontained error is everybody's", gpu.Event{XID: 95, GPUInstance: ref(2)}, []gpu.ID{"GPU-0", "MIG-a", "MIG-b", "MIG-c", "MIG-d"}},
		{"a contained error is nobody's", gpu.Event{XID: 94, GPUInstance: ref(2)}, nil},
		{"NVLink does not matter to slices", gpu.Event{XID: 74}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, 2, quick())
			n.inv.Boards[0].MIG = true
			n.inv.Boards[0].Slices = []gpu.Slice{slice(0, 1, 0), slice(1, 2, 0), slice(2, 5, 0), slice(3, 5, 1)}
			n.look()
			tt.event.Board = id(0)
			n.event(tt.event)
			want := map[gpu.ID]bool{}
			for _, id := range tt.want {
				want[id] = true
			}
			got := map[gpu.ID]bool{}
			for id := range n.tracker.Faults() {
				got[id] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			// A slice comes back like a board, and one that is removed goes.
			n.reset(0)
			n.pass(time.Minute)
			n.check(nil)
			if f := n.tracker.Faults(); len(f) != 0 {
				t.Errorf("after a reset and checks: %v", f)
			}
			n.inv.Boards[0].Slices = n.inv.Boards[0].Slices[:1]
			n.look()
			if got := len(n.tracker.Report().Devices); got != 3 {
				t.Errorf("%d devices after slices were removed", got)
			}
		})
	}
}

func TestSliceFaults(t *testing.T) {
	n := newNode(t, 1, quick())
	b := &n.inv.Boards[0]
	b.MIG, b.Slices = true, []gpu.Slice{{ID: "MIG-a", Index: 0}, {ID: "MIG-b", Index: 4}}
	n.look()
	lost := n.inv
	lost.Boards = []gpu.Board{*b}
	lost.Boards[0].Slices = b.Slices[:1]
	lost.Boards[0].LostSlices = []gpu.Lost{{Index: 4, Reason: "no answer"}}
	n.tracker.ObserveInventory(n.now, lost)
	if f := n.tracker.Faults(); len(f) != 1 || !strings.HasPrefix(f["MIG-b"].Reason, "no answer") {
		t.Errorf("faults %v", f)
	}
	n.look()
	n.pass(time.Minute)
	if n.check(nil) != 1 || len(n.tracker.Faults()) != 0 {
		t.Errorf("faults %v after the slice answers again", n.tracker.Faults())
	}
}

func TestRecoveryEvent(t *testing.T) {
	tests := []struct {
		text string
		want gpustatus.Action
	}{
		{"GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", gpustatus.Move},
		{"GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", gpustatus.Move},
		{"GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)", gpustatus.Keep},
		{"GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)", gpustatus.Keep},
		{"GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", ""},
		{"GPU recovery action changed", ""},
	}
	for _, tt := range tests {
		n := newNode(t, 2, quick())
		n.event(gpu.Event{Board: id(0), XID: 154, Text: tt.text})
		if got := n.fault(id(0)).Action; got != tt.want {
			t.Errorf("%s: action %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestQuietCodes(t *testing.T) {
	n := newNode(t, 4, quick()) // quiet for 30 minutes
	n.xid(0, 92)
	n.pass(20 * time.Minute)
	n.xid(0, 92)
	n.pass(29 * time.Minute)
	if n.state(0) != health.Condemned {
		t.Fatalf("state %s before it is quiet", n.state(0))
	}
	if next := n.tracker.Next(n.now); !next.Equal(n.now.Add(time.Minute)) {
		t.Errorf("next is %s", next)
	}
	n.pass(time.Minute)
	if n.state(0) != health.Waiting {
		t.Errorf("state %s when it is quiet", n.state(0))
	}
	n.event(gpu.Event{Board: id(1), XID: 145, Text: "RLW_SRC_TRACK Nonfatal XC0 i0 Link 08"})
	if n.state(1) != health.Healthy {
		t.Error("an NVLink event that is not fatal condemns")
	}
	n.event(gpu.Event{Board: id(1), XID: 145, Text: "RLW_SRC_TRACK Fatal XC1 i0 Link 08"})
	if n.state(1) != health.Condemned {
		t.Error("a fatal NVLink event does not condemn")
	}
}
