package scheduler

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// usage is what is taken of a node: by what runs there, and by what the plan
// in the making puts there.
type usage struct {
	node     *api.Node
	cpu      int64 // MHz
	memoryMB int64
	diskMB   int64
	ports    map[int]bool
	devices  map[string]bool
	nextPort int
	seed     uint64 // where the search for a dynamic port starts
	allocs   []*api.Allocation
}

// dynamic port range of a node that does not state one.
const (
	defaultMinPort = 20000
	defaultMaxPort = 32000
)

// ClientTerminal reports whether an allocation no longer holds resources: its
// client said so, or it is lost. One that was merely told to stop still does.
func ClientTerminal(a *api.Allocation) bool {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return true
	}
	return false
}

// ServerTerminal reports whether an allocation was told to stop.
func ServerTerminal(a *api.Allocation) bool { return a.DesiredStatus != api.AllocDesiredStatusRun }

func newUsage(n *api.Node, seed uint64) *usage {
	u := &usage{node: n, seed: seed, ports: map[int]bool{}, devices: map[string]bool{}}
	if r := n.ReservedResources; r != nil {
		u.cpu += int64(r.Cpu.CpuShares)
		u.memoryMB += int64(r.Memory.MemoryMB)
		u.diskMB += int64(r.Disk.DiskMB)
		for _, p := range parsePorts(r.Networks.ReservedHostPorts) {
			u.ports[p] = true
		}
	}
	return u
}

// parsePorts reads "22,80,8000-8010"; what is not a port is passed over.
func parsePorts(s string) []int {
	var ports []int
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			hi = lo
		}
		a, err1 := strconv.Atoi(lo)
		b, err2 := strconv.Atoi(hi)
		if err1 != nil || err2 != nil || a < 1 || b > 65535 {
			continue
		}
		for p := a; p <= b; p++ {
			ports = append(ports, p)
		}
	}
	return ports
}

func (u *usage) add(a *api.Allocation) {
	u.allocs = append(u.allocs, a)
	r := a.AllocatedResources
	if r == nil {
		return
	}
	cpu, memory := totals(r)
	u.cpu += cpu
	u.memoryMB += memory
	u.diskMB += r.Shared.DiskMB
	for _, p := range r.Shared.Ports {
		u.ports[p.Value] = true
	}
	for _, task := range r.Tasks {
		for _, d := range task.Devices {
			for _, id := range d.DeviceIDs {
				u.devices[deviceKey(d.Vendor, d.Type, d.Name, id)] = true
			}
		}
	}
}

func totals(r *api.AllocatedResources) (cpu, memoryMB int64) {
	for _, task := range r.Tasks {
		cpu += task.Cpu.CpuShares
		memoryMB += task.Memory.MemoryMB
	}
	return cpu, memoryMB
}

// fits reports whether the plain resources fit, and if not, which is short.
func (u *usage) fits(r *api.AllocatedResources) (short string) {
	cpu, memory := totals(r)
	switch {
	case u.cpu+cpu > u.node.NodeResources.Cpu.CpuShares:
		return "cpu"
	case u.memoryMB+memory > u.node.NodeResources.Memory.MemoryMB:
		return "memory"
	case u.diskMB+r.Shared.DiskMB > u.node.NodeResources.Disk.DiskMB:
		return "disk"
	}
	return ""
}

// fitness is the bin packing score after placing r, 0 for an empty node and 1
// for a full one: Google's "best fit v3", which Nomad uses.
func (u *usage) fitness(r *api.AllocatedResources) float64 {
	const most = 18 // what the formula gives for a full node
	cpu, memory := totals(r)
	free := func(used, total int64) float64 {
		if total <= 0 {
			return 0
		}
		return max(0, 1-float64(used)/float64(total))
	}
	sum := 20 - math.Pow(10, free(u.cpu+cpu, u.node.NodeResources.Cpu.CpuShares)) -
		math.Pow(10, free(u.memoryMB+memory, u.node.NodeResources.Memory.MemoryMB))
	return min(1, max(0, sum/most))
}

// offerPorts assigns host ports to the group's network blocks. Static ports
// come first; dynamic ones walk the node's range from a place that the seed gives, so
// that a port that was just given back is rarely the next one.
func (u *usage) offerPorts(networks []*api.NetworkResource) ([]*api.NetworkResource, []api.PortMapping, error) {
	if len(networks) == 0 {
		return nil, nil, nil
	}
	ip := nodeIP(u.node)
	taken := map[int]bool{}
	var mappings []api.PortMapping
	var assigned []*api.NetworkResource
	for _, ask := range networks {
		got := &api.NetworkResource{Mode: ask.Mode, Device: nodeDevice(u.node), IP: ip, DNS: ask.DNS, Hostname: ask.Hostname}
		if got.Mode == "" {
			got.Mode = "host"
		}
		for _, p := range ask.ReservedPorts {
			if (u.ports[p.Value] || taken[p.Value]) && !p.IgnoreCollision {
				return nil, nil, fmt.Errorf("reserved port collision %s=%d", p.Label, p.Value)
			}
			taken[p.Value] = true
			got.ReservedPorts = append(got.ReservedPorts, p)
			mappings = append(mappings, api.PortMapping{Label: p.Label, Value: p.Value, To: portTo(p), HostIP: ip})
		}
		for _, p := range ask.DynamicPorts {
			port, err := u.dynamicPort(taken)
			if err != nil {
				return nil, nil, err
			}
			taken[port] = true
			p.Value = port
			got.DynamicPorts = append(got.DynamicPorts, p)
			mappings = append(mappings, api.PortMapping{Label: p.Label, Value: port, To: portTo(p), HostIP: ip})
		}
		assigned = append(assigned, got)
	}
	return assigned, mappings, nil
}

// portTo is the port inside the task's network; -1 asks for the host port.
func portTo(p api.Port) int {
	if p.To == -1 {
		return p.Value
	}
	return p.To
}

func (u *usage) dynamicPort(taken map[int]bool) (int, error) {
	lo, hi := u.node.NodeResources.MinDynamicPort, u.node.NodeResources.MaxDynamicPort
	if lo == 0 || hi < lo {
		lo, hi = defaultMinPort, defaultMaxPort
	}
	if u.nextPort == 0 {
		u.nextPort = lo + int(u.seed%uint64(hi-lo+1))
	}
	for range hi - lo + 1 {
		p := u.nextPort
		if u.nextPort++; u.nextPort > hi {
			u.nextPort = lo
		}
		if !u.ports[p] && !taken[p] {
			return p, nil
		}
	}
	return 0, fmt.Errorf("dynamic port selection failed")
}

func nodeIP(n *api.Node) string {
	for _, nw := range n.NodeResources.Networks {
		if nw.IP != "" {
			return nw.IP
		}
	}
	return "127.0.0.1"
}

func nodeDevice(n *api.Node) string {
	for _, nw := range n.NodeResources.Networks {
		if nw.Device != "" {
			return nw.Device
		}
	}
	return "lo"
}
