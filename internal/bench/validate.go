package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

const (
	validateRuns  = 7
	validateSteps = 10_000
)

// benchValidate checks a file of 10,000 steps, in a process that runs and as a
// command. The bound is one second.
func benchValidate(ctx context.Context) ([]row, error) {
	dir, err := os.MkdirTemp("", "drover-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source := []byte(manySteps(validateSteps))
	file := filepath.Join(dir, "pipeline.hcl")
	for path, content := range map[string][]byte{file: source, filepath.Join(dir, "d.csv"): []byte("x\n")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
	}
	drover, err := filepath.Abs("bin/drover")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(drover); err != nil {
		return nil, fmt.Errorf("%w: run `make build` first", err)
	}
	var parsed, command, busy []float64
	for range validateRuns {
		start := time.Now()
		if _, diags := pipeline.Parse(file, source, pipeline.Options{}); diags.HasErrors() {
			return nil, fmt.Errorf("parsing: %w", diags)
		}
		parsed = append(parsed, time.Since(start).Seconds())
		start = time.Now()
		cmd := exec.CommandContext(ctx, drover, "validate", file)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("drover validate: %w: %s", err, out)
		}
		command = append(command, time.Since(start).Seconds())
		busy = append(busy, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	}
	rows := []row{
		spread("10,000 steps", "pipeline.Parse", "s", parsed),
		spread("10,000 steps", "drover validate, from exec to exit", "s", command),
		spread("10,000 steps", "drover validate, processor time", "s", busy),
	}
	for i := range rows[:2] {
		rows[i].Note = fmt.Sprintf("%.2f x the bound of 1 s", rows[i].Value)
	}
	return rows, nil
}

// manySteps is a pipeline of n steps, each of which takes an output of the one
// ten before.
func manySteps(n int) string {
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
	return b.String()
}
