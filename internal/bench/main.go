// Command bench measures Drover against named peers or bounds, in one run on
// one machine, and prints what it saw. docs/benchmarks.md says how to read it.
//
//	go run ./internal/bench [-json] [name ...]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/drover-ml/drover/internal/lab"
)

// A benchmark measures one thing and returns rows for its table.
type benchmark struct {
	name, about string
	run         func(ctx context.Context) ([]row, error)
}

// row is a line of a result: a figure with its unit, and what it is compared to.
type row struct {
	Benchmark string  `json:"benchmark"`
	Case      string  `json:"case"`
	Subject   string  `json:"subject"`
	Value     float64 `json:"value"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	Unit      string  `json:"unit"`
	// Note says what the figure is relative to, or why it is missing.
	Note string `json:"note,omitempty"`
}

var benchmarks = []benchmark{
	{"start", "a plugin's start, from exec to its handshake line, 50 times", benchStart},
	{"gpu", "what the device plugin costs a node of 8 GPUs of 7 slices, over 5 times 20 s", benchGPU},
	{"engine", "what Drover adds to a step, over the same tasks run by Nomad alone", benchEngine},
	{"runs", "1,000 one-step runs through a server, and through that of another version", benchRuns},
	{"placement", "GPUs that placement policies allocate on the openb trace, means of 10 draws", benchPlacement},
	{"validate", "a pipeline file of 10,000 steps", benchValidate},
	{"metrics", "1,000 points of metrics, from a task to the disk", benchMetrics},
	{"seal", "a checkpoint of 1 GiB hashed and made durable", benchSeal},
	{"failover", "a GPU that fails under a training, until the training runs elsewhere", benchFailover},
	{"queue", "Kueue's published loads in real time with simulated work, and one pass over a long queue", benchQueue},
	{"admission", "the scheduler with its store and 100,000 tasks that wait: one task ends, and a restart", benchAdmission},
	{"throughput", "no-op jobs through the queue with its store, through Slurm and through Nomad", benchThroughput},
	{"simulate", "traces replayed in virtual time, on one core", benchSimulate},
	{"gateway", "latency that a proxy adds to one back end, open loop, keep-alive", benchGateway},
}

func main() {
	lab.Main()
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "serve-") {
		if err := serveChild(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "pass-flow" {
		if err := passFlow(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: bench [-json] [name ...]")
		for _, b := range benchmarks {
			fmt.Fprintf(os.Stderr, "  %-10s %s\n", b.name, b.about)
		}
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, flag.Args(), *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, names []string, asJSON bool) error {
	for _, n := range names {
		if !slices.ContainsFunc(benchmarks, func(b benchmark) bool { return b.name == n }) {
			return fmt.Errorf("no benchmark named %q; -h lists them", n)
		}
	}
	if !asJSON {
		fmt.Printf("%s, %s/%s, %d CPUs, %s\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	}
	var all []row
	for _, b := range benchmarks {
		if len(names) > 0 && !slices.Contains(names, b.name) {
			continue
		}
		rows, err := b.run(ctx)
		for i := range rows {
			rows[i].Benchmark = b.name
		}
		all = append(all, rows...)
		if !asJSON && len(rows) > 0 {
			fmt.Printf("\n%s: %s\n", b.name, b.about)
			print(rows)
		}
		if err != nil {
			return fmt.Errorf("measuring %s: %w", b.name, err)
		}
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	return nil
}

func print(rows []row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tSUBJECT\tMEDIAN\tMIN\tMAX\tUNIT\tNOTE")
	for _, r := range rows {
		if r.Unit == "" {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t\t%s\n", r.Case, r.Subject, r.Note)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%.4g\t%.4g\t%.4g\t%s\t%s\n", r.Case, r.Subject, r.Value, r.Min, r.Max, r.Unit, r.Note)
	}
	_ = w.Flush()
}

// spread makes a row of repeated measurements.
func spread(caseName, subject, unit string, values []float64) row {
	s := slices.Sorted(slices.Values(values))
	return row{Case: caseName, Subject: subject, Unit: unit, Value: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}
