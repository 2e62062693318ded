package gpu_test

import (
	"fmt"
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
	groups := gpu.Stats(s.Devices, samples)
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

func printed(stats map[string]device.Stat) map[string]string {
	m := make(map[string]string)
	for key, s := range stats {
		m[key] = text(s)
	}
	return m
}

// text prints a statistic as Nomad's command line does.
func text(s device.Stat) string {
	switch {
	case s.String != nil:
		return *s.String + " " + s.Unit
	case s.IntDenominator != nil:
		return fmt.Sprintf("%d / %d %s", *s.Int, *s.IntDenominator, s.Unit)
	default:
		return fmt.Sprintf("%d %s", *s.Int, s.Unit)
	}
}
