package metrics

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/sysfs"
	"github.com/drover-ml/drover/internal/gpustatus"
)

var update = flag.Bool("update", false, "rewrite golden files")

// scenes are machines with one kind of board each, as much as such a board
// tells.
var scenes = map[string]func(*rig){
	// Retired pages, no memory temperature, no NVLink, no profiling.
	"t4": func(r *rig) {
		r.show(board(0, "Tesla T4"))
		s := sample()
		s.MemoryReservedMiB, s.EnergyMJ = nil, nil
		r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": s}, nil)
		r.Vitals(start, nil, map[gpu.ID]gpu.Vitals{"GPU-0": {
			Time: start, RetiredPages: &gpu.RetiredPages{SingleBit: 2, DoubleBit: 1, Pending: true},
			ECC:      &gpu.ECC{VolatileCorrected: n(3), VolatileUncorrected: n(0), AggregateCorrected: n(40), AggregateUncorrected: n(1)},
			Throttle: []gpu.ThrottleReason{gpu.ThrottleIdle}, PCIe: &gpu.PCIe{Generation: n(1), MaxGeneration: n(3), Width: n(8), MaxWidth: n(16), Replays: n(0)},
		}}, nil)
	},
	// Row remapping and NVLinks, no profiling without DCGM.
	"a100": func(r *rig) {
		r.show(board(0, "NVIDIA A100-SXM4-40GB"), board(1, "NVIDIA A100-SXM4-40GB"))
		s := sample()
		s.MemoryTemperatureC = n(66)
		r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": s, "GPU-1": s}, nil)
		r.Vitals(start, nil, map[gpu.ID]gpu.Vitals{"GPU-0": ampere(start, 1000), "GPU-1": ampere(start, 2000)}, nil)
		r.now = start.Add(10 * time.Second)
		r.Vitals(r.now, nil, map[gpu.ID]gpu.Vitals{"GPU-0": ampere(r.now, 1000), "GPU-1": ampere(r.now, 2000+976562)}, nil)
	},
	// Slices tell their memory only; the board has the rest.
	"a100-mig": func(r *rig) {
		r.show(cut(board(0, "NVIDIA A100-SXM4-40GB"), "1g.5gb", 2), cut(board(1, "NVIDIA A100-SXM4-40GB"), "", 0))
		s := sample()
		s.GPUPercent, s.MemoryPercent, s.EncoderPercent, s.DecoderPercent = nil, nil, nil, nil
		slice := gpu.Sample{Time: start, MemoryUsedMiB: n(13), MemoryTotalMiB: n(4864), MemoryReservedMiB: n(0)}
		r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": s, "GPU-1": s, "MIG-0-0": slice, "MIG-0-1": slice}, nil)
		r.MIG(map[gpu.ID]string{"GPU-1": "creating"})
		r.config.Tasks = tasks(map[int]attribution.Task{71: {Alloc: "a-1", Task: "main", Job: "train", Namespace: "default"}})
		r.Processes(start, []gpu.Process{{PID: 71, Device: "MIG-0-1", Kind: gpu.ProcessCompute, MemoryMiB: n(10)}}, nil)
	},
	// Two tasks share a board, which is neither's; the driver tells what each
	// has of it.
	"shared": func(r *rig) {
		r.show(board(0, "NVIDIA L4"))
		r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": {Time: start, GPUPercent: n(90), MemoryUsedMiB: n(700), MemoryTotalMiB: n(23034)}}, nil)
		r.config.Tasks = tasks(map[int]attribution.Task{
			7: {Alloc: "a-1", Task: "main", Job: "serve", Namespace: "default"}, 8: {Alloc: "a-1", Task: "main", Job: "serve", Namespace: "default"},
			9: {Alloc: "b-2", Task: "main", Job: "embed", Namespace: "default"},
		})
		r.Processes(start, []gpu.Process{
			{PID: 7, Device: "GPU-0", Kind: gpu.ProcessMPS, MemoryMiB: n(100), GPUPercent: n(30)},
			{PID: 8, Device: "GPU-0", Kind: gpu.ProcessMPS, MemoryMiB: n(200), GPUPercent: n(10)},
			{PID: 9, Device: "GPU-0", Kind: gpu.ProcessMPS, MemoryMiB: n(300)},
			{PID: 10, Device: "GPU-0", Kind: gpu.ProcessCompute, MemoryMiB: n(100)},
		}, nil)
	},
	// Profiling by the driver itself, a fault, tasks, the network.
	"h100": func(r *rig) {
		broken := board(1, "NVIDIA H100 80GB HBM3")
		broken.Fault, broken.FaultAction = "Xid 79: GPU has fallen off the bus", gpustatus.End
		r.show(board(0, "NVIDIA H100 80GB HBM3"), broken)
		s := sample()
		s.Profiling = &gpu.Profiling{
			GraphicsActive: f(0.98), SMActive: f(0.91), SMOccupancy: f(0.44), TensorActive: f(0.62), DRAMActive: f(0.5),
			FP64Active: f(0), FP32Active: f(0.1), FP16Active: f(0.02),
			PCIeTxBps: f(1e6), PCIeRxBps: f(2e6), NVLinkTxBps: f(2.5e11), NVLinkRxBps: f(2.5e11),
		}
		r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": s}, nil)
		r.Vitals(start, nil, map[gpu.ID]gpu.Vitals{"GPU-0": ampere(start, 5)}, nil)
		r.config.Tasks = tasks(map[int]attribution.Task{
			7: {Alloc: "1c", Task: "main", Job: "drover-r1-train-1", Namespace: "default", Workspace: "vision"},
		})
		r.Processes(start, []gpu.Process{{PID: 7, Device: "GPU-0", Kind: gpu.ProcessCompute, MemoryMiB: n(900), GPUPercent: n(96)}}, nil)
		r.Health(health.Report{Devices: []health.DeviceReport{
			{ID: "GPU-0", State: health.Healthy, XIDs: []health.XIDCount{{Code: 31, Count: 2, Last: start}}, MaxAttempts: 3},
			{ID: "GPU-1", State: health.Condemned, Attempts: 1, MaxAttempts: 3,
				XIDs:       []health.XIDCount{{Code: 79, Count: 1, Last: start}, {Code: 31, Count: 1, Last: start.Add(-time.Hour)}},
				Conditions: []health.ConditionReport{{Signal: "xid-79", Severity: health.Unhealthy, Action: gpustatus.End}}},
		}})
		r.Network(start,
			[]sysfs.Interface{{Name: "ens1f0", PCIBusID: "00000000:1A:00.0", State: "up", Carrier: ptr(true), SpeedMbps: n(400000),
				RxBytes: n(1 << 40), TxBytes: n(1 << 41), RxErrors: n(0), CarrierChanges: n(3)}},
			[]sysfs.RDMADevice{{Name: "mlx5_0", PCIBusID: "00000000:1A:00.0", Ports: []sysfs.Port{{
				Number: 1, State: "ACTIVE", PhysicalState: "LinkUp", LinkLayer: "InfiniBand", RateMbps: n(400000),
				Counters: map[string]int64{"port_rcv_data": 25, "port_xmit_data": 50, "link_downed": 1}}}}}, nil)
	},
}

