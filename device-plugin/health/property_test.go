package health_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/internal/gpustatus"
)

const traceBoards = 5

// trace drives a node at random, and remembers what its promises depend on.
type trace struct {
	*node
	rt       *rapid.T
	config   health.Config
	passed   map[gpu.ID]bool        // devices whose check passed in this step
	returned map[gpu.ID][]time.Time // since the last clear
	// condemned is when each soft signal condemned which board.
	condemned map[health.Signal]map[gpu.ID][]time.Time
	before    health.Report
}

// troubles are what can be wrong with the vitals of a board.
var troubles = []func(*gpu.Vitals){
	func(*gpu.Vitals) {},
	func(v *gpu.Vitals) { *v = gpu.Vitals{} },
	func(v *gpu.Vitals) { v.RemappedRows.Pending = true },
	func(v *gpu.Vitals) { v.RemappedRows.Failed = true },
	func(v *gpu.Vitals) { v.Throttle = []gpu.ThrottleReason{gpu.ThrottleHWThermal} },
	func(v *gpu.Vitals) { v.NVLinks[0].Active = false },
	func(v *gpu.Vitals) { v.PCIe.Width = ref[int64](8) },
	func(v *gpu.Vitals) { v.RecoveryAction = "reset" },
	func(v *gpu.Vitals) { *v.ECC.VolatileUncorrected, *v.ECC.SRAMUncorrected = 1, 1 },
}

func (tr *trace) step() {
	board := rapid.IntRange(0, traceBoards-1).Draw(tr.rt, "board")
	switch rapid.SampledFrom([]string{
		"xid", "xid", "xid", "vitals", "vitals", "all vitals", "reset", "lose", "find", "fail", "stall",
		"short", "long", "long", "pass", "pass", "pass", "refuse", "restart", "reboot", "clear", "removed slice",
	}).Draw(tr.rt, "step") {
	case "xid":
		e := gpu.Event{Board: id(board), XID: rapid.IntRange(1, 180).Draw(tr.rt, "code")}
		if rapid.Bool().Draw(tr.rt, "slice") {
			e.GPUInstance = ref(rapid.IntRange(1, 3).Draw(tr.rt, "gi"))
		}
		tr.event(e)
	case "vitals":
		tr.set(board, rapid.SampledFrom(troubles).Draw(tr.rt, "trouble"))
	case "all vitals":
		trouble := rapid.SampledFrom(troubles).Draw(tr.rt, "trouble")
		for i := range traceBoards {
			v := good()
			trouble(&v)
			tr.vitals[id(i)] = v
		}
		tr.keepReading(6 * time.Minute)
	case "reset":
		tr.event(gpu.Event{Board: id(board), Reset: true})
		tr.reset(board)
	case "lose":
		tr.inv.Boards[board].Fault = "lost"
		tr.look()
	case "find":
		tr.inv.Boards[board].Fault = ""
		tr.look()
	case "fail":
		tr.tracker.ObserveFailure(tr.now, errors.New("the driver hangs"))
	case "stall":
		tr.tracker.ObserveStall(rapid.SampledFrom([]time.Time{{}, tr.now}).Draw(tr.rt, "since"), nil)
	case "short":
		tr.pass(time.Duration(rapid.IntRange(1, 120).Draw(tr.rt, "seconds")) * time.Second)
		tr.read()
	case "long":
		tr.pass(time.Duration(rapid.IntRange(1, 600).Draw(tr.rt, "minutes")) * time.Minute)
		tr.look()
	case "pass":
		for _, c := range tr.tracker.Due(tr.now) {
			tr.passed[c.Device] = true
		}
		tr.check(nil)
	case "refuse":
		tr.check(errors.New("not yet"))
	case "restart":
		tr.restarted("boot-1")
	case "reboot":
		tr.restarted(rapid.StringMatching(`boot-[2-9]`).Draw(tr.rt, "boot"))
	case "clear":
		if tr.tracker.Clear(tr.now, id(board)) == nil {
			for device := range tr.returned {
				if device == id(board) || board == 0 {
					delete(tr.returned, device)
				}
			}
		}
	case "removed slice":
		n := rapid.IntRange(1, 3).Draw(tr.rt, "slices")
		tr.inv.Boards[0].Slices = slicesOf(n)
		tr.look()
	}
}

// restarted is a restart, after which the tracker must know what it knew.
func (tr *trace) restarted(boot string) {
	tr.tracker.ObserveStall(time.Time{}, nil) // not of the past
	tr.look()
	before := tr.tracker.Report()
	tr.restart("boot-1", tr.config)
	tr.look()
	if diff := cmp.Diff(before, tr.tracker.Report()); diff != "" {
		tr.rt.Fatalf("a restart of the plugin changes (-before +after):\n%s", diff)
	}
	tr.restart(boot, tr.config)
	tr.look()
	tr.restart("boot-1", tr.config)
	tr.look()
}

func slicesOf(n int) []gpu.Slice {
	var all []gpu.Slice
	for i := range n {
		all = append(all, gpu.Slice{ID: gpu.ID("MIG-" + string(rune('a'+i))), Index: i, GPUInstance: ref(i + 1)})
	}
	return all
}

