package failover

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/gpustatus"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func fault(a gpustatus.Action) *Fault {
	return &Fault{NodeID: "n", NodeName: "gpu-01", Device: "GPU-a", Reason: "broken", Action: a}
}

func move(p Phase) *Move { return &Move{Phase: p, Seen: noon} }

func TestNext(t *testing.T) {
	tests := map[string]struct {
		s    Situation
		want Step
	}{
		"well":                                   {Situation{Checkpoints: true}, Nothing},
		"it may finish":                          {Situation{Fault: fault(gpustatus.Keep), Checkpoints: true}, Nothing},
		"it is to leave":                         {Situation{Fault: fault(gpustatus.Move), Checkpoints: true}, Ask},
		"it makes no checkpoints":                {Situation{Fault: fault(gpustatus.Move)}, Leave},
		"its device is gone":                     {Situation{Fault: fault(gpustatus.End), Checkpoints: true}, Leave},
		"it was moved often":                     {Situation{Fault: fault(gpustatus.Move), Checkpoints: true, Moves: MaxMoves}, Nothing},
		"it was moved often, its device is gone": {Situation{Fault: fault(gpustatus.End), Moves: MaxMoves}, Nothing},
		"it was moved, but not too often":        {Situation{Fault: fault(gpustatus.Move), Checkpoints: true, Moves: MaxMoves - 1}, Ask},

		"asked, no checkpoint yet":    {Situation{Fault: fault(gpustatus.Move), Move: move(Asked), Checkpoints: true}, Wait},
		"asked, an old checkpoint":    {Situation{Fault: fault(gpustatus.Move), Move: move(Asked), Checkpoints: true, Sealed: noon.Add(-time.Second)}, Wait},
		"asked, a new checkpoint":     {Situation{Fault: fault(gpustatus.Move), Move: move(Asked), Checkpoints: true, Sealed: noon.Add(time.Second)}, Leave},
		"asked, and its time is up":   {Situation{Fault: fault(gpustatus.Move), Move: move(Asked), Checkpoints: true, Now: noon.Add(CheckpointTimeout)}, Leave},
		"asked, a moment before that": {Situation{Fault: fault(gpustatus.Move), Move: move(Asked), Checkpoints: true, Now: noon.Add(CheckpointTimeout - 1)}, Wait},
		"asked, and it got worse":     {Situation{Fault: fault(gpustatus.End), Move: move(Asked), Checkpoints: true}, Leave},
		"asked, and it is well again": {Situation{Move: move(Asked), Checkpoints: true}, Stay},
		"asked, now it may finish":    {Situation{Fault: fault(gpustatus.Keep), Move: move(Asked), Checkpoints: true}, Stay},

		"leaving":                        {Situation{Fault: fault(gpustatus.Move), Move: move(Leaving)}, Leave},
		"leaving, and it is well again":  {Situation{Move: move(Leaving)}, Leave},
		"it stayed, and is well":         {Situation{Move: move(Stayed), Checkpoints: true}, Nothing},
		"it stayed, and is to leave now": {Situation{Fault: fault(gpustatus.Move), Move: move(Stayed), Checkpoints: true}, Ask},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.s.Now.IsZero() {
				tt.s.Now = noon
			}
			if got := Next(tt.s); got != tt.want {
				t.Errorf("Next = %s, want %s", got, tt.want)
			}
		})
	}
}

// However a device's health goes, a task leaves at most MaxMoves times, only
// for a fault, never without having been asked while there was time, and always
// in the end if the fault lasts.
func TestNextHoldsForAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := noon
		var m *Move
		moves := 0
		checkpoints := rapid.Bool().Draw(t, "makes checkpoints")
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "seconds")) * time.Second)
			s := Situation{Move: m, Moves: moves, Checkpoints: checkpoints, Now: at}
			if a := rapid.SampledFrom([]gpustatus.Action{"", gpustatus.Keep, gpustatus.Move, gpustatus.End}).Draw(t, "health"); a != "" {
				s.Fault = fault(a)
			}
			if checkpoints && rapid.Bool().Draw(t, "sealed") {
				s.Sealed = at.Add(-time.Second)
			}
			switch step := Next(s); step {
			case Nothing:
				if m.Open() && moves < MaxMoves {
					t.Fatalf("forgotten: %+v", s)
				}
			case Ask:
				if m.Open() || !checkpoints || s.Fault.Action != gpustatus.Move {
					t.Fatalf("asked: %+v", s)
				}
				m = &Move{Phase: Asked, Seen: at}
			case Wait:
				if !m.Open() || s.Fault.Action != gpustatus.Move || at.Sub(m.Seen) >= CheckpointTimeout {
					t.Fatalf("waits: %+v", s)
				}
			case Stay:
				if !m.Open() || s.Fault != nil && s.Fault.Action != gpustatus.Keep {
					t.Fatalf("stays: %+v", s)
				}
				m.Phase = Stayed
			case Leave:
				if s.Fault == nil || s.Fault.Action == gpustatus.Keep {
					t.Fatalf("left a device that is well: %+v", s)
				}
				if s.Fault.Action == gpustatus.Move && checkpoints && !m.Open() {
					t.Fatalf("left without having been asked: %+v", s)
				}
				m = nil // a new attempt
				if moves++; moves > MaxMoves {
					t.Fatalf("moved %d times", moves)
				}
			}
		}
	})
}