// ampere are the vitals of a board with row remapping and two NVLinks.
func ampere(at time.Time, sentKiB int64) gpu.Vitals {
	second := time.Second
	return gpu.Vitals{
		Time: at, ECC: &gpu.ECC{VolatileCorrected: n(0), VolatileUncorrected: n(0), SRAMUncorrected: n(0), DRAMUncorrected: n(0)},
		RemappedRows:         &gpu.RemappedRows{Corrected: 1, Uncorrected: 2, Pending: true},
		SlowdownTemperatureC: n(92), ShutdownTemperatureC: n(95),
		Throttle:       []gpu.ThrottleReason{gpu.ThrottleSWPowerCap, gpu.ThrottleHWThermal},
		PowerViolation: &second, ThermalViolation: new(time.Duration),
		PCIe: &gpu.PCIe{Generation: n(4), MaxGeneration: n(4), Width: n(16), MaxWidth: n(16), Replays: n(7)},
		NVLinks: []gpu.NVLink{
			{Link: 0, Active: true, CRCErrors: n(1), ReplayErrors: n(0), RecoveryErrors: n(0), TransmittedKiB: &sentKiB, ReceivedKiB: n(10)},
			{Link: 1, CRCErrors: n(2), ReplayErrors: n(0), RecoveryErrors: n(0), TransmittedKiB: n(0), ReceivedKiB: n(0)},
		},
	}
}

func tasks(known map[int]attribution.Task) func([]int) map[int]attribution.Task {
	return func([]int) map[int]attribution.Task { return known }
}

func TestGolden(t *testing.T) {
	for name, scene := range scenes {
		t.Run(name, func(t *testing.T) {
			r := newRig(Config{})
			scene(r)
			r.families(t)
			got := withoutSelf(r.scrape())
			file := filepath.Join("testdata", name+".prom")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("scrape (-want +got), -update accepts it:\n%s", diff)
			}
		})
	}
}

// TestLint checks our own names. DCGM's are capitals, its units not
// Prometheus's, and its label modelName is in camel case.
func TestLint(t *testing.T) {
	for name, scene := range scenes {
		r := newRig(Config{})
		scene(r)
		problems, err := promlint.New(strings.NewReader(r.scrape())).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if !strings.HasPrefix(p.Metric, "DCGM_FI_") && !strings.Contains(p.Text, "camelCase") {
				t.Errorf("%s: %s: %s", name, p.Metric, p.Text)
			}
		}
	}
}

// withoutSelf leaves out what differs from run to run.
func withoutSelf(text string) string {
	before, _, _ := strings.Cut(text, "# HELP drover_gpu_plugin_info")
	return before
}
