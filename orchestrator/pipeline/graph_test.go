package pipeline_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// Any graph is either put in order, or its cycle is told.
func TestAnyGraphIsOrderedOrHasACycle(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "nodes")
		edges := map[[2]int]bool{}
		for _, e := range rapid.SliceOfN(rapid.IntRange(0, n*n-1), 0, 2*n).Draw(r, "edges") {
			edges[[2]int{e / n, e % n}] = true
		}
		var b strings.Builder
		b.WriteString("pipeline \"p\" {}\n")
		for i := range n {
			fmt.Fprintf(&b, "step \"s%d\" {\n command = [\"x\"]\n depends_on = [", i)
			for j := range n {
				if edges[[2]int{i, j}] {
					fmt.Fprintf(&b, "step.s%d,", j)
				}
			}
			b.WriteString("]\n}\n")
		}
		p, diags := pipeline.Parse("p.hcl", []byte(b.String()), pipeline.Options{})
		if cyclic := hasCycle(n, edges); cyclic != diags.HasErrors() {
			r.Fatalf("a cycle is there: %v; the parser says %v", cyclic, diags)
		}
		if p == nil {
			for _, d := range diags {
				checkCycle(r, d.Detail, edges)
			}
			return
		}
		place := map[pipeline.NodeID]int{}
		for i, id := range ids(p) {
			place[id] = i
		}
		if len(place) != n {
			r.Fatalf("%d of %d nodes are there", len(place), n)
		}
		for e := range edges {
			if place[stepID(e[0])] <= place[stepID(e[1])] {
				r.Fatalf("%s comes before %s, which it waits for", stepID(e[0]), stepID(e[1]))
			}
		}
	})
}

func stepID(i int) pipeline.NodeID { return pipeline.NodeID(fmt.Sprintf("step.s%d", i)) }

// hasCycle takes nodes away that wait for nothing, until none is left.
func hasCycle(n int, edges map[[2]int]bool) bool {
	gone := map[int]bool{}
	for range n {
		for i := range n {
			waits := false
			for e := range edges {
				waits = waits || e[0] == i && !gone[e[1]]
			}
			if !waits {
				gone[i] = true
			}
		}
	}
	return len(gone) < n
}

// checkCycle checks that a message tells a way round that is there.
func checkCycle(t *rapid.T, detail string, edges map[[2]int]bool) {
	_, path, _ := strings.Cut(detail, "start: ")
	path, _, _ = strings.Cut(path, ". Take")
	names := strings.Split(path, " → ")
	if len(names) < 2 || names[0] != names[len(names)-1] {
		t.Fatalf("%q is no way round", path)
	}
	for i := range names[1:] {
		var from, to int
		if _, err := fmt.Sscanf(names[i]+" "+names[i+1], "step.s%d step.s%d", &from, &to); err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		if !edges[[2]int{from, to}] {
			t.Fatalf("%s does not wait for %s", names[i], names[i+1])
		}
	}
}
