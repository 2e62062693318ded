package run_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/drover-ml/drover/orchestrator/run"
)

// wide is a pipeline of steps in chains, so many at once.
func wide(steps, width int) string {
	var b strings.Builder
	b.WriteString("pipeline \"wide\" {}\n")
	for i := range steps {
		fmt.Fprintf(&b, "step \"n%d\" {\n  command = [\"true\"]\n", i)
		if i >= width {
			fmt.Fprintf(&b, "  depends_on = [step.n%d]\n", i-width)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// BenchmarkThousandSteps is what the engine alone takes, on a cluster that
// takes no time. Aims: under 50 ms a step, under 150 MB.
func BenchmarkThousandSteps(b *testing.B) {
	source := wide(1000, 100)
	for b.Loop() {
		w := makeWorld(b, b.TempDir())
		w.open(nil)
		s := w.submission(source)
		s.NoCache = true
		if r := w.finish(s); r.Phase != run.Succeeded {
			b.Fatal(describe(r))
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-sys")
		w.close()
	}
	b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N)/1000, "ms/step")
}
