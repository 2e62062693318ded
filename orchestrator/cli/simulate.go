package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/simulate"
	"github.com/drover-ml/drover/orchestrator/trace"
)

// simulation is what the flags of drover simulate say.
type simulation struct {
	simulate.Config
	nodes, trace string
	workspaces   definitionFiles
	moreNodes    int
	start        string
	prices       []string
	plot         string
	asJSON       bool
}

func (a *app) simulateCmd() *cobra.Command {
	var s simulation
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Replay a trace of jobs on a cluster, in virtual time",
		Long: `Replay a trace of jobs on a cluster, in virtual time: how long jobs wait, how full
and how fragmented the GPUs are, and what each workspace gets. The queue that
decides is the one that decides on real jobs; where they go is up to a policy of
drover simulate placement. Neither a server nor a cluster is asked.

Files are CSV with a header, plain or gzipped.

  nodes   sn, cpu_milli, memory_mib, gpu, model
  trace   name, submitted, duration, gpus, and as they are needed workspace,
          members, models, cpu, memory, priority, preemptible,
          checkpoint_interval, run_time; or tasks of the openb trace

Without -workspaces the workspaces of the trace share the cluster evenly. The same
files, flags and seed give the same result. docs/simulation.md says more.`,
		Example: `  drover simulate -nodes nodes.csv -trace jobs.csv.gz
  drover simulate -nodes nodes.csv -trace jobs.csv.gz -workspaces workspaces.hcl -add-nodes 4 -plot what-if.svg`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.readSimulation(&s, cmd.Flags().Changed("price")); err != nil {
				return err
			}
			s.Progress = a.replayProgress()
			report, err := simulate.Run(cmd.Context(), s.Config)
			if a.errScreen.Terminal() {
				a.errScreen.Draw(nil)
			}
			if err != nil {
				return fmt.Errorf("simulating %s: %w", s.trace, err)
			}
			if s.plot != "" {
				if err := writePlot(s.plot, report); err != nil {
					return err
				}
			}
			if s.asJSON {
				return a.printJSON(report)
			}
			a.printReplay(report)
			return nil
		},
	}
	s.flags(cmd)
	cmd.AddCommand(a.simulatePlacementCmd())
	return cmd
}

func (s *simulation) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.nodes, "nodes", "", "`FILE` with the nodes")
	f.StringVar(&s.trace, "trace", "", "`FILE` with the jobs")
	f.StringArrayVar((*[]string)(&s.workspaces), "workspaces", nil, "`FILE` with workspaces and their quotas, as drover workspace apply -f reads it.\nCan be repeated")
	f.StringVar(&s.Policy, "policy", placement.DefaultPolicy, "`NAME` of the placement policy: "+strings.Join(simulate.Policies(), ", "))
	f.Uint64Var(&s.Seed, "seed", 1, "`NUMBER` that decides in which order nodes that are equally good are taken")
	f.Float64Var(&s.Load, "load", 1, "`FACTOR` by which jobs come faster than in the trace")
	f.IntVar(&s.moreNodes, "add-nodes", 0, "`COUNT` of nodes to add, like those with GPUs of which there are most")
	f.StringVar(&s.start, "start", simulate.DefaultStart.Format(time.RFC3339), "`TIME` at which the first job comes, for quotas with a schedule")
	f.StringArrayVar(&s.prices, "price", nil, "Price of a GPU-hour, as `MODEL=AMOUNT`, for costs. Can be repeated: one for each\nmodel")
	f.StringVar(&s.plot, "plot", "", "Write an SVG image of it all over time to `FILE`")
	jsonFlag(cmd, &s.asJSON)
}

// readSimulation reads the files that flags name, and checks the other flags.
func (a *app) readSimulation(s *simulation, priced bool) (err error) {
	if s.nodes == "" || s.trace == "" {
		return usagef("drover simulate needs -nodes and -trace")
	}
	if s.Start, err = time.Parse(time.RFC3339, s.start); err != nil {
		return usagef("-start %s: a time is written as %s", s.start, simulate.DefaultStart.Format(time.RFC3339))
	}
	if priced {
		s.Prices = map[string]float64{}
	}
	for _, p := range s.prices {
		model, amount, ok := strings.Cut(p, "=")
		price, err := strconv.ParseFloat(amount, 64)
		if !ok || err != nil || model == "" {
			return usagef("-price %s: a price is written as MODEL=AMOUNT, such as V100=2.48", p)
		}
		if _, twice := s.Prices[model]; twice {
			return usagef("-price %s: there is a price of %s already", p, model)
		}
		s.Prices[model] = price
	}
	if s.Nodes, err = readTrace(s.nodes, trace.ReadNodes); err != nil {
		return err
	}
	if s.Nodes, err = simulate.MoreNodes(s.Nodes, s.moreNodes); err != nil {
		return usagef("-add-nodes: %v", err)
	}
	if s.Jobs, err = readTrace(s.trace, trace.ReadJobs); err != nil {
		return err
	}
	if len(s.workspaces) > 0 {
		d, err := a.definitions(s.workspaces, s.asJSON)
		if err != nil {
			return err
		}
		s.Definitions = &d
	}
	return nil
}

// readTrace reads a file, of which it says what is wrong with it.
func readTrace[T any](path string, read func(string, io.Reader) ([]T, error)) (rows []T, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, causeOf(err))
	}
	defer f.Close()
	return read(path, f)
}

// causeOf is err without the act and path of a file, which the caller tells.
func causeOf(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func writePlot(path string, r *simulate.Report) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing the plot %s: %w", path, causeOf(err))
	}
	if err := errors.Join(simulate.Plot(f, r), f.Close()); err != nil {
		return fmt.Errorf("writing the plot %s: %w", path, err)
	}
	return nil
}

// Progress is drawn on a terminal so often, and told in a line elsewhere.
const (
	drawEvery = 100 * time.Millisecond
	tellEvery = 10 * time.Second
)

// replayProgress tells how far a replay is, now and then.
func (a *app) replayProgress() func(simulate.Progress) {
	every := tellEvery
	if a.errScreen.Terminal() {
		every = drawEvery
	}
	last := time.Now()
	return func(p simulate.Progress) {
		now := time.Now()
		if now.Sub(last) < every {
			return
		}
		last = now
		line := fmt.Sprintf("replaying: %d of %d jobs, %s in, %d waiting", p.Done, p.Of, wait(p.At.Seconds()), p.Waiting)
		if a.errScreen.Terminal() {
			a.errScreen.Draw([]string{line})
		} else {
			a.errScreen.Printf("%s\n", line)
		}
	}
}

// wait writes a time in seconds; none is 0s.
func wait(seconds float64) string {
	if text := show.Duration(time.Duration(seconds * float64(time.Second))); text != "" {
		return text
	}
	return "0s"
}
