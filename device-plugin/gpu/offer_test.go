package gpu_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

func TestStrategy(t *testing.T) {
	mixed := healthy(3)
	mixed.Boards[1] = sliced(mixed.Boards[1], 0, 1)
	mixed.Boards[2] = sliced(mixed.Boards[2])
	uniform := healthy(2)
	uniform.Boards[0] = sliced(uniform.Boards[0], 0)
	uniform.Boards[1] = sliced(uniform.Boards[1], 0, 1)
	unlike := healthy(1)
	unlike.Boards[0] = sliced(unlike.Boards[0], 0, 1)
	unlike.Boards[0].Slices[1].Profile = "2g.10gb"

	const ok = ""
	tests := []struct {
		name     string
		inv      gpu.Inventory
		strategy gpu.Strategy
		want     map[gpu.ID]string // what the health descriptions begin with
	}{
		{"mixed", mixed, gpu.Mixed, map[gpu.ID]string{"GPU-0": ok, "MIG-1-0": ok, "MIG-1-1": ok}},
		{"none", mixed, gpu.None, map[gpu.ID]string{"GPU-0": ok}},
		{"single beside a whole board", mixed, gpu.Single, map[gpu.ID]string{
			"GPU-0": ok, "MIG-1-0": "mig_strategy is single, and board GPU-0 is not in MIG mode", "MIG-1-1": "mig_strategy is single",
		}},
		{"single of one profile", uniform, gpu.Single, map[gpu.ID]string{"MIG-0-0": ok, "MIG-1-0": ok, "MIG-1-1": ok}},
		{"single of two profiles", unlike, gpu.Single, map[gpu.ID]string{
			"MIG-0-0": "mig_strategy is single, and there are slices of 1g.5gb and of 2g.10gb", "MIG-0-1": "mig_strategy is single",
		}},
		{"single without slices", healthy(2), gpu.Single, map[gpu.ID]string{"GPU-0": ok, "GPU-1": ok}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := gpu.State{}.Next(tt.inv).Offer(gpu.Policy{Strategy: tt.strategy}, gpu.Overlay{})
			if len(o.Devices) != len(tt.want) {
				t.Errorf("offered %v", offered(o))
			}
			for _, d := range o.Devices {
				want, expected := tt.want[d.ID]
				if !expected || d.Fault.OK() != (want == ok) || !strings.HasPrefix(d.Fault.Reason, want) {
					t.Errorf("%s has fault %q, want %q (%v)", d.ID, d.Fault.Reason, want, expected)
				}
				if !d.Fault.OK() && d.Fault.Action != gpustatus.Keep {
					t.Errorf("work on %s is told to %s", d.ID, d.Fault.Action)
				}
			}
		})
	}
}

