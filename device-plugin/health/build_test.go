package health_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// node is a machine of boards GPU-0, GPU-1, ... whose health a tracker keeps,
// on a clock of its own.
type node struct {
	t       testing.TB
	tracker *health.Tracker
	now     time.Time
	inv     gpu.Inventory
	vitals  map[gpu.ID]gpu.Vitals
}

// quick is a configuration with round numbers.
func quick() health.Config {
	c := health.DefaultConfig()
	c.HoldDown, c.MaxHoldDown = time.Minute, 10*time.Minute
	return c
}

func newNode(t testing.TB, boards int, c health.Config) *node {
	t.Helper()
	tracker, err := health.NewTracker(c, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, tracker: tracker, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), vitals: map[gpu.ID]gpu.Vitals{}}
	for i := range boards {
		id := id(i)
		n.inv.Boards = append(n.inv.Boards, gpu.Board{ID: id, Index: i, Product: "H100"})
		n.vitals[id] = good()
	}
	n.look()
	n.read()
	return n
}

func id(i int) gpu.ID { return gpu.ID(fmt.Sprintf("GPU-%d", i)) }

// good are the vitals of a board in good health.
func good() gpu.Vitals {
	return gpu.Vitals{
		ECC:          &gpu.ECC{VolatileUncorrected: ref[int64](0), SRAMUncorrected: ref[int64](0), DRAMUncorrected: ref[int64](0)},
		RemappedRows: &gpu.RemappedRows{}, TemperatureC: ref[int64](50), SlowdownTemperatureC: ref[int64](90), Throttle: []gpu.ThrottleReason{},
		PCIe:     &gpu.PCIe{Generation: ref[int64](5), MaxGeneration: ref[int64](5), Width: ref[int64](16), MaxWidth: ref[int64](16), Replays: ref[int64](0)},
		NVLinks:  []gpu.NVLink{{Link: 0, Active: true, RecoveryErrors: ref[int64](0), CRCErrors: ref[int64](0)}, {Link: 1, Active: true}, {Link: 2}},
		EnergyMJ: ref[int64](1000), FabricState: "completed", RecoveryAction: "none",
	}
}

func ref[T any](v T) *T { return &v }

func (n *node) look()                   { n.tracker.ObserveInventory(n.now, n.inv) }
func (n *node) read()                   { n.tracker.ObserveVitals(n.now, n.vitals) }
func (n *node) pass(d time.Duration)    { n.now = n.now.Add(d); n.tracker.Tick(n.now) }
func (n *node) xid(board int, code int) { n.event(gpu.Event{Board: id(board), XID: code}) }
func (n *node) event(e gpu.Event)       { n.tracker.ObserveEvent(n.now, e) }

// set changes the vitals of a board, and reads.
func (n *node) set(board int, change func(*gpu.Vitals)) {
	v := good()
	change(&v)
	n.vitals[id(board)] = v
	n.read()
}

// keepReading reads every 15 seconds for a time.
func (n *node) keepReading(d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.pass(15 * time.Second)
		n.read()
	}
}

// check makes the checks that are due, with one result for all.
func (n *node) check(err error) int {
	due := n.tracker.Due(n.now)
	for _, c := range due {
		n.tracker.ObserveCheck(n.now, c, err)
	}
	return len(due)
}

// reset is a reset of a board: counting begins anew.
func (n *node) reset(board int) {
	for _, energy := range []int64{5000, 0} {
		n.set(board, func(v *gpu.Vitals) { v.EnergyMJ = &energy })
	}
}

func (n *node) device(id gpu.ID) health.DeviceReport {
	n.t.Helper()
	for _, d := range n.tracker.Report().Devices {
		if d.ID == id {
			return d
		}
	}
	n.t.Fatalf("%s is not in the report", id)
	panic("unreachable")
}

func (n *node) state(board int) health.State { n.t.Helper(); return n.device(id(board)).State }

func (n *node) fault(id gpu.ID) gpu.Fault { return n.tracker.Faults()[id] }
