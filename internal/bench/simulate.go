package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// simulateRun is what is read of the report of drover simulate -json.
type simulateRun struct {
	Jobs struct {
		Total       int `json:"total"`
		Ended       int `json:"ended"`
		Refused     int `json:"refused"`
		PeakWaiting int `json:"peak_waiting"`
	} `json:"jobs"`
	MakespanS float64 `json:"makespan_s"`
	Waiting   struct {
		MeanS float64 `json:"mean_s"`
		P99S  float64 `json:"p99_s"`
	} `json:"waiting"`
	Utilisation struct {
		GPUPct             float64 `json:"gpu_pct"`
		GPUPctWhileWaiting float64 `json:"gpu_pct_while_waiting"`
	} `json:"utilisation"`
}

// benchSimulate replays traces by the command that users have, on one core.
func benchSimulate(ctx context.Context) ([]row, error) {
	dir, err := os.MkdirTemp("", "drover-bench-simulate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	nodes, trace := filepath.Join(dir, "nodes.csv"), filepath.Join(dir, "trace.csv")
	if err := writeTo(nodes, largeNodes); err != nil {
		return nil, err
	}
	if err := writeTo(trace, largeTrace); err != nil {
		return nil, err
	}
	var rows []row
	for _, policy := range []string{"best-fit", "drover"} {
		more, err := simulateRows(ctx, "synthetic, 117,325 jobs, 2,490 GPUs", policy, "-nodes", nodes, "-trace", trace)
		if err != nil {
			return rows, err
		}
		rows = append(rows, more...)
	}
	data := os.Getenv("DROVER_DATA")
	if data == "" {
		return append(rows, row{Case: "openb", Subject: "drover simulate", Note: "skipped: DROVER_DATA names no folder that holds openb/"}), nil
	}
	openb := filepath.Join(data, "openb")
	for _, load := range []string{"1", "100000"} {
		more, err := simulateRows(ctx, "openb default, 8,152 tasks, load "+load, "drover", "-load", load,
			"-nodes", filepath.Join(openb, "openb_node_list_all_node.csv.gz"), "-trace", filepath.Join(openb, "openb_pod_list_default.csv.gz"))
		if err != nil {
			return rows, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func simulateRows(ctx context.Context, caseName, policy string, args ...string) ([]row, error) {
	cmd := exec.CommandContext(ctx, filepath.Join("bin", "drover"), append([]string{"simulate", "-json", "-policy", policy}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running drover simulate (make build makes it): %w", err)
	}
	took := time.Since(began).Seconds()
	used := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	var r simulateRun
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("reading its output: %w", err)
	}
	one := func(subject string, v float64, unit, note string) row {
		return row{Case: caseName, Subject: subject, Value: v, Min: v, Max: v, Unit: unit, Note: note}
	}
	memory := 0.0
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		memory = float64(u.Maxrss) / 1024
	}
	return []row{
		one(policy+", processor time", used, "s", fmt.Sprintf("%.1f s by the clock for %.1f days, %.0f jobs/s, peak RSS %.0f MiB; %d ended, %d refused",
			took, r.MakespanS/86400, float64(r.Jobs.Total)/used, memory, r.Jobs.Ended, r.Jobs.Refused)),
		one(policy+", GPUs in use while jobs wait", r.Utilisation.GPUPctWhileWaiting, "% of GPUs", fmt.Sprintf("%.1f in the mean, up to %d jobs waiting", r.Utilisation.GPUPct, r.Jobs.PeakWaiting)),
		one(policy+", mean wait", r.Waiting.MeanS, "s", fmt.Sprintf("p99 %.0f s", r.Waiting.P99S)),
	}, nil
}

func writeTo(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return cmp.Or(write(w), w.Flush(), f.Close())
}

// largeNodes are 321 nodes of 2 GPUs and 231 of 8: 2,490 GPUs.
func largeNodes(w io.Writer) error {
	fmt.Fprintln(w, "sn,cpu_milli,memory_mib,gpu,model")
	for i := range 552 {
		gpus, model := 2, "P100"
		if i >= 321 {
			gpus, model = 8, "P40"
		}
		if _, err := fmt.Fprintf(w, "node-%03d,%d,%d,%d,%s\n", i, gpus*8000, gpus*64<<10, gpus, model); err != nil {
			return err
		}
	}
	return nil
}

// The synthetic trace: as many jobs, workspaces and days as the Philly trace of
// Jeon et al. (USENIX ATC 2019) has. Sizes, run times and hours are drawn, from
// what is written here, so that they ask for 88 % of the cluster in the mean.
const (
	largeJobs       = 117_325
	largeWorkspaces = 14
	largeDays       = 75
	largeDemand     = 0.88
)

var largeSizes = []struct {
	part          float64
	members, gpus int
	median        float64 // minutes
}{
	{0.80, 1, 1, 15}, {0.06, 1, 2, 15}, {0.06, 1, 4, 20}, {0.06, 1, 8, 20}, {0.014, 2, 8, 30}, {0.004, 4, 8, 40}, {0.002, 8, 8, 60},
}

// largeTrace writes the trace in Drover's format.
func largeTrace(w io.Writer) error {
	type job struct {
		at, duration  float64 // seconds
		members, gpus int
		workspace     int
	}
	random := rand.New(rand.NewPCG(117325, 0))
	jobs := make([]job, largeJobs)
	asked := 0.0
	for i := range jobs {
		at := 0.0
		for { // fewer come at night and at weekends
			at = random.Float64() * largeDays * 86400
			hour, day := math.Mod(at/3600, 24), int(at/86400)%7
			rate := 0.55 + 0.45*math.Sin((hour-9)/24*2*math.Pi)
			if day >= 5 {
				rate *= 0.6
			}
			if random.Float64() < rate {
				break
			}
		}
		u, size := random.Float64(), 0
		for size < len(largeSizes)-1 && u >= largeSizes[size].part {
			u -= largeSizes[size].part
			size++
		}
		s := largeSizes[size]
		duration := min(s.median*60*math.Exp(1.9*random.NormFloat64()), 2*86400)
		// A few workspaces send most.
		jobs[i] = job{at, max(30, duration), s.members, s.gpus, int(largeWorkspaces * math.Pow(random.Float64(), 2))}
		asked += jobs[i].duration * float64(s.members*s.gpus)
	}
	scale := largeDemand * 2490 * largeDays * 86400 / asked
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(a.at, b.at) })
	fmt.Fprintln(w, "name,workspace,submitted,duration,members,gpus,cpu,memory,preemptible,checkpoint_interval")
	for i, j := range jobs {
		if _, err := fmt.Fprintf(w, "job-%06d,vc-%02d,%.0f,%.0f,%d,%d,%d,%d,true,1800\n", i, j.workspace, j.at, j.duration*scale, j.members, j.gpus, 4*j.gpus, j.gpus*32<<10); err != nil {
			return err
		}
	}
	return nil
}
