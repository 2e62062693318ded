package health_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

func TestBreaker(t *testing.T) {
	tests := []struct {
		name   string
		boards int
		share  float64
		cause  func(n *node, board int)
		want   int
	}{
		{"half of eight", 8, 0.5, func(n *node, b int) { n.xid(b, 119) }, 4},
		{"a quarter of eight", 8, 0.25, func(n *node, b int) { n.xid(b, 119) }, 2},
		{"at least one", 4, 0.1, func(n *node, b int) { n.xid(b, 119) }, 1},
		{"turned off", 4, 1, func(n *node, b int) { n.xid(b, 119) }, 4},
		{"the only one", 1, 0.5, func(n *node, b int) { n.xid(b, 119) }, 1},
		{"a reading", 8, 0.5, func(n *node, b int) { n.set(b, func(v *gpu.Vitals) { v.RemappedRows.Pending = true }) }, 4},
		{"a claim that boards are lost", 8, 0.5, func(n *node, b int) { n.xid(b, 79) }, 4},
		{"a lost board is a fact", 8, 0.5, func(n *node, b int) { n.inv.Boards[b].Fault = "lost"; n.look() }, 8},
		{"memory that is wrong is a fact", 8, 0.5, func(n *node, b int) {
			n.set(b, func(v *gpu.Vitals) { *v.ECC.VolatileUncorrected, *v.ECC.SRAMUncorrected = 1, 1 })
		}, 8},
		{"different codes", 8, 0.25, func(n *node, b int) { n.xid(b, 119+b%2) }, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := quick()
			c.BreakerShare = tt.share
			n := newNode(t, tt.boards, c)
			for b := range tt.boards {
				tt.cause(n, b)
			}
			if got := len(n.tracker.Faults()); got != tt.want {
				t.Errorf("%d of %d condemned, want %d", got, tt.boards, tt.want)
			}
			warned := len(n.tracker.Report().Warnings) > 0
			if warned != (tt.want < tt.boards) {
				t.Errorf("warnings %q", n.tracker.Report().Warnings)
			}
		})
	}
}

func TestBreakerCloses(t *testing.T) {
	n := newNode(t, 4, quick()) // two of four
	for b := range 4 {
		n.xid(b, 119)
	}
	warnings := n.tracker.Report().Warnings
	if len(warnings) != 1 || !strings.Contains(warnings[0], "circuit breaker: xid-119 (Xid 119: the GPU system processor does not answer) was seen on more than 2 of 4 GPUs within 10m0s") {
		t.Fatalf("warnings %q", warnings)
	}
	held := n.device(id(3)).Conditions[0]
	if held.Severity != health.Degraded || !held.Suppressed {
		t.Errorf("the GPU that was not condemned: %+v", held)
	}
	n.set(3, func(v *gpu.Vitals) { v.RemappedRows.Failed = true })
	if n.state(3) != health.Condemned {
		t.Error("a fact does not condemn while the breaker is open")
	}
	n.pass(20 * time.Minute)
	n.xid(2, 119)
	if n.state(2) != health.Healthy {
		t.Error("the signal condemns while the breaker is open")
	}
	n.pass(30 * time.Minute) // quiet: what was held back is over
	n.pass(time.Second)
	if w := n.tracker.Report().Warnings; len(w) != 0 {
		t.Errorf("warnings %q after it was quiet", w)
	}
	n.xid(2, 119)
	if n.state(2) != health.Condemned {
		t.Error("the signal does not condemn after the breaker closed")
	}
}

// TestBreakerStaysOpen is a signal that is wrong on all boards all the time:
// it must not take the node board by board.
func TestBreakerStaysOpen(t *testing.T) {
	n := newNode(t, 8, quick())
	for b := range 8 {
		v := good()
		v.PCIe.Width = ref[int64](8)
		n.vitals[id(b)] = v
	}
	n.keepReading(24 * time.Hour)
	if got := len(n.tracker.Faults()); got != 4 {
		t.Errorf("%d of 8 condemned after a day", got)
	}
}

// TestBreakerCountsLateVerdicts has conditions that begin to condemn only when
// the boards leave MIG mode.
func TestBreakerCountsLateVerdicts(t *testing.T) {
	n := newNode(t, 4, quick())
	for b := range 4 {
		n.inv.Boards[b].MIG = true
	}
	n.look()
	for b := range 4 {
		n.xid(b, 74)
	}
	if f := n.tracker.Faults(); len(f) != 0 {
		t.Fatalf("NVLink matters in MIG mode: %v", f)
	}
	for b := range 4 {
		n.inv.Boards[b].MIG = false
	}
	n.look()
	if got := len(n.tracker.Faults()); got != 2 {
		t.Errorf("%d of 4 condemned", got)
	}
}
