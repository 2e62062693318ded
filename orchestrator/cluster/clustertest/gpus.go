package clustertest

import (
	"context"
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
)

// gpu is a device of a pretend node.
type gpu struct {
	node   string
	device failover.Device
	holder *alloc
}

// AddGPU adds a healthy GPU to a node, whose ID is its name. Jobs that ask for
// devices run on nodes with GPUs only.
func (c *Cluster) AddGPU(node, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gpus = append(c.gpus, &gpu{node: node, device: failover.Device{ID: id, Board: "Pretend GPU", Healthy: true}})
	c.tellNode(node)
	c.placeWaiting()
}

// SetHealth gives a GPU the description of a fault, or with "" none.
func (c *Cluster) SetHealth(id, description string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.gpus {
		if g.device.ID == id {
			g.device.Healthy, g.device.Description = description == "", description
			c.tellNode(g.node)
		}
	}
	c.placeWaiting()
}

// Signals is how often the tasks of a job got a signal.
func (c *Cluster) Signals(jobID string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signals[jobID]
}

// Lists is how often the nodes were listed.
func (c *Cluster) Lists() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists
}

// tellNode puts a node's state into the event stream. c.mu is held.
func (c *Cluster) tellNode(name string) {
	c.index++
	n := c.node(name)
	c.nodeIndexes[name] = c.index
	n.Index = c.index
	c.announce(run.Update{Node: &n})
}

func (c *Cluster) node(name string) failover.Node {
	n := failover.Node{ID: name, Name: name, Index: c.nodeIndexes[name]}
	for _, g := range c.gpus {
		if g.node == name {
			n.Devices = append(n.Devices, g.device)
		}
	}
	return n
}

// asked is how many devices a task of a job asks for.
func asked(spec *api.Job, rank int) int {
	if r := spec.TaskGroups[rank].Tasks[0].Resources; r != nil && len(r.Devices) > 0 {
		return int(*r.Devices[0].Count)
	}
	return 0
}

// avoids reports whether a task's constraints keep it from a device.
func avoids(spec *api.Job, rank int, id string) bool {
	for _, d := range spec.TaskGroups[rank].Tasks[0].Resources.Devices {
		for _, c := range d.Constraints {
			if c.LTarget == "${device.ids}" && c.Operand == "!=" && c.RTarget == id {
				return true
			}
		}
	}
	return false
}

// free finds as many free and healthy GPUs of one node as a task asks for, nil if
// there are none.
func (c *Cluster) free(spec *api.Job, rank int) []*gpu {
	count := asked(spec, rank)
	byNode := map[string][]*gpu{}
	for _, g := range c.gpus {
		if g.device.Healthy && (g.holder == nil || g.holder.Ended()) && !avoids(spec, rank, g.device.ID) {
			if byNode[g.node] = append(byNode[g.node], g); len(byNode[g.node]) == count {
				return byNode[g.node]
			}
		}
	}
	return nil
}

// placeWaiting tries the jobs again that wait for a place. c.mu is held.
func (c *Cluster) placeWaiting() {
	var ids []string
	for id, j := range c.jobs {
		if j.waiting && !j.stopped {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if j := c.jobs[id]; c.waitsAt(j) == "" {
			c.place(j)
		}
	}
}

// Nodes lists the nodes with GPUs.
func (c *Cluster) Nodes(ctx context.Context) (out []failover.Node, err error) {
	err = c.call(ctx, "Nodes", "", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lists++
		seen := map[string]bool{}
		for _, g := range c.gpus {
			if !seen[g.node] {
				seen[g.node] = true
				out = append(out, c.node(g.node))
			}
		}
		return nil
	})
	return out, err
}

// Instances lists a node's endpoint instances.
func (c *Cluster) Instances(ctx context.Context, nodeID string) (out []run.Instance, err error) {
	err = c.call(ctx, "Instances", nodeID, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, j := range c.jobs {
			for _, a := range j.allocs {
				if a.NodeID == nodeID && !a.Ended() && j.spec.Meta[jobspec.MetaEndpoint] != "" {
					out = append(out, run.Instance{Alloc: a.Alloc, Workspace: j.spec.Meta[jobspec.MetaWorkspace], Endpoint: j.spec.Meta[jobspec.MetaEndpoint]})
				}
			}
		}
		return nil
	})
	return out, err
}

// Signal gives a task a signal.
func (n namespace) Signal(ctx context.Context, allocID, signal string) error {
	c, jobID := n.Cluster, ""
	c.mu.Lock()
	a := n.alloc(allocID)
	if a != nil {
		jobID = a.JobID
	}
	c.mu.Unlock()
	return c.call(ctx, "Signal", jobID, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if a == nil || a.Client != "running" {
			return run.ErrNoTask
		}
		c.signals[jobID]++
		select {
		case a.signals <- signal:
		default: // nobody listens
		}
		return nil
	})
}

// StopAlloc ends an allocation; another takes its place.
func (n namespace) StopAlloc(ctx context.Context, allocID string) error {
	c := n.Cluster
	return c.call(ctx, "StopAlloc", allocID, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		a := n.alloc(allocID)
		if a == nil || a.Ended() || a.Desired != "run" {
			return nil
		}
		a.Desired = "stop"
		a.end()
		j := c.jobs[keyOf(a.Namespace, a.JobID)]
		if *j.spec.Type == api.JobTypeService {
			a.Client = "complete"
		}
		c.publish(a)
		c.place(j)
		return nil
	})
}

// StartsByMeta is how often each step and endpoint has started.
func (c *Cluster) StartsByMeta() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]int{}
	for id, n := range c.starts {
		meta := c.jobs[id].spec.Meta
		out[meta[jobspec.MetaStep]+meta[jobspec.MetaEndpoint]+" "+meta[jobspec.MetaAttempt]] += n
	}
	return out
}