func TestOverlay(t *testing.T) {
	inv := healthy(2)
	inv.Boards[1] = sliced(inv.Boards[1], 0, 1)
	overlay := gpu.Overlay{
		Faults: map[gpu.ID]gpu.Fault{
			"GPU-0":   {Reason: "Xid 79", Action: gpustatus.End},
			"GPU-1":   {Reason: "ECC", Action: gpustatus.Keep},
			"MIG-1-1": {Reason: "Xid 45", Action: gpustatus.Move},
		},
		Attributes: map[gpu.ID]map[string]device.Attribute{
			"GPU-1":   {"nvlink_island": base.Int(0, ""), "mps_limit": base.Int(9, "MiB")},
			"MIG-1-1": {"mps_limit": base.Int(3, "MiB")},
		},
		Describe: func(members []gpu.Device) map[string]device.Attribute {
			return map[string]device.Attribute{"first": base.String(string(members[0].ID))}
		},
	}
	twice := func(gpu.Device) (string, int) { return "mps", 2 }
	groups := gpu.State{}.Next(inv).Offer(gpu.Policy{Share: twice}, overlay).Groups()
	want := map[string]string{
		"GPU-0::0": "Xid 79; running work is ended", "GPU-0::1": "Xid 79; running work is ended",
		"MIG-1-0::0": "ECC; running work may finish", "MIG-1-0::1": "ECC; running work may finish",
		"MIG-1-1::0": "Xid 45; running work moves away", "MIG-1-1::1": "Xid 45; running work moves away",
	}
	got := map[string]string{}
	for _, g := range groups {
		if g.Type != "gpu.shared" || g.Attributes["sharing"] != base.String("mps") {
			t.Errorf("replicas are in a group of type %s, sharing %v", g.Type, g.Attributes["sharing"])
		}
		for _, d := range g.Devices {
			got[d.ID] = d.HealthDescription
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("health (-want +got):\n%s", diff)
	}
	sliced := groups[1].Attributes
	if sliced["mps_limit"] != base.Int(3, "MiB") || sliced["nvlink_island"] != base.Int(0, "") || sliced["first"] != base.String("MIG-1-0::0") {
		t.Errorf("attributes %v", sliced)
	}
}

func TestEnvironment(t *testing.T) {
	open := true
	tests := []struct {
		name, driver, cuda, product string
		env                         gpu.Environment
		want                        map[string]any
	}{
		{
			name: "driver alone", driver: "550.54.15", cuda: "12.4", product: "NVIDIA A100-SXM4-40GB",
			want: map[string]any{"driver_branch": int64(550), "cuda_version": "12.4", "cuda_compat": "12.4", "cuda_majors": "11,12"},
		},
		{
			name: "compatibility packages", driver: "535.183.01", cuda: "12.2", product: "NVIDIA A100-SXM4-40GB",
			env:  gpu.Environment{ForwardCompat: []string{"12.10", "12.9", "11.8"}},
			want: map[string]any{"cuda_compat": "12.10", "cuda_compat_packages": "12.9,12.10"},
		},
		{
			name: "too old for the newer package", driver: "470.256.02", cuda: "11.4", product: "Tesla V100-SXM2-16GB",
			env:  gpu.Environment{ForwardCompat: []string{"12.4", "12.9"}},
			want: map[string]any{"cuda_compat": "12.4", "cuda_compat_packages": "12.4", "cuda_majors": "11"},
		},
		{
			name: "not a data-centre board", driver: "535.183.01", cuda: "12.2", product: "NVIDIA GeForce RTX 4090",
			env:  gpu.Environment{ForwardCompat: []string{"12.4"}},
			want: map[string]any{"cuda_compat": "12.2", "cuda_compat_packages": nil},
		},
		{
			name: "software", driver: "580.95.05", cuda: "13.0", product: "NVIDIA B200",
			env: gpu.Environment{
				OpenKernelModules: &open, CUDARuntimes: []string{"12.10.1", "12.4.1", "12.4.0", "13.0"}, ContainerToolkit: "1.17.4", FabricManager: "580.95.05", MPSControl: "/usr/bin/nvidia-cuda-mps-control",
			},
			want: map[string]any{
				"cuda_runtimes": "12.4,12.4.0,12.4.1,12.10,12.10.1,13.0", "container_toolkit": "1.17.4", "fabric_manager": "580.95.05",
				"open_kernel_modules": true, "mps": true, "cuda_majors": "11,12,13",
			},
		},
		{
			name: "unknown driver", driver: "", product: "NVIDIA B200",
			want: map[string]any{"driver_branch": nil, "driver_version": nil, "cuda_compat": nil},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inv := healthy(1)
			inv.DriverVersion, inv.CUDAVersion, inv.Environment = tt.driver, tt.cuda, tt.env
			inv.Boards[0].Product = tt.product
			got := all(gpu.State{}.Next(inv)).Groups()[0].Attributes
			for key, want := range tt.want {
				if got[key].Value != want {
					t.Errorf("%s is %v, want %v", key, got[key].Value, want)
				}
			}
		})
	}
}
