package inventory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// free is how many single GPUs there is room for.
func free(t *testing.T, f *inventory.Fleet) int {
	t.Helper()
	_, n := f.Find(job(t, f, inventory.Ask{GPU: gpus(1)}), 0, 1000)
	return n
}

func TestForeignAllocationHoldsJustItsDevices(t *testing.T) {
	n := machine(t, "dgx-a100", "n")
	f := fleet(t, n)
	a, holds := inventory.AllocFromNomad(&api.Allocation{
		ID: "alloc", JobID: "theirs", NodeID: "n", ClientStatus: api.AllocClientStatusRunning,
		AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
			"main": {
				Cpu: api.AllocatedCpuResources{CpuShares: 1000}, Memory: api.AllocatedMemoryResources{MemoryMB: 2048},
				Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: n.Groups[0].Name, DeviceIDs: []string{device(n, 3), device(n, 5)}}},
			},
			"side": {Cpu: api.AllocatedCpuResources{CpuShares: 500}},
		}},
	})
	if !holds {
		t.Fatal("it holds nothing")
	}
	r := f.Foreign(a)
	if diff := cmp.Diff(queue.Resources{"cpu": 1500, "memory": 2000, "nvidia-a100-sxm4-40gb": 2000}, r.Each); diff != "" || !r.Foreign {
		t.Errorf("charged (-want +got):\n%s", diff)
	}
	f.Take(&r.Job, 0, r.Run.Place)
	place, _ := f.Find(job(t, f, inventory.Ask{GPU: gpus(6)}), 0, 1)
	if diff := cmp.Diff([]string{"0", "1", "2", "4", "6", "7"}, numbers(t, n, place[0].Devices)); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	f.Release(&r.Job, 0, r.Run.Place)
	if n := free(t, f); n != 8 {
		t.Errorf("%d are free after it ended, want 8", n)
	}
}

func TestForeignAllocationWithCores(t *testing.T) {
	f := fleet(t, gpuNode("a", 0, func(n *inventory.Node) { n.Cores = 32 })) // of 2000 MHz
	r := f.Foreign(inventory.Alloc{ID: "x", NodeID: "a", CPUMHz: 60_500, Cores: 30})
	if r.Each[inventory.CPU] != 60_500 {
		t.Errorf("charged %v", r.Each)
	}
	f.Take(&r.Job, 0, r.Run.Place)
	for _, tt := range []struct {
		ask  inventory.Ask
		want int
	}{{inventory.Ask{Cores: 1}, 1}, {inventory.Ask{Cores: 3}, 0}, {inventory.Ask{CPUMHz: 3500}, 1}, {inventory.Ask{CPUMHz: 3501}, 0}} {
		if _, n := f.Find(job(t, f, tt.ask), 0, 1); n != tt.want {
			t.Errorf("room for %d of %+v, want %d", n, tt.ask, tt.want)
		}
	}
}

// TestForeignAllocationOfTwoKinds is one that no ask of Drover's is like.
func TestForeignAllocationOfTwoKinds(t *testing.T) {
	n := gpuNode("a", 2, shared(1, 4, "NVIDIA L4", 23034))
	f := fleet(t, n)
	r := f.Foreign(inventory.Alloc{ID: "x", NodeID: "a", CPUMHz: 64_000, Devices: []inventory.Devices{
		{Vendor: "nvidia", Type: "gpu", Name: n.Groups[0].Name, IDs: []string{device(n, 0)}},
		{Vendor: "nvidia", Type: "gpu.shared", Name: "NVIDIA L4", IDs: []string{device(n, 2), device(n, 3)}},
	}})
	if diff := cmp.Diff(queue.Resources{"cpu": 64_000, "nvidia-a100-sxm4-40gb": 1000, "nvidia-l4": 500}, r.Each); diff != "" {
		t.Errorf("charged (-want +got):\n%s", diff)
	}
	f.Take(&r.Job, 0, r.Run.Place)
	if n := free(t, f); n != 1 {
		t.Errorf("%d GPUs are free, want 1", n)
	}
	cpu := job(t, f, inventory.Ask{CPUMHz: 1})
	if _, n := f.Find(cpu, 0, 1); n != 0 {
		t.Error("the CPU that it has is free")
	}
	f.Release(&r.Job, 0, r.Run.Place)
	if _, n := f.Find(cpu, 0, 1); n != 1 || free(t, f) != 2 {
		t.Error("what it had is not free")
	}
}

func TestAllocationThatEndedHoldsNothing(t *testing.T) {
	for status, want := range map[string]bool{
		api.AllocClientStatusPending: true, api.AllocClientStatusRunning: true, api.AllocClientStatusUnknown: true,
		api.AllocClientStatusComplete: false, api.AllocClientStatusFailed: false, api.AllocClientStatusLost: false,
	} {
		if _, holds := inventory.AllocFromStub(&api.AllocationListStub{ID: "a", ClientStatus: status, DesiredStatus: api.AllocDesiredStatusStop}); holds != want {
			t.Errorf("%s: holds %v", status, holds)
		}
	}
}

// TestOverfullNode has two hold one device, and one more CPU than there is: who
// leaves gives nothing of what the others hold.
func TestOverfullNode(t *testing.T) {
	n := gpuNode("a", 2)
	f := fleet(t, n)
	var running []queue.Running
	for i := range 3 {
		running = append(running, f.Foreign(inventory.Alloc{
			ID: fmt.Sprint(i), NodeID: "a", CPUMHz: 60_000,
			Devices: []inventory.Devices{{Vendor: "nvidia", Type: "gpu", Name: n.Groups[0].Name, IDs: []string{device(n, 0)}}},
		}))
		f.Take(&running[i].Job, 0, running[i].Run.Place)
	}
	cpu := job(t, f, inventory.Ask{CPUMHz: 3000})
	for i, want := range []struct{ gpus, cpu int }{{1, 0}, {1, 0}, {1, 1}, {2, 21}} {
		if got := free(t, f); got != want.gpus {
			t.Errorf("after %d left: %d GPUs are free, want %d", i, got, want.gpus)
		}
		if _, got := f.Find(cpu, 0, 1000); got != want.cpu {
			t.Errorf("after %d left: room for %d without GPUs, want %d", i, got, want.cpu)
		}
		if i < len(running) {
			f.Release(&running[i].Job, 0, running[i].Run.Place)
		}
	}
}

