package scheduler

import (
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Builders of small inputs.

func ptr[T any](v T) *T { return &v }

func node(name string, change ...func(*api.Node)) *api.Node {
	n := &api.Node{ID: "id-" + name, Name: name, Datacenter: "dc1", NodePool: "default", Status: api.NodeStatusReady,
		SchedulingEligibility: api.NodeSchedulingEligible, Attributes: map[string]string{"kernel.name": "linux"},
		Drivers: map[string]*api.DriverInfo{"ml": {Detected: true, Healthy: true}},
		NodeResources: &api.NodeResources{Cpu: api.NodeCpuResources{CpuShares: 1000}, Memory: api.NodeMemoryResources{MemoryMB: 1000},
			Disk: api.NodeDiskResources{DiskMB: 10000}, MinDynamicPort: 20000, MaxDynamicPort: 20010}}
	for _, fn := range change {
		fn(n)
	}
	return n
}

// gpus gives a node count devices of a model.
func gpus(count int, model string, memoryMiB int64) func(*api.Node) {
	return func(n *api.Node) {
		g := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: model,
			Attributes: map[string]*api.Attribute{"memory": {IntVal: &memoryMiB, Unit: "MiB"}}}
		for i := range count {
			g.Instances = append(g.Instances, &api.NodeDevice{ID: fmt.Sprintf("%s-%s-%d", n.Name, model, i), Healthy: true})
		}
		n.NodeResources.Devices = append(n.NodeResources.Devices, g)
	}
}

func job(id, kind string, count int, change ...func(*api.Job)) *api.Job {
	task := api.NewTask("main", "ml")
	task.Resources = &api.Resources{CPU: ptr(100), MemoryMB: ptr(100)}
	tg := api.NewTaskGroup("task", count).AddTask(task)
	tg.EphemeralDisk = &api.EphemeralDisk{SizeMB: ptr(10)}
	j := &api.Job{ID: &id, Name: &id, Type: &kind, Datacenters: []string{"*"}, NodePool: ptr("default"), Priority: ptr(50)}
	j.AddTaskGroup(tg)
	for _, fn := range change {
		fn(j)
	}
	j.Canonicalize()
	j.Version, j.CreateIndex, j.ModifyIndex, j.JobModifyIndex = ptr(uint64(0)), ptr(uint64(1)), ptr(uint64(1)), ptr(uint64(1))
	return j
}

// newer is a later version of a job.
func newer(j *api.Job, v uint64, change func(*api.Task)) *api.Job {
	c := *j
	tg := *j.TaskGroups[0]
	task := *tg.Tasks[0]
	if change != nil {
		change(&task)
	}
	tg.Tasks = []*api.Task{&task}
	c.TaskGroups = []*api.TaskGroup{&tg}
	c.Version = &v
	return &c
}

func askGPUs(name string, count uint64, constraints ...*api.Constraint) func(*api.Job) {
	return func(j *api.Job) {
		r := j.TaskGroups[0].Tasks[0].Resources
		r.Devices = append(r.Devices, &api.RequestedDevice{Name: name, Count: &count, Constraints: constraints})
	}
}

// cluster is a model of a cluster that plans are applied to.
type cluster struct {
	nodes  []*api.Node
	allocs map[string]*api.Allocation
	deploy *api.Deployment
	ids    int
	now    time.Time
}

func newCluster(nodes ...*api.Node) *cluster {
	return &cluster{nodes: nodes, allocs: map[string]*api.Allocation{}, now: time.Unix(1_000_000, 0)}
}

func (c *cluster) input(j *api.Job) Input {
	in := Input{Now: c.now, Eval: &api.Evaluation{ID: "eval", Namespace: "default", Priority: 50}, Job: j, Nodes: c.nodes,
		OnNode: func(id string) map[string]*api.Allocation {
			on := map[string]*api.Allocation{}
			for _, a := range c.allocs {
				if a.NodeID == id && !ClientTerminal(a) {
					on[a.ID] = a
				}
			}
			return on
		},
		NewID: func() string { c.ids++; return fmt.Sprintf("new-%d", c.ids) }, Deployment: c.deploy}
	for i := 1; i <= c.ids; i++ {
		if a := c.allocs[fmt.Sprintf("new-%d", i)]; a != nil && j != nil && a.JobID == *j.ID {
			in.Allocs = append(in.Allocs, a)
		}
	}
	return in
}

func (c *cluster) evaluate(j *api.Job) *Plan {
	p, err := Evaluate(c.input(j))
	if err != nil {
		panic(err)
	}
	for _, list := range [][]*api.Allocation{p.Stop, p.Update, p.Place} {
		for _, a := range list {
			c.allocs[a.ID] = a
		}
	}
	for _, d := range p.Deployments {
		c.deploy = d
	}
	return p
}

// set changes an allocation.
func (c *cluster) set(id string, change func(*api.Allocation)) {
	a := *c.allocs[id]
	change(&a)
	c.allocs[id] = &a
}

// run reports everything that should run as running.
func (c *cluster) run() {
	for id, a := range c.allocs {
		if a.ClientStatus == api.AllocClientStatusPending && a.DesiredStatus == api.AllocDesiredStatusRun {
			c.set(id, func(a *api.Allocation) { a.ClientStatus = api.AllocClientStatusRunning })
		}
		if a.DesiredStatus != api.AllocDesiredStatusRun && !ClientTerminal(a) {
			c.set(id, func(a *api.Allocation) { a.ClientStatus = api.AllocClientStatusComplete })
		}
	}
}

// live counts the allocations that should run and have not ended.
func (c *cluster) live() int {
	n := 0
	for _, a := range c.allocs {
		if !ServerTerminal(a) && !ClientTerminal(a) {
			n++
		}
	}
	return n
}
