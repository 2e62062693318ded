package gpu_test

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/nomadplugin/device"
)

func TestStats(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	inv := healthy(3)
	inv.Boards[1] = sliced(inv.Boards[1], 4)
	s := gpu.State{}.Next(inv)
	samples := map[gpu.ID]gpu.Sample{
		"GPU-0": {
			Time: now, PowerW: amount(310), GPUPercent: amount(0), MemoryPercent: amount(40), EncoderPercent: amount(0),
			DecoderPercent: amount(1), TemperatureC: amount(61), MemoryUsedMiB: amount(1024), MemoryTotalMiB: amount(40536),
			BAR1UsedMiB: amount(4), BAR1TotalMiB: amount(65536), ECCL1: amount(0), ECCL2: amount(2), ECCMemory: amount(3),
		},
		"MIG-1-4": {Time: now, MemoryUsedMiB: amount(13), MemoryTotalMiB: amount(4864)},
		// GPU-2 could not be read.
	}
	groups := gpu.Stats(s.Devices, gpu.Readings{Samples: samples})
	if len(groups) != 2 {
		t.Fatalf("%d groups, want one of boards and one of slices", len(groups))
	}
	if len(groups[0].Instances) != 1 {
		t.Errorf("instances %v, want GPU-0 only", groups[0].Instances)
	}

	boards := groups[0].Instances["GPU-0"]
	want := map[string]string{
		"Power usage": "310 / 400 W", "GPU utilization": "0 %", "Memory utilization": "40 %", "Encoder utilization": "0 %",
		"Decoder utilization": "1 %", "Temperature": "61 C", "Memory state": "1024 / 40536 MiB",
		"BAR1 buffer state": "4 / 65536 MiB", "ECC L1 errors": "0 #", "ECC L2 errors": "2 #", "ECC memory errors": "3 #",
	}
	if diff := cmp.Diff(want, printed(boards.Stats)); diff != "" {
		t.Errorf("board (-want +got):\n%s", diff)
	}
	if !boards.Time.Equal(now) || boards.Summary == nil || text(*boards.Summary) != "1024 / 40536 MiB" {
		t.Errorf("summary %+v at %v", boards.Summary, boards.Time)
	}

	slice := printed(groups[1].Instances["MIG-1-4"].Stats)
	for key, value := range slice {
		switch {
		case key == "Memory state" && value == "13 / 4864 MiB":
		case key != "Memory state" && value[:3] == "N/A":
		default:
			t.Errorf("slice has %s = %s; what the driver does not tell must not look like a reading", key, value)
		}
	}
	if len(slice) != len(want) {
		t.Errorf("slice has %d statistics, a board %d", len(slice), len(want))
	}
}

