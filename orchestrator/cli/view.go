package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// nodeTable shows a run's nodes as they stand at a moment.
func nodeTable(s *term.Screen, r run.Run, now time.Time) *term.Table {
	t := term.NewTable("STEP", "PHASE", "TIME", "PROGRESS", "DETAIL")
	for i := range r.Nodes {
		n := &r.Nodes[i]
		t.Row(string(n.ID), s.Paint(phaseColor(n.Phase), string(n.Phase)), between(n.Started, n.Ended, now), progress(n), term.Clean(detail(n)))
	}
	return t
}

// progress says how far a node is, or what came of it.
func progress(n *run.Node) string {
	var parts []string
	if n.Cached != "" {
		parts = append(parts, "cached")
	}
	metrics := n.Metrics
	switch n.Kind {
	case pipeline.KindSweep:
		if len(n.Trials) > 0 {
			parts = append(parts, trialCounts(n))
		}
	case pipeline.KindModel:
		if n.Version > 0 {
			parts = append(parts, fmt.Sprintf("%s v%d", n.Model, n.Version))
		}
		metrics = nil // they are its steps'
	case pipeline.KindEndpoint:
		if n.Phase == run.Succeeded {
			parts = append(parts, "serves "+n.Endpoint)
		}
	case pipeline.KindGate:
		if n.Gate != nil {
			parts = append(parts, verdictWord(n.Gate))
		}
	}
	if n.Phase == run.Running && n.Progress != nil {
		parts = append(parts, fmt.Sprintf("step %d", n.Progress.Step))
		metrics = n.Progress.Metrics
	}
	parts = append(parts, topMetrics(metrics, 2)...)
	return strings.Join(parts, " ")
}

func verdictWord(v *run.Verdict) string {
	if v.Passed {
		return "passed"
	}
	return "refused"
}

// trialCounts says how many of a sweep's trials have ended.
func trialCounts(n *run.Node) string {
	ended, failed, cached, running := 0, 0, 0, 0
	for _, t := range n.Trials {
		if t.Cached != "" {
			cached++
		}
		if t.Phase == run.Running {
			running++
		}
		if t.Phase.Ended() {
			ended++
		}
		if t.Phase == run.Failed {
			failed++
		}
	}
	text := fmt.Sprintf("%d/%d trials", ended, len(n.Trials))
	if running > 0 {
		text += fmt.Sprintf(", %d running", running)
	}
	if cached > 0 {
		text += fmt.Sprintf(", %d cached", cached)
	}
	if failed > 0 {
		text += fmt.Sprintf(", %d failed", failed)
	}
	if n.Best != nil {
		text += fmt.Sprintf(", best #%d", *n.Best)
	}
	return text
}

// topMetrics are at most most of the metrics, in order of name.
func topMetrics(metrics map[string]float64, most int) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		if len(out) == most {
			break
		}
		out = append(out, name+"="+number(metrics[name]))
	}
	return out
}

// detail says why a node waits or ended as it did, or where it runs.
func detail(n *run.Node) string {
	if n.Cached != "" {
		return "from run " + string(n.Cached)
	}
	if n.Reason != "" {
		return firstLine(n.Reason)
	}
	if n.Phase != run.Running || len(n.Attempts) == 0 {
		return ""
	}
	if n.Kind == pipeline.KindSweep {
		return ""
	}
	a := &n.Attempts[len(n.Attempts)-1]
	var parts []string
	if a.NodeName != "" {
		parts = append(parts, "on "+a.NodeName)
	}
	if len(a.Devices) > 0 {
		parts = append(parts, count(len(a.Devices), "GPU"))
	}
	if a.Number > 1 {
		parts = append(parts, fmt.Sprintf("attempt %d", a.Number))
	}
	if a.ResumedFrom != nil {
		parts = append(parts, fmt.Sprintf("resumed from step %d", *a.ResumedFrom))
	}
	return strings.Join(parts, ", ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// exitReason says how an attempt ended.
func exitReason(at *run.Attempt) string {
	switch {
	case at.Reason != "":
		return at.Reason
	case at.OOM:
		return "it ran out of memory"
	case at.Signal != 0:
		return fmt.Sprintf("it was ended by signal %d", at.Signal)
	case at.ExitCode != nil:
		return fmt.Sprintf("it exited with code %d", *at.ExitCode)
	default:
		return "no reason is known"
	}
}

// taskName names a node, and a trial of it.
func taskName(node pipeline.NodeID, trial *int) string {
	if trial == nil {
		return string(node)
	}
	return fmt.Sprintf("%s trial %d", node, *trial)
}

// logTail is how many lines of a failed attempt's log are shown.
const logTail = 20

// failure is what there is to say about an attempt that failed.
func failure(s *term.Screen, node pipeline.NodeID, at *run.Attempt) []string {
	head := fmt.Sprintf("%s attempt %d failed: %s", taskName(node, at.Trial), at.Number, exitReason(at))
	if at.NodeName != "" {
		head += " (on " + at.NodeName + ")"
	}
	lines := []string{s.Paint(term.Red, term.Clean(head))}
	tail := strings.Split(strings.TrimRight(term.Clean(at.LogTail), "\n"), "\n")
	if len(tail) > logTail {
		tail = tail[len(tail)-logTail:]
	}
	for _, line := range tail {
		if line != "" || len(tail) > 1 {
			lines = append(lines, s.Paint(term.Dim, "  | ")+line)
		}
	}
	return lines
}
