package gpu_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

func TestGroups(t *testing.T) {
	capability := 9.0
	inv := gpu.Inventory{
		DriverVersion: "580.95.05", CUDAVersion: "13.0",
		Boards: []gpu.Board{
			{
				ID: "GPU-h", Index: 0, Product: "NVIDIA H100 80GB HBM3", PCIBusID: "00000000:1B:00.0",
				Specs: gpu.Specs{
					MemoryMiB: amount(81559), PowerW: amount(700), BAR1MiB: amount(131072), CoresClockMHz: amount(1980),
					MemoryClockMHz: amount(2619), PCIBandwidthMBps: amount(65536), DisplayState: "Disabled",
					PersistenceMode: "Enabled", Architecture: "hopper", ComputeCapability: &capability,
				},
			},
			{
				ID: "GPU-a", Index: 1, Product: "NVIDIA A100-SXM4-40GB", MIG: true, Fault: "lost",
				Specs:  gpu.Specs{MemoryMiB: amount(40536)},
				Slices: []gpu.Slice{{ID: "MIG-a", Profile: "1g.5gb", MemoryMiB: amount(4864)}},
			},
		},
	}
	s := gpu.State{}.Next(inv)
	want := []device.Group{
		{
			Vendor: "nvidia", Type: "gpu", Name: "NVIDIA H100 80GB HBM3",
			Devices: []device.Device{{ID: "GPU-h", Healthy: true, PCIBusID: "00000000:1B:00.0"}},
			Attributes: map[string]device.Attribute{
				"memory":             base.Int(81559, "MiB"),
				"power":              base.Int(700, "W"),
				"bar1":               base.Int(131072, "MiB"),
				"cores_clock":        base.Int(1980, "MHz"),
				"memory_clock":       base.Int(2619, "MHz"),
				"pci_bandwidth":      base.Int(65536, "MB/s"),
				"display_state":      base.String("Disabled"),
				"persistence_mode":   base.String("Enabled"),
				"architecture":       base.String("hopper"),
				"compute_capability": base.Float(9.0, ""),
				"pci_bus_id":         base.String("00000000:1B:00.0"),
				"driver_version":     base.String("580.95.05"),
				"driver_branch":      base.Int(580, ""),
				"cuda_version":       base.String("13.0"),
				"cuda_majors":        base.String("11,12,13"),
				"cuda_compat":        base.String("13.0"),
				"mps":                base.Bool(false),
			},
		},
		{
			Vendor: "nvidia", Type: "gpu", Name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
			Devices: []device.Device{{ID: "MIG-a", HealthDescription: "lost; running work moves away"}},
			Attributes: map[string]device.Attribute{
				"memory":         base.Int(4864, "MiB"),
				"mig_profile":    base.String("1g.5gb"),
				"mig_parent":     base.String("GPU-a"),
				"driver_version": base.String("580.95.05"),
				"driver_branch":  base.Int(580, ""),
				"cuda_version":   base.String("13.0"),
				"cuda_majors":    base.String("11,12,13"),
				"cuda_compat":    base.String("13.0"),
				"mps":            base.Bool(false),
			},
		},
	}
	got := all(s).Groups()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	if err := device.ValidateGroups(got); err != nil {
		t.Errorf("an agent refuses the groups: %v", err)
	}
}

func TestAttributesOfUnlikeDevices(t *testing.T) {
	inv := healthy(3)
	inv.Boards[1].Specs.PowerW = amount(250) // somebody lowered its limit
	inv.Boards[2].Specs.PersistenceMode = "Enabled"
	inv.Boards[2].Specs.BAR1MiB = amount(1)
	s := gpu.State{}.Next(inv)
	groups := all(s).Groups()
	if len(groups) != 1 || len(groups[0].Devices) != 3 {
		t.Fatalf("devices of one name are in groups %+v, want one group: Nomad overwrites groups of one name", groups)
	}
	want := map[string]device.Attribute{
		"memory":         base.Int(40536, "MiB"),
		"power":          base.Int(250, "W"),
		"driver_version": base.String("550.54.15"),
		"driver_branch":  base.Int(550, ""),
		"cuda_version":   base.String("12.4"),
		"cuda_majors":    base.String("11,12"),
		"cuda_compat":    base.String("12.4"),
		"mps":            base.Bool(false),
	}
	if diff := cmp.Diff(want, groups[0].Attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// TestMemoryUnits: a card sold as 80 GB has less than 80 GiB, and jobs can say
// either.
func TestMemoryUnits(t *testing.T) {
	const gb, gib = 1e9, 1 << 30
	tests := []struct {
		mib             int64
		size            float64
		gbFits, gibFits bool
	}{
		{4864, 5, true, false},
		{40536, 40, true, false},
		{81559, 80, true, false},
	}
	for _, tt := range tests {
		inv := healthy(1)
		inv.Boards[0].Specs.MemoryMiB = amount(tt.mib)
		s := gpu.State{}.Next(inv)
		memory := all(s).Groups()[0].Attributes["memory"]
		if memory.Unit != "MiB" {
			t.Fatalf("memory is in %q", memory.Unit)
		}
		bytes := float64(memory.Value.(int64)) * (1 << 20)
		if got := bytes >= tt.size*gb; got != tt.gbFits {
			t.Errorf("%d MiB >= %v GB is %v", tt.mib, tt.size, got)
		}
		if got := bytes >= tt.size*gib; got != tt.gibFits {
			t.Errorf("%d MiB >= %v GiB is %v", tt.mib, tt.size, got)
		}
	}
}

func TestGroupsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := gpu.State{}.Next(randomReading(t))
		names, total := map[string]bool{}, 0
		for _, g := range all(s).Groups() {
			if names[g.Name] {
				t.Fatalf("two groups are named %q", g.Name)
			}
			names[g.Name] = true
			total += len(g.Devices)
		}
		if total != len(s.Devices) {
			t.Fatalf("%d devices are in groups of %d", len(s.Devices), total)
		}
		if err := device.ValidateGroups(all(s).Groups()); err != nil {
			t.Fatal(err)
		}
	})
}
