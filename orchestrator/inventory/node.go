package inventory

import (
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/topology"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Node is what a node of the cluster has, whoever uses it.
type Node struct {
	ID         queue.NodeID      `json:"id"`
	Name       string            `json:"name,omitempty"`
	Pool       string            `json:"pool,omitempty"`
	Class      string            `json:"class,omitempty"`
	Datacenter string            `json:"datacenter,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	// Meta has the domains of the node: see [Topology].
	Meta map[string]string `json:"meta,omitempty"`
	// Eligible nodes take new work: they are ready, and neither draining nor
	// marked ineligible.
	Eligible bool `json:"eligible"`
	// Drivers are the task drivers that are healthy.
	Drivers []string `json:"drivers,omitempty"`
	// CPUMHz, Cores and MemoryMiB are what tasks can have together. Cores is how
	// many can be reserved whole; each is its part of CPUMHz.
	CPUMHz    int64   `json:"cpu_mhz"`
	Cores     int     `json:"cores,omitempty"`
	MemoryMiB int64   `json:"memory_mib"`
	MaxAllocs int     `json:"max_allocs,omitempty"` // at a time; 0: any number
	Groups    []Group `json:"groups,omitempty"`
	// Wiring is how the GPUs are connected; nil if nobody told.
	Wiring *topology.Published `json:"wiring,omitempty"`
	// Unread is what of the node's own account could not be understood; "" if all
	// could.
	Unread string `json:"unread,omitempty"`
}

// Group is a device group: devices that Nomad takes to be alike.
type Group struct {
	Vendor     string                    `json:"vendor"`
	Type       string                    `json:"type"`
	Name       string                    `json:"name"`
	Attributes map[string]*api.Attribute `json:"attributes,omitempty"`
	Instances  []Instance                `json:"instances"`
}

// ID is how Nomad names the group: vendor/type/name.
func (g Group) ID() string { return g.Vendor + "/" + g.Type + "/" + g.Name }

// Instance is a device: a GPU, a slice, a replica.
type Instance struct {
	ID      string `json:"id"`
	Healthy bool   `json:"healthy"`
}

// Alloc is what an allocation holds.
type Alloc struct {
	ID        string            `json:"id"`
	JobID     string            `json:"job_id"`
	Namespace string            `json:"namespace,omitempty"`
	NodeID    queue.NodeID      `json:"node_id"`
	CPUMHz    int64             `json:"cpu_mhz"` // those of reserved cores too
	Cores     int               `json:"cores,omitempty"`
	MemoryMiB int64             `json:"memory_mib"`
	Devices   []Devices         `json:"devices,omitempty"`
	Meta      map[string]string `json:"meta,omitempty"` // of its job
	Created   time.Time         `json:"created,omitzero"`
}

// Devices are some devices of a group.
type Devices struct {
	Vendor string   `json:"vendor"`
	Type   string   `json:"type"`
	Name   string   `json:"name"`
	IDs    []string `json:"ids"`
}

// topologyAttribute has the wiring of a node's boards: internal/topology reads it.
const topologyAttribute = "topology"

// FromNomad is a node as Nomad tells of it.
func FromNomad(n *api.Node) Node {
	node := Node{
		ID: queue.NodeID(n.ID), Name: n.Name, Pool: n.NodePool, Class: n.NodeClass, Datacenter: n.Datacenter,
		Attributes: n.Attributes, Meta: n.Meta, MaxAllocs: n.NodeMaxAllocs,
		Eligible: n.Status == api.NodeStatusReady && !n.Drain && n.DrainStrategy == nil &&
			n.SchedulingEligibility != api.NodeSchedulingIneligible,
	}
	for name, d := range n.Drivers {
		if d != nil && d.Detected && d.Healthy {
			node.Drivers = append(node.Drivers, name)
		}
	}
	slices.Sort(node.Drivers)
	if r := n.NodeResources; r != nil {
		node.CPUMHz, node.MemoryMiB = r.Cpu.CpuShares, r.Memory.MemoryMB
		if node.Cores = len(r.Cpu.ReservableCpuCores); node.Cores == 0 {
			node.Cores = int(r.Cpu.TotalCpuCores) // it does not tell which
		}
		for _, g := range r.Devices {
			if g != nil {
				node.addGroup(g)
			}
		}
	}
	if r := n.ReservedResources; r != nil {
		node.CPUMHz -= int64(r.Cpu.CpuShares)
		node.MemoryMiB -= int64(r.Memory.MemoryMB)
	}
	node.CPUMHz, node.MemoryMiB = max(0, node.CPUMHz), max(0, node.MemoryMiB)
	return node
}

func (n *Node) addGroup(g *api.NodeDeviceResource) {
	group := Group{Vendor: g.Vendor, Type: g.Type, Name: g.Name, Attributes: g.Attributes}
	for _, d := range g.Instances {
		group.Instances = append(group.Instances, Instance{ID: d.ID, Healthy: d.Healthy})
	}
	n.Groups = append(n.Groups, group)
	a := g.Attributes[topologyAttribute]
	if a == nil || a.StringVal == nil {
		return
	}
	wiring, err := topology.ParsePublished(*a.StringVal)
	switch {
	case err != nil:
		n.Unread = "group " + group.ID() + ": " + err.Error()
	case n.Wiring == nil:
		n.Wiring = &wiring
	default:
		n.Wiring.Slices = append(n.Wiring.Slices, wiring.Slices...) // each group has its own
	}
}

// AllocFromNomad is what an allocation holds; false: nothing, for it has ended.
// One that was told to stop holds all until it has.
func AllocFromNomad(a *api.Allocation) (Alloc, bool) {
	alloc := Alloc{ID: a.ID, JobID: a.JobID, Namespace: a.Namespace, NodeID: queue.NodeID(a.NodeID), Created: created(a.CreateTime)}
	if a.Job != nil {
		alloc.Meta = a.Job.Meta
	}
	return alloc.holding(a.ClientStatus, a.AllocatedResources)
}

// AllocFromStub is AllocFromNomad of an entry of a list that was asked for with
// resources. It has no Meta.
func AllocFromStub(a *api.AllocationListStub) (Alloc, bool) {
	alloc := Alloc{ID: a.ID, JobID: a.JobID, Namespace: a.Namespace, NodeID: queue.NodeID(a.NodeID), Created: created(a.CreateTime)}
	return alloc.holding(a.ClientStatus, a.AllocatedResources)
}

// created is when an allocation was, which Nomad tells in nanoseconds.
func created(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (a Alloc) holding(status string, r *api.AllocatedResources) (Alloc, bool) {
	switch status {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return Alloc{}, false
	}
	if r == nil {
		return a, true
	}
	for _, t := range r.Tasks {
		if t == nil {
			continue
		}
		a.CPUMHz += t.Cpu.CpuShares
		a.Cores += len(t.Cpu.ReservedCores)
		a.MemoryMiB += t.Memory.MemoryMB
		for _, d := range t.Devices {
			if d != nil {
				a.Devices = append(a.Devices, Devices{Vendor: d.Vendor, Type: d.Type, Name: d.Name, IDs: d.DeviceIDs})
			}
		}
	}
	slices.SortFunc(a.Devices, func(x, y Devices) int { return slices.Compare(x.key(), y.key()) })
	return a, true
}

func (d Devices) key() []string { return append([]string{d.Vendor, d.Type, d.Name}, d.IDs...) }
