package sharing_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

func ptr[T any](v T) *T { return &v }

const product = "NVIDIA L4"

// l4 is a board in the compute mode that MPS limits need.
func l4(n int) gpu.Board {
	return gpu.Board{
		ID: gpu.ID(fmt.Sprintf("GPU-%d", n)), Index: n, Product: product,
		Specs: gpu.Specs{
			MemoryMiB: ptr(int64(23034)), ComputeCapability: ptr(8.9), ComputeMode: "Exclusive_Process",
			Multiprocessors: ptr(int64(58)), Cores: ptr(int64(7424)),
		},
	}
}

// devices are those of a machine with the boards.
func devices(boards ...gpu.Board) []gpu.Device {
	return gpu.State{}.Next(gpu.Inventory{Boards: boards}).Devices
}

func plan(t testing.TB, blocks ...sharing.Block) sharing.Plan {
	t.Helper()
	p, err := sharing.NewPlan(blocks, false)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewPlanErrors(t *testing.T) {
	good := sharing.Block{Device: "model:NVIDIA L4", Mode: "mps", Replicas: 4}
	tests := []struct {
		name   string
		change func(*sharing.Block)
		want   []string // parts of the error; none is no error
	}{
		{name: "as it should be", change: func(*sharing.Block) {}},
		{name: "no device", change: func(b *sharing.Block) { b.Device = "" }, want: []string{`sharing[0].device: "": write a whole UUID`}},
		{name: "a model without its kind", change: func(b *sharing.Block) { b.Device = "NVIDIA L4" }, want: []string{`sharing[0].device: "NVIDIA L4"`, `"model:`}},
		{name: "no mode", change: func(b *sharing.Block) { b.Mode = "" }, want: []string{`sharing[0].mode: ""; it is "time-slicing" or "mps"`}},
		{name: "one replica", change: func(b *sharing.Block) { b.Replicas = 1 }, want: []string{"sharing[0].replicas: 1; a device has 2 to 48"}},
		{name: "more replicas than MPS has clients", change: func(b *sharing.Block) { b.Replicas = 49 }, want: []string{"sharing[0].replicas: 49"}},
		{name: "more threads than there are", change: func(b *sharing.Block) { b.ThreadPercent = 26 }, want: []string{"sharing[0].thread_percent: 4 replicas of 26 % are 104 %", "overcommit"}},
		{name: "as many threads as there are", change: func(b *sharing.Block) { b.ThreadPercent = 25 }},
		{name: "more threads on purpose", change: func(b *sharing.Block) { b.ThreadPercent, b.Overcommit = 50, true }},
		{name: "not a percentage", change: func(b *sharing.Block) { b.ThreadPercent, b.Overcommit = 101, true }, want: []string{"sharing[0].thread_percent: 101"}},
		{name: "memory", change: func(b *sharing.Block) { b.PinnedMemory = "5 GiB" }},
		{name: "memory without a unit", change: func(b *sharing.Block) { b.PinnedMemory = "5" }, want: []string{`sharing[0].pinned_memory: "5"; write at least 1 MiB as in "5 GiB"`}},
		{name: "no memory", change: func(b *sharing.Block) { b.PinnedMemory = "0 GiB" }, want: []string{"sharing[0].pinned_memory"}},
		{name: "negative memory", change: func(b *sharing.Block) { b.PinnedMemory = "-5 GiB" }, want: []string{"sharing[0].pinned_memory"}},
		{name: "endless memory", change: func(b *sharing.Block) { b.PinnedMemory = "NaN GiB" }, want: []string{"sharing[0].pinned_memory"}},
		{
			name:   "limits of time-slicing",
			change: func(b *sharing.Block) { b.Mode, b.ThreadPercent, b.PinnedMemory = "time-slicing", 25, "5 GiB" },
			want:   []string{"sharing[0].pinned_memory: time-slicing has no limits", "sharing[0].thread_percent: time-slicing has no limits"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := good
			tt.change(&b)
			_, err := sharing.NewPlan([]sharing.Block{b}, false)
			if len(tt.want) == 0 && err != nil {
				t.Fatalf("error %v, want none", err)
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
		})
	}
	t.Run("a device twice", func(t *testing.T) {
		_, err := sharing.NewPlan([]sharing.Block{good, good}, false)
		if want := "sharing[1].device"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	})
}

// TestSchema has the way of a configuration from the agent to a plan.
func TestSchema(t *testing.T) {
	sent, err := schema.Encode(schema.Object(map[string]*schema.Spec{"sharing": sharing.Schema()}), map[string]any{
		"sharing": []any{
			map[string]any{"device": "model:NVIDIA L4", "mode": "mps", "replicas": 4, "thread_percent": 25, "pinned_memory": "5 GiB", "overcommit": true},
			map[string]any{"device": "GPU-1", "mode": "time-slicing", "replicas": 2},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Sharing []sharing.Block `codec:"sharing"`
	}
	if err := schema.Decode(sent, &config); err != nil {
		t.Fatal(err)
	}
	want := []sharing.Block{
		{Device: "model:NVIDIA L4", Mode: "mps", Replicas: 4, ThreadPercent: 25, PinnedMemory: "5 GiB", Overcommit: true},
		{Device: "GPU-1", Mode: "time-slicing", Replicas: 2},
	}
	if diff := cmp.Diff(want, config.Sharing); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
}

func TestOf(t *testing.T) {
	mps := sharing.Block{Device: "model:NVIDIA*", Mode: "mps", Replicas: 4}
	equal := sharing.Share{Device: "GPU-0", Mode: sharing.MPS, Replicas: 4, Limits: sharing.Enforced, ThreadPercent: 25, MemoryMiB: 5758}
	tests := []struct {
		name      string
		block     func(*sharing.Block)
		board     func(*gpu.Board)
		simulated bool
		want      func(*sharing.Share)
		problem   string // part of the problem
	}{
		{name: "equal parts"},
		{
			name:  "parts as configured",
			block: func(b *sharing.Block) { b.ThreadPercent, b.PinnedMemory = 10, "2 GiB" },
			want:  func(s *sharing.Share) { s.ThreadPercent, s.MemoryMiB = 10, 2048 },
		},
		{
			name:  "decimal units",
			block: func(b *sharing.Block) { b.PinnedMemory = "5 GB" },
			want:  func(s *sharing.Share) { s.MemoryMiB = 4768 },
		},
		{
			name:    "more memory than there is",
			block:   func(b *sharing.Block) { b.PinnedMemory = "6 GiB" },
			want:    func(s *sharing.Share) { s.MemoryMiB = 6144 },
			problem: "4 replicas of 6144 MiB are more than its 23034 MiB",
		},
		{
			name:  "more memory on purpose",
			block: func(b *sharing.Block) { b.PinnedMemory, b.Overcommit = "20 GiB", true },
			want:  func(s *sharing.Share) { s.MemoryMiB = 20480 },
		},
		{
			name:    "more than the card for one of them",
			block:   func(b *sharing.Block) { b.PinnedMemory, b.Overcommit = "40 GiB", true },
			want:    func(s *sharing.Share) { s.MemoryMiB = 40960 },
			problem: "more than its 23034 MiB",
		},
		{
			name:    "its memory is not known",
			board:   func(b *gpu.Board) { b.Specs.MemoryMiB = nil },
			want:    func(s *sharing.Share) { s.MemoryMiB = 0 },
			problem: "its memory is not known",
		},
		{
			name:    "tasks could leave MPS",
			board:   func(b *gpu.Board) { b.Specs.ComputeMode = "Default" },
			problem: "in compute mode Default a task can leave MPS and its limits; run `nvidia-smi -i GPU-0 -c EXCLUSIVE_PROCESS`",
		},
		{
			name:    "the compute mode is not known",
			board:   func(b *gpu.Board) { b.Specs.ComputeMode = "" },
			problem: "in compute mode unknown",
		},
		{
			name:  "tasks are trusted",
			block: func(b *sharing.Block) { b.TrustTasks = true },
			board: func(b *gpu.Board) { b.Specs.ComputeMode = "Default" },
			want:  func(s *sharing.Share) { s.Limits = sharing.Trusted },
		},
		{
			name:    "too old for limits",
			board:   func(b *gpu.Board) { b.Specs.ComputeCapability = ptr(6.1) },
			problem: "from compute capability 7.0 on, and its is 6.1",
		},
		{
			name:      "nothing is there to limit",
			board:     func(b *gpu.Board) { b.Specs.ComputeMode = "" },
			simulated: true,
			want:      func(s *sharing.Share) { s.Limits = sharing.Simulated },
		},
		{
			name:  "time-slicing limits nothing",
			block: func(b *sharing.Block) { b.Mode = "time-slicing" },
			board: func(b *gpu.Board) { b.Specs.ComputeMode = "Default" },
			want: func(s *sharing.Share) {
				*s = sharing.Share{Device: "GPU-0", Mode: sharing.TimeSlicing, Replicas: 4, Limits: sharing.None}
			},
		},
		{
			name:  "time-slicing of a board for one process",
			block: func(b *sharing.Block) { b.Mode = "time-slicing" },
			want: func(s *sharing.Share) {
				*s = sharing.Share{Device: "GPU-0", Mode: sharing.TimeSlicing, Replicas: 4, Limits: sharing.None}
			},
			problem: "only one process can use it; run `nvidia-smi -i GPU-0 -c DEFAULT`",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			block, board, want := mps, l4(0), equal
			for _, change := range []func(){
				func() { apply(tt.block, &block) }, func() { apply(tt.board, &board) }, func() { apply(tt.want, &want) },
			} {
				change()
			}
			p, err := sharing.NewPlan([]sharing.Block{block}, tt.simulated)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := p.Of(devices(board)[0])
			if !ok || !strings.Contains(got.Problem, tt.problem) || (tt.problem == "") != (got.Problem == "") {
				t.Errorf("problem %q, want one with %q", got.Problem, tt.problem)
			}
			if got.Fault().OK() != (tt.problem == "") {
				t.Errorf("fault %+v", got.Fault())
			}
			got.Problem = ""
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("share (-want +got):\n%s", diff)
			}
		})
	}
}

func apply[T any](change func(*T), to *T) {
	if change != nil {
		change(to)
	}
}

func TestSlices(t *testing.T) {
	b := l4(0)
	b.MIG = true
	b.Slices = []gpu.Slice{{ID: "MIG-a", Profile: "3g.20gb", MemoryMiB: ptr(int64(19968))}, {ID: "MIG-b", Index: 1, Profile: "1g.5gb", MemoryMiB: ptr(int64(4864))}}
	all := devices(b)

	p := plan(t, sharing.Block{Device: "MIG-a", Mode: "mps", Replicas: 2}, sharing.Block{Device: "GPU-0", Mode: "time-slicing", Replicas: 3})
	first, _ := p.Of(all[0])
	if !strings.Contains(first.Problem, "a slice cannot be in compute mode Exclusive_Process") {
		t.Errorf("problem %q of MPS on a slice", first.Problem)
	}
	if second, ok := p.Of(all[1]); !ok || second.Mode != sharing.TimeSlicing || second.Replicas != 3 {
		t.Errorf("share %+v of the other slice, want that of its board", second)
	}
	p = plan(t, sharing.Block{Device: "MIG-a", Mode: "mps", Replicas: 2, TrustTasks: true})
	if s, _ := p.Of(all[0]); s.Problem != "" || s.MemoryMiB != 9984 {
		t.Errorf("share %+v of a slice whose tasks are trusted", s)
	}
	if _, ok := p.Of(all[1]); ok {
		t.Error("a slice that no block selects is shared")
	}
}

func TestUnmatched(t *testing.T) {
	p := plan(t,
		sharing.Block{Device: "GPU-0", Mode: "time-slicing", Replicas: 2},
		sharing.Block{Device: "model:NVIDIA L40S", Mode: "time-slicing", Replicas: 2},
	)
	if diff := cmp.Diff([]string{"model:NVIDIA L40S"}, p.Unmatched(devices(l4(0), l4(1)))); diff != "" {
		t.Errorf("unmatched (-want +got):\n%s", diff)
	}
}

func TestApply(t *testing.T) {
	all := devices(l4(0))
	tests := []struct {
		name   string
		block  sharing.Block
		access sharing.Access
		want   device.Reservation
		attrs  map[string]string
	}{
		{
			name:  "time-slicing",
			block: sharing.Block{Device: "GPU-0", Mode: "time-slicing", Replicas: 4},
			want:  device.Reservation{Env: map[string]string{"DROVER_GPU_SHARING": "time-slicing", "DROVER_GPU_SHARING_LIMITS": "none"}},
			attrs: map[string]string{"sharing_replicas": "4", "sharing_limits": "none"},
		},
		{
			name:   "mps",
			block:  sharing.Block{Device: "GPU-0", Mode: "mps", Replicas: 4, PinnedMemory: "5 GiB"},
			access: sharing.Access{PipeDir: "/run/mps/GPU-0/pipe"},
			want: device.Reservation{
				Env: map[string]string{
					"DROVER_GPU_SHARING": "mps", "DROVER_GPU_SHARING_LIMITS": "enforced", "CUDA_MPS_PIPE_DIRECTORY": "/run/mps/GPU-0/pipe",
					"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=5120M",
				},
				Mounts: []device.Mount{
					{TaskPath: "/run/mps/GPU-0/pipe", HostPath: "/run/mps/GPU-0/pipe"},
					{TaskPath: "/dev/shm", HostPath: "/dev/shm"},
				},
			},
			attrs: map[string]string{
				"sharing_replicas": "4", "sharing_limits": "enforced", "thread_percent": "25",
				"memory": "5120 MiB", "multiprocessors": "14", "cores": "1856",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := plan(t, tt.block).Of(all[0])
			got := device.Reservation{Env: map[string]string{}}
			s.Apply(&got, tt.access)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reservation (-want +got):\n%s", diff)
			}
			attrs := map[string]string{}
			for key, a := range s.Attributes(all[0]) {
				attrs[key] = strings.TrimSpace(fmt.Sprint(a.Value, " ", a.Unit))
			}
			if diff := cmp.Diff(tt.attrs, attrs); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTogether(t *testing.T) {
	offer := func(mode string) ([]gpu.Device, sharing.Plan) {
		p := plan(t, sharing.Block{Device: "model:" + product, Mode: mode, Replicas: 2})
		s := gpu.State{}.Next(gpu.Inventory{Boards: []gpu.Board{l4(0), l4(1)}})
		return s.Offer(gpu.Policy{Share: p.Share}, gpu.Overlay{}).Devices, p
	}
	replicas, p := offer("mps")
	if err := p.Together(replicas[:1]); err != nil {
		t.Errorf("one replica: %v", err)
	}
	for name, pair := range map[string][]gpu.Device{"of one board": replicas[:2], "of two boards": {replicas[0], replicas[2]}} {
		if err := p.Together(pair); err == nil {
			t.Errorf("no error of two MPS replicas %s", name)
		}
	}
	slices, p := offer("time-slicing")
	if err := p.Together(slices); err != nil {
		t.Errorf("time-slicing: %v", err)
	}
}

// TestProperties draws configurations and machines. A device is on offer either
// whole or as replicas; and what its replicas may use is no more than it has,
// unless somebody asked for that or they have a fault.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var blocks []sharing.Block
		for _, selector := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"GPU-0", "GPU-1", "MIG-1-0", "model:NVIDIA L4", "model:*MIG*", "index:2"}), rapid.ID).Draw(t, "selectors") {
			b := sharing.Block{Device: selector, Mode: rapid.SampledFrom([]string{"mps", "time-slicing"}).Draw(t, "mode"), Replicas: rapid.IntRange(2, 8).Draw(t, "replicas")}
			if b.Mode == "mps" {
				b.ThreadPercent = rapid.IntRange(0, 100).Draw(t, "percent")
				b.PinnedMemory = rapid.SampledFrom([]string{"", "1 GiB", "4 GiB", "12 GB", "30 GiB"}).Draw(t, "memory")
				b.Overcommit, b.TrustTasks = rapid.Bool().Draw(t, "overcommit"), rapid.Bool().Draw(t, "trust")
			}
			blocks = append(blocks, b)
		}
		p, err := sharing.NewPlan(blocks, false)
		if err != nil {
			return // limits of threads beyond the device
		}
		boards := []gpu.Board{l4(0), l4(1), l4(2)}
		if rapid.Bool().Draw(t, "MIG") {
			boards[1].MIG = true
			boards[1].Slices = []gpu.Slice{{ID: "MIG-1-0", Profile: "1g.5gb", MemoryMiB: ptr(int64(4864))}}
		}
		boards[2].Specs.MemoryMiB = rapid.SampledFrom([]*int64{nil, ptr(int64(3)), ptr(int64(100000))}).Draw(t, "memory of the last")
		state := gpu.State{}.Next(gpu.Inventory{Boards: boards})

		replicas := map[gpu.ID]int{}
		whole := map[gpu.ID]bool{}
		for _, d := range state.Offer(gpu.Policy{Share: p.Share}, gpu.Overlay{}).Devices {
			if d.Type == gpu.SharedType {
				replicas[d.Hardware]++
			} else {
				whole[d.Hardware] = true
			}
		}
		for _, d := range state.Devices {
			s, shared := p.Of(d)
			if shared == whole[d.ID] || replicas[d.ID] != s.Replicas {
				t.Fatalf("%s: whole %v, %d replicas, share %+v", d.ID, whole[d.ID], replicas[d.ID], s)
			}
			if !shared || s.Mode != sharing.MPS {
				continue
			}
			if s.ThreadPercent < 1 {
				t.Fatalf("%s: a replica of no threads: %+v", d.ID, s)
			}
			block := blocks[indexOf(blocks, d)]
			if s.Problem != "" || block.Overcommit {
				continue
			}
			if sum := s.MemoryMiB * int64(s.Replicas); sum > *d.Specs.MemoryMiB || s.MemoryMiB < 1 {
				t.Fatalf("%s: %d MiB of %d are given away: %+v", d.ID, sum, *d.Specs.MemoryMiB, s)
			}
			if sum := s.ThreadPercent * s.Replicas; sum > 100 {
				t.Fatalf("%s: %d %% of its threads are given away: %+v", d.ID, sum, s)
			}
		}
	})
}

// indexOf is the block that a device is shared by.
func indexOf(blocks []sharing.Block, d gpu.Device) int {
	for i, b := range blocks {
		if s, err := gpu.ParseSelector(b.Device); err == nil && s.Matches(d) {
			return i
		}
	}
	return -1
}

func FuzzPinnedMemory(f *testing.F) {
	for _, text := range []string{"5 GiB", "5GB", "1e3 MiB", "0.5 TiB", "", "-1 GiB", "9999999999 TiB", "5 GiB GiB"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := sharing.NewPlan([]sharing.Block{{Device: "GPU-0", Mode: "mps", Replicas: 2, PinnedMemory: text, Overcommit: true}}, false)
		if err != nil {
			return
		}
		if s, ok := p.Of(devices(l4(0))[0]); !ok || s.MemoryMiB < 1 {
			t.Errorf("%q is %d MiB", text, s.MemoryMiB)
		}
	})
}