func TestNodeTakesSoManyAllocations(t *testing.T) {
	f := fleet(t, gpuNode("a", 8, func(n *inventory.Node) { n.MaxAllocs = 3 }))
	r := f.Foreign(inventory.Alloc{ID: "x", NodeID: "a"})
	f.Take(&r.Job, 0, r.Run.Place)
	if n := free(t, f); n != 2 {
		t.Errorf("room for %d more, want 2", n)
	}
	for range 2 {
		f.Take(&r.Job, 0, r.Run.Place)
	}
	if got, want := f.Why(inventory.Ask{}), "1 node: 1 with as many allocations as may be"; got != want {
		t.Errorf("why: %s, want %s", got, want)
	}
}

// TestPlacesThatTakeNothingNew still count what runs there.
func TestPlacesThatTakeNothingNew(t *testing.T) {
	f := fleet(t, gpuNode("a", 2), gpuNode("b", 2))
	j := job(t, f, inventory.Ask{GPU: gpus(2)})
	place, _ := f.Find(j, 0, 1)
	if !f.Free(j, 0, place) {
		t.Fatal("what was found is not free")
	}
	for name, edit := range map[string]func(*inventory.Node){
		"draining":  func(n *inventory.Node) { n.Eligible = false },
		"unhealthy": func(n *inventory.Node) { n.Groups[0].Instances[1].Healthy = false },
		"gone":      func(n *inventory.Node) { n.ID = "c"; n.Groups[0].Instances = nil },
	} {
		t.Run(name, func(t *testing.T) {
			after := fleet(t, gpuNode("a", 2, edit), gpuNode("b", 2))
			if after.Free(j, 0, place) {
				t.Error("its place is free for others")
			}
			after.Take(j, 0, place)
			other, n := after.Find(j, 0, 2)
			if n != 1 || other[0].Node != "b" {
				t.Errorf("others go to %v", other)
			}
			after.Release(j, 0, place)
			if _, n := after.Find(j, 0, 2); n != 1 {
				t.Errorf("when it has left there is room for %d", n)
			}
		})
	}
}

func TestReplicas(t *testing.T) {
	f := fleet(t, gpuNode("a", 0, shared(2, 4, "NVIDIA L4", 23034)))
	ask := func(n int) *queue.Job {
		g := gpus(n)
		g.Device = "nvidia/gpu.shared"
		return job(t, f, inventory.Ask{GPU: g})
	}
	take := func(n int) []string {
		p, found := f.Find(ask(n), 0, 1)
		if found == 0 {
			return nil
		}
		f.Take(ask(n), 0, p)
		return p[0].Devices
	}
	if each := ask(3).Each["nvidia-l4"]; each != 750 {
		t.Errorf("three of four replicas are charged %s", each)
	}
	got := [][]string{take(1), take(1), take(2), take(4)}
	want := [][]string{
		{"GPU-a-s0::0"}, {"GPU-a-s0::1"}, // one board is filled first
		{"GPU-a-s0::2", "GPU-a-s1::0"}, // two of one board are no more than one
		{"GPU-a-s0::3", "GPU-a-s1::1", "GPU-a-s1::2", "GPU-a-s1::3"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("replicas (-want +got):\n%s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name    string
		nodes   []inventory.Node
		flavors []inventory.Flavor
		want    string
	}{
		{"two nodes of one ID", []inventory.Node{gpuNode("a", 1), gpuNode("a", 2)}, nil, `node "a": IDs`},
		{"negative memory", []inventory.Node{gpuNode("a", 1, func(n *inventory.Node) { n.MemoryMiB = -1 })}, nil, "memory of -1 MiB"},
		{"a flavor without a name", nil, []inventory.Flavor{{Model: "*"}}, "need a name"},
		{"a flavor named as another resource", nil, []inventory.Flavor{{Name: "memory"}}, "memory"},
		{"a flavor of nothing", nil, []inventory.Flavor{{Name: "x", MinMemoryMiB: 2, MaxMemoryMiB: 1}}, "2 to 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := inventory.New(tt.nodes, tt.flavors); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestProblems is of nodes that tell nonsense: they are used with care, and said.
func TestProblems(t *testing.T) {
	bad := "{"
	told := inventory.FromNomad(&api.Node{ID: "a", Name: "gpu-01", Status: "ready", NodeResources: &api.NodeResources{Devices: []*api.NodeDeviceResource{{
		Vendor: "nvidia", Type: "gpu", Name: "NVIDIA X MIG huge", Instances: []*api.NodeDevice{{ID: "1", Healthy: true}},
		Attributes: map[string]*api.Attribute{"topology": {StringVal: &bad}},
	}}}})
	f := fleet(t, told)
	each, _, err := f.Options(inventory.Ask{GPU: gpus(1)})
	if err != nil || each["nvidia-x"] != queue.One {
		t.Errorf("charged %v, %v", each, err)
	}
	if p := f.Problems(); len(p) != 2 || !strings.Contains(p[0], `"huge" is no MIG profile`) || !strings.Contains(p[1], "gpu-01") {
		t.Errorf("problems %q", p)
	}
}
