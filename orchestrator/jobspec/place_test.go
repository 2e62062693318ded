package jobspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func TestPlacePinsNodeAndDevices(t *testing.T) {
	task := pipeline.Task{
		Command: []string{"train"}, Priority: 50,
		Resources: pipeline.Resources{CPUMHz: 500, MemoryMiB: 256, GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu", MemoryMin: "80 GB"}},
	}
	id := Identity{Run: "r1", Node: "step.train", Attempt: 1, Workspace: "default", Pipeline: "p", Place: &Place{
		NodeID: "n-1", NodeName: "one", Pool: "gpus", Device: "nvidia/gpu/A100", Devices: []string{"GPU-a", "GPU-b"},
	}}
	job, err := Task(id, task, Cluster{NodePool: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if *job.NodePool != "gpus" {
		t.Errorf("node pool %s, want that of the node", *job.NodePool)
	}
	group := job.TaskGroups[0]
	want := []*api.Constraint{{LTarget: "${node.unique.id}", Operand: "=", RTarget: "n-1"}}
	if diff := cmp.Diff(want, group.Constraints); diff != "" {
		t.Errorf("the group's constraints (-want +got):\n%s", diff)
	}
	devices := []*api.RequestedDevice{{
		Name: "nvidia/gpu/A100", Count: new(uint64(2)),
		Constraints: []*api.Constraint{{LTarget: "${device.ids}", Operand: "set_contains", RTarget: "GPU-a,GPU-b"}},
	}}
	if diff := cmp.Diff(devices, group.Tasks[0].Resources.Devices); diff != "" {
		t.Errorf("the devices (-want +got):\n%s", diff)
	}
}

func TestPlaceWithoutDevicesPinsTheNodeOnly(t *testing.T) {
	id := Identity{Run: "r1", Node: "step.count", Attempt: 1, Workspace: "default", Pipeline: "p", Place: &Place{NodeID: "n-1"}}
	job, err := Task(id, pipeline.Task{Command: []string{"count"}, Priority: 50, Resources: pipeline.Resources{CPUMHz: 500, MemoryMiB: 256}}, Cluster{})
	if err != nil {
		t.Fatal(err)
	}
	if len(job.TaskGroups[0].Constraints) != 1 || len(job.TaskGroups[0].Tasks[0].Resources.Devices) != 0 {
		t.Errorf("constraints %v, devices %v: want one and none", job.TaskGroups[0].Constraints, job.TaskGroups[0].Tasks[0].Resources.Devices)
	}
}
