package simulated

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

func TestFaults(t *testing.T) {
	m, err := Preset("2xa100-40gb/all-3g.20gb")
	if err != nil {
		t.Fatal(err)
	}
	m.Node = "n"
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
		{name: "the driver", file: `driver_error = "version mismatch"`, fails: "version mismatch"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "faults.hcl")
			src := New(Config{Machine: m, FaultFile: path, Poll: time.Millisecond})
			defer src.Close()
			inv, err := src.Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			state := gpu.State{}.Next(inv)
			if tt.file != "" {
				write(t, path, tt.file)
				await(t, src.Changes())
			}
			inv, err = src.Inventory(t.Context())
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
	m, err := Preset("2xl4")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "faults.json")
	write(t, path, `{"fault": {"0": {"reason": "broken"}, "7": {"reason": "x"}}}`)
	s := New(Config{Machine: m, FaultFile: path, Logger: hclog.New(&hclog.LoggerOptions{Output: &log}), Poll: time.Hour}).(*source)
	defer s.Close()
	if !strings.Contains(log.String(), "names GPUs that are not there") || !strings.Contains(log.String(), "7") {
		t.Errorf("nothing is said of a fault of an unknown GPU: %s", log.String())
	}

	write(t, path, `{"fault": {"0": {}}}`)
	if s.reload() {
		t.Error("a fault without a reason is taken")
	}
	if !strings.Contains(log.String(), "faults.json:1:12: a fault has a reason, or gone = true") {
		t.Errorf("log: %s", log.String())
	}
	inv, err := s.Inventory(t.Context())
	if err != nil || inv.Boards[0].Fault != "broken" || inv.Boards[1].Fault != "" {
		t.Errorf("a malformed file changed the faults: %+v, %v", inv.Boards, err)
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
	m, err := Preset("a100-40gb")
	if err != nil {
		t.Fatal(err)
	}
	sliced, err := Preset("a100-40gb/all-1g.5gb")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := start
	board := New(Config{Machine: m, Now: func() time.Time { return at }})
	defer board.Close()
	id := m.inventory(m.described()).Boards[0].ID

	reading := func() gpu.Sample {
		samples, err := board.Sample(t.Context(), []gpu.ID{id, "GPU-unknown"})
		if err != nil || len(samples) != 1 {
			t.Fatalf("%v, %v", samples, err)
		}
		return samples[id]
	}
	first := reading()
	if diff := cmp.Diff(first, reading()); diff != "" {
		t.Errorf("two readings at one time differ:\n%s", diff)
	}
	low, high := int64(100), int64(0)
	for at = start; at.Before(start.Add(15 * time.Minute)); at = at.Add(time.Second) {
		s := reading()
		low, high = min(low, *s.GPUPercent), max(high, *s.GPUPercent)
		switch {
		case *s.GPUPercent < 0 || *s.GPUPercent > 100, *s.PowerW < 30 || *s.PowerW > 400,
			*s.TemperatureC < 25 || *s.TemperatureC > 90, *s.MemoryUsedMiB < 0 || *s.MemoryUsedMiB > *s.MemoryTotalMiB:
			t.Fatalf("at %v: %+v", at, s)
		}
	}
	if high-low < 30 {
		t.Errorf("utilisation stays between %d and %d %%", low, high)
	}

	slices := New(Config{Machine: sliced})
	defer slices.Close()
	slice := sliced.inventory(sliced.described()).Boards[0].Slices[0].ID
	samples, err := slices.Sample(t.Context(), []gpu.ID{slice})
	if err != nil {
		t.Fatal(err)
	}
	s := samples[slice]
	if s.GPUPercent != nil || s.PowerW != nil || s.ECCL1 != nil {
		t.Errorf("a slice tells what the real one does not: %+v", s)
	}
	if s.MemoryUsedMiB == nil || *s.MemoryTotalMiB != 4864 {
		t.Errorf("memory of a slice: %+v", s)
	}
}

func TestCloseTwice(t *testing.T) {
	m, err := Preset("l4")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Machine: m, FaultFile: filepath.Join(t.TempDir(), "f.hcl")})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
