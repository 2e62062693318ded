package inventory_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

func TestEqualAsksHaveEqualShapes(t *testing.T) {
	a := inventory.Ask{
		CPUMHz: 1, Pools: []string{"b", "a", "b"}, GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu", Constraints: []pipeline.Constraint{}},
		Or:    []pipeline.GPU{{Count: 2, Device: "nvidia/gpu", Constraints: []pipeline.Constraint{}}},
		Avoid: inventory.Avoid{Nodes: []queue.NodeID{"y", "x"}, Devices: []string{}},
	}
	b := inventory.Ask{
		CPUMHz: 1, Pools: []string{"a", "b"}, GPU: gpus(1), Or: []pipeline.GPU{*gpus(2)},
		Avoid: inventory.Avoid{Nodes: []queue.NodeID{"x", "y"}},
	}
	if a.Shape() != b.Shape() {
		t.Errorf("shapes\n%s\n%s", a.Shape(), b.Shape())
	}
	if a.Pools[0] != "b" || a.Or[0].Constraints == nil || a.GPU.Constraints == nil {
		t.Error("Shape changed the ask")
	}
}

func TestShapeIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t)
		a, _ := someAsk(t, nodes)
		b, err := inventory.ParseShape(a.Shape())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
	})
}

func TestParseShapeRefuses(t *testing.T) {
	tests := []struct{ name, shape, want string }{
		{"no JSON", "GPUs", "invalid character"},
		{"a field that is not known", `{"gpus":8}`, "unknown field"},
		{"more than an ask", `{} {}`, "there is more after it"},
		{"negative CPU", `{"cpu_mhz":-1}`, "-1 MHz"},
		{"memory beyond all nodes", `{"memory_mib":9000000000000000000}`, "MiB of memory"},
		{"no devices", `{"gpu":{"Count":0,"Device":"gpu"}}`, "0 devices"},
		{"alternatives to none", `{"or":[{"Count":1}]}`, "alternative to none"},
		{"a level that is none", `{"topology":{"level":"galaxy"}}`, `"galaxy"`},
		{"a level of nothing", `{"topology":{"required":true}}`, "no level"},
		{"negative cores", `{"cores":-1}`, "-1 cores"},
		{"too long", `{"driver":"` + strings.Repeat("x", 1<<20) + `"}`, "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := inventory.ParseShape(tt.shape); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			f := fleet(t, gpuNode("a", 2))
			if _, n := f.Find(&queue.Job{Shape: tt.shape}, 0, 1); n != 0 {
				t.Error("there is room for it")
			}
		})
	}
}

func FuzzParseShape(f *testing.F) {
	f.Add("")
	f.Add(`{"cpu_mhz":500,"memory_mib":256,"gpu":{"Count":2,"Device":"nvidia/gpu","MemoryMin":"40 GB","Constraints":[{"Attribute":"${device.ids}","Operator":"set_contains","Value":"a"}]}}`)
	f.Add(`{"cores":2,"pools":["a"],"avoid":{"devices":["x"],"nodes":["n"]},"topology":{"level":"rack","required":true},"driver":"ml"}`)
	nodes := []inventory.Node{gpuNode("a", 4), gpuNode("b", 0, func(n *inventory.Node) { n.Cores = 8 })}
	f.Fuzz(func(t *testing.T, shape string) {
		a, err := inventory.ParseShape(shape)
		if err != nil {
			return
		}
		again, err := inventory.ParseShape(a.Shape())
		if err != nil {
			t.Fatalf("its own shape is refused: %v", err)
		}
		if again.Shape() != a.Shape() {
			t.Errorf("shape %q becomes %q", a.Shape(), again.Shape())
		}
		fleet, err := inventory.New(nodes, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = fleet.Why(a)
		each, or, err := fleet.Options(a)
		if err != nil {
			return
		}
		j := &queue.Job{Shape: shape, Each: each, Or: or}
		place, n := fleet.Find(j, 0, 3)
		fleet.Take(j, 0, place)
		fleet.Release(j, 0, place)
		if n > 0 && !fleet.Free(j, 0, place) {
			t.Errorf("place %v is not free after it was released", place)
		}
	})
}
