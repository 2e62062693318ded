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

func TestReserve(t *testing.T) {
	inv := healthy(4)
	inv.Boards[2] = sliced(inv.Boards[2], 0, 2)
	inv.Boards[3].Fault = "Xid 79"
	s := gpu.State{}.Next(inv)
	node := func(path string) device.Node {
		return device.Node{TaskPath: path, HostPath: path, Permissions: "rw"}
	}
	tests := []struct {
		name    string
		ignored gpu.IgnoreList
		ids     []gpu.ID
		want    *device.Reservation
		wantErr error
		names   string // that the error mentions
	}{
		{
			name: "two boards, in board order",
			ids:  []gpu.ID{"GPU-1", "GPU-0"},
			want: &device.Reservation{
				Env:     map[string]string{"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1", "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"},
				Devices: []device.Node{node("/dev/nvidia0"), node("/dev/nvidiactl"), node("/dev/nvidia1")},
			},
		},
		{
			name: "a slice, by its own ID",
			ids:  []gpu.ID{"MIG-2-2"},
			want: &device.Reservation{
				Env:     map[string]string{"NVIDIA_VISIBLE_DEVICES": "MIG-2-2", "CUDA_VISIBLE_DEVICES": "MIG-2-2"},
				Devices: []device.Node{node("/dev/nvidia-caps/nvidia-cap2"), node("/dev/nvidia2"), node("/dev/nvidiactl")},
			},
		},
		{name: "nothing", want: &device.Reservation{Env: map[string]string{}}},
		{name: "unknown", ids: []gpu.ID{"GPU-0", "GPU-9"}, wantErr: gpu.ErrUnknownGPU, names: "GPU-9"},
		{name: "unhealthy", ids: []gpu.ID{"GPU-3"}, wantErr: gpu.ErrUnhealthyGPU, names: "GPU-3: the GPU is unhealthy: Xid 79"},
		{name: "parent of slices", ids: []gpu.ID{"GPU-2"}, wantErr: gpu.ErrUnknownGPU, names: "GPU-2"},
		{name: "ignored", ignored: gpu.IgnoreList{"GPU-0"}, ids: []gpu.ID{"GPU-0"}, wantErr: gpu.ErrIgnoredGPU, names: "GPU-0"},
		{name: "slice of an ignored board", ignored: gpu.IgnoreList{"GPU-2"}, ids: []gpu.ID{"MIG-2-0"}, wantErr: gpu.ErrIgnoredGPU, names: "MIG-2-0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.Reserve(tt.ignored, tt.ids)
			if !errors.Is(err, tt.wantErr) || err != nil && !strings.Contains(err.Error(), tt.names) {
				t.Fatalf("error is %v, want %v about %s", err, tt.wantErr, tt.names)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reservation (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReserveOrder: whatever order the scheduler gives the IDs in, a task sees
// its GPUs in the same one, and only those.
func TestReserveOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := gpu.State{}.Next(healthy(8))
		var ids []gpu.ID
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 7), 1, 8, rapid.ID).Draw(t, "reserved") {
			ids = append(ids, s.Devices[i].ID)
		}
		shuffled := rapid.Permutation(ids).Draw(t, "order")
		a, errA := s.Reserve(nil, ids)
		b, errB := s.Reserve(nil, shuffled)
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
