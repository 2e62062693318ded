package nvml

import (
	"math/bits"
	"path"
	"strconv"
	"strings"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/nvml/pci"
	"github.com/drover-ml/drover/internal/topology"
)

const (
	// mostCPUs and mostNodes bound what NVML is asked for.
	mostCPUs  = 2048
	mostNodes = 256
)

// locality is the NUMA node and the CPUs nearest to a board. The kernel knows
// them; NVML is asked where it does not say.
func (r *reader) locality(d lib.Device, bus string) (node *int, cpus string) {
	if at, ok := pci.Parse(bus); ok {
		dir := path.Join("sys/bus/pci/devices", at.String()+".0")
		if n, err := strconv.Atoi(text(r.host.file(path.Join(dir, "numa_node")))); err == nil && n >= 0 {
			node = &n
		}
		cpus = text(r.host.file(path.Join(dir, "local_cpulist")))
	}
	if node == nil {
		nodes := read(r, func() ([]uint, lib.Return) {
			return d.GetMemoryAffinity(mostNodes, lib.AFFINITY_SCOPE_NODE)
		}, "nvmlDeviceGetMemoryAffinity")
		if nodes != nil {
			if all := members(*nodes); len(all) == 1 {
				node = &all[0]
			}
		}
	}
	if cpus == "" {
		if set := read(r, func() ([]uint, lib.Return) { return d.GetCpuAffinity(mostCPUs) }, "nvmlDeviceGetCpuAffinity"); set != nil {
			cpus = topology.FormatCPUs(members(*set))
		}
	}
	return node, cpus
}

func text(content []byte) string { return strings.TrimSpace(string(content)) }

// members are the numbers whose bits are set.
func members(words []uint) []int {
	var set []int
	for i, word := range words {
		for ; word != 0; word &= word - 1 {
			set = append(set, i*bits.UintSize+bits.TrailingZeros(word))
		}
	}
	return set
}