func TestFaults(t *testing.T) {
	n := Node{ID: "n", Name: "gpu-01", Index: 7, Devices: []Device{
		{ID: "GPU-a", Board: "A100", Healthy: true},
		{ID: "GPU-b", Board: "A100", Description: gpustatus.Describe("Xid 79: gone", gpustatus.End)},
		{ID: "GPU-c", Board: "A100", Description: "another plugin's words"},
		{ID: "GPU-d", Board: "A100"},
	}}
	want := []Fault{
		{NodeID: "n", NodeName: "gpu-01", Device: "GPU-b", Board: "A100", Reason: "Xid 79: gone", Action: gpustatus.End, Index: 7},
		{NodeID: "n", NodeName: "gpu-01", Device: "GPU-c", Board: "A100", Reason: "another plugin's words", Action: gpustatus.Move, Index: 7},
		{NodeID: "n", NodeName: "gpu-01", Device: "GPU-d", Board: "A100", Reason: "unhealthy", Action: gpustatus.Move, Index: 7},
	}
	if diff := cmp.Diff(want, n.Faults()); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestWorst(t *testing.T) {
	faults := []Fault{
		{NodeID: "n", Device: "keep", Action: gpustatus.Keep, Index: 10},
		{NodeID: "n", Device: "move", Action: gpustatus.Move, Index: 10},
		{NodeID: "n", Device: "move too", Action: gpustatus.Move, Index: 10},
		{NodeID: "n", Device: "end", Action: gpustatus.End, Index: 10},
	}
	tests := map[string]struct {
		node    string
		devices []string
		placed  uint64
		want    string
	}{
		"none of them":               {"n", []string{"other"}, 5, ""},
		"no devices":                 {"n", nil, 5, ""},
		"of another node":            {"m", []string{"end"}, 5, ""},
		"one":                        {"n", []string{"other", "keep"}, 5, "keep"},
		"the worst":                  {"n", []string{"move", "keep", "end"}, 5, "end"},
		"the first of equals":        {"n", []string{"move too", "move"}, 5, "move"},
		"placed after it was told":   {"n", []string{"end"}, 11, ""},
		"placed just as it was told": {"n", []string{"end"}, 10, "end"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := Worst(faults, tt.node, tt.devices, tt.placed)
			if got.Device != tt.want || ok != (tt.want != "") {
				t.Errorf("Worst = %q, %v; want %q", got.Device, ok, tt.want)
			}
		})
	}
}

func TestLeave(t *testing.T) {
	start, sealed, end := noon, noon.Add(time.Minute), noon.Add(90*time.Second)
	tests := map[string]struct {
		r       Remains
		steps   *int64
		seconds *float64
	}{
		"a checkpoint":              {Remains{At: end, Started: start, Checkpoint: new(int64(100)), Sealed: sealed, Reached: new(int64(130))}, new(int64(30)), new(30.0)},
		"no checkpoint":             {Remains{At: end, Started: start, Reached: new(int64(130))}, new(int64(130)), new(90.0)},
		"it never told its step":    {Remains{At: end, Started: start, Checkpoint: new(int64(100)), Sealed: sealed}, nil, new(30.0)},
		"it never started":          {Remains{At: end}, nil, nil},
		"a step told late":          {Remains{At: end, Started: start, Checkpoint: new(int64(100)), Sealed: sealed, Reached: new(int64(90))}, new(int64(0)), new(30.0)},
		"the node's clock is ahead": {Remains{At: end, Started: start, Checkpoint: new(int64(1)), Sealed: end.Add(time.Hour)}, nil, new(0.0)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := move(Leaving)
			m.Leave(tt.r)
			want := &Move{Phase: Left, Seen: noon, Stopped: &end, Checkpoint: tt.r.Checkpoint, LostSteps: tt.steps, LostSeconds: tt.seconds}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Errorf("move (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTaskFault(t *testing.T) {
	err := gpustatus.TaskError(gpustatus.Device{ID: "GPU-a", Reason: "Xid 79: gone"})
	f, ok := TaskFault("Exit Message: "+err.Error(), "n", "gpu-01")
	want := Fault{NodeID: "n", NodeName: "gpu-01", Device: "GPU-a", Reason: "Xid 79: gone", Action: gpustatus.End}
	if !ok || f != want {
		t.Errorf("fault = %+v, %v; want %+v", f, ok, want)
	}
	if why := f.Why(); why != "moved off GPU-a on node gpu-01: Xid 79: gone" {
		t.Errorf("why = %q", why)
	}
	if _, ok := TaskFault("it ran out of memory", "n", "gpu-01"); ok {
		t.Error("another error is taken for a GPU's")
	}
}
