package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/run"
)

// workload is chains of equal steps, side by side.
type workload struct {
	name         string
	width, depth int
	command      []string
}

const fibo = "import sys\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nf(int(sys.argv[1]))"

var workloads = []workload{
	{"10 x fibo(33), a chain", 1, 10, []string{"python3", "-c", fibo, "33"}},
	{"40 x fibo(10), a chain", 1, 40, []string{"python3", "-c", fibo, "10"}},
	{"1,000 x no-op, 100 wide", 100, 10, []string{"/bin/true"}},
}

const engineRuns = 3

// benchEngine takes the same work through Drover and through a loop that
// registers the same tasks as jobs with Nomad, one as soon as the one before
// it has completed. What Drover takes longer is its overhead.
func benchEngine(ctx context.Context) ([]row, error) {
	return onEachCluster(func(t lab.T, c lab.Cluster, bin string) []row { return engineOn(ctx, t, c, bin) })
}

// onEachCluster measures on a devcluster, and on Nomad where that is to be had.
func onEachCluster(measure func(t lab.T, c lab.Cluster, bin string) []row) ([]row, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	var rows []row
	err = inLab(func(t lab.T) { rows = append(rows, measure(t, lab.NewDevcluster(t, bin), bin)...) })
	if err != nil {
		return nil, fmt.Errorf("on the devcluster: %w", err)
	}
	nomad, err := exec.LookPath("nomad")
	if err != nil || os.Geteuid() != 0 {
		return append(rows, row{Case: "all", Subject: "nomad", Note: "skipped: needs root and a nomad binary on the PATH"}), nil
	}
	err = inLab(func(t lab.T) { rows = append(rows, measure(t, lab.NewNomad(t, nomad, bin), bin)...) })
	if err != nil {
		return rows, fmt.Errorf("on Nomad: %w", err)
	}
	return rows, nil
}

func engineOn(ctx context.Context, t lab.T, c lab.Cluster, bin string) []row {
	var rows []row
	p := lab.NewPlatform(t, c, bin, c.Addr())
	for _, w := range workloads {
		steps := float64(w.width * w.depth)
		var alone, drover, added []float64
		for i := range engineRuns {
			a := throughNomad(ctx, t, c, w, i).Seconds()
			d := throughDrover(t, p, w).Seconds()
			t.Logf("engine: %s, %s, round %d of %d: %.1f s alone, %.1f s with drover", c.Kind(), w.name, i+1, engineRuns, a, d)
			alone, drover, added = append(alone, a), append(drover, d), append(added, (d-a)/steps*1e3)
		}
		overhead := spread(w.name, c.Kind()+", drover, added a step", "ms", added)
		overhead.Note = fmt.Sprintf("%.2f x the bound of 50 ms", overhead.Value/50)
		rows = append(rows,
			spread(w.name, c.Kind()+" alone", "s", alone),
			spread(w.name, c.Kind()+", drover", "s", drover),
			overhead)
	}
	peak, err := peakMiB(p.Server.PID())
	if err != nil {
		t.Fatal(err)
	}
	return append(rows, row{Case: "all of these", Subject: c.Kind() + ", drover server's peak memory", Unit: "MiB", Value: peak, Min: peak, Max: peak,
		Note: fmt.Sprintf("%.2f x the bound of 150 MB", peak*(1<<20)/150e6)})
}

// throughNomad runs the workload with nothing but Nomad.
func throughNomad(ctx context.Context, t lab.T, c lab.Cluster, w workload, round int) time.Duration {
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for chain := range w.width {
		g.Go(func() error {
			for step := range w.depth {
				id := fmt.Sprintf("alone-%d-%d-%d-%d", start.UnixNano(), round, chain, step)
				if err := runJob(ctx, c.Client(), id, w.command); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// runJob registers a job and waits until its one task has completed.
func runJob(ctx context.Context, client *api.Client, id string, command []string) error {
	if err := register(ctx, client, id, command); err != nil {
		return err
	}
	q := (&api.QueryOptions{WaitTime: time.Minute}).WithContext(ctx)
	for {
		allocs, meta, err := client.Jobs().Allocations(id, true, q)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", id, err)
		}
		for _, a := range allocs {
			switch a.ClientStatus {
			case "complete":
				return nil
			case "failed", "lost":
				return fmt.Errorf("job %s: its allocation is %s", id, a.ClientStatus)
			}
		}
		q.WaitIndex = meta.LastIndex
	}
}

// register registers a job of one task.
func register(ctx context.Context, client *api.Client, id string, command []string) error {
	job := api.NewBatchJob(id, id, "global", 50)
	job.Datacenters = []string{"*"}
	task := api.NewTask("main", "ml").SetConfig("command", command[0]).SetConfig("args", command[1:])
	cpu, memory := 20, 32
	task.Resources = &api.Resources{CPU: &cpu, MemoryMB: &memory}
	job.AddTaskGroup(api.NewTaskGroup("main", 1).AddTask(task))
	if _, _, err := client.Jobs().Register(job, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("registering %s: %w", id, err)
	}
	return nil
}

// throughDrover runs the workload as a pipeline.
func throughDrover(t lab.T, p *lab.Platform, w workload) time.Duration {
	var b strings.Builder
	b.WriteString("pipeline \"bench\" {}\n")
	quoted, err := json.Marshal(w.command)
	if err != nil {
		t.Fatal(err)
	}
	for chain := range w.width {
		for step := range w.depth {
			fmt.Fprintf(&b, "step \"c%d_s%d\" {\n  command = %s\n  cache = false\n", chain, step, quoted)
			if step > 0 {
				fmt.Fprintf(&b, "  depends_on = [step.c%d_s%d]\n", chain, step-1)
			}
			b.WriteString("  resources {\n    cpu = 20\n    memory = \"32 MiB\"\n  }\n}\n")
		}
	}
	file := filepath.Join(p.Dir, "bench.hcl")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := p.CLI("run", "-detach", "-json", file)
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v", code, err)
	}
	r = p.Succeeded(r.ID)
	return r.Ended.Sub(r.Submitted)
}

// peakMiB is the most memory that a process has had, in MiB.
func peakMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in the status of process %d", pid)
}

// inLab runs f with a laboratory's T and returns its failure.
func inLab(f func(t lab.T)) (err error) {
	t := &bench{}
	defer func() {
		if r := recover(); r != nil {
			failure, ok := r.(benchFailure)
			if !ok {
				panic(r)
			}
			t.failed = true
			err = errors.New(string(failure))
		}
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			t.cleanups[i]()
		}
	}()
	f(t)
	return nil
}

// bench is the lab.T of a benchmark.
type bench struct {
	failed   bool
	cleanups []func()
}

type benchFailure string

func (b *bench) Helper()                           {}
func (b *bench) Log(args ...any)                   { fmt.Fprintln(os.Stderr, args...) }
func (b *bench) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (b *bench) Fatal(args ...any)                 { panic(benchFailure(fmt.Sprint(args...))) }
func (b *bench) Fatalf(format string, args ...any) { panic(benchFailure(fmt.Sprintf(format, args...))) }
func (b *bench) Failed() bool                      { return b.failed }
func (b *bench) Cleanup(f func())                  { b.cleanups = append(b.cleanups, f) }
