package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// summarize says what came of a run that has ended: how long it took, what it
// measured, decided, registered and deployed, where that came from and where
// to find it.
func (a *app) summarize(r run.Run, gateway string) {
	s := a.screen
	took := between(r.Started, r.Ended, a.Now())
	head := fmt.Sprintf("Run %s of pipeline %q %s", r.ID, r.Pipeline, r.Phase)
	if took != "" {
		head += " after " + took
	}
	s.Printf("\n%s\n", s.Paint(phaseColor(r.Phase), head))
	if r.Error != "" {
		s.Printf("  %s\n", term.Clean(r.Error))
	}
	s.Printf("\n")
	var fields []string
	add := func(name, format string, args ...any) {
		fields = append(fields, name, fmt.Sprintf(format, args...))
	}
	add("Steps", "%s", stepCounts(r))
	for i := range r.Nodes {
		n := &r.Nodes[i]
		switch n.Kind {
		case pipeline.KindStep, pipeline.KindSweep:
			if len(n.Metrics) > 0 {
				add("Metrics", "%s of %s", strings.Join(topMetrics(n.Metrics, 4), " "), n.ID)
			}
		case pipeline.KindGate:
			for _, line := range gateLines(n) {
				add("Gate", "%s", line)
			}
		case pipeline.KindModel:
			if n.Version > 0 {
				add("Model", "%s version %d", n.Model, n.Version)
				for _, line := range lineage(r, n) {
					add("Lineage", "%s", line)
				}
			}
		case pipeline.KindEndpoint:
			if n.Phase == run.Succeeded {
				add("Endpoint", "%s%s", n.Endpoint, servedAt(gateway, n.Endpoint))
			}
		}
	}
	add("Artefacts", "drover artifacts list %s", r.ID)
	add("Details", "drover status %s", r.ID)
	s.Fields(fields...)
}

func servedAt(gateway, endpoint string) string {
	if gateway == "" {
		return ""
	}
	return fmt.Sprintf(" at %s/v2/models/%s/infer", gateway, endpoint)
}

// stepCounts says how the nodes ended and how many came from the cache.
func stepCounts(r run.Run) string {
	counts := map[run.Phase]int{}
	cached := 0
	for i := range r.Nodes {
		counts[r.Nodes[i].Phase]++
		if r.Nodes[i].Cached != "" {
			cached++
		}
	}
	text := phaseCounts(counts)
	if cached > 0 {
		text += fmt.Sprintf(" (%d from the cache)", cached)
	}
	return text
}

// gateLines say what a gate decided, check by check.
func gateLines(n *run.Node) []string {
	if n.Gate == nil {
		return nil
	}
	lines := []string{fmt.Sprintf("%s %s", n.ID, verdictWord(n.Gate))}
	for _, c := range n.Gate.Checks {
		mark := "ok"
		if !c.Passed {
			mark = "refused"
		}
		lines = append(lines, fmt.Sprintf("  %s: %s", mark, term.Clean(c.Reason)))
	}
	return lines
}

// lineage follows a model's files back to the data sets, through the steps of
// the run: a line for each artefact, below the one that was made of it.
func lineage(r run.Run, model *run.Node) []string {
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
	line := fmt.Sprintf("%s%s %s", strings.Repeat("  ", depth), name, shortDigest(digest))
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
		line += " with " + pairs(maker.Params)
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
