// Package topology is how the GPUs, network cards and CPUs of a node are
// connected: what nvidia-smi topo -m shows, as a graph that placement can ask
// questions of. It is pure.
package topology

import "context"

// Source reads how the GPUs of a machine are connected. What it cannot tell
// (NICs, say) it leaves out.
type Source interface {
	Topology(ctx context.Context) (Graph, error)
}

// Graph is one reading of a node. The zero Graph knows nothing.
type Graph struct {
	GPUs []GPU
	NICs []NIC
	// Links has the connection of each pair of GPUs, and of each GPU with each
	// NIC, once; those of NICs with each other may be there too.
	Links []Link
}

// GPU is a board in the graph.
type GPU struct {
	ID       string // UUID
	Index    int
	PCIBusID string
	NUMANode *int   // nil if unknown, or if the machine has one node only and does not say
	CPUs     string // the CPUs nearest to it as the kernel lists them, "0-23,48-71"
	// Island is the set of GPUs that reach each other over NVLink; GPUs of one
	// island have the same number. Nil without NVLink.
	Island *int
	// MemoryNode is the NUMA node that the GPU's own memory is, on machines
	// where CPU and GPU share an address space; nil elsewhere.
	MemoryNode *int
}

// NIC is a network or InfiniBand card.
type NIC struct {
	Name     string // "mlx5_0"
	Netdev   string // "ens1f0"; "" if it has none
	PCIBusID string
	NUMANode *int
	// RDMA is set for cards with an InfiniBand or RoCE device.
	RDMA bool
	// Down is set if the card has no link at present, as far as is known.
	Down bool
}

// Link is the connection of two ends, each a GPU's UUID or a NIC's name.
type Link struct {
	A, B string
	Kind Kind
	// NVLinks is the number of links of an NVLink connection.
	NVLinks int
	// BandwidthMBps is of one direction, nominal; 0 if unknown.
	BandwidthMBps int64
}

// Kind is how two ends are connected, in nvidia-smi's words, from near to far.
type Kind string

// The kinds.
const (
	NVLink     Kind = "NV"   // NVLink, directly or through switches
	SameBoard  Kind = "PIX"  // one PCIe bridge at most
	Bridges    Kind = "PXB"  // several PCIe bridges, not through the host bridge
	HostBridge Kind = "PHB"  // through a PCIe host bridge, in the CPU
	SameNode   Kind = "NODE" // between host bridges of one NUMA node
	System     Kind = "SYS"  // between NUMA nodes
)