func TestPromises(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := quick()
		c.BreakerShare = rapid.SampledFrom([]float64{0.2, 0.5, 1}).Draw(rt, "share")
		c.MaxAttempts = rapid.IntRange(1, 3).Draw(rt, "attempts")
		c.HoldDown = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(rt, "hold-down")
		tr := &trace{
			node: newNode(t, traceBoards, c), rt: rt, config: c,
			returned: map[gpu.ID][]time.Time{}, condemned: map[health.Signal]map[gpu.ID][]time.Time{},
		}
		tr.inv.Boards[0].MIG, tr.inv.Boards[0].Slices = true, slicesOf(3)
		tr.look()
		tr.before = tr.tracker.Report()
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			tr.passed = map[gpu.ID]bool{}
			tr.step()
			tr.verify()
		}
	})
}

func (tr *trace) verify() {
	after := tr.tracker.Report()
	was := map[gpu.ID]health.DeviceReport{}
	for _, d := range tr.before.Devices {
		was[d.ID] = d
	}
	faults := tr.tracker.Faults()
	for _, d := range after.Devices {
		old, known := was[d.ID]
		if (d.State == health.Healthy) != (d.Reason == "") || d.Reason != "" && !strings.Contains(d.Reason, "2026-") {
			tr.rt.Fatalf("%s is %s, and its reason is %q", d.ID, d.State, d.Reason)
		}
		if _, faulty := faults[d.ID]; d.State != health.Healthy && !faulty {
			tr.rt.Fatalf("%s is %s and gets new work", d.ID, d.State)
		}
		if known && old.State != health.Healthy && d.State == health.Healthy {
			if !tr.passed[d.ID] {
				tr.rt.Fatalf("%s returned to service without a check that passed; it was %+v", d.ID, old)
			}
			tr.countReturn(d)
		}
		if !known || d.ID != d.Board && d.Board != "" {
			continue
		}
		for _, c := range d.Conditions {
			i := slices.IndexFunc(old.Conditions, func(o health.ConditionReport) bool { return o.Signal == c.Signal && o.First.Equal(c.First) })
			if c.Severity == health.Unhealthy && !c.Suppressed && i < 0 {
				tr.countCondemned(c.Signal, d.ID, c.First)
			}
		}
	}
	for id, f := range faults {
		if f.OK() || !slices.Contains([]gpustatus.Action{gpustatus.Keep, gpustatus.Move, gpustatus.End}, f.Action) {
			tr.rt.Fatalf("%s has the fault %+v", id, f)
		}
	}
	if next := tr.tracker.Next(tr.now); !next.IsZero() && !next.After(tr.now) {
		tr.rt.Fatalf("at %s something is due at %s", tr.now, next)
	}
	tr.before = after
}

// countReturn checks that a device does not return more often than allowed.
func (tr *trace) countReturn(d health.DeviceReport) {
	recent := slices.DeleteFunc(tr.returned[d.ID], func(at time.Time) bool { return tr.now.Sub(at) >= tr.config.Settle })
	tr.returned[d.ID] = append(recent, tr.now)
	if len(tr.returned[d.ID]) > tr.config.MaxAttempts {
		tr.rt.Fatalf("%s returned to service at %v, with %d attempts allowed", d.ID, tr.returned[d.ID], tr.config.MaxAttempts)
	}
}

// countCondemned checks that a soft signal does not condemn more boards within
// a window than the breaker allows.
func (tr *trace) countCondemned(s health.Signal, board gpu.ID, now time.Time) {
	switch s {
	case health.Lost, health.ECCUncorrectable, health.RemapFailed, health.PagesExhausted:
		return // facts
	}
	if tr.condemned[s] == nil {
		tr.condemned[s] = map[gpu.ID][]time.Time{}
	}
	tr.condemned[s][board] = append(tr.condemned[s][board], now)
	within := 0
	for _, times := range tr.condemned[s] {
		if slices.ContainsFunc(times, func(at time.Time) bool { return now.Sub(at) < tr.config.BreakerWindow }) {
			within++
		}
	}
	if bound := max(1, int(tr.config.BreakerShare*traceBoards)); within > bound {
		tr.rt.Fatalf("%s condemned %d boards within %s, and the bound is %d", s, within, tr.config.BreakerWindow, bound)
	}
}

// TestApplicationsNeverCondemn sends what programs do wrong, in any order and
// number, with and without slices.
func TestApplicationsNeverCondemn(t *testing.T) {
	var harmless []int
	for _, x := range health.Catalogue() {
		if x.Class == health.Application || x.Resolution == health.RestartApp {
			harmless = append(harmless, x.Code)
		}
	}
	if len(harmless) < 50 || !slices.Contains(harmless, 13) || !slices.Contains(harmless, 94) {
		t.Fatalf("codes of applications: %v", harmless)
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := newNode(t, 2, quick())
		n.inv.Boards[0].MIG, n.inv.Boards[0].Slices = true, slicesOf(3)
		n.look()
		for range rapid.IntRange(1, 60).Draw(rt, "events") {
			e := gpu.Event{Board: id(rapid.IntRange(0, 1).Draw(rt, "board")), XID: rapid.SampledFrom(harmless).Draw(rt, "code"), PID: 1}
			if rapid.Bool().Draw(rt, "slice") {
				e.GPUInstance = ref(rapid.IntRange(1, 4).Draw(rt, "gi"))
			}
			n.event(e)
			n.pass(time.Duration(rapid.IntRange(0, 600).Draw(rt, "seconds")) * time.Second)
			n.read()
			if f := n.tracker.Faults(); len(f) != 0 {
				rt.Fatalf("after %+v: %v", e, f)
			}
		}
	})
}
