package inventory_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/trace"
)

const openbSeeds = 3

// TestOpenbWholeGPUs fills the cluster of the openb trace with its tasks, all GPUs
// of which are whole ones here, as they are on real nodes. A fleet that knows what
// to expect must allocate no less than the best policy of package placement when
// as many GPUs were asked for as there are; and without that knowledge too, where
// tasks take any model.
func TestOpenbWholeGPUs(t *testing.T) {
	data := os.Getenv("DROVER_DATA")
	if data == "" {
		t.Skip("DROVER_DATA names no folder with openb/; docs/benchmarks.md says where to get it")
	}
	nodes := openb(t, filepath.Join(data, "openb", "openb_node_list_all_node.csv.gz"), trace.ReadNodes)
	for _, tt := range []struct {
		workload string
		anyModel bool
	}{{"default", true}, {"multigpu20", true}, {"gpuspec33", false}} {
		t.Run(tt.workload, func(t *testing.T) {
			tasks := openb(t, filepath.Join(data, "openb", "openb_pod_list_"+tt.workload+".csv.gz"), trace.ReadTasks)
			for i := range tasks {
				if tasks[i].GPUs > 0 {
					tasks[i].ShareMilli = placement.WholeGPU
				}
			}
			var policy, blind, expecting float64
			for seed := range uint64(openbSeeds) {
				o, err := placement.Experiment{
					Nodes: nodes, Tasks: tasks, Load: 1.3, Seed: seed, Clock: func() time.Duration { return 0 },
				}.Run(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				pct, _ := o.AllocatedPct(100, 1.3)
				policy += pct / openbSeeds
				blind += fill(t, nodes, tasks, seed, false) / openbSeeds
				expecting += fill(t, nodes, tasks, seed, true) / openbSeeds
			}
			t.Logf("allocated: %.2f %%; expecting the workload %.2f %%; by the policy %s %.2f %%", blind, expecting, placement.DefaultPolicy, policy)
			if expecting < policy || tt.anyModel && blind < policy {
				t.Error("it is less than the policy's")
			}
		})
	}
}

// fill is how much of a fleet's GPUs is allocated, in per cent, when tasks that
// were drawn at random had asked for all of them.
func fill(t *testing.T, nodes []placement.Node, tasks []placement.Task, seed uint64, expect bool) float64 {
	t.Helper()
	var all []inventory.Node
	gpus := 0
	for i, n := range nodes {
		node := inventory.Node{ID: queue.NodeID(fmt.Sprintf("n%05d", i)), Eligible: true, CPUMHz: n.CPUMilli, MemoryMiB: n.MemoryMiB}
		if n.GPUs > 0 {
			g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: n.Model}
			for k := range n.GPUs {
				g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprint(i, "-", k), Healthy: true})
			}
			node.Groups = []inventory.Group{g}
			gpus += n.GPUs
		}
		all = append(all, node)
	}
	f, err := inventory.New(all, []inventory.Flavor{{Name: "gpu", Model: "*"}})
	if err != nil {
		t.Fatal(err)
	}
	if expect {
		mix := map[string]inventory.Expected{}
		for _, task := range tasks {
			a := openbAsk(task)
			mix[a.Shape()] = inventory.Expected{Ask: a, Members: mix[a.Shape()].Members + 1}
		}
		f.Expect(slices.Collect(maps.Values(mix)))
	}
	random := rand.New(rand.NewPCG(seed, 77))
	asked, allocated := 0, 0
	for asked < gpus {
		task := tasks[random.IntN(len(tasks))]
		j := &queue.Job{Shape: openbAsk(task).Shape(), Each: queue.Resources{"gpu": queue.Amount(task.GPUs) * queue.One}}
		if p, n := f.Find(j, 0, 1); n == 1 {
			f.Take(j, 0, p)
			allocated += task.GPUs
		}
		asked += task.GPUs
	}
	return 100 * float64(allocated) / float64(gpus)
}

// openbAsk is a task as an ask; its thousandths of a core are MHz.
func openbAsk(t placement.Task) inventory.Ask {
	a := inventory.Ask{CPUMHz: t.CPUMilli, MemoryMiB: t.MemoryMiB}
	if t.GPUs == 0 {
		return a
	}
	a.GPU = gpus(t.GPUs)
	if len(t.Models) > 0 {
		a.GPU.Constraints = []pipeline.Constraint{{Attribute: "${device.model}", Operator: "regexp", Value: "^(" + strings.Join(t.Models, "|") + ")$"}}
	}
	return a
}

func openb[T any](t *testing.T, path string, read func(string, io.Reader) ([]T, error)) []T {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := read(path, f)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
