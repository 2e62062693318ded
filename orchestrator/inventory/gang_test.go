package inventory_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// in puts a node into a block and a rack.
func in(block, rack string) func(*inventory.Node) {
	return func(n *inventory.Node) { n.Meta = map[string]string{"drover.block": block, "rack": rack} }
}

func TestGangs(t *testing.T) {
	// Two blocks of two racks of two nodes of two GPUs.
	var regular []inventory.Node
	for i := range 8 {
		regular = append(regular, gpuNode(fmt.Sprintf("n%d", i), 2, in(fmt.Sprintf("b%d", i/4), fmt.Sprintf("r%d", i/2))))
	}
	required := func(l inventory.Level) inventory.Topology { return inventory.Topology{Level: l, Required: true} }
	tests := []struct {
		name     string
		nodes    []inventory.Node
		held     map[string]int // the first devices of a node
		gpus     int
		members  int
		topology inventory.Topology
		want     map[queue.NodeID]int
	}{
		{name: "one host", gpus: 1, members: 2, want: map[queue.NodeID]int{"n0": 2}},
		{name: "one host of several that is not larger than needed", nodes: []inventory.Node{gpuNode("a", 8), gpuNode("b", 4)}, gpus: 1, members: 3, want: map[queue.NodeID]int{"b": 3}},
		{name: "one rack", gpus: 1, members: 4, want: map[queue.NodeID]int{"n0": 2, "n1": 2}},
		{name: "the rack that is whole", held: map[string]int{"n0": 1, "n3": 1}, gpus: 2, members: 2, want: map[queue.NodeID]int{"n4": 1, "n5": 1}},
		{name: "the rack with least room", held: map[string]int{"n2": 1}, gpus: 1, members: 3, want: map[queue.NodeID]int{"n2": 1, "n3": 2}},
		{name: "one block", held: map[string]int{"n1": 1}, gpus: 2, members: 3, want: map[queue.NodeID]int{"n0": 1, "n2": 1, "n3": 1}},
		{name: "the rest of a block in one rack", gpus: 2, members: 3, want: map[queue.NodeID]int{"n0": 1, "n1": 1, "n2": 1}},
		{name: "two blocks, one of them whole", gpus: 2, members: 5, want: map[queue.NodeID]int{"n0": 1, "n1": 1, "n2": 1, "n3": 1, "n4": 1}},
		{name: "a wish is no demand", gpus: 2, members: 5, topology: inventory.Topology{Level: inventory.Rack}, want: map[queue.NodeID]int{"n0": 1, "n1": 1, "n2": 1, "n3": 1, "n4": 1}},
		{name: "as many as a host has", held: map[string]int{"n0": 1}, gpus: 1, members: 5, topology: required(inventory.Host), want: map[queue.NodeID]int{"n1": 2}},
		{name: "as many as a rack has", held: map[string]int{"n0": 1, "n3": 1}, gpus: 1, members: 5, topology: required(inventory.Rack), want: map[queue.NodeID]int{"n4": 2, "n5": 2}},
		{name: "a rack is in a block", gpus: 1, members: 4, topology: required(inventory.Block), want: map[queue.NodeID]int{"n0": 2, "n1": 2}},
		{name: "as many as a block has", held: map[string]int{"n0": 1}, gpus: 2, members: 5, topology: required(inventory.Block), want: map[queue.NodeID]int{"n4": 1, "n5": 1, "n6": 1, "n7": 1}},
		{
			name:  "racks of one name in two blocks are two",
			nodes: []inventory.Node{gpuNode("a", 2, in("x", "r")), gpuNode("b", 2, in("y", "r"))}, gpus: 2, members: 2, topology: required(inventory.Rack),
			want: map[queue.NodeID]int{"a": 1},
		},
		{
			name:  "nodes that name no rack are one each",
			nodes: []inventory.Node{gpuNode("a", 2), gpuNode("b", 3), gpuNode("c", 1, in("", "r"))}, gpus: 1, members: 5, topology: required(inventory.Rack),
			want: map[queue.NodeID]int{"b": 3},
		},
		{
			name: "few nodes rather than many", nodes: []inventory.Node{gpuNode("a", 1), gpuNode("b", 1), gpuNode("c", 4), gpuNode("d", 4), gpuNode("e", 2)}, gpus: 1, members: 9,
			want: map[queue.NodeID]int{"c": 4, "d": 4, "a": 1},
		},
		{
			name: "all on one island", nodes: []inventory.Node{machine(t, "pcie-a100", "p", withModel("x", 1)), machine(t, "gb200-tray", "g", withModel("x", 1))}, gpus: 1, members: 3, topology: required(inventory.Island),
			want: map[queue.NodeID]int{"g": 3},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.nodes == nil {
				tt.nodes = regular
			}
			f := fleet(t, tt.nodes...)
			for _, n := range tt.nodes {
				for i := range tt.held[n.Name] {
					holding(f, n, i)
				}
			}
			place, found := f.Find(job(t, f, inventory.Ask{GPU: gpus(tt.gpus), Topology: tt.topology}), 0, tt.members)
			got, sum := map[queue.NodeID]int{}, 0
			for _, s := range place {
				got[s.Node] += s.Members
				sum += s.Members
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || sum != found {
				t.Errorf("%d members (-want +got):\n%s", found, diff)
			}
		})
	}
}
