package inventory_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// machine is a node as a cluster's API told of it, under another ID.
func machine(t testing.TB, file, id string, edit ...func(*inventory.Node)) inventory.Node {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var told api.Node
	if err := json.Unmarshal(text, &told); err != nil {
		t.Fatal(err)
	}
	n := inventory.FromNomad(&told)
	if n.Unread != "" {
		t.Fatal(n.Unread)
	}
	n.ID, n.Name = queue.NodeID(id), id
	for _, e := range edit {
		e(&n)
	}
	return n
}

// numbers names devices by their position on the node, group by group: a
// position if the node has one group, else the group's last word and a position
// in the group.
func numbers(t testing.TB, n inventory.Node, ids []string) []string {
	t.Helper()
	var names []string
	for _, id := range ids {
		for _, g := range n.Groups {
			i := slices.IndexFunc(g.Instances, func(d inventory.Instance) bool { return d.ID == id })
			if i < 0 {
				continue
			}
			name := string(rune('0' + i%10))
			if i > 9 {
				name = "1" + name
			}
			if len(n.Groups) > 1 {
				name = g.Name[strings.LastIndex(g.Name, " ")+1:] + ":" + name
			}
			names = append(names, name)
		}
	}
	if len(names) != len(ids) {
		t.Fatalf("devices %q are not all of node %s", ids, n.ID)
	}
	return names
}

// device is the ID of the nth device of a node, counted over all groups.
func device(n inventory.Node, nth int) string {
	for _, g := range n.Groups {
		if nth < len(g.Instances) {
			return g.Instances[nth].ID
		}
		nth -= len(g.Instances)
	}
	return ""
}

// holding takes the nth devices of a node for somebody else.
func holding(f *inventory.Fleet, n inventory.Node, nth ...int) {
	a := inventory.Alloc{ID: "somebody", NodeID: n.ID}
	for _, i := range nth {
		a.Devices = append(a.Devices, inventory.Devices{IDs: []string{device(n, i)}})
	}
	r := f.Foreign(a)
	f.Take(&r.Job, 0, r.Run.Place)
}

func onOneIsland(n int, required bool) *pipeline.GPU {
	g := gpus(n)
	g.Topology = &pipeline.Topology{Level: pipeline.Island, Required: required}
	return g
}

func TestDevicesOfMachines(t *testing.T) {
	tests := []struct {
		name, machine string
		held          []int
		ask           inventory.Ask
		option        int
		want          []string // empty: there is no room
	}{
		{name: "two of a switch, at one NUMA node", machine: "dgx-h100", ask: inventory.Ask{GPU: gpus(2)}, want: []string{"0", "1"}},
		{name: "the NUMA node with two free", machine: "dgx-h100", held: []int{0, 1, 2, 6}, ask: inventory.Ask{GPU: gpus(2)}, want: []string{"4", "5"}},
		{name: "four at one NUMA node", machine: "dgx-h100", held: []int{1}, ask: inventory.Ask{GPU: gpus(4)}, want: []string{"4", "5", "6", "7"}},
		{name: "one where its neighbour is taken", machine: "dgx-a100", held: []int{3}, ask: inventory.Ask{GPU: gpus(1)}, want: []string{"2"}},
		{name: "a bridged pair", machine: "pcie-a100", held: []int{0}, ask: inventory.Ask{GPU: gpus(2)}, want: []string{"2", "3"}},
		{name: "one from a broken pair", machine: "pcie-a100", held: []int{4}, ask: inventory.Ask{GPU: gpus(1)}, want: []string{"5"}},
		{name: "more than an island: behind one switch", machine: "pcie-a100", held: []int{0}, ask: inventory.Ask{GPU: gpus(4)}, want: []string{"4", "5", "6", "7"}},
		{
			name: "more than an island has is not required", machine: "pcie-a100",
			ask: inventory.Ask{GPU: onOneIsland(4, false)}, want: []string{"0", "1", "2", "3"},
		},
		{
			name: "an island is required", machine: "pcie-a100", held: []int{0, 3, 4},
			ask: inventory.Ask{GPU: onOneIsland(2, true)}, want: []string{"6", "7"},
		},
		{
			name: "an island is required and not there", machine: "pcie-a100", held: []int{0, 3, 4, 6},
			ask: inventory.Ask{GPU: onOneIsland(2, true)},
		},
		{
			name: "not those to be avoided", machine: "pcie-a100",
			ask:  inventory.Ask{GPU: gpus(1), Avoid: inventory.Avoid{Devices: []string{"GPU-"}}},
			want: []string{"0"},
		},
		{name: "a tray", machine: "gb200-tray", held: []int{0}, ask: inventory.Ask{GPU: gpus(2)}, want: []string{"2", "3"}},
		{
			name: "the smallest slice", machine: "dgx-a100-mig", ask: inventory.Ask{GPU: gpus(1)},
			want: []string{"1g.5gb:0"},
		},
		{
			name: "the smallest slice with the memory", machine: "dgx-a100-mig", ask: inventory.Ask{GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu", MemoryMin: "8 GB"}},
			want: []string{"2g.10gb:0"},
		},
		{
			// Slices: 2g of boards 0 to 7, then 1g, two a board, then 3g.
			name: "a slice of the board that has least left", machine: "dgx-a100-mig", held: []int{8 + 16 + 5, 5},
			ask: inventory.Ask{GPU: gpus(1)}, want: []string{"1g.5gb:10"},
		},
		{
			name: "no slice for who wants a whole board's memory", machine: "dgx-a100",
			ask: inventory.Ask{GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu", MemoryMin: "40 GB"}}, want: []string{"0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := machine(t, tt.machine, "n")
			f := fleet(t, n)
			holding(f, n, tt.held...)
			place, found := f.Find(job(t, f, tt.ask), tt.option, 1)
			if found == 0 {
				if tt.want != nil {
					t.Fatalf("no room; want %v", tt.want)
				}
				return
			}
			if diff := cmp.Diff(tt.want, numbers(t, n, place[0].Devices)); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}
