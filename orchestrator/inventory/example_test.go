package inventory_test

import (
	"fmt"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

func ExampleFleet() {
	gpus := func(ids ...string) []inventory.Group {
		g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: "NVIDIA L4"}
		for _, id := range ids {
			g.Instances = append(g.Instances, inventory.Instance{ID: id, Healthy: true})
		}
		return []inventory.Group{g}
	}
	fleet, err := inventory.New([]inventory.Node{
		{ID: "n1", Eligible: true, CPUMHz: 16_000, MemoryMiB: 65_536, Groups: gpus("GPU-1", "GPU-2")},
		{ID: "n2", Eligible: true, CPUMHz: 16_000, MemoryMiB: 65_536, Groups: gpus("GPU-3")},
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	ask := inventory.Ask{CPUMHz: 2000, MemoryMiB: 4096, GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu"}}
	each, or, err := fleet.Options(ask)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("a member is charged", each)

	job := &queue.Job{ID: "run/step.train", Shape: ask.Shape(), Each: each, Or: or, Min: 1}
	for range 4 {
		place, members := fleet.Find(job, 0, 1)
		if members == 0 {
			fmt.Println("no room:", fleet.Why(ask))
			break
		}
		fleet.Take(job, 0, place)
		fmt.Println(place[0].Node, place[0].Devices)
	}

	ask.GPU.Count = 4
	_, _, err = fleet.Options(ask)
	fmt.Println(err)
	// Output:
	// a member is charged map[cpu:2 memory:4 nvidia-l4:1]
	// n2 [GPU-3]
	// n1 [GPU-1]
	// n1 [GPU-2]
	// no room: 2 nodes: 2 with too few free devices
	// no node could ever run it: 2 nodes: 2 with fewer than 4 of nvidia/gpu
}
