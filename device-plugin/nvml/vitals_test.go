package nvml

import (
	"testing"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

func vitalsOf(t *testing.T, s *Source, b *nvmltest.Board) (gpu.Vitals, bool) {
	t.Helper()
	all, err := s.Vitals(t.Context(), []gpu.ID{idOf(b)})
	if err != nil {
		t.Fatal(err)
	}
	v, ok := all[idOf(b)]
	return v, ok
}

func TestVitals(t *testing.T) {
	type check func(*testing.T, gpu.Vitals)
	tests := []struct {
		name   string
		change func(*nvmltest.Board)
		check  check
	}{
		{"no reason to throttle", func(b *nvmltest.Board) { b.Throttle = 0 }, func(t *testing.T, v gpu.Vitals) {
			if v.Throttle == nil || len(v.Throttle) != 0 {
				t.Errorf("throttle %#v", v.Throttle)
			}
		}},
		{"reasons to throttle", func(b *nvmltest.Board) {
			b.Throttle = lib.ClocksThrottleReasonHwThermalSlowdown | lib.ClocksThrottleReasonHwSlowdown | 1<<40
		}, func(t *testing.T, v gpu.Vitals) {
			if diff := cmp.Diff([]gpu.ThrottleReason{gpu.ThrottleHWSlowdown, gpu.ThrottleHWThermal}, v.Throttle); diff != "" {
				t.Error(diff)
			}
		}},
		{"throttling unknown", func(b *nvmltest.Board) {
			b.GetCurrentClocksEventReasonsFunc = func() (uint64, lib.Return) { return 0, lib.ERROR_UNKNOWN }
		}, func(t *testing.T, v gpu.Vitals) {
			if v.Throttle != nil {
				t.Errorf("throttle %v", v.Throttle)
			}
		}},
		{"older name of throttling", func(b *nvmltest.Board) {
			b.GetCurrentClocksEventReasonsFunc = func() (uint64, lib.Return) { return 0, lib.ERROR_NOT_SUPPORTED }
			b.GetCurrentClocksThrottleReasonsFunc = func() (uint64, lib.Return) { return lib.ClocksEventReasonGpuIdle, lib.SUCCESS }
		}, func(t *testing.T, v gpu.Vitals) {
			if diff := cmp.Diff([]gpu.ThrottleReason{gpu.ThrottleIdle}, v.Throttle); diff != "" {
				t.Error(diff)
			}
		}},
		{"ECC off", func(b *nvmltest.Board) { b.ECC = lib.FEATURE_DISABLED }, func(t *testing.T, v gpu.Vitals) {
			if v.ECC != nil {
				t.Errorf("ECC %+v", v.ECC)
			}
		}},
		{"remap pending", func(b *nvmltest.Board) { b.Remapped, b.Pending = [2]int{1, 2}, true }, func(t *testing.T, v gpu.Vitals) {
			if diff := cmp.Diff(&gpu.RemappedRows{Corrected: 1, Uncorrected: 2, Pending: true}, v.RemappedRows); diff != "" || v.RetiredPages != nil {
				t.Errorf("retired %v; %s", v.RetiredPages, diff)
			}
		}},
		{"older board", func(b *nvmltest.Board) {
			b.GetRemappedRowsFunc = func() (int, int, bool, bool, lib.Return) { return 0, 0, false, false, lib.ERROR_NOT_SUPPORTED }
			b.GetRetiredPagesFunc = func(c lib.PageRetirementCause) ([]uint64, lib.Return) {
				return make([]uint64, 3+int(c)), lib.SUCCESS
			}
			b.GetRetiredPagesPendingStatusFunc = func() (lib.EnableState, lib.Return) { return lib.FEATURE_ENABLED, lib.SUCCESS }
		}, func(t *testing.T, v gpu.Vitals) {
			if diff := cmp.Diff(&gpu.RetiredPages{SingleBit: 3, DoubleBit: 4, Pending: true}, v.RetiredPages); diff != "" || v.RemappedRows != nil {
				t.Errorf("remapped %v; %s", v.RemappedRows, diff)
			}
		}},
		{"link down", func(b *nvmltest.Board) { b.Links[1] = false }, func(t *testing.T, v gpu.Vitals) {
			if len(v.NVLinks) != 12 || v.NVLinks[1].Active || v.NVLinks[1].CRCErrors != nil || !v.NVLinks[2].Active || *v.NVLinks[2].CRCErrors != 2 {
				t.Errorf("links %+v", v.NVLinks)
			}
		}},
		{"links of the fifth generation", func(b *nvmltest.Board) {
			for n := range uint32(12) {
				delete(b.Fields, nvmltest.Field{ID: lib.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, Scope: n})
				b.Fields[nvmltest.Field{ID: lib.FI_DEV_NVLINK_COUNT_XMIT_BYTES, Scope: n}] = 4096
			}
		}, func(t *testing.T, v gpu.Vitals) {
			if got := v.NVLinks[0].TransmittedKiB; got == nil || *got != 4 {
				t.Errorf("transmitted %v", got)
			}
		}},
		{"no links", func(b *nvmltest.Board) { b.Links = nil }, func(t *testing.T, v gpu.Vitals) {
			if v.NVLinks != nil {
				t.Errorf("links %+v", v.NVLinks)
			}
		}},
		{"fabric starts", func(b *nvmltest.Board) { b.Fabric.State = lib.GPU_FABRIC_STATE_IN_PROGRESS }, func(t *testing.T, v gpu.Vitals) {
			if v.FabricState != "in progress" {
				t.Errorf("fabric %q", v.FabricState)
			}
		}},
		{"fabric failed", func(b *nvmltest.Board) {
			b.Fabric.State, b.Fabric.Status = lib.GPU_FABRIC_STATE_COMPLETED, uint32(lib.ERROR_TIMEOUT)
		}, func(t *testing.T, v gpu.Vitals) {
			if v.FabricState != "failed: "+reason(lib.ERROR_TIMEOUT) {
				t.Errorf("fabric %q", v.FabricState)
			}
		}},
		{"driver wants a reset", func(b *nvmltest.Board) {
			b.Fields[nvmltest.Field{ID: lib.FI_DEV_GET_GPU_RECOVERY_ACTION}] = int64(lib.GPU_RECOVERY_ACTION_DRAIN_AND_RESET)
		}, func(t *testing.T, v gpu.Vitals) {
			if v.RecoveryAction != "drain-and-reset" {
				t.Errorf("action %q", v.RecoveryAction)
			}
		}},
		{"no fields", func(b *nvmltest.Board) {
			b.GetFieldValuesFunc = func([]lib.FieldValue) lib.Return { return lib.ERROR_NOT_SUPPORTED }
		}, func(t *testing.T, v gpu.Vitals) {
			if v.RecoveryAction != "" || v.MemoryTemperatureC != nil || v.NVLinks[3].TransmittedKiB != nil {
				t.Errorf("vitals %+v", v)
			}
			if got := v.NVLinks[3].RecoveryErrors; got == nil || *got != 301 {
				t.Errorf("recovery errors, which the older call has: %v", got)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := a100()
			b := m.Boards[0]
			tt.change(b)
			v, ok := vitalsOf(t, sourceOf(t, m), b)
			if !ok || v.Time.IsZero() {
				t.Fatalf("vitals %+v, %t", v, ok)
			}
			tt.check(t, v)
			if diff := cmp.Diff(n64(50), v.TemperatureC); diff != "" {
				t.Errorf("the temperature is hidden: %s", diff)
			}
			if v.ThermalViolation == nil || *v.ThermalViolation != 2*time.Millisecond {
				t.Errorf("thermal violation %v", v.ThermalViolation)
			}
		})
	}
}

// TestLostBoardHidesNoOther is B01 for everything that is read: one board is
// lost, and the others are read as before.
func TestLostBoardHidesNoOther(t *testing.T) {
	for _, ret := range []lib.Return{lib.ERROR_GPU_IS_LOST, lib.ERROR_RESET_REQUIRED, lib.ERROR_UNKNOWN} {
		t.Run(reason(ret), func(t *testing.T) {
			m := h100()
			s := sourceOf(t, m)
			inventory(t, s)
			for i, b := range m.Boards {
				b.Compute = []nvmltest.Process{{PID: 100 + i, GPUInstance: nvmltest.Whole, ComputeInstance: nvmltest.Whole}}
			}
			m.Boards[3].Lose(ret)
			var ids []gpu.ID
			for _, b := range m.Boards {
				ids = append(ids, idOf(b))
			}
			vitals, err := s.Vitals(t.Context(), ids)
			if _, there := vitals[ids[3]]; err != nil || there || len(vitals) != 7 {
				t.Errorf("vitals of %d boards, %v", len(vitals), err)
			}
			samples, err := s.Sample(t.Context(), ids)
			if _, there := samples[ids[3]]; err != nil || there || len(samples) != 7 {
				t.Errorf("samples of %d boards, %v", len(samples), err)
			}
			g, err := s.Topology(t.Context())
			if err != nil || len(g.GPUs) != 7 || len(g.Links) != 21 {
				t.Errorf("topology of %d boards, %d links, %v", len(g.GPUs), len(g.Links), err)
			}
			processes, err := s.Processes(t.Context())
			if err != nil || len(processes) != 7 {
				t.Errorf("processes %v, %v", processes, err)
			}
			boards, err := s.Boards(t.Context())
			if err != nil || len(boards) != 7 {
				t.Errorf("%d boards with MIG, %v", len(boards), err)
			}
			inv := inventory(t, s)
			if len(inv.Boards) != 7 || len(inv.Lost) != 1 || inv.Lost[0].Index != 3 {
				t.Errorf("inventory of %d boards, lost %v", len(inv.Boards), inv.Lost)
			}
		})
	}
}
