package pipeline_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// largeFile is a pipeline of n steps, each with an input from the one ten
// before, parameters from variables and locals, and resources.
func largeFile(n int) []byte {
	var b strings.Builder
	b.WriteString(`pipeline "large" {}
variable "epochs" {
  type    = number
  default = 3
}
locals { python = ["python3", "-u"] }
dataset "d" { path = "d.csv" }
`)
	for i := range n {
		from := "dataset.d"
		if i >= 10 {
			from = fmt.Sprintf("step.s%d.output.out", i-10)
		}
		fmt.Fprintf(&b, `step "s%d" {
  command = concat(local.python, ["work.py", "%d"])
  input "in" { from = %s }
  output "out" {}
  params = { epochs = var.epochs * 2, index = %d }
  resources {
    cpu    = 200
    memory = "512 MiB"
  }
}
`, i, i, from, i)
	}
	return []byte(b.String())
}

// The bound is one second for these 10,000 steps, 2.4 MB. Where the time goes:
// about half to the tokens and tree of HCL, which takes all cores, the rest to
// references, values and the graph, which takes one.
func BenchmarkParse10000Steps(b *testing.B) {
	src := largeFile(10_000)
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, diags := pipeline.Parse("large.hcl", src, pipeline.Options{}); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}

// Time must grow with the size of a file, not with its square. Four times the
// steps may take eight times as long, which leaves room for a busy machine.
func TestParseTimeGrowsWithSize(t *testing.T) {
	if testing.Short() {
		t.Skip("measures time")
	}
	best := func(n int) time.Duration {
		src := largeFile(n)
		fastest := time.Duration(1 << 62)
		for range 3 {
			start := time.Now()
			if _, diags := pipeline.Parse("large.hcl", src, pipeline.Options{}); diags.HasErrors() {
				t.Fatal(diags)
			}
			fastest = min(fastest, time.Since(start))
		}
		return fastest
	}
	small, large := best(1000), best(4000)
	if large > 8*small {
		t.Errorf("4,000 steps took %v, 1,000 took %v", large, small)
	}
}
