package topology

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxCPUs bounds the numbers in CPU lists, and how many there are.
const maxCPUs = 1 << 14

// parseCPUs reads a list as the kernel writes it: "0-23,48-71".
func parseCPUs(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err := errors.Join(err1, err2); err != nil || from < 0 || to < from || to >= maxCPUs || len(cpus)+to-from >= maxCPUs {
			return nil, fmt.Errorf("CPU list %.40q: want numbers and ranges such as 0-23,48-71", list)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

// FormatCPUs writes sorted CPUs as the kernel does.
func FormatCPUs(cpus []int) string {
	var parts []string
	for i := 0; i < len(cpus); {
		last := i
		for last+1 < len(cpus) && cpus[last+1] == cpus[last]+1 {
			last++
		}
		part := strconv.Itoa(cpus[i])
		if last > i {
			part += "-" + strconv.Itoa(cpus[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ",")
}

// joinCPUs is the union of lists; "" if one of them cannot be read.
func joinCPUs(lists []string) string {
	var all []int
	for _, list := range lists {
		cpus, err := parseCPUs(list)
		if err != nil {
			return ""
		}
		all = append(all, cpus...)
	}
	slices.Sort(all)
	return FormatCPUs(slices.Compact(all))
}
