package nvml

import (
	"context"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/nvml/pci"
	"github.com/drover-ml/drover/internal/topology"
)

// Topology reads how the boards are connected. Network cards are for others to
// add. A board that does not answer is left out.
func (s *Source) Topology(context.Context) (topology.Graph, error) {
	var g topology.Graph
	err := s.use("reading the topology of GPUs", func() error {
		count, err := s.count()
		if err != nil {
			return err
		}
		var ends []end
		for i := range count {
			if e, ok := s.end(i); ok {
				ends = append(ends, e)
				g.GPUs = append(g.GPUs, e.gpu)
			}
		}
		isBoard := make(map[pci.Slot]bool)
		for _, e := range ends {
			isBoard[e.at] = true
		}
		for i := range ends {
			ends[i].follow(isBoard)
		}
		for i, a := range ends {
			for _, b := range ends[i+1:] {
				if l := a.to(b); l.Kind != "" {
					g.Links = append(g.Links, l)
				}
			}
		}
		return nil
	})
	if err != nil {
		return topology.Graph{}, err
	}
	return g.WithIslands(), nil
}

// end is a board as one end of connections.
type end struct {
	*reader
	device lib.Device
	gpu    topology.GPU
	at     pci.Slot

	linkMBps int64            // of one NVLink, one direction; 0 is unknown
	direct   map[pci.Slot]int // NVLinks, by the board they lead to
	switched int              // NVLinks that lead to switches
	fabric   *lib.GpuFabricInfo
}

func (s *Source) end(index int) (end, bool) {
	d, ret := s.lib.DeviceGetHandleByIndex(index)
	if ret != lib.SUCCESS {
		return end{}, false
	}
	uuid, ret := d.GetUUID()
	if ret != lib.SUCCESS {
		return end{}, false
	}
	r := &reader{Source: s}
	e := end{reader: r, device: d, gpu: topology.GPU{ID: trimmed(uuid), Index: index}, direct: map[pci.Slot]int{}}
	if info := r.pci(d); info != nil {
		e.gpu.PCIBusID = busID(*info)
		e.at, _ = pci.Parse(e.gpu.PCIBusID)
	}
	e.gpu.NUMANode, e.gpu.CPUs = r.locality(d, e.gpu.PCIBusID)
	e.gpu.MemoryNode = read(r, d.GetNumaNodeId, "nvmlDeviceGetNumaNodeId")
	if r.has("nvmlDeviceGetCudaComputeCapability") {
		if major, minor, ret := d.GetCudaComputeCapability(); ret == lib.SUCCESS {
			e.linkMBps = linkMBps(major, minor)
		}
	}
	e.fabric = read(r, d.GetGpuFabricInfo, "nvmlDeviceGetGpuFabricInfo")
	return e, r.fatal == lib.SUCCESS
}

// follow finds where the board's NVLinks lead.
func (e *end) follow(isBoard map[pci.Slot]bool) {
	for _, l := range e.links(e.device) {
		if !l.active {
			continue
		}
		kind := read(e.reader, func() (lib.IntNvLinkDeviceType, lib.Return) {
			return e.device.GetNvLinkRemoteDeviceType(l.number)
		}, "nvmlDeviceGetNvLinkRemoteDeviceType")
		if kind != nil && *kind == lib.NVLINK_DEVICE_TYPE_SWITCH {
			e.switched++
			continue
		}
		remote := read(e.reader, func() (lib.PciInfo, lib.Return) {
			return e.device.GetNvLinkRemotePciInfo(l.number)
		}, "nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemotePciInfo")
		if remote == nil {
			continue
		}
		at, ok := pci.Parse(busID(*remote))
		switch {
		case ok && isBoard[at]:
			e.direct[at]++
		case ok && kind == nil: // an older driver does not tell switches from boards
			e.switched++
		}
	}
}

// levels are NVML's words for connections without NVLink.
var levels = map[lib.GpuTopologyLevel]topology.Kind{
	lib.TOPOLOGY_INTERNAL:   topology.SameBoard,
	lib.TOPOLOGY_SINGLE:     topology.SameBoard,
	lib.TOPOLOGY_MULTIPLE:   topology.Bridges,
	lib.TOPOLOGY_HOSTBRIDGE: topology.HostBridge,
	lib.TOPOLOGY_NODE:       topology.SameNode,
	lib.TOPOLOGY_SYSTEM:     topology.System,
}

// to is the connection of two boards; its Kind is "" if it is unknown.
func (e end) to(other end) topology.Link {
	l := topology.Link{A: e.gpu.ID, B: other.gpu.ID}
	if l.NVLinks = e.direct[other.at]; l.NVLinks == 0 && e.inFabricWith(other) {
		l.NVLinks = min(e.switched, other.switched)
	}
	if l.NVLinks > 0 {
		l.Kind = topology.NVLink
		l.BandwidthMBps = int64(l.NVLinks) * min(e.linkMBps, other.linkMBps)
		return l
	}
	level := read(e.reader, func() (lib.GpuTopologyLevel, lib.Return) {
		return e.device.GetTopologyCommonAncestor(other.device)
	}, "nvmlDeviceGetTopologyCommonAncestor")
	if level != nil {
		l.Kind = levels[*level]
	}
	return l
}

// inFabricWith reports whether boards behind switches reach each other. Where
// a fabric manager has to connect them, it must have done so, for both in one
// partition.
func (e end) inFabricWith(other end) bool {
	managed := func(f *lib.GpuFabricInfo) bool { return f != nil && f.State != lib.GPU_FABRIC_STATE_NOT_SUPPORTED }
	if !managed(e.fabric) && !managed(other.fabric) {
		return true
	}
	joined := func(f *lib.GpuFabricInfo) bool {
		return managed(f) && f.State == lib.GPU_FABRIC_STATE_COMPLETED && lib.Return(f.Status) == lib.SUCCESS
	}
	return joined(e.fabric) && joined(other.fabric) &&
		e.fabric.ClusterUuid == other.fabric.ClusterUuid && e.fabric.CliqueId == other.fabric.CliqueId
}
