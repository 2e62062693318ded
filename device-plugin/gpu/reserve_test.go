package gpu_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// reservation is what a task hears of its devices, by the names that CUDA and
// all others have for them, and their device files.
func reservation(cuda, hardware string, nodes ...string) *device.Reservation {
	cdi := strings.Split(hardware, ",")
	for i := range cdi {
		cdi[i] = "nvidia.com/gpu=" + cdi[i]
	}
	r := &device.Reservation{Env: map[string]string{
		"CUDA_VISIBLE_DEVICES": cuda, "NVIDIA_VISIBLE_DEVICES": hardware,
		"DROVER_CDI_DEVICES": strings.Join(cdi, ","), "DROVER_GPU_NODES": strings.Join(nodes, ","),
	}}
	for _, n := range nodes {
		r.Devices = append(r.Devices, device.Node{TaskPath: n, HostPath: n, Permissions: "rw"})
	}
	return r
}

func TestReserve(t *testing.T) {
	inv := healthy(5)
	inv.Boards[2] = sliced(inv.Boards[2], 0, 2)
	inv.Boards[2].Slices[1].GPUInstance, inv.Boards[2].Slices[1].ComputeInstance = at(9), at(0)
	inv.Boards[3].Fault = "Xid 79"
	inv.Boards[4].Product = "L4"
	twice := gpu.Policy{Share: func(d gpu.Device) (string, int) {
		if d.Board.Product == "L4" {
			return "time-slicing", 2
		}
		return "", 0
	}}
	hiding := func(exclude ...string) gpu.Policy {
		f, err := gpu.NewFilter(nil, exclude, nil)
		if err != nil {
			t.Fatal(err)
		}
		return gpu.Policy{Filter: f}
	}
	tests := []struct {
		name    string
		policy  gpu.Policy
		overlay gpu.Overlay
		driver  string
		ids     []gpu.ID
		want    *device.Reservation
		wantErr error
		says    string // the error
	}{
		{
			name: "two boards, in board order",
			ids:  []gpu.ID{"GPU-1", "GPU-0"},
			want: reservation("GPU-0,GPU-1", "GPU-0,GPU-1", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia1"),
		},
		{
			name: "a slice, by its own ID",
			ids:  []gpu.ID{"MIG-2-2"},
			want: reservation("MIG-2-2", "MIG-2-2", "/dev/nvidia-caps/nvidia-cap2", "/dev/nvidia2", "/dev/nvidiactl"),
		},
		{
			name:   "a slice, for the CUDA of an old driver",
			driver: "460.106.00",
			ids:    []gpu.ID{"MIG-2-2"},
			want:   reservation("MIG-GPU-2/9/0", "MIG-2-2", "/dev/nvidia-caps/nvidia-cap2", "/dev/nvidia2", "/dev/nvidiactl"),
		},
		{
			name:   "two replicas of one board are one board",
			policy: twice,
			ids:    []gpu.ID{"GPU-4::1", "GPU-4::0"},
			want:   reservation("GPU-4", "GPU-4", "/dev/nvidia4", "/dev/nvidiactl"),
		},
		{name: "nothing", want: &device.Reservation{Env: map[string]string{}}},
		{name: "unknown", ids: []gpu.ID{"GPU-0", "GPU-9"}, wantErr: gpu.ErrUnknownGPU, says: "GPU-9"},
		{name: "unhealthy", ids: []gpu.ID{"GPU-3"}, wantErr: gpu.ErrUnhealthyGPU, says: "GPU-3: the GPU is unhealthy: GPU failed: GPU-3: Xid 79"},
		{
			name:    "unhealthy, as others know",
			overlay: gpu.Overlay{Faults: map[gpu.ID]gpu.Fault{"GPU-2": {Reason: "ECC"}}},
			ids:     []gpu.ID{"MIG-2-0"}, wantErr: gpu.ErrUnhealthyGPU, says: "ECC",
		},
		{name: "parent of slices", ids: []gpu.ID{"GPU-2"}, wantErr: gpu.ErrHiddenGPU, says: "GPU-2: the GPU is not on offer: it is in MIG mode"},
		{name: "shared board", policy: twice, ids: []gpu.ID{"GPU-4"}, wantErr: gpu.ErrHiddenGPU, says: "replicas GPU-4::0 to GPU-4::1"},
		{name: "replica of a board that is not shared", policy: twice, ids: []gpu.ID{"GPU-0::0"}, wantErr: gpu.ErrUnknownGPU},
		{name: "hidden", policy: hiding("index:0"), ids: []gpu.ID{"GPU-0"}, wantErr: gpu.ErrHiddenGPU, says: "hidden by exclude[0] (index:0)"},
		{name: "slice of a hidden board", policy: hiding("GPU-2"), ids: []gpu.ID{"MIG-2-0"}, wantErr: gpu.ErrHiddenGPU, says: "MIG-2-0"},
		{name: "slice without MIG", policy: gpu.Policy{Strategy: gpu.None}, ids: []gpu.ID{"MIG-2-0"}, wantErr: gpu.ErrHiddenGPU, says: "mig_strategy is none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inv := inv
			if tt.driver != "" {
				inv.DriverVersion = tt.driver
			}
			got, err := reserve(gpu.State{}.Next(inv).Offer(tt.policy, tt.overlay), tt.ids)
			if !errors.Is(err, tt.wantErr) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error is %v, want %v about %s", err, tt.wantErr, tt.says)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reservation (-want +got):\n%s", diff)
			}
		})
	}
}

func reserve(o gpu.Offer, ids []gpu.ID) (*device.Reservation, error) {
	devices, err := o.Select(ids)
	if err != nil {
		return nil, err
	}
	return o.Reservation(devices), nil
}

func at(n int) *int { return &n }

// TestReserveOrder: whatever order the scheduler gives the IDs in, a task sees
// its GPUs in the same one, and only those.
func TestReserveOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := all(gpu.State{}.Next(healthy(8)))
		var ids []gpu.ID
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 7), 1, 8, rapid.ID).Draw(t, "reserved") {
			ids = append(ids, o.Devices[i].ID)
		}
		shuffled := rapid.Permutation(ids).Draw(t, "order")
		a, errA := reserve(o, ids)
		b, errB := reserve(o, shuffled)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatalf("order changes the reservation:\n%s", diff)
		}
		if n := len(strings.Split(a.Env["CUDA_VISIBLE_DEVICES"], ",")); n != len(ids) {
			t.Fatalf("%d GPUs reserved, %d visible", len(ids), n)
		}
	})
}
