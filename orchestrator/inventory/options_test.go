package inventory_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// mib is an amount of memory as a device tells it.
func mib(n int64) map[string]*api.Attribute {
	return map[string]*api.Attribute{"memory": {IntVal: &n, Unit: "MiB"}}
}

// withModel makes a node's GPUs those of a model.
func withModel(name string, memoryMiB int64) func(*inventory.Node) {
	return func(n *inventory.Node) {
		n.Groups[0].Name, n.Groups[0].Attributes = name, mib(memoryMiB)
	}
}

// shared has each of so many boards offered as replicas of a part of its memory.
func shared(boards, replicas int, model string, memoryMiB int64) func(*inventory.Node) {
	return func(n *inventory.Node) {
		g := inventory.Group{Vendor: "nvidia", Type: "gpu.shared", Name: model, Attributes: mib(memoryMiB / int64(replicas))}
		for b := range boards {
			for r := range replicas {
				g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprintf("GPU-%s-s%d::%d", n.ID, b, r), Healthy: true})
			}
		}
		n.Groups = append(n.Groups, g)
	}
}

func TestOptions(t *testing.T) {
	l4 := func(id string) inventory.Node { return gpuNode(id, 2, withModel("NVIDIA L4", 23034)) }
	a100 := func(id string) inventory.Node { return gpuNode(id, 8, withModel("NVIDIA A100-SXM4-40GB", 40536)) }
	h100 := func(id string) inventory.Node { return gpuNode(id, 8, withModel("NVIDIA H100 80GB HBM3", 81559)) }
	gpu := func(count int, device, memory string, constraints ...pipeline.Constraint) *pipeline.GPU {
		return &pipeline.GPU{Count: count, Device: device, MemoryMin: memory, Constraints: constraints}
	}
	one := func(flavor queue.Flavor, a queue.Amount) queue.Resources { return queue.Resources{flavor: a} }
	tests := []struct {
		name    string
		nodes   []inventory.Node
		flavors []inventory.Flavor
		ask     inventory.Ask
		want    []queue.Resources
		err     string
	}{
		{
			name: "no devices", nodes: []inventory.Node{l4("a")}, ask: inventory.Ask{CPUMHz: 1500, MemoryMiB: 512},
			want: []queue.Resources{{"cpu": 1500, "memory": 500}},
		},
		{
			name: "cores are charged at the fastest core's clock", nodes: []inventory.Node{gpuNode("a", 0, func(n *inventory.Node) { n.Cores = 32 })},
			ask: inventory.Ask{Cores: 4, MemoryMiB: 1}, want: []queue.Resources{{"cpu": 8000, "memory": 1}},
		},
		{
			name: "any GPU: one for each flavor, least memory first", nodes: []inventory.Node{h100("a"), l4("b"), a100("c")},
			ask: inventory.Ask{CPUMHz: 1, GPU: gpus(2)},
			want: []queue.Resources{
				{"cpu": 1, "nvidia-l4": 2000}, {"cpu": 1, "nvidia-a100-sxm4-40gb": 2000}, {"cpu": 1, "nvidia-h100-80gb-hbm3": 2000},
			},
		},
		{
			name: "one of 80 GB, or two of 40 GB", nodes: []inventory.Node{h100("a"), l4("b"), a100("c")},
			ask:  inventory.Ask{GPU: gpu(1, "nvidia/gpu", "80 GB"), Or: []pipeline.GPU{*gpu(2, "nvidia/gpu", "40 GB")}},
			want: []queue.Resources{one("nvidia-h100-80gb-hbm3", 1000), one("nvidia-a100-sxm4-40gb", 2000), one("nvidia-h100-80gb-hbm3", 2000)},
		},
		{
			name: "a declared flavor of two models", nodes: []inventory.Node{h100("a"), l4("b"), a100("c")},
			flavors: []inventory.Flavor{{Name: "large", MinMemoryMiB: 40000}, {Name: "a100", Model: "*a100*"}},
			ask:     inventory.Ask{GPU: gpus(1)}, want: []queue.Resources{one("nvidia-l4", 1000), one("large", 1000)},
		},
		{
			name: "a model by its pattern", nodes: []inventory.Node{a100("c")}, flavors: []inventory.Flavor{{Name: "a100", Vendor: "nvidia", Model: "NVIDIA a100-????-*"}},
			ask: inventory.Ask{GPU: gpus(1)}, want: []queue.Resources{one("a100", 1000)},
		},
		{
			name: "a flavor by an attribute", nodes: []inventory.Node{a100("a"), h100("b")},
			flavors: []inventory.Flavor{{Name: "big", Constraints: []pipeline.Constraint{{Attribute: "${device.attr.memory}", Operator: ">", Value: "80 GB"}}}},
			ask:     inventory.Ask{GPU: gpus(1)}, want: []queue.Resources{one("nvidia-a100-sxm4-40gb", 1000), one("big", 1000)},
		},
		{
			name: "slices are charged by their part of the model", nodes: []inventory.Node{machine(t, "dgx-a100-mig", "m")},
			ask:  inventory.Ask{GPU: gpus(1)},
			want: []queue.Resources{one("nvidia-a100-sxm4-40gb", 143), one("nvidia-a100-sxm4-40gb", 286), one("nvidia-a100-sxm4-40gb", 429)},
		},
		{
			name: "slices of a board of four", nodes: []inventory.Node{machine(t, "a30-mig", "m")},
			ask: inventory.Ask{GPU: gpus(2)}, want: []queue.Resources{one("nvidia-a30", 500)},
		},
		{
			// Nodes of 40 GiB and 80 GiB cards, and one without any.
			name:  "memory: the part of the smallest card that holds it",
			nodes: []inventory.Node{gpuNode("a", 0, shared(1, 2, "Card 40", 40960)), gpuNode("b", 0, shared(1, 2, "Card 80", 81920)), gpuNode("c", 0)},
			ask:   inventory.Ask{GPU: gpu(1, "nvidia/gpu.shared", "20 GiB")},
			want:  []queue.Resources{one("nvidia-card-40", 500), one("nvidia-card-80", 500)},
		},
		{
			name: "memory: each of several devices counts",
			nodes: []inventory.Node{gpuNode("a", 0, func(n *inventory.Node) {
				n.Groups = []inventory.Group{{Vendor: "nvidia", Type: "gpu", Name: "NVIDIA A100-SXM4-40GB MIG 4g.20gb", Instances: []inventory.Instance{{ID: "MIG-1"}, {ID: "MIG-2"}}}}
			})},
			ask: inventory.Ask{GPU: gpu(2, "nvidia/gpu", "")}, want: []queue.Resources{one("nvidia-a100-sxm4-40gb", 1144)},
		},
		{
			name: "an ask for GPUs gets no replicas", nodes: []inventory.Node{gpuNode("a", 0, shared(2, 4, "NVIDIA L4", 23034))},
			ask: inventory.Ask{GPU: gpus(1)}, err: "1 node: 1 without nvidia/gpu",
		},
		{
			name: "what is held, unhealthy or draining does not count", nodes: []inventory.Node{gpuNode("a", 2, func(n *inventory.Node) {
				n.Eligible, n.Groups[0].Instances[0].Healthy = false, false
			})},
			ask: inventory.Ask{GPU: gpus(2)}, want: []queue.Resources{one("nvidia-a100-sxm4-40gb", 2000)},
		},
		{
			name: "never: all that stands in the way", nodes: []inventory.Node{
				l4("a"), l4("b"), gpuNode("c", 0), a100("d"), gpuNode("e", 4, func(n *inventory.Node) { n.Pool = "other" }),
				gpuNode("f", 4, func(n *inventory.Node) { n.MemoryMiB = 10 }),
				gpuNode("g", 4, func(n *inventory.Node) { n.Drivers = nil }), gpuNode("h", 4),
			},
			ask: inventory.Ask{
				MemoryMiB: 1024, GPU: gpus(4), Pools: []string{"default"}, Driver: "ml",
				Avoid: inventory.Avoid{Nodes: []queue.NodeID{"d"}, Devices: []string{"GPU-h-0"}},
			},
			err: "8 nodes: 2 with fewer than 4 of nvidia/gpu, 1 in another node pool, 1 to be avoided, " +
				"1 with too few devices that are healthy and not to be avoided, 1 with too little memory, 1 without nvidia/gpu, 1 without the driver ml",
		},
		{
			name: "never: a constraint", nodes: []inventory.Node{a100("a"), l4("b")}, ask: inventory.Ask{GPU: gpu(1, "nvidia/gpu", "48 GB")},
			err: "2 nodes: 2 whose nvidia/gpu does not meet ${device.attr.memory} >= 48 GB",
		},
		{name: "never: no nodes", ask: inventory.Ask{}, err: "there are no nodes"},
		{name: "nonsense", nodes: []inventory.Node{a100("a")}, ask: inventory.Ask{GPU: gpus(0)}, err: `ask for 0 devices "nvidia/gpu"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := inventory.New(tt.nodes, tt.flavors)
			if err != nil {
				t.Fatal(err)
			}
			first, or, err := f.Options(tt.ask)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				if tt.name != "nonsense" && !errors.Is(err, inventory.ErrImpossible) {
					t.Errorf("error %v is not ErrImpossible", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, append([]queue.Resources{first}, or...)); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			// Each has room on the empty fleet, but where nothing takes new work.
			j := &queue.Job{Shape: tt.ask.Shape(), Each: first, Or: or}
			for option := range len(or) + 1 {
				if _, n := f.Find(j, option, 1); n != 1 && tt.nodes[0].Eligible && !strings.Contains(tt.name, "several devices") {
					t.Errorf("option %d has no room", option)
				}
			}
		})
	}
}

func TestWhy(t *testing.T) {
	f := fleet(t,
		gpuNode("a", 2), gpuNode("b", 2), gpuNode("c", 2, func(n *inventory.Node) { n.Eligible = false }),
		gpuNode("d", 2, func(n *inventory.Node) { n.Groups[0].Instances[0].Healthy = false }), gpuNode("e", 2), gpuNode("f", 0),
	)
	holding(f, gpuNode("b", 2), 0)
	busy := f.Foreign(inventory.Alloc{ID: "x", NodeID: "e", CPUMHz: 63_500})
	f.Take(&busy.Job, 0, busy.Run.Place)
	want := "6 nodes: 1 taking no new work, 1 with room, 1 with too few devices that are healthy and not to be avoided, " +
		"1 with too few free devices, 1 with too little free CPU, 1 without nvidia/gpu; most are free on a: 2"
	if got := f.Why(inventory.Ask{CPUMHz: 1000, GPU: gpus(2)}); got != want {
		t.Errorf("why:\n%s\nwant:\n%s", got, want)
	}
}
