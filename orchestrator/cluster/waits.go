package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// waits says why nothing of a job could be placed, such as "1 node filtered by
// missing drivers, 2 nodes exhausted on memory".
func waits(failed map[string]*api.AllocationMetric) string {
	for _, group := range slices.Sorted(maps.Keys(failed)) {
		if m := failed[group]; m != nil {
			return explain(m)
		}
	}
	return ""
}

func explain(m *api.AllocationMetric) string {
	if m.NodesEvaluated == 0 {
		ready := 0
		for _, n := range m.NodesAvailable {
			ready += n
		}
		switch {
		case len(m.NodesAvailable) == 0:
			return "the job's datacenters have no node"
		case ready == 0:
			return fmt.Sprintf("datacenter %s has no ready node", strings.Join(slices.Sorted(maps.Keys(m.NodesAvailable)), ", "))
		}
		return "none of its nodes was considered"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m.ConstraintFiltered)) {
		parts = append(parts, fmt.Sprintf("%s filtered by %s", nodes(m.ConstraintFiltered[k]), k))
	}
	for _, k := range slices.Sorted(maps.Keys(m.DimensionExhausted)) {
		parts = append(parts, fmt.Sprintf("%s exhausted on %s", nodes(m.DimensionExhausted[k]), k))
	}
	for _, k := range m.QuotaExhausted {
		parts = append(parts, "quota exhausted on "+k)
	}
	if len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%s filtered, %s exhausted", nodes(m.NodesFiltered), nodes(m.NodesExhausted)))
	}
	return strings.Join(parts, ", ")
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}
