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

func sampleOf(t *testing.T, s *Source, id gpu.ID) gpu.Sample {
	t.Helper()
	samples, err := s.Sample(t.Context(), []gpu.ID{id})
	if err != nil {
		t.Fatal(err)
	}
	return samples[id]
}

func TestProfiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := h100()
		s := New(Config{Library: m, Host: Host{Files: thisHost().Files}})
		cut(t, s, m.Boards[1], instanceAt("3g.40gb", 0, 4, 3))
		slice := inventory(t, s).Boards[1].Slices[0].ID
		for _, id := range []gpu.ID{idOf(m.Boards[0]), slice} {
			if p := sampleOf(t, s, id).Profiling; p != nil {
				t.Errorf("%s: the first reading already has %+v", id, p)
			}
			time.Sleep(time.Second)
			p := sampleOf(t, s, id).Profiling
			if p == nil {
				t.Fatalf("%s has no profiling metrics", id)
			}
			f := func(v float64) *float64 { return &v }
			want := gpu.Profiling{
				GraphicsActive: f(.02), SMActive: f(.04), SMOccupancy: f(.06), TensorActive: f(.1), DRAMActive: f(.2), FP32Active: f(.24), FP16Active: f(.26),
				PCIeTxBps: f(40 << 20), PCIeRxBps: f(42 << 20), NVLinkTxBps: f(122 << 20), NVLinkRxBps: f(120 << 20),
			}
			if diff := cmp.Diff(want, *p); diff != "" {
				t.Errorf("%s (-want +got):\n%s", id, diff)
			}
			if again := sampleOf(t, s, id).Profiling; again != p {
				t.Errorf("%s: read again at once it is %+v", id, again)
			}
		}
		if _, samples := m.Leaks(); samples != 4 {
			t.Errorf("%d GPM samples for two devices", samples)
		}
		time.Sleep(time.Hour)
		sampleOf(t, s, idOf(m.Boards[2])) // which forgets those that nobody asks for
		if _, samples := m.Leaks(); samples != 2 {
			t.Errorf("%d GPM samples after an hour", samples)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, samples := m.Leaks(); samples != 0 {
			t.Errorf("%d GPM samples are left", samples)
		}
	})
}

func TestNoProfiling(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	inventory(t, s)
	for range 2 {
		if p := sampleOf(t, s, idOf(m.Boards[0])).Profiling; p != nil {
			t.Errorf("profiling %+v", p)
		}
	}
	if _, samples := m.Leaks(); samples != 0 {
		t.Errorf("%d GPM samples of boards without", samples)
	}
}

func TestPCIeThroughput(t *testing.T) {
	tests := []struct {
		name     string
		counters bool
		step     int64 // of the counters, in bytes
		every    time.Duration
		want     [3]*int64 // sent, in three readings
		measured int       // how often the driver was made to measure
	}{
		{"measured once in a while", false, 0, time.Second, [3]*int64{n64(1000), n64(1000), n64(1000)}, 2},
		{"measured again", false, 0, 5 * time.Second, [3]*int64{n64(1000), n64(1000), n64(1000)}, 6},
		{"counted", true, 2_000_000, time.Second, [3]*int64{nil, n64(2000), n64(2000)}, 0},
		{"counted, slowly", true, 5_000_000, 10 * time.Second, [3]*int64{nil, n64(500), n64(500)}, 0},
		{"counter begins anew", true, -1000, time.Second, [3]*int64{nil, nil, nil}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := a100()
				b := m.Boards[0]
				s := New(Config{Library: m, Host: Host{Files: thisHost().Files}})
				bytes := int64(1 << 40)
				for i, want := range tt.want {
					if tt.counters {
						b.Change(func(b *nvmltest.Board) {
							b.Fields[nvmltest.Field{ID: lib.FI_DEV_PCIE_COUNT_TX_BYTES}] = bytes
							b.Fields[nvmltest.Field{ID: lib.FI_DEV_PCIE_COUNT_RX_BYTES}] = bytes
						})
					}
					got := sampleOf(t, s, idOf(b))
					if diff := cmp.Diff(want, got.PCIeTxKBps); diff != "" {
						t.Errorf("reading %d (-want +got):\n%s", i, diff)
					}
					bytes += tt.step
					time.Sleep(tt.every)
				}
				if n := m.Calls("nvmlDeviceGetPcieThroughput"); n != tt.measured {
					t.Errorf("measured %d times, want %d", n, tt.measured)
				}
			})
		})
	}
}

// TestOrderIsNoIdentity is B12: indexes in another order than minor numbers.
func TestOrderIsNoIdentity(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	busy, idle := m.Boards[0], m.Boards[1]
	for pid := 1; pid <= 11; pid++ {
		busy.Compute = append(busy.Compute, nvmltest.Process{PID: pid, GPUInstance: nvmltest.Whole, ComputeInstance: nvmltest.Whole})
	}
	m.Devices[0], m.Devices[1] = m.Devices[1], m.Devices[0]
	processes, err := s.Processes(t.Context())
	if err != nil || len(processes) != 11 {
		t.Fatalf("processes %v, %v", processes, err)
	}
	for _, p := range processes {
		if p.Device != idOf(busy) {
			t.Errorf("process %d is on %s", p.PID, p.Device)
		}
	}
	if got := sampleOf(t, s, idOf(idle)).GPUPercent; got == nil || *got != 91 {
		t.Errorf("the idle board's use is %v", got)
	}
	g, err := s.Topology(t.Context())
	if err != nil || g.GPUs[0].ID != idle.UUID || g.GPUs[0].PCIBusID != idle.BusID {
		t.Errorf("topology %+v, %v", g.GPUs, err)
	}
}