// TestStatsDetails: what is told beyond HashiCorp's names is there if it is
// known, and missing if it isn't.
func TestStatsDetails(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	active, held := 0.1, 1500*time.Millisecond
	inv := healthy(3)
	inv.Boards[0].Specs.CoresClockMHz = amount(1410)
	inv.Boards[1] = sliced(inv.Boards[1], 4)
	board := gpu.Sample{
		Time: now, PowerW: amount(310), TemperatureC: amount(61), SMClockMHz: amount(1380), MemoryTemperatureC: amount(70),
		PCIeTxKBps: amount(5), Profiling: &gpu.Profiling{TensorActive: &active},
	}
	r := gpu.Readings{
		Samples: map[gpu.ID]gpu.Sample{"GPU-0": board, "GPU-1": board, "MIG-1-4": {Time: now}, "GPU-2": {Time: now}},
		Vitals: map[gpu.ID]gpu.Vitals{
			"GPU-0": {
				Throttle: []gpu.ThrottleReason{gpu.ThrottleSWPowerCap, gpu.ThrottleHWThermal}, PowerViolation: &held,
				ECC: &gpu.ECC{VolatileCorrected: amount(3), SRAMUncorrected: amount(0)}, RemappedRows: &gpu.RemappedRows{Uncorrected: 2, Pending: true},
				PCIe: &gpu.PCIe{Generation: amount(3), MaxGeneration: amount(4), Width: amount(16), Replays: amount(7)},
				NVLinks: []gpu.NVLink{
					{Active: true, CRCErrors: amount(1), ReplayErrors: amount(1), TransmittedKiB: amount(4)},
					{CRCErrors: amount(2), TransmittedKiB: amount(5)},
				},
			},
			"GPU-1": {Throttle: []gpu.ThrottleReason{}, RetiredPages: &gpu.RetiredPages{}},
		},
		Processes: []gpu.Process{{PID: 1, Device: "MIG-1-4"}, {PID: 2, Device: "GPU-0"}, {PID: 3, Device: "GPU-0"}},
	}
	instances := map[string]device.InstanceStats{}
	for _, g := range gpu.Stats(gpu.State{}.Next(inv).Devices, r) {
		maps.Copy(instances, g.Instances)
	}
	want := map[string]map[string]map[string]string{
		"GPU-0": {
			"Clocks":        {"SM clock": "1380 / 1410 MHz", "Throttle reasons": "hw-thermal, sw-power-cap", "Held down by power": "1.5 s"},
			"Thermal":       {"Memory temperature": "70 C"},
			"Profiling":     {"Tensor active": "10 %"},
			"ECC":           {"Corrected": "3 #", "Uncorrected, on chip": "0 #"},
			"Remapped rows": {"For corrected errors": "0 #", "For uncorrected errors": "2 #", "Pending": "true", "Failed": "false"},
			"PCIe":          {"Generation": "3 / 4", "Width": "16 lanes", "Replays": "7 #", "Sent": "5 KB/s"},
			"NVLink":        {"Links": "1 / 2 #", "CRC errors": "3 #", "Sent": "9 KiB"},
			"Processes":     {"Running": "2 #"},
		},
		"MIG-1-4": {
			"Board":     {"Power usage": "310 / 400 W", "Temperature": "61 C", "Throttle reasons": "none"},
			"Processes": {"Running": "1 #"},
		},
		"GPU-2": {"Processes": {"Running": "0 #"}},
	}
	got := map[string]map[string]map[string]string{}
	for id, instance := range instances {
		got[id] = map[string]map[string]string{}
		for group, stats := range instance.Nested {
			got[id][group] = printed(stats)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStatsOfReplicas: each replica has what its hardware tells.
func TestStatsOfReplicas(t *testing.T) {
	s := gpu.State{}.Next(healthy(1))
	offer := s.Offer(gpu.Policy{Share: func(gpu.Device) (string, int) { return "mps", 2 }}, gpu.Overlay{})
	groups := gpu.Stats(offer.Devices, gpu.Readings{Samples: map[gpu.ID]gpu.Sample{"GPU-0": {PowerW: amount(5)}}})
	if len(groups) != 1 || groups[0].Type != gpu.SharedType {
		t.Fatalf("groups %+v", groups)
	}
	for _, id := range []string{"GPU-0::0", "GPU-0::1"} {
		if i, ok := groups[0].Instances[id]; !ok || text(i.Stats["Power usage"]) != "5 / 400 W" || i.Nested != nil {
			t.Errorf("%s has %+v", id, i)
		}
	}
}

func printed(stats map[string]device.Stat) map[string]string {
	m := make(map[string]string)
	for key, s := range stats {
		m[key] = text(s)
	}
	return m
}

// text prints a statistic as Nomad's command line does, but for the unit of a
// text, which that leaves out.
func text(s device.Stat) string {
	var v string
	switch {
	case s.Bool != nil:
		v = strconv.FormatBool(*s.Bool)
	case s.String != nil:
		v = *s.String
	case s.Float != nil:
		v = strconv.FormatFloat(*s.Float, 'f', -1, 64)
	case s.IntDenominator != nil:
		v = fmt.Sprintf("%d / %d", *s.Int, *s.IntDenominator)
	default:
		v = strconv.FormatInt(*s.Int, 10)
	}
	return strings.TrimSpace(v + " " + s.Unit)
}
