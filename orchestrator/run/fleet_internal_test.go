package run

import (
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/orchestrator/failover"
)

// When an incident ends, by what Nomad says of its device and by what was said
// before.
func TestIncidentIsOver(t *testing.T) {
	well := failover.Node{ID: "n", Devices: []failover.Device{{ID: "GPU-a", Healthy: true}}}
	ill := failover.Node{ID: "n", Devices: []failover.Device{{ID: "GPU-a"}}}
	without := failover.Node{ID: "n", Devices: []failover.Device{{ID: "GPU-b", Healthy: true}}}
	long, recent := time.Now().Add(-time.Hour), time.Now()
	tests := map[string]struct {
		open opened
		node failover.Node
		want bool
	}{
		"ill":                            {opened{told: true, at: long}, ill, false},
		"well":                           {opened{told: true, at: recent}, well, true},
		"well, but a task has just died": {opened{at: recent}, well, false},
		"well, and a task died long ago": {opened{at: long}, well, true},
		"missing for the first time":     {opened{told: true, at: long}, without, false},
		"missing for a moment":           {opened{told: true, at: long, missing: recent}, without, false},
		"missing for long":               {opened{told: true, at: long, missing: long}, without, true},
		"there again, but ill":           {opened{told: true, at: long, missing: long}, ill, false},
		"another node's news":            {opened{told: true, at: long}, failover.Node{ID: "m"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFleet(nil)
			p := place{"n", "GPU-a"}
			f.note(failover.Incident{ID: "i", Fault: failover.Fault{NodeID: p.node, Device: p.device, Action: gpustatus.Move}}, time.Time{})
			tt.open.incident = "i"
			f.open[p] = tt.open
			if got := len(f.over(tt.node)) == 1; got != tt.want {
				t.Errorf("over = %v, want %v", got, tt.want)
			}
			_, listed := f.open[p]
			if missing := !f.open[p].missing.IsZero(); listed && !tt.want && missing != (tt.node.ID == "n" && tt.node.Devices[0].ID != "GPU-a") {
				t.Errorf("missing = %v", missing)
			}
		})
	}
}
