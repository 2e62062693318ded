package main

import (
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/simulated"
)

// TestHealthyMachines reads every simulated model for an hour in which nothing
// goes wrong.
func TestHealthyMachines(t *testing.T) {
	for _, preset := range simulated.Presets() {
		t.Run(preset, func(t *testing.T) {
			machine, err := simulated.Preset(preset)
			if err != nil {
				t.Fatal(err)
			}
			machine.Node = "n"
			staysHealthy(t, simulated.New(simulated.Config{Machine: machine}))
		})
	}
}

func staysHealthy(t *testing.T, src gpu.Source) {
	t.Helper()
	m := machineOf(src)
	defer m.Close()
	tracker, err := health.NewTracker(health.DefaultConfig(), "")
	if err != nil {
		t.Fatal(err)
	}
	inv, err := m.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Boards) == 0 || m.vitals == nil {
		t.Fatalf("%d boards, vitals %v", len(inv.Boards), m.vitals)
	}
	var boards []gpu.ID
	for _, b := range inv.Boards {
		boards = append(boards, b.ID)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for range 60 {
		vitals, err := m.vitals.Vitals(t.Context(), boards)
		if err != nil {
			t.Fatal(err)
		}
		if len(vitals) != len(boards) {
			t.Fatalf("vitals of %d of %d boards", len(vitals), len(boards))
		}
		now = now.Add(time.Minute)
		tracker.ObserveInventory(now, inv)
		tracker.ObserveVitals(now, vitals)
	}
	for _, d := range tracker.Report().Devices {
		if d.State != health.Healthy || len(d.Conditions) > 0 {
			t.Errorf("%s is %s: %s %+v", d.ID, d.State, d.Reason, d.Conditions)
		}
	}
}
