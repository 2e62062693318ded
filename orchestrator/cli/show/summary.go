package show

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// StepCounts says how the nodes ended and how many came from the cache.
func StepCounts(r run.Run) string {
	counts := map[run.Phase]int{}
	cached := 0
	for i := range r.Nodes {
		counts[r.Nodes[i].Phase]++
		if r.Nodes[i].Cached != "" {
			cached++
		}
	}
	text := PhaseCounts(counts)
	if cached > 0 {
		text += fmt.Sprintf(" (%d from the cache)", cached)
	}
	return text
}

// GateLines say what a gate decided, check by check.
func GateLines(n *run.Node) []string {
	if n.Gate == nil {
		return nil
	}
	lines := []string{fmt.Sprintf("%s %s", n.ID, Verdict(n.Gate))}
	for _, c := range n.Gate.Checks {
		mark := "ok"
		if !c.Passed {
			mark = "refused"
		}
		lines = append(lines, fmt.Sprintf("  %s: %s", mark, term.Clean(c.Reason)))
	}
	return lines
}

// Lineage follows a model's files back to the data sets, through the steps of
// the run: a line for each artefact, below the one that was made of it.
func Lineage(r run.Run, model *run.Node) []string {
	l := lineageWriter{makers: map[string]*run.Node{}, seen: map[string]bool{}}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Kind == pipeline.KindModel {
			continue // has its step's output
		}
		for _, o := range n.Outputs {
			if l.makers[o.Digest] == nil {
				l.makers[o.Digest] = n
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(model.Outputs)) {
		l.write(name, model.Outputs[name].Digest, 0)
	}
	return l.lines
}

type lineageWriter struct {
	makers map[string]*run.Node // by digest of what they made
	seen   map[string]bool
	lines  []string
}

func (l *lineageWriter) write(name, digest string, depth int) {
	line := fmt.Sprintf("%s%s %s", strings.Repeat("  ", depth), name, Digest(digest))
	maker := l.makers[digest]
	if maker == nil {
		l.lines = append(l.lines, line)
		return
	}
	line += " from " + string(maker.ID)
	if maker.Cached != "" {
		line += " of run " + string(maker.Cached)
	}
	known := l.seen[digest]
	if !known && len(maker.Params) > 0 {
		line += " with " + Pairs(maker.Params)
	}
	l.lines = append(l.lines, line)
	if known {
		return // what it was made of stands above
	}
	l.seen[digest] = true
	for _, input := range slices.Sorted(maps.Keys(maker.Inputs)) {
		l.write(input, maker.Inputs[input], depth+1)
	}
}
