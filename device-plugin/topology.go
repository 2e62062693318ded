package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sysfs"
	"github.com/drover-ml/drover/internal/topology"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// topologyPeriod is how often the links of network cards are looked at. GPUs
// that come or go are seen at once.
const topologyPeriod = time.Minute

// readTopology is a part that keeps what is known of how the GPUs are
// connected.
func (n *node) readTopology(ctx context.Context) error {
	for {
		_, _, changed := n.current()
		if err := n.learnTopology(ctx); err != nil {
			return err
		}
		timer := time.NewTimer(topologyPeriod)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (n *node) learnTopology(ctx context.Context) error {
	offer, _, _ := n.current()
	g, err := n.machine.graph(ctx, offer.Devices, n.settings.machine != nil)
	if err != nil {
		return fmt.Errorf("reading the topology: %w", err)
	}
	g = remember(g, n.connections())
	n.mu.Lock()
	n.wiring = g
	n.mu.Unlock()
	n.put("topology", gpu.Overlay{Describe: func(members []gpu.Device) map[string]device.Attribute { return describe(g, members) }})
	return nil
}

// remember adds connections that were known before and are not told now, as of
// a board that is broken at the moment.
func remember(g, before topology.Graph) topology.Graph {
	ends := make(map[string]bool)
	for _, b := range g.GPUs {
		ends[b.ID] = true
	}
	for _, n := range g.NICs {
		ends[n.Name] = true
	}
	for _, l := range before.Links {
		if ends[l.A] && ends[l.B] && g.Between(l.A, l.B).Kind == "" {
			g.Links = append(g.Links, l)
		}
	}
	return g.WithIslands()
}

// graph is the topology as the source tells it, with the boards of all devices.
// On a machine that is not simulated the kernel knows the rest.
func (m machine) graph(ctx context.Context, devices []gpu.Device, simulated bool) (topology.Graph, error) {
	var g topology.Graph
	if m.wiring != nil {
		var err error
		if g, err = m.wiring.Topology(ctx); err != nil {
			return g, err
		}
	}
	for _, d := range devices {
		if !slices.ContainsFunc(g.GPUs, func(known topology.GPU) bool { return known.ID == string(d.Parent) }) {
			g.GPUs = append(g.GPUs, topology.GPU{
				ID: string(d.Parent), Index: d.Board.Index, PCIBusID: d.PCIBusID, NUMANode: d.Board.NUMANode, CPUs: d.Board.CPUs,
			})
		}
	}
	slices.SortStableFunc(g.GPUs, func(a, b topology.GPU) int { return cmp.Compare(a.Index, b.Index) })
	if !simulated {
		g = sysfs.Complete(os.DirFS("/sys"), g)
	}
	return g.WithIslands(), nil
}

// describe are the attributes of a group that tell how its devices are
// connected.
func describe(g topology.Graph, members []gpu.Device) map[string]device.Attribute {
	attrs := make(map[string]device.Attribute)
	healthy := slices.DeleteFunc(slices.Clone(members), func(d gpu.Device) bool { return !d.Fault.OK() })
	if len(healthy) == 0 {
		healthy = members
	}
	ids := boardsOf(healthy)       // a broken board must not keep work from the others
	cut := members[0].Slice != nil // which do not reach each other
	if class := g.Class(ids); class != "" && !cut {
		attrs["interconnect"] = base.String(class)
	}
	if island := islandOf(g, ids); island != nil && !cut {
		attrs["nvlink_island"] = base.Int(int64(*island), "")
	}
	if text, err := published(g, members).Marshal(); err == nil {
		attrs["topology"] = base.String(text)
	}
	return attrs
}

// boardsOf are the boards of some devices, each once.
func boardsOf(devices []gpu.Device) []string {
	var ids []string
	for _, d := range devices {
		if !slices.Contains(ids, string(d.Parent)) {
			ids = append(ids, string(d.Parent))
		}
	}
	return ids
}

// islandOf is the NVLink island that all of the boards are in; nil if they are
// not in one.
func islandOf(g topology.Graph, boards []string) *int {
	var common *int
	for i, id := range boards {
		at := slices.IndexFunc(g.GPUs, func(b topology.GPU) bool { return b.ID == id })
		if at < 0 || g.GPUs[at].Island == nil || i > 0 && *g.GPUs[at].Island != *common {
			return nil
		}
		common = g.GPUs[at].Island
	}
	return common
}

// published is the graph with what the inventory knows of the members.
func published(g topology.Graph, members []gpu.Device) topology.Published {
	p := topology.Publish(g)
	for _, d := range members {
		at, ok := p.Board(string(d.Parent))
		if !ok {
			continue
		}
		p.Boards[at].Serial, p.Boards[at].Minor = d.Board.Serial, d.Board.Minor
		if d.Slice == nil || slices.ContainsFunc(p.Slices, func(s topology.PublishedSlice) bool { return s.ID == string(d.Hardware) }) {
			continue
		}
		p.Slices = append(p.Slices, topology.PublishedSlice{
			ID: string(d.Hardware), Board: at, Start: d.Slice.Start, Size: d.Slice.Size,
			GPUInstance: d.Slice.GPUInstance, ComputeInstance: d.Slice.ComputeInstance,
		})
	}
	return p
}

// Environment variables of a reservation that tell where the devices are.
const (
	numaVariable = "DROVER_NUMA_NODES" // "0,1"
	cpusVariable = "DROVER_CPUS"       // nearest to them: "0-23,48-71"
	nicsVariable = "DROVER_NICS"       // nearest to them: "mlx5_0,mlx5_1"
	// ncclVariable restricts NCCL to the RDMA cards nearest to the devices.
	// "=" is NCCL's sign for whole names.
	ncclVariable = "NCCL_IB_HCA"
)

// addHints tells a task which CPUs, memory and network cards are nearest to
// its devices. What is not known is left out.
func addHints(env map[string]string, g topology.Graph, devices []gpu.Device) {
	set := func(variable string, values []string) {
		if text := strings.Join(values, ","); text != "" {
			env[variable] = text
		}
	}
	ids := boardsOf(devices)
	var nodes, nics, rdma []string
	for _, n := range g.NUMANodes(ids) {
		nodes = append(nodes, strconv.Itoa(n))
	}
	for _, n := range g.Nearest(ids) {
		nics = append(nics, n.Name)
		if n.RDMA && isNear(g, ids, n) {
			rdma = append(rdma, n.Name)
		}
	}
	set(numaVariable, nodes)
	set(cpusVariable, []string{g.CPUs(ids)})
	set(nicsVariable, nics)
	if len(rdma) > 0 {
		env[ncclVariable] = "=" + strings.Join(rdma, ",")
	}
}

// isNear reports whether a card is on the NUMA node of one of the boards, or
// nearer. Of cards that are farther, NCCL itself chooses better.
func isNear(g topology.Graph, boards []string, n topology.NIC) bool {
	return slices.ContainsFunc(boards, func(id string) bool {
		kind := g.Between(id, n.Name).Kind
		return kind != "" && kind != topology.System
	})
}
