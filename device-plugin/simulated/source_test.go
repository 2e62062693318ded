package simulated

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// machine makes a preset's machine, of a node named n.
func machine(t *testing.T, preset string) Machine {
	t.Helper()
	m, err := Preset(preset)
	if err != nil {
		t.Fatal(err)
	}
	m.Node = "n"
	return m
}

// script reads a script.
func script(t *testing.T, src string) Script {
	t.Helper()
	s, err := ParseScript("faults.hcl", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a machine that has no processes of this host on it, and was
// booted now.
func start(t *testing.T, c Config) *Source {
	t.Helper()
	if c.ProcDir == "" {
		c.ProcDir = filepath.Join(t.TempDir(), "proc")
	}
	if c.Booted.IsZero() {
		c.Booted = time.Now()
	}
	s := New(c)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func inventory(t *testing.T, s *Source) gpu.Inventory {
	t.Helper()
	inv, err := s.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestFaultFile(t *testing.T) {
	m := machine(t, "2xa100-40gb/all-3g.20gb")
	boards := m.inventory(m.described()).Boards
	slice := func(board, index int) gpu.ID { return boards[board].Slices[index].ID }
	healthy := map[gpu.ID]string{slice(0, 0): "", slice(0, 1): "", slice(1, 0): "", slice(1, 1): ""}
	tests := []struct {
		name  string
		file  string
		fails string
		want  map[gpu.ID]string // after a healthy start
	}{
		{name: "none", want: healthy},
		{
			name: "a board by its index",
			file: `fault "1" { reason = "Xid 79" }`,
			want: map[gpu.ID]string{slice(0, 0): "", slice(0, 1): "", slice(1, 0): "Xid 79", slice(1, 1): "Xid 79"},
		},
		{
			name: "a slice by its ID",
			file: `fault "` + string(slice(0, 1)) + `" { reason = "broken" }`,
			want: map[gpu.ID]string{slice(0, 0): "", slice(0, 1): "broken", slice(1, 0): "", slice(1, 1): ""},
		},
		{
			name: "a slice removed",
			file: `fault "` + string(slice(0, 1)) + `" { gone = true }`,
			want: map[gpu.ID]string{slice(0, 0): "", slice(1, 0): "", slice(1, 1): ""},
		},
		{
			name: "a board gone",
			file: `fault "` + string(boards[0].ID) + `" { gone = true }`,
			want: map[gpu.ID]string{
				slice(0, 0): "the driver no longer lists this GPU", slice(0, 1): "the driver no longer lists this GPU",
				slice(1, 0): "", slice(1, 1): "",
			},
		},
		{
			name: "a board lost",
			file: `fault "1" { lost = true }`,
			want: map[gpu.ID]string{slice(0, 0): "", slice(0, 1): "", slice(1, 0): reasonLost, slice(1, 1): reasonLost},
		},
		{name: "the driver", file: `driver_error = "version mismatch"`, fails: "version mismatch"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "faults.hcl")
			src := start(t, Config{Machine: m, FaultFile: path})
			state := gpu.State{}.Next(inventory(t, src))
			if tt.file != "" {
				write(t, path, tt.file)
				await(t, src.Changes())
			}
			inv, err := src.Inventory(t.Context())
			if tt.fails != "" {
				if err == nil || err.Error() != tt.fails {
					t.Fatalf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[gpu.ID]string{}
			for _, d := range state.Next(inv).Devices {
				got[d.ID] = d.Fault.Reason
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaultFileProblems(t *testing.T) {
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "faults.json")
	write(t, path, `{"fault": {"0": {"reason": "broken"}, "7": {"reason": "x"}}}`)
	s := start(t, Config{Machine: machine(t, "2xl4"), FaultFile: path, Logger: hclog.New(&hclog.LoggerOptions{Output: &log})})
	if !strings.Contains(log.String(), `no board or slice \"7\"`) {
		t.Errorf("nothing is said of a fault of an unknown GPU: %s", log.String())
	}
	if err := s.Close(); err != nil { // only one reads the file from here on
		t.Fatal(err)
	}
	write(t, path, `{"fault": {"0": {}}}`)
	if s.reload() {
		t.Error("a fault without an effect is taken")
	}
	if !strings.Contains(log.String(), "faults.json:1:12: a fault has a reason, gone = true") {
		t.Errorf("log: %s", log.String())
	}
	inv := inventory(t, s)
	if inv.Boards[0].Fault != "broken" || inv.Boards[1].Fault != "" {
		t.Errorf("a malformed file changed the faults: %+v", inv.Boards)
	}
}

func await(t *testing.T, changed <-chan struct{}) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("no change was signalled")
	}
}

func TestSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "2xa100-40gb"), Script: script(t, `process "0" {}`)})
		ids := []gpu.ID{s.subjects[0].id, s.subjects[1].id, "GPU-unknown"}
		reading := func() (busy, idle gpu.Sample) {
			samples, err := s.Sample(t.Context(), ids)
			if err != nil || len(samples) != 2 {
				t.Fatalf("%v, %v", samples, err)
			}
			return samples[ids[0]], samples[ids[1]]
		}
		first, _ := reading()
		again, _ := reading()
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("two readings at one time differ:\n%s", diff)
		}
		low, high, energy := int64(100), int64(0), int64(-1)
		for range 15 * 60 {
			time.Sleep(time.Second) // of the bubble's clock
			busy, idle := reading()
			low, high = min(low, *busy.GPUPercent), max(high, *busy.GPUPercent)
			switch {
			case *busy.GPUPercent < 0 || *busy.GPUPercent > 100, *busy.PowerW < 30 || *busy.PowerW > 400,
				*busy.TemperatureC < 25 || *busy.TemperatureC > 90, *busy.MemoryUsedMiB < 1 || *busy.MemoryUsedMiB > *busy.MemoryTotalMiB:
				t.Fatalf("at %v: %+v", time.Now(), busy)
			case *idle.GPUPercent != 0 || *idle.MemoryUsedMiB != 0 || *idle.PowerW > 60 || *idle.TemperatureC > 40:
				t.Fatalf("a board without programs: %+v", idle)
			case *busy.EnergyMJ <= energy:
				t.Fatalf("the energy fell from %d to %d", energy, *busy.EnergyMJ)
			}
			energy = *busy.EnergyMJ
		}
		if high-low < 30 {
			t.Errorf("utilisation stays between %d and %d %%", low, high)
		}
	})
}

