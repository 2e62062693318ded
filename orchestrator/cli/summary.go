package cli

import (
	"fmt"
	"strings"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// summarize says what came of a run that has ended: how long it took, what it
// measured, decided, registered and deployed, where that came from and where
// to find it.
func (a *app) summarize(r run.Run, gateway string) {
	s := a.screen
	took := show.Between(r.Started, r.Ended, a.Now())
	head := fmt.Sprintf("Run %s of pipeline %q %s", r.ID, r.Pipeline, r.Phase)
	if took != "" {
		head += " after " + took
	}
	s.Printf("\n%s\n", s.Paint(show.PhaseColor(r.Phase), head))
	if r.Error != "" {
		s.Printf("  %s\n", term.Clean(r.Error))
	}
	s.Printf("\n")
	var fields []string
	add := func(name, format string, args ...any) {
		fields = append(fields, name, fmt.Sprintf(format, args...))
	}
	add("Steps", "%s", show.StepCounts(r))
	for i := range r.Nodes {
		n := &r.Nodes[i]
		switch n.Kind {
		case pipeline.KindStep, pipeline.KindSweep:
			if len(n.Metrics) > 0 {
				add("Metrics", "%s of %s", strings.Join(show.Metrics(n.Metrics, 4), " "), n.ID)
			}
		case pipeline.KindGate:
			for _, line := range show.GateLines(n) {
				add("Gate", "%s", line)
			}
		case pipeline.KindModel:
			if n.Version > 0 {
				add("Model", "%s version %d", n.Model, n.Version)
				for _, line := range show.Lineage(r, n) {
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
