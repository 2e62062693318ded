package health_test

import (
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// full is a machine of 8 boards of 7 slices.
func full(t testing.TB) *node {
	n := newNode(t, 8, quick())
	for b := range 8 {
		n.inv.Boards[b].MIG = true
		for s := range 7 {
			n.inv.Boards[b].Slices = append(n.inv.Boards[b].Slices, gpu.Slice{
				ID: gpu.ID("MIG-" + string(rune('a'+b)) + string(rune('a'+s))), Index: s, GPUInstance: ref(s + 1),
			})
		}
	}
	n.look()
	return n
}

// BenchmarkRound is what a full machine costs every 15 seconds: about 0.2 ms.
func BenchmarkRound(b *testing.B) {
	n := full(b)
	for b.Loop() {
		n.pass(15 * time.Second)
		n.look()
		n.read()
		n.tracker.Faults()
		n.tracker.Report()
	}
}

// BenchmarkEvent is what an event costs.
func BenchmarkEvent(b *testing.B) {
	n := full(b)
	for b.Loop() {
		n.event(gpu.Event{Board: id(3), XID: 13, GPUInstance: ref(2)})
		n.tracker.Faults()
	}
}
