package simulate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/drover-ml/drover/orchestrator/placement"
)

// MaxMoreNodes is how many nodes can be added.
const MaxMoreNodes = 100_000

// MoreNodes is nodes and n more, like those with GPUs of which there are most; like
// any of which there are most, if none has GPUs.
func MoreNodes(nodes []placement.Node, n int) ([]placement.Node, error) {
	if n < 0 || n > MaxMoreNodes {
		return nil, fmt.Errorf("%d more nodes; there can be 0 to %d", n, MaxMoreNodes)
	}
	if n == 0 || len(nodes) == 0 {
		return nodes, nil
	}
	taken := map[string]bool{}
	count := map[placement.Node]int{}
	for _, node := range nodes {
		taken[node.Name] = true
		node.Name = ""
		count[node]++
	}
	kinds := make([]placement.Node, 0, len(count))
	for k := range count {
		kinds = append(kinds, k)
	}
	like := slices.MinFunc(kinds, func(a, b placement.Node) int {
		return cmp.Or(cmp.Compare(min(1, b.GPUs), min(1, a.GPUs)), cmp.Compare(count[b], count[a]),
			cmp.Compare(b.GPUs, a.GPUs), cmp.Compare(a.Model, b.Model), cmp.Compare(b.CPUMilli, a.CPUMilli), cmp.Compare(b.MemoryMiB, a.MemoryMiB))
	})
	all := slices.Clone(nodes)
	for i := 1; len(all) < len(nodes)+n; i++ {
		like.Name = fmt.Sprintf("more-%d", i)
		if !taken[like.Name] {
			all = append(all, like)
		}
	}
	return all, nil
}
