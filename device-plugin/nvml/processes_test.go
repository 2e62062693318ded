package nvml

import (
	"testing"
	"testing/synctest"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

func TestProcesses(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	cut(t, s, m.Boards[1], instanceAt("3g.20gb", 0, 4, 1, 2))
	slices := inventory(t, s).Boards[1].Slices
	const whole = nvmltest.Whole
	m.Boards[0].Compute = []nvmltest.Process{
		{PID: 10, MemoryMiB: 2048, GPUInstance: whole, ComputeInstance: whole, SMPercent: 70},
		{PID: 11, GPUInstance: whole, ComputeInstance: whole, SMPercent: 4_000_000_000},
	}
	m.Boards[0].Graphics = []nvmltest.Process{{PID: 10, MemoryMiB: 1, GPUInstance: whole, ComputeInstance: whole}}
	m.Boards[0].MPS = []nvmltest.Process{{PID: 12, MemoryMiB: 5, GPUInstance: whole, ComputeInstance: whole}}
	m.Boards[1].Compute = []nvmltest.Process{
		{PID: 20, MemoryMiB: 7, GPUInstance: 1, ComputeInstance: 1},
		{PID: 21, MemoryMiB: 8, GPUInstance: whole, ComputeInstance: whole}, // a driver that does not tell
	}
	got, err := s.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	board := idOf(m.Boards[0])
	want := []gpu.Process{
		{PID: 10, Device: board, Kind: gpu.ProcessCompute, MemoryMiB: n64(2048), GPUPercent: n64(70)},
		{PID: 11, Device: board, Kind: gpu.ProcessCompute},
		{PID: 10, Device: board, Kind: gpu.ProcessGraphics, MemoryMiB: n64(1), GPUPercent: n64(70)},
		{PID: 12, Device: board, Kind: gpu.ProcessMPS, MemoryMiB: n64(5)},
		{PID: 20, Device: slices[1].ID, Kind: gpu.ProcessCompute, MemoryMiB: n64(7)},
		{PID: 21, Device: idOf(m.Boards[1]), Kind: gpu.ProcessCompute, MemoryMiB: n64(8)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
}

// TestProcessesAreDear is that the driver makes a list once in a while,
// however often one is asked for.
func TestProcessesAreDear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := a100()
		s := New(Config{Library: m, Host: Host{Files: thisHost().Files}})
		for range 60 {
			if _, err := s.Processes(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := m.Calls("nvmlDeviceGetGraphicsRunningProcesses"); n != 12*8 {
			t.Errorf("%d lists of 8 boards in a minute, want 12 of each", n)
		}
		m.InitFunc = func() lib.Return { return lib.ERROR_DRIVER_NOT_LOADED }
		_ = s.Close()
		time.Sleep(time.Minute)
		if got, err := s.Processes(t.Context()); err == nil || got != nil {
			t.Errorf("without a driver there are %v, %v", got, err)
		}
	})
}
