package nvml

import (
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

func TestGate(t *testing.T) {
	one := 1
	type report struct {
		after time.Duration
		place string
		xid   int
		board gpu.ID
		slice *int
		want  bool
	}
	const s = time.Second
	tests := []struct {
		name    string
		reports []report
	}{
		{"two places", []report{{0, "log", 79, "A", nil, true}, {s, "NVML", 79, "A", nil, false}}},
		{"three places", []report{{0, "log", 79, "A", nil, true}, {s, "off", 79, "A", nil, false}, {s, "NVML", 79, "A", nil, false}}},
		{"twice in one place", []report{{0, "log", 13, "A", nil, true}, {s, "log", 13, "A", nil, true}}},
		{"twice in two places", []report{
			{0, "log", 13, "A", nil, true}, {0, "log", 13, "A", nil, true}, {s, "NVML", 13, "A", nil, false}, {s, "NVML", 13, "A", nil, false}, {s, "NVML", 13, "A", nil, true},
		}},
		{"other boards and codes", []report{{0, "log", 79, "A", nil, true}, {0, "NVML", 79, "B", nil, true}, {0, "NVML", 48, "A", nil, true}}},
		{"later", []report{{0, "log", 79, "A", nil, true}, {6 * s, "NVML", 79, "A", nil, true}}},
		{"tells the slice", []report{{0, "log", 94, "A", nil, true}, {s, "NVML", 94, "A", &one, true}}},
		{"told the slice", []report{{0, "log", 94, "A", &one, true}, {s, "NVML", 94, "A", &one, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g gate
			start := time.Now()
			for i, r := range tt.reports {
				e := gpu.Event{Time: start.Add(r.after), Board: r.board, XID: r.xid, GPUInstance: r.slice}
				if got := g.admit(e, r.place); got != r.want {
					t.Errorf("report %d is admitted: %t", i, got)
				}
			}
		})
	}
}

// TestFlood is that a board which reports all the time is heard, but not all
// the time.
func TestFlood(t *testing.T) {
	var g gate
	start := time.Now()
	admitted := 0
	for i := range 100_000 {
		if g.admit(gpu.Event{Time: start.Add(time.Duration(i) * 100 * time.Microsecond), Board: "A", XID: 13}, "log") {
			admitted++
		}
	}
	if admitted != mostReports {
		t.Errorf("%d of a flood within ten seconds came through, want %d", admitted, mostReports)
	}
	if !g.admit(gpu.Event{Time: start.Add(time.Second), Board: "A", XID: 79}, "log") {
		t.Error("another code was kept back")
	}
	if !g.admit(gpu.Event{Time: start.Add(2 * time.Minute), Board: "A", XID: 13}, "log") {
		t.Error("a report after the flood was kept back")
	}
}
