package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/simulate"
	"github.com/drover-ml/drover/orchestrator/trace"
)

func (a *app) simulateCmd() *cobra.Command {
	var nodes, jobs string
	var asJSON bool
	c := simulate.Config{}
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Replay a trace of jobs on a cluster, in virtual time",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes == "" || jobs == "" {
				return usagef("drover simulate needs -nodes and -trace")
			}
			var err error
			if c.Nodes, err = readTrace(nodes, trace.ReadNodes); err != nil {
				return err
			}
			if c.Jobs, err = readTrace(jobs, trace.ReadJobs); err != nil {
				return err
			}
			report, err := simulate.Run(cmd.Context(), c)
			if err != nil {
				return fmt.Errorf("simulating %s: %w", jobs, err)
			}
			return a.printJSON(report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&nodes, "nodes", "", "`FILE` with the nodes")
	f.StringVar(&jobs, "trace", "", "`FILE` with the jobs")
	f.StringVar(&c.Policy, "policy", placement.DefaultPolicy, "`NAME` of the placement policy: "+strings.Join(simulate.Policies(), ", "))
	f.Float64Var(&c.Load, "load", 1, "`FACTOR` by which jobs come faster than in the trace")
	f.Uint64Var(&c.Seed, "seed", 1, "`NUMBER` that decides what is random")
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(a.simulatePlacementCmd())
	return cmd
}

// readTrace reads a file, of which it says what is wrong with it.
func readTrace[T any](path string, read func(string, io.Reader) ([]T, error)) (rows []T, err error) {
	f, err := os.Open(path)
	if err != nil {
		var cause *os.PathError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	return read(path, f)
}
