package cli

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/run"
)

//go:embed completion.bash
var bashCompletion string // cobra's own needs the package bash-completion

// completeFor bounds how long a shell waits for names from the server.
const completeFor = 2 * time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// mustComplete sets how a flag's value is completed. The flag exists.
func mustComplete(cmd *cobra.Command, flag string, fn cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err)
	}
}

// ask asks the server for names. A server that does not answer gives none.
func (a *app) ask(cmd *cobra.Command, fn func(ctx context.Context, c *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeFor)
	defer cancel()
	c, err := a.client()
	if err != nil {
		return nil, noFiles
	}
	names, err := fn(ctx, c)
	if err != nil {
		return nil, noFiles
	}
	return names, noFiles
}

func (a *app) completeRun(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	return a.ask(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		page, err := c.Runs(ctx, client.RunFilter{Limit: 50})
		names := make([]string, len(page.Runs))
		for i, r := range page.Runs {
			names[i] = fmt.Sprintf("%s\t%s %s", r.ID, r.Pipeline, r.Phase)
		}
		return names, err
	})
}

// completeRunAndNode completes a run, then a step of it, then an output.
func (a *app) completeRunAndNode(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeRun(cmd, args, typed)
	}
	return a.ask(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		r, err := c.Run(ctx, run.ID(args[0]))
		if err != nil {
			return nil, err
		}
		var names []string
		for i := range r.Nodes {
			n := &r.Nodes[i]
			if len(args) == 1 {
				names = append(names, fmt.Sprintf("%s\t%s", n.ID, n.Phase))
				continue
			}
			if string(n.ID) == args[1] {
				for name := range n.Outputs {
					names = append(names, name)
				}
			}
		}
		return names, nil
	})
}

func (a *app) completeModel(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.ask(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		var names []string
		if len(args) == 0 {
			models, err := c.Models(ctx)
			for _, m := range models {
				names = append(names, m.Name)
			}
			return names, err
		}
		m, err := c.Model(ctx, args[0])
		for alias := range m.Aliases {
			names = append(names, alias)
		}
		return names, err
	})
}

func (a *app) completeEndpoint(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	return a.ask(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		endpoints, err := c.Endpoints(ctx)
		var names []string
		for _, e := range endpoints {
			names = append(names, e.Name+"\t"+servedModel(e))
		}
		return names, err
	})
}

func (a *app) completionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes drover in bash, zsh or fish",
		Long: `Print a script that completes drover's commands, options, runs, steps, models
and endpoints. To have it in every new shell:

  bash   drover completion bash > ~/.local/share/bash-completion/completions/drover
  zsh    drover completion zsh > "${fpath[1]}/_drover"
  fish   drover completion fish > ~/.config/fish/completions/drover.fish`,
		Args:      exactArgs("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				_, err := io.WriteString(a.Out, bashCompletion)
				return err
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			default:
				return usagef("no completion for %q: bash, zsh and fish are known", args[0])
			}
		},
	}
}

func (a *app) versionCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return a.printJSON(map[string]string{"version": version.Version, "commit": version.Commit})
			}
			_, err := fmt.Fprintf(a.Out, "drover %s\n", version.String())
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
