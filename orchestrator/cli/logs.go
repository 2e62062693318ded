package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (a *app) logsCmd() *cobra.Command {
	var opts struct {
		trial, rank, attempt int
		stderr, follow       bool
		tail                 int64
	}
	cmd := &cobra.Command{
		Use:   "logs RUN STEP",
		Short: "Print a step's output",
		Long: `Print what a step has written to its standard output, or with -stderr to its
standard error. Without -attempt it is the last attempt's. Of a gang it is that of rank
0, or of the member that has failed; -rank names another.`,
		Example:           "  drover logs -follow d227rea941ch step.train\n  drover logs -rank 3 d227rea941ch step.train\n  drover logs -stderr -trial 2 d227rea941ch sweep.search",
		Args:              exactArgs("RUN", "STEP"),
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			node, err := findNode(cmd.Context(), c, run.ID(args[0]), args[1])
			if err != nil {
				return err
			}
			s := run.LogSelector{Node: node.ID, Attempt: opts.attempt, Stream: "stdout", Tail: opts.tail, Follow: opts.follow}
			if opts.stderr {
				s.Stream = "stderr"
			}
			if cmd.Flags().Changed("trial") {
				s.Trial = &opts.trial
			}
			if cmd.Flags().Changed("rank") {
				s.Rank = &opts.rank
			}
			if moved := show.MovedBefore(node, s.Trial, s.Attempt); moved != "" {
				fmt.Fprintln(a.Err, term.Clean(moved))
			}
			logs, err := c.Logs(cmd.Context(), run.ID(args[0]), s)
			if err != nil {
				return err
			}
			defer logs.Close()
			n, err := io.Copy(a.Out, logs)
			if err != nil {
				if cmd.Context().Err() != nil {
					return errInterrupted
				}
				return fmt.Errorf("reading the log: %w", err)
			}
			if n == 0 && s.Stream == "stdout" {
				return a.hintAtStderr(cmd.Context(), c, run.ID(args[0]), s)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.follow, "follow", false, "Go on until the task ends")
	flags.BoolVar(&opts.stderr, "stderr", false, "Print standard error")
	flags.IntVar(&opts.trial, "trial", 0, "`NUMBER` of the trial, of a sweep")
	flags.IntVar(&opts.rank, "rank", 0, "`NUMBER` of the member, of a gang")
	flags.IntVar(&opts.attempt, "attempt", 0, "`NUMBER` of the attempt, from 1")
	flags.Int64Var(&opts.tail, "tail", 0, "Only the last so many `BYTES`")
	return cmd
}

// hintAtStderr says so if a task that wrote nothing to its standard output wrote
// to its standard error, as one that failed often did.
func (a *app) hintAtStderr(ctx context.Context, c *client.Client, id run.ID, s run.LogSelector) error {
	s.Stream, s.Tail, s.Follow = "stderr", 1, false
	logs, err := c.Logs(ctx, id, s)
	if err != nil {
		return err
	}
	defer logs.Close()
	n, err := io.Copy(io.Discard, logs)
	if err == nil && n > 0 {
		fmt.Fprintln(a.Err, "Standard output is empty; standard error is not: -stderr prints it.")
	}
	return err
}

func (a *app) cancelCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel RUN",
		Short: "End a run",
		Long: `End a run: its tasks are stopped, then its steps with on_exit run. Cancelling it
again ends those too.`,
		Args:              exactArgs("RUN"),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			r, err := c.Cancel(cmd.Context(), run.ID(args[0]))
			if err != nil {
				return err
			}
			if r.Phase.Ended() {
				a.screen.Printf("Run %s is %s.\n", r.ID, r.Phase)
			} else {
				a.screen.Printf("Run %s is being cancelled. Follow it: drover status -follow %s\n", r.ID, r.ID)
			}
			return nil
		},
	}
}

func (a *app) retryCmd() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use:   "retry RUN",
		Short: "Take up a run that failed or was cancelled",
		Long: `Take up a run that failed or was cancelled, and follow it. What succeeded
stays; everything else runs again, with the same pipeline file and sources.`,
		Args:              exactArgs("RUN"),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			health, err := c.Health(cmd.Context())
			if err != nil {
				return err
			}
			r, err := c.Retry(cmd.Context(), run.ID(args[0]))
			if err != nil {
				return err
			}
			a.screen.Printf("Run %s goes on.\n", r.ID)
			if detach {
				return nil
			}
			return a.watch(cmd.Context(), c, r, health.Gateway, false)
		},
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "Do not follow it")
	return cmd
}
