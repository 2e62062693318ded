package inventory_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// nomad is a cluster that places by Nomad's rules.
type nomad struct {
	nodes  []*api.Node
	allocs map[string]map[string]*api.Allocation // by node
	ids    int
}

// place has the scheduler place a job, and keeps what it did; nil: it found no
// place.
func (c *nomad) place(t *rapid.T, j *api.Job) *api.Allocation {
	j.Canonicalize()
	if j.NodePool == nil || *j.NodePool == "" {
		j.NodePool = new("default")
	}
	if len(j.Datacenters) == 0 {
		j.Datacenters = []string{"*"}
	}
	j.Version, j.CreateIndex, j.ModifyIndex, j.JobModifyIndex = new(uint64(0)), new(uint64(1)), new(uint64(1)), new(uint64(1))
	p, err := scheduler.Evaluate(scheduler.Input{
		Now: time.Unix(0, 0), Eval: &api.Evaluation{ID: "eval", Namespace: "default", Priority: 50}, Job: j, Nodes: c.nodes,
		OnNode: func(id string) map[string]*api.Allocation { return c.allocs[id] },
		NewID: func() string {
			c.ids++
			return fmt.Sprint("alloc-", c.ids)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Place) == 0 {
		return nil
	}
	return p.Place[0]
}

func (c *nomad) keep(a *api.Allocation) {
	a.ClientStatus = api.AllocClientStatusRunning
	if c.allocs[a.NodeID] == nil {
		c.allocs[a.NodeID] = map[string]*api.Allocation{}
	}
	c.allocs[a.NodeID][a.ID] = a
}

// TestNomadAgrees has the fleet and Nomad's rules place the same tasks on the same
// machines. Where the fleet has room, Nomad takes the pinned job, and there; where
// it has none, Nomad finds none either.
func TestNomadAgrees(t *testing.T) {
	var machines []*api.Node
	for _, file := range []string{"dgx-a100", "dgx-h100", "dgx-a100-mig", "pcie-a100", "a30-mig"} {
		text, err := os.ReadFile(filepath.Join("testdata", file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var n api.Node
		if err := json.Unmarshal(text, &n); err != nil {
			t.Fatal(err)
		}
		n.NodeResources.Disk.DiskMB = 1 << 20
		machines = append(machines, &n)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := &nomad{allocs: map[string]map[string]*api.Allocation{}}
		var nodes []inventory.Node
		for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
			n := *rapid.SampledFrom(machines).Draw(t, "machine")
			n.ID = fmt.Sprint("node-", i)
			c.nodes = append(c.nodes, &n)
			nodes = append(nodes, inventory.FromNomad(&n))
		}
		f, err := inventory.New(nodes, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "tasks") {
			task := pipeline.Task{Command: []string{"true"}, Priority: 50, Resources: someResources(t)}
			r := task.Resources
			ask := inventory.Ask{CPUMHz: int64(r.CPUMHz), MemoryMiB: int64(r.MemoryMiB), GPU: r.GPU, Driver: "ml"}
			id := jobspec.Identity{Run: "r", Node: pipeline.NodeID(fmt.Sprint("step.s", i)), Attempt: 1, Workspace: "w", Pipeline: "p"}
			unpinned, err := jobspec.Task(id, task, jobspec.Cluster{})
			if err != nil {
				t.Fatal(err)
			}
			spot, found := anyPlace(f, ask)
			if !found {
				if a := c.place(t, unpinned); a != nil {
					t.Fatalf("the fleet has no room for %s; Nomad has on %s", ask.Shape(), a.NodeID)
				}
				continue
			}
			id.Place = &jobspec.Place{NodeID: string(spot.Node), Devices: spot.Devices}
			if len(spot.Devices) > 0 {
				id.Place.Device, _ = f.GroupOf(spot.Node, spot.Devices[0])
			}
			// With all constraints that the task has, Nomad takes the node and the group.
			unpinned.Constraints = append(unpinned.Constraints, api.NewConstraint("${node.unique.id}", "=", id.Place.NodeID))
			if d := unpinned.TaskGroups[0].Tasks[0].Resources.Devices; len(d) > 0 {
				if !named(d[0].Name, id.Place.Device) {
					t.Fatalf("%s is given for %s", id.Place.Device, d[0].Name)
				}
				d[0].Name = id.Place.Device
			}
			if c.place(t, unpinned) == nil {
				t.Fatalf("Nomad does not take %s on %s with a group %q", ask.Shape(), spot.Node, id.Place.Device)
			}
			pinned, err := jobspec.Task(id, task, jobspec.Cluster{})
			if err != nil {
				t.Fatal(err)
			}
			a := c.place(t, pinned)
			if a == nil {
				t.Fatalf("Nomad does not take %s at %v", ask.Shape(), spot)
			}
			c.keep(a)
			held, _ := inventory.AllocFromNomad(a)
			running := f.Foreign(held)
			got, want := slices.Sorted(slices.Values(running.Run.Place[0].Devices)), slices.Sorted(slices.Values(spot.Devices))
			if held.NodeID != spot.Node || !slices.Equal(got, want) {
				t.Fatalf("Nomad gives %v on %s, not %v on %s", got, held.NodeID, want, spot.Node)
			}
			f.Take(&running.Job, 0, running.Run.Place)
		}
	})
}

// named reports whether a job's name for devices is one for a group, by its end or
// its beginning.
func named(name, group string) bool {
	vendorType := group[:strings.LastIndex(group, "/")]
	return name == group || name == vendorType || "nvidia/"+name == vendorType
}

// anyPlace is a place by the first option that has one.
func anyPlace(f *inventory.Fleet, a inventory.Ask) (queue.Spot, bool) {
	each, or, err := f.Options(a)
	if err != nil {
		return queue.Spot{}, false
	}
	j := &queue.Job{Shape: a.Shape(), Each: each, Or: or}
	for option := range len(or) + 1 {
		if p, n := f.Find(j, option, 1); n == 1 {
			return p[0], true
		}
	}
	return queue.Spot{}, false
}

func someResources(t *rapid.T) pipeline.Resources {
	r := pipeline.Resources{CPUMHz: rapid.IntRange(1, 20_000).Draw(t, "mhz"), MemoryMiB: rapid.IntRange(10, 80_000).Draw(t, "mib")}
	if rapid.IntRange(0, 5).Draw(t, "gpu?") == 0 {
		return r
	}
	r.GPU = &pipeline.GPU{
		Count:     rapid.IntRange(1, 5).Draw(t, "count"),
		Device:    rapid.SampledFrom([]string{"gpu", "nvidia/gpu", "nvidia/gpu/NVIDIA A100-SXM4-40GB", "nvidia/gpu.shared", "amd/gpu"}).Draw(t, "device"),
		MemoryMin: rapid.SampledFrom([]string{"", "", "9 GB", "40 GB", "41 GiB", "80 GB", "200 GB"}).Draw(t, "memory"),
	}
	for _, c := range []pipeline.Constraint{
		{Attribute: "${device.attr.architecture}", Operator: "=", Value: "hopper"},
		{Attribute: "${device.attr.compute_capability}", Operator: ">=", Value: "9"},
		{Attribute: "${device.attr.mig_profile}", Operator: "is_not_set"},
		{Attribute: "${device.attr.mig_profile}", Operator: "is_set"},
		{Attribute: "${device.attr.interconnect}", Operator: "regexp", Value: "^NV"},
		{Attribute: "${device.attr.cuda_majors}", Operator: "set_contains", Value: "12,13"},
		{Attribute: "${device.attr.driver_version}", Operator: "version", Value: ">= 570, < 600"},
		{Attribute: "${device.model}", Operator: "!=", Value: "NVIDIA A100-SXM4-40GB"},
		{Attribute: "${device.attr.nothing}", Operator: "<", Value: "1"},
	} {
		if rapid.IntRange(0, 9).Draw(t, "constraint?") == 0 {
			r.GPU.Constraints = append(r.GPU.Constraints, c)
		}
	}
	return r
}
