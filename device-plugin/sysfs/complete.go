package sysfs

import (
	"io/fs"
	"slices"
	"strings"

	"github.com/drover-ml/drover/internal/topology"
)

// Complete adds to a graph of GPUs what /sys knows: the network cards, how near
// they are to the GPUs, and of the GPUs themselves the NUMA node, the CPUs and
// the connections over PCIe, where the graph does not have them yet.
func Complete(root fs.FS, g topology.Graph) topology.Graph {
	g.GPUs, g.NICs, g.Links = slices.Clone(g.GPUs), nics(root), slices.Clone(g.Links)
	at := make(map[string]place)
	for i := range g.GPUs {
		gpu := &g.GPUs[i]
		dir := location(root, gpu.PCIBusID)
		if gpu.NUMANode == nil {
			gpu.NUMANode = numaNode(root, dir)
		}
		if gpu.CPUs == "" && dir != "" {
			gpu.CPUs = text(root, dir, "local_cpulist")
		}
		at[gpu.ID] = place{dir, gpu.NUMANode}
	}
	for _, n := range g.NICs {
		at[n.Name] = place{location(root, n.PCIBusID), n.NUMANode}
	}
	for i, gpu := range g.GPUs {
		for _, other := range g.GPUs[i+1:] {
			if g.Between(gpu.ID, other.ID).Kind == "" {
				g.Links = appendLink(g.Links, gpu.ID, other.ID, at)
			}
		}
		for _, nic := range g.NICs {
			g.Links = appendLink(g.Links, gpu.ID, nic.Name, at)
		}
	}
	for i, nic := range g.NICs {
		for _, other := range g.NICs[i+1:] {
			g.Links = appendLink(g.Links, nic.Name, other.Name, at)
		}
	}
	return g
}

// place is where a device is.
type place struct {
	path string // below devices/; "" if unknown
	node *int   // nil if unknown
}

func appendLink(links []topology.Link, a, b string, at map[string]place) []topology.Link {
	if kind := at[a].to(at[b]); kind != "" {
		links = append(links, topology.Link{A: a, B: b, Kind: kind})
	}
	return links
}

// to is the connection of two devices over PCIe, from what they have in common
// of their paths "devices/<host bridge>/<bridge>.../<device>"; "" if unknown.
//
// A switch is two bridges in a path, the port up and the port down. So devices
// of one switch are at most two steps below what they share; those that are
// deeper have several switches between them.
func (p place) to(q place) topology.Kind {
	if p.path == "" || q.path == "" {
		return ""
	}
	a, b := strings.Split(p.path, "/"), strings.Split(q.path, "/")
	common := 0
	for common < min(len(a), len(b)) && a[common] == b[common] {
		common++
	}
	const bridges = 2 // names before the first bridge: "devices", and the host bridge
	switch {
	case common > bridges && max(len(a), len(b))-common <= 2:
		return topology.SameBoard
	case common > bridges:
		return topology.Bridges
	case common == bridges:
		return topology.HostBridge
	case p.node == nil && q.node == nil:
		return topology.SameNode // a machine of one node does not say so
	case p.node == nil || q.node == nil:
		return ""
	case *p.node == *q.node:
		return topology.SameNode
	}
	return topology.System
}

// nics are the network cards: RDMA devices by their names, and interfaces of
// cards that have none, by theirs.
func nics(root fs.FS) []topology.NIC {
	interfaces, err := Network(root)
	if err != nil {
		interfaces = nil // a machine without a network has no cards
	}
	var cards []topology.NIC
	known := make(map[string]bool) // bus IDs
	for _, d := range RDMA(root) {
		if d.PCIBusID == "" {
			continue // RDMA in software, over any interface
		}
		n := topology.NIC{
			Name: d.Name, PCIBusID: d.PCIBusID, NUMANode: d.NUMANode, RDMA: true,
			Down: len(d.Ports) > 0 && !slices.ContainsFunc(d.Ports, Port.Active),
		}
		if len(d.Netdevs) > 0 {
			n.Netdev = d.Netdevs[0]
		}
		known[d.PCIBusID] = true
		cards = append(cards, n)
	}
	for _, i := range interfaces {
		if i.PCIBusID == "" || known[i.PCIBusID] {
			continue
		}
		cards = append(cards, topology.NIC{
			Name: i.Name, Netdev: i.Name, PCIBusID: i.PCIBusID, NUMANode: i.NUMANode, Down: i.State == "down",
		})
	}
	return cards
}
