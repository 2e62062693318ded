// Package show turns what the API tells into what people read: tables, short
// numbers, and sentences. It is pure, but for the local time zone: the same
// values give the same text.
package show

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

// PhaseColor is the colour of a phase.
func PhaseColor(p run.Phase) term.Color {
	switch p {
	case run.Succeeded:
		return term.Green
	case run.Failed:
		return term.Red
	case run.Running:
		return term.Cyan
	case run.Queued:
		return term.Yellow
	default:
		return term.Dim
	}
}

// Nodes shows a run's nodes as they stand at a moment.
func Nodes(s *term.Screen, r run.Run, now time.Time) *term.Table {
	t := term.NewTable("STEP", "PHASE", "TIME", "PROGRESS", "DETAIL")
	for i := range r.Nodes {
		n := &r.Nodes[i]
		t.Row(string(n.ID), s.Paint(PhaseColor(n.Phase), string(n.Phase)), Between(n.Started, n.Ended, now), Progress(n), term.Clean(Detail(n)))
	}
	return t
}

// Progress says how far a node is, or what came of it.
func Progress(n *run.Node) string {
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
			parts = append(parts, Verdict(n.Gate))
		}
	}
	if n.Phase == run.Running && n.Progress != nil {
		parts = append(parts, fmt.Sprintf("step %d", n.Progress.Step))
		metrics = n.Progress.Metrics
	}
	parts = append(parts, Metrics(metrics, 2)...)
	return strings.Join(parts, " ")
}

// Verdict says in a word what a gate decided.
func Verdict(v *run.Verdict) string {
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

// Metrics are at most most of the metrics, in order of name.
func Metrics(metrics map[string]float64, most int) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		if len(out) == most {
			break
		}
		out = append(out, name+"="+Number(metrics[name]))
	}
	return out
}

// Detail says why a node waits or ended as it did, or where it runs.
func Detail(n *run.Node) string {
	if n.Cached != "" {
		return "from run " + string(n.Cached)
	}
	if n.Reason != "" {
		return FirstLine(n.Reason)
	}
	if n.Phase != run.Running || len(n.Attempts) == 0 {
		return ""
	}
	if n.Kind == pipeline.KindSweep {
		return ""
	}
	a := &n.Attempts[len(n.Attempts)-1]
	var parts []string
	if where := whereOf(a); where != "" {
		parts = append(parts, where)
	}
	if len(a.Devices) > 0 {
		parts = append(parts, Count(len(a.Devices), "GPU"))
	}
	if a.Number > 1 {
		parts = append(parts, fmt.Sprintf("attempt %d", a.Number))
		switch before := &n.Attempts[len(n.Attempts)-2]; {
		case before.Evicted:
			parts = append(parts, "evicted before: "+FirstLine(before.Reason))
		case before.Moved:
			parts = append(parts, FirstLine(before.Reason))
		}
	}
	if a.ResumedFrom != nil {
		parts = append(parts, fmt.Sprintf("resumed from step %d", *a.ResumedFrom))
	}
	return strings.Join(parts, ", ")
}

// whereOf says where an attempt is, "" if that is not known.
func whereOf(a *run.Attempt) string {
	if len(a.Members) == 0 {
		if a.NodeName == "" {
			return ""
		}
		return "on " + a.NodeName
	}
	var nodes []string
	for _, m := range a.Members {
		if m.NodeName != "" && !slices.Contains(nodes, m.NodeName) {
			nodes = append(nodes, m.NodeName)
		}
	}
	text := Count(len(a.Members), "member") + " on "
	if len(nodes) > 2 {
		return text + Count(len(nodes), "node")
	}
	return text + strings.Join(nodes, " and ")
}

// AttemptPhase is an attempt's phase; one that was evicted or moved has not failed.
func AttemptPhase(s *term.Screen, at *run.Attempt) string {
	switch {
	case at.Evicted && at.Phase == run.Failed:
		return s.Paint(term.Yellow, "evicted")
	case at.Moved:
		return s.Paint(term.Yellow, "moved")
	}
	return s.Paint(PhaseColor(at.Phase), string(at.Phase))
}

// ExitReason says how an attempt ended.
func ExitReason(at *run.Attempt) string {
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

// TaskName names a node, and a trial of it.
func TaskName(node pipeline.NodeID, trial *int) string {
	if trial == nil {
		return string(node)
	}
	return fmt.Sprintf("%s trial %d", node, *trial)
}

// logTail is how many lines of a failed attempt's log are shown.
const logTail = 20

// Failure is what there is to say about an attempt that failed.
func Failure(s *term.Screen, node pipeline.NodeID, at *run.Attempt) []string {
	head := fmt.Sprintf("%s attempt %d failed: %s", TaskName(node, at.Trial), at.Number, ExitReason(at))
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

// Fit makes a run's table no higher than height: if there are more nodes, those
// that run come first, then what failed and what is queued; the rest is counted.
func Fit(s *term.Screen, r run.Run, now time.Time, height int) []string {
	lines := Nodes(s, r, now).Lines()
	if len(lines) <= height || height < 4 {
		return lines
	}
	room := height - 2 // header and the line that counts
	shown := r
	shown.Nodes = slices.Clone(r.Nodes)
	slices.SortStableFunc(shown.Nodes, func(a, b run.Node) int { return urgency(a.Phase) - urgency(b.Phase) })
	left := shown.Nodes[min(room, len(shown.Nodes)):]
	shown.Nodes = shown.Nodes[:min(room, len(shown.Nodes))]
	counts := map[run.Phase]int{}
	for _, n := range left {
		counts[n.Phase]++
	}
	return append(Nodes(s, shown, now).Lines(), "… and "+PhaseCounts(counts))
}

// urgency says what is shown first where there is no room for everything.
func urgency(p run.Phase) int {
	switch p {
	case run.Running:
		return 0
	case run.Failed:
		return 1
	case run.Queued:
		return 2
	default:
		return 3
	}
}

// PhaseCounts writes how many nodes are in each phase.
func PhaseCounts(counts map[run.Phase]int) string {
	text := ""
	for _, p := range []run.Phase{run.Running, run.Queued, run.Waiting, run.Succeeded, run.Failed, run.Skipped, run.Cancelled} {
		if counts[p] == 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%d %s", counts[p], p)
	}
	return text
}

// Outcome leaves numbers that change all the time out of lines.
func Outcome(n *run.Node) string {
	if !n.Phase.Ended() {
		return ""
	}
	return Progress(n)
}

// TrialProgress says what came of a trial.
func TrialProgress(t run.Trial) string {
	text := ""
	if t.Cached != "" {
		text = "cached"
	}
	for _, m := range Metrics(t.Metrics, 2) {
		text = JoinWords(text, m)
	}
	return text
}

// TrialDetail says why a trial ended as it did, or where its result is from.
func TrialDetail(t run.Trial) string {
	if t.Cached != "" {
		return "from run " + string(t.Cached)
	}
	return FirstLine(t.Reason)
}