// TestSampleOfSlice: what NVML does not tell of a slice stays unknown.
func TestSampleOfSlice(t *testing.T) {
	tests := []struct {
		preset    string
		memoryMiB int64
		profiling bool
	}{
		{"a100-40gb/all-1g.5gb", 4864, false},
		{"h100/all-1g.10gb", 9984, true},
		{"a30/all-1g.6gb", 6144, false},
	}
	for _, tt := range tests {
		t.Run(tt.preset, func(t *testing.T) {
			s := start(t, Config{Machine: machine(t, tt.preset), Script: script(t, `process "*" { memory_mib = 1000 }`)})
			board := inventory(t, s).Boards[0]
			slice := board.Slices[0].ID
			samples, err := s.Sample(t.Context(), []gpu.ID{slice, board.ID})
			if err != nil {
				t.Fatal(err)
			}
			got := samples[slice]
			if (got.Profiling != nil) != tt.profiling {
				t.Errorf("profiling is %+v", got.Profiling)
			}
			used := int64(1000)
			want := gpu.Sample{Time: got.Time, MemoryUsedMiB: &used, MemoryTotalMiB: &tt.memoryMiB, Profiling: got.Profiling}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sample of a slice (-want +got):\n%s", diff)
			}
			if b := samples[board.ID]; b.PowerW == nil || b.GPUPercent != nil || *b.MemoryUsedMiB != 1000*int64(len(board.Slices)) {
				t.Errorf("sample of a board in MIG mode: %+v", b)
			}
		})
	}
}

func TestCloseTwice(t *testing.T) {
	s := New(Config{Machine: machine(t, "l4"), FaultFile: filepath.Join(t.TempDir(), "f.hcl")})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
