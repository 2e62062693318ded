package gpu_test

import (
	"fmt"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// healthy is a machine of n whole boards GPU-0, GPU-1, ...
func healthy(n int) gpu.Inventory {
	inv := gpu.Inventory{DriverVersion: "550.54.15", CUDAVersion: "12.4"}
	for i := range n {
		inv.Boards = append(inv.Boards, gpu.Board{
			ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Index: i, Product: "A100",
			PCIBusID: fmt.Sprintf("00000000:%02X:00.0", i),
			Specs:    gpu.Specs{MemoryMiB: amount(40536), PowerW: amount(400)},
			Nodes:    []string{fmt.Sprintf("/dev/nvidia%d", i), "/dev/nvidiactl"},
		})
	}
	return inv
}

// sliced puts a board in MIG mode with 1g.5gb slices at the given indexes.
func sliced(b gpu.Board, indexes ...int) gpu.Board {
	b.MIG = true
	b.Slices = nil
	for _, i := range indexes {
		b.Slices = append(b.Slices, gpu.Slice{
			ID: gpu.ID(fmt.Sprintf("MIG-%d-%d", b.Index, i)), Index: i, Profile: "1g.5gb", MemoryMiB: amount(4864),
			Nodes: append([]string{fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", i)}, b.Nodes...),
		})
	}
	return b
}

func amount(v int64) *int64 { return &v }

// faults maps each device to the reason of its fault.
func faults(s gpu.State) map[gpu.ID]string {
	m := make(map[gpu.ID]string)
	for _, d := range s.Devices {
		m[d.ID] = d.Fault.Reason
	}
	return m
}

// all offers everything.
func all(s gpu.State) gpu.Offer { return s.Offer(gpu.Policy{}, gpu.Overlay{}) }

// offered are the IDs on offer.
func offered(o gpu.Offer) []gpu.ID {
	var ids []gpu.ID
	for _, d := range o.Devices {
		ids = append(ids, d.ID)
	}
	return ids
}
