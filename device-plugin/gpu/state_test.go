package gpu_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func TestNext(t *testing.T) {
	const gone = "the driver no longer lists this GPU"
	tests := []struct {
		name   string
		before gpu.Inventory
		change func(*gpu.Inventory)
		want   map[gpu.ID]string
	}{
		{
			name:   "nothing changes",
			before: healthy(2),
			change: func(*gpu.Inventory) {},
			want:   map[gpu.ID]string{"GPU-0": "", "GPU-1": ""},
		},
		{
			name:   "a known board does not tell its ID any more",
			before: healthy(3),
			change: func(inv *gpu.Inventory) {
				inv.Boards = slices.Delete(inv.Boards, 1, 2)
				inv.Lost = []gpu.Lost{{Index: 1, Reason: "lost"}}
			},
			want: map[gpu.ID]string{"GPU-0": "", "GPU-1": "lost", "GPU-2": ""},
		},
		{
			name:   "a lost board is at another index",
			before: healthy(3),
			change: func(inv *gpu.Inventory) {
				inv.Boards = slices.Delete(inv.Boards, 0, 1)
				inv.Lost = []gpu.Lost{{Index: 2, Reason: "lost"}}
			},
			want: map[gpu.ID]string{"GPU-0": "lost", "GPU-1": "", "GPU-2": ""},
		},
		{
			name:   "a board left without a word",
			before: healthy(2),
			change: func(inv *gpu.Inventory) { inv.Boards = inv.Boards[:1] },
			want:   map[gpu.ID]string{"GPU-0": "", "GPU-1": gone},
		},
		{
			name:   "a board that was never seen is lost",
			before: gpu.Inventory{},
			change: func(inv *gpu.Inventory) {
				*inv = healthy(1)
				inv.Lost = []gpu.Lost{{Index: 1, Reason: "lost"}}
			},
			want: map[gpu.ID]string{"GPU-0": ""},
		},
		{
			name:   "a board tells its ID and nothing else",
			before: healthy(1),
			change: func(inv *gpu.Inventory) { inv.Boards[0] = gpu.Board{ID: "GPU-0", Fault: "lost"} },
			want:   map[gpu.ID]string{"GPU-0": "lost"},
		},
		{
			name:   "a board goes into MIG mode without slices",
			before: healthy(1),
			change: func(inv *gpu.Inventory) { inv.Boards[0] = sliced(inv.Boards[0]) },
			want:   map[gpu.ID]string{},
		},
		{
			name:   "slices at indexes with gaps",
			before: healthy(1),
			change: func(inv *gpu.Inventory) { inv.Boards[0] = sliced(inv.Boards[0], 0, 2, 5) },
			want:   map[gpu.ID]string{"MIG-0-0": "", "MIG-0-2": "", "MIG-0-5": ""},
		},
		{
			name:   "a slice is removed, another does not answer",
			before: gpu.Inventory{Boards: []gpu.Board{sliced(healthy(1).Boards[0], 0, 1, 2)}},
			change: func(inv *gpu.Inventory) {
				inv.Boards[0] = sliced(inv.Boards[0], 0)
				inv.Boards[0].LostSlices = []gpu.Lost{{Index: 2, Reason: "no answer"}}
			},
			want: map[gpu.ID]string{"MIG-0-0": "", "MIG-0-2": "no answer"},
		},
		{
			name:   "a board fails with its slices",
			before: gpu.Inventory{Boards: []gpu.Board{sliced(healthy(1).Boards[0], 0, 1)}},
			change: func(inv *gpu.Inventory) {
				inv.Boards[0].Slices = nil
				inv.Boards[0].MIG = false
				inv.Boards[0].Fault = "lost"
			},
			want: map[gpu.ID]string{"MIG-0-0": "lost", "MIG-0-1": "lost"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := gpu.State{}.Next(tt.before)
			inv := clone(tt.before)
			tt.change(&inv)
			if diff := cmp.Diff(tt.want, faults(s.Next(inv))); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func clone(inv gpu.Inventory) gpu.Inventory {
	inv.Boards = slices.Clone(inv.Boards)
	inv.Lost = slices.Clone(inv.Lost)
	return inv
}

func TestFailedAndBack(t *testing.T) {
	seen := gpu.State{}.Next(healthy(2))
	failed := seen.Failed("driver/library version mismatch")
	want := map[gpu.ID]string{"GPU-0": "driver/library version mismatch", "GPU-1": "driver/library version mismatch"}
	if diff := cmp.Diff(want, faults(failed)); diff != "" {
		t.Errorf("after a failure (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[gpu.ID]string{"GPU-0": "", "GPU-1": ""}, faults(seen)); diff != "" {
		t.Errorf("the state before changed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[gpu.ID]string{"GPU-0": "", "GPU-1": ""}, faults(failed.Next(healthy(2)))); diff != "" {
		t.Errorf("after recovery (-want +got):\n%s", diff)
	}
	if n := len((gpu.State{}).Failed("no").Devices); n != 0 {
		t.Errorf("a failure before anything was seen lists %d devices", n)
	}
}

// TestActions: only work whose device is gone cannot go on, and a driver that
// does not answer is no reason to end any.
func TestActions(t *testing.T) {
	inv := healthy(4)
	inv.Boards[3] = sliced(inv.Boards[3], 0, 1)
	s := gpu.State{}.Next(inv)
	next := clone(inv)
	next.Boards[0].Fault = "needs a reset"
	next.Boards[1].Fault, next.Boards[1].FaultAction = "lost", gpustatus.End
	next.Boards[3].Slices = slices.Clone(next.Boards[3].Slices)
	next.Boards[3].Slices[1].Fault = "no answer"
	next.Boards = slices.Delete(next.Boards, 2, 3)
	s = s.Next(next)
	want := map[gpu.ID]gpustatus.Action{"GPU-0": gpustatus.Move, "GPU-1": gpustatus.End, "GPU-2": gpustatus.End, "MIG-3-0": "", "MIG-3-1": gpustatus.Move}
	if diff := cmp.Diff(want, actions(s)); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	want["MIG-3-0"] = gpustatus.Keep
	failed := s.Failed("mismatch").Failed("still")
	if diff := cmp.Diff(want, actions(failed)); diff != "" {
		t.Errorf("actions while the driver fails (-want +got):\n%s", diff)
	}
	if got := faults(failed); got["MIG-3-0"] != "still" || got["GPU-1"] != "lost" {
		t.Errorf("faults while the driver fails: %v", got)
	}
}

func actions(s gpu.State) map[gpu.ID]gpustatus.Action {
	m := make(map[gpu.ID]gpustatus.Action)
	for _, d := range s.Devices {
		m[d.ID] = d.Fault.Action
	}
	return m
}

// TestNextProperties drives a state through random readings of a machine of
// six boards and checks what must hold after each.
func TestNextProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := gpu.State{}
		everSeen := map[gpu.ID]bool{}
		for range rapid.IntRange(1, 8).Draw(t, "readings") {
			inv := randomReading(t)
			if rapid.IntRange(0, 5).Draw(t, "fails") == 0 {
				before := len(s.Devices)
				s = s.Failed("down")
				if len(s.Devices) != before {
					t.Fatalf("a failed reading changed %d devices into %d", before, len(s.Devices))
				}
				continue
			}
			s = s.Next(inv)
			checkState(t, s, inv, everSeen)
			for _, d := range s.Devices {
				everSeen[d.ID] = true
			}
		}
	})
}

func randomReading(t *rapid.T) gpu.Inventory {
	all := healthy(6)
	inv := gpu.Inventory{}
	for i, b := range all.Boards {
		switch rapid.SampledFrom([]string{"ok", "ok", "mig", "fault", "lost", "gone"}).Draw(t, "board") {
		case "ok":
			inv.Boards = append(inv.Boards, b)
		case "mig":
			inv.Boards = append(inv.Boards, sliced(b, rapid.SliceOfNDistinct(rapid.IntRange(0, 6), 0, 4, rapid.ID).Draw(t, "slices")...))
		case "fault":
			b.Fault = "fault"
			inv.Boards = append(inv.Boards, b)
		case "lost":
			inv.Lost = append(inv.Lost, gpu.Lost{Index: i, Reason: "lost"})
		}
	}
	return inv
}

func checkState(t *rapid.T, s gpu.State, inv gpu.Inventory, everSeen map[gpu.ID]bool) {
	ids := map[gpu.ID]bool{}
	for _, d := range s.Devices {
		if ids[d.ID] {
			t.Fatalf("%s is listed twice", d.ID)
		}
		ids[d.ID] = true
		if d.Name == "" {
			t.Fatalf("%s has no name", d.ID)
		}
	}
	for _, b := range inv.Boards {
		d, offered := s.Find(b.ID)
		switch {
		case b.MIG && b.Fault == "" && offered:
			t.Fatalf("%s is in MIG mode and offered as a whole", b.ID)
		case !b.MIG && b.Fault == "" && (!offered || !d.Fault.OK()):
			t.Fatalf("healthy board %s is not offered: %+v", b.ID, d)
		}
		for _, slice := range b.Slices {
			if d, ok := s.Find(slice.ID); !ok || d.Fault.Reason != b.Fault {
				t.Fatalf("slice %s of a board with fault %q is %+v", slice.ID, b.Fault, d)
			}
		}
	}
	for _, d := range s.Devices {
		board := slices.IndexFunc(inv.Boards, func(b gpu.Board) bool { return b.ID == d.Parent })
		if board < 0 && d.Fault.OK() {
			t.Fatalf("%s is not in the reading and healthy", d.ID)
		}
		if board < 0 && !everSeen[d.ID] {
			t.Fatalf("%s came from nowhere", d.ID)
		}
	}
}
