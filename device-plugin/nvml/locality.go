package nvml

import (
	"fmt"
	"math/bits"
	"path"
	"strconv"
	"strings"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
)

const (
	// mostCPUs and mostNodes bound what NVML is asked for.
	mostCPUs  = 2048
	mostNodes = 256
)

// locality is the NUMA node and the CPUs nearest to a board. The kernel knows
// them; NVML is asked where it does not say.
func (r *reader) locality(d lib.Device, bus string) (node *int, cpus string) {
	if at, ok := parseSlot(bus); ok {
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
			cpus = ranges(members(*set))
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

// ranges writes ascending numbers as the kernel does: "0-23,48-71".
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		part := strconv.Itoa(numbers[i])
		if last > i {
			part += "-" + strconv.Itoa(numbers[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ",")
}

// slot is where on the PCI buses a device is. Functions of one device are the
// same GPU.
type slot struct {
	domain      uint64
	bus, device uint64
}

// String is the slot as the kernel writes it, without the function:
// "0000:07:00".
func (s slot) String() string { return fmt.Sprintf("%04x:%02x:%02x", s.domain, s.bus, s.device) }

// parseSlot reads a bus ID in any of its forms: "00000000:07:00.0" as NVML has
// it, "0000:07:00.0" as the kernel, "0000:07:00" as the driver's messages.
func parseSlot(text string) (slot, bool) {
	parts := strings.Split(strings.TrimSpace(text), ":")
	if len(parts) != 3 {
		return slot{}, false
	}
	device, function, hasFunction := strings.Cut(parts[2], ".")
	domain, err1 := strconv.ParseUint(parts[0], 16, 32)
	bus, err2 := strconv.ParseUint(parts[1], 16, 8)
	dev, err3 := strconv.ParseUint(device, 16, 8)
	if err1 != nil || err2 != nil || err3 != nil {
		return slot{}, false
	}
	if hasFunction {
		if _, err := strconv.ParseUint(function, 16, 4); err != nil {
			return slot{}, false
		}
	}
	return slot{domain, bus, dev}, true
}
