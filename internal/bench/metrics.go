package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/store"
)

const (
	metricsRuns   = 7
	metricsPoints = 1000
	metricsStep   = pipeline.NodeID("step.train")
)

// logPoints is what a task does; it prints the seconds that it took.
const logPoints = `import sys, time, drover
n = int(sys.argv[1])
start = time.perf_counter()
for i in range(n): drover.log(step=i, loss=1 / (1 + i))
print(time.perf_counter() - start)`

// benchMetrics measures the two halves of a point's way: a task that logs it,
// which appends a line to a file, and the orchestrator that reads the file and
// stores it, on disk when the commit returns. What the orchestrator commits
// one by one is the worst case: it commits what it finds in one reading.
func benchMetrics(ctx context.Context) ([]row, error) {
	dir, err := diskFolder()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	db, err := store.Open(ctx, filepath.Join(dir, "drover.db"))
	if err != nil {
		return nil, err
	}
	defer db.Close()

	var logged, syncs, single, batched []float64
	for round := range metricsRuns {
		file := filepath.Join(dir, fmt.Sprintf("metrics-%d.jsonl", round))
		took, err := logFromPython(ctx, file)
		if err != nil {
			return nil, err
		}
		logged = append(logged, took)
		lines, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if took, err = appendAndSync(filepath.Join(dir, "floor"), lines); err != nil {
			return nil, err
		}
		syncs = append(syncs, took)
		if took, err = ingest(ctx, db, run.ID(fmt.Sprintf("single-%d", round)), lines, 1); err != nil {
			return nil, err
		}
		single = append(single, took)
		if took, err = ingest(ctx, db, run.ID(fmt.Sprintf("batch-%d", round)), lines, metricsPoints); err != nil {
			return nil, err
		}
		batched = append(batched, took*1e3)
	}
	rows := []row{
		spread("1,000 points, one by one", "python drover.log, in the task", "s", logged),
		spread("1,000 points, one by one", "write and fsync of each line", "s", syncs),
		spread("1,000 points, one by one", "drover, read and committed", "s", single),
		spread("1,000 points, at once", "drover, read and committed", "ms", batched),
	}
	rows[0].Note = "with the operating system, not yet on disk"
	rows[2].Note = fmt.Sprintf("%.2f x the bound of 1 s, %.2f x write and fsync", rows[2].Value, rows[2].Value/rows[1].Value)
	rows[3].Note = fmt.Sprintf("%.2f x the bound of 50 ms", rows[3].Value/50)
	return rows, nil
}

// logFromPython has a Python task log the points and returns the seconds that
// they took it, without the interpreter's start.
func logFromPython(ctx context.Context, file string) (float64, error) {
	source, err := filepath.Abs("python/src")
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "python3", "-c", logPoints, fmt.Sprint(metricsPoints))
	cmd.Env = append(os.Environ(), "PYTHONPATH="+source, "DROVER_METRICS_FILE="+file)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("logging from Python: %w", err)
	}
	var seconds float64
	if err := json.Unmarshal(out, &seconds); err != nil {
		return 0, fmt.Errorf("logging from Python: it printed %q: %w", out, err)
	}
	return seconds, nil
}

// appendAndSync makes lines durable one by one in the plainest way.
func appendAndSync(file string, lines []byte) (seconds float64, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start := time.Now()
	for line := range bytes.Lines(lines) {
		if _, err := f.Write(line); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds(), nil
}

// ingest reads a metrics file's lines and commits their points, so many at
// once, to a run that it makes.
func ingest(ctx context.Context, db *store.DB, id run.ID, lines []byte, atOnce int) (seconds float64, err error) {
	now := time.Now().UTC()
	s := run.State{Run: run.Run{
		ID: id, Pipeline: "bench", Workspace: "default", Phase: run.Running, Submitted: now,
		Nodes: []run.Node{{ID: metricsStep, Kind: pipeline.KindStep, Phase: run.Running}},
	}, Round: 1}
	if _, _, err := db.Create(ctx, s, nil); err != nil {
		return 0, err
	}
	start := time.Now()
	c := run.Change{ID: id}
	for line := range bytes.Lines(lines) {
		l, err := mltask.ParseMetricsLine(line)
		if err != nil {
			return 0, err
		}
		for name, v := range l.Metrics {
			c.Metrics = append(c.Metrics, run.MetricPoint{Node: metricsStep, Metric: name, Step: l.Step, Value: v, Time: now})
		}
		if len(c.Metrics) < atOnce {
			continue
		}
		if err := db.Commit(ctx, c); err != nil {
			return 0, err
		}
		c.Metrics = nil
	}
	seconds = time.Since(start).Seconds()
	got, err := db.Metrics(ctx, id, run.MetricFilter{})
	if err == nil && len(got) != metricsPoints {
		err = fmt.Errorf("%d points are stored, want %d", len(got), metricsPoints)
	}
	return seconds, err
}
