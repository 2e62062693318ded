package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

func (a *app) workspaceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workspace",
		Short: "Declare who may use how much of the cluster, and show who does",
		Long: `Declare workspaces with their quotas and budgets, in a tree of cohorts, and show
what they use. All definitions are one file or several, which docs/quotas.md
describes. A workspace that nobody declares has no limits.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.workspacePlanCmd(), a.workspaceApplyCmd(), a.workspaceListCmd(), a.workspaceShowCmd(), a.workspaceExportCmd(), a.workspaceDeleteCmd())
	return cmd
}

// definitionFiles are the files that -f names.
type definitionFiles []string

func (f *definitionFiles) flag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar((*[]string)(f), "f", nil, "Read definitions from `FILE`; - is standard input. Can be repeated: all are\none as a whole")
}

// maxDefinitionFile limits a file of definitions, in bytes.
const maxDefinitionFile = 1 << 20

// definitions reads and checks files. Problems are printed, all of them, and
// errReported is returned.
func (a *app) definitions(files definitionFiles, asJSON bool) (workspace.Definitions, error) {
	if len(files) == 0 {
		return workspace.Definitions{}, usagef("say which definitions: -f FILE")
	}
	var sources []workspace.Source
	texts := map[string][]byte{}
	for _, name := range files {
		var text []byte
		var err error
		if name == "-" {
			name = "<stdin>"
			text, err = io.ReadAll(io.LimitReader(a.In, maxDefinitionFile+1))
		} else {
			text, err = readLimited(name, maxDefinitionFile)
		}
		if err != nil {
			return workspace.Definitions{}, fmt.Errorf("reading definitions: %w", err)
		}
		if _, twice := texts[name]; twice {
			return workspace.Definitions{}, usagef("-f %s is there twice", name)
		}
		texts[name] = text
		sources = append(sources, workspace.Source{Filename: name, Text: text})
	}
	d, diags := workspace.Parse(sources...)
	if asJSON && diags.HasErrors() {
		if err := a.printJSON(validation{Diagnostics: pipeline.Describe(diags, texts)}); err != nil {
			return d, err
		}
		return d, errReported
	}
	return d, a.reportDefinitions(diags, texts)
}

func (a *app) reportDefinitions(diags hcl.Diagnostics, texts map[string][]byte) error {
	width, _ := a.screen.Size()
	if !a.screen.Terminal() {
		width = 0
	}
	if err := pipeline.WriteDiagnostics(a.Err, diags, texts, a.errScreen.Colors(), uint(width)); err != nil {
		return err
	}
	n := 0
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			n++
		}
	}
	if n > 0 {
		fmt.Fprintf(a.Err, "\n%s. Nothing was changed.\n", show.Count(n, "problem"))
		return errReported
	}
	return nil
}

func (a *app) workspacePlanCmd() *cobra.Command {
	var files definitionFiles
	var asJSON, detailed bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what applying definitions would change",
		Long: `Show what applying definitions would change, and change nothing: blocks that are
created (+), changed (~) and deleted (-), with their fields.

With -detailed-exitcode the exit code is 0 if nothing would change, 2 if
something would, and 1 if it went wrong.`,
		Args:    exactArgs(),
		Example: "  drover workspace plan -f workspaces.hcl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.definitions(files, asJSON)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			plan, err := c.PlanWorkspaces(cmd.Context(), d)
			if err != nil {
				return err
			}
			if asJSON {
				if err := a.printJSON(plan); err != nil {
					return err
				}
			} else {
				a.printWorkspacePlan(plan)
			}
			if detailed && len(plan.Changes) > 0 {
				return errChanges
			}
			return nil
		},
	}
	files.flag(cmd)
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "End with exit code 2 if something would change")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) workspaceApplyCmd() *cobra.Command {
	var files definitionFiles
	var asJSON, yes bool
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Declare what files say, instead of what is declared",
		Long: `Declare what files say instead of all that is declared: what they do not have is
deleted. The plan is shown first, and applied as a whole once you agree, unless
somebody else has applied something in between. What runs goes on; a quota that
is now smaller than what is used keeps more from starting.

Applying the same again changes nothing.`,
		Args:    exactArgs(),
		Example: "  drover workspace apply -f workspaces.hcl\n  drover workspace apply -f cohorts.hcl -f teams.hcl -yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.definitions(files, asJSON)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			plan, err := c.PlanWorkspaces(cmd.Context(), d)
			if err != nil {
				return err
			}
			return a.applyWorkspaces(cmd.Context(), c, d, plan, asJSON, yes)
		},
	}
	files.flag(cmd)
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func yesFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "yes", false, "Do not ask")
}

// applyWorkspaces shows a plan, asks, and applies it to what it was made for.
func (a *app) applyWorkspaces(ctx context.Context, c *client.Client, d workspace.Definitions, plan workspace.Plan, asJSON, yes bool) error {
	if !asJSON {
		a.printWorkspacePlan(plan)
	}
	if len(plan.Changes) > 0 {
		if !yes {
			if err := a.confirm("Apply this?"); err != nil {
				return err
			}
		}
		var err error
		if plan, err = c.ApplyWorkspaces(ctx, d, plan.Version); err != nil {
			return err
		}
	}
	switch {
	case asJSON:
		return a.printJSON(plan)
	case len(plan.Changes) > 0:
		a.screen.Printf("\nApplied as version %d.\n", plan.Version)
	}
	return nil
}

// confirm asks, on the terminal, and returns errReported for a no.
func (a *app) confirm(question string) error {
	in, ok := a.In.(*os.File)
	if !ok || !xterm.IsTerminal(int(in.Fd())) {
		return usagef("there is no terminal to ask on: give -yes to go ahead without asking")
	}
	fmt.Fprintf(a.Err, "\n%s [y/N] ", question)
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil && !errors.Is(err, io.EOF) {
		answer = "" // an empty line, or more than a word
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		fmt.Fprintln(a.Err, "Nothing was changed.")
		return errReported
	}
	return nil
}

func (a *app) workspaceListCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the workspaces that are declared",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.Workspaces(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(notNil(s.Definitions.Workspaces))
			}
			if len(s.Definitions.Workspaces) == 0 {
				a.screen.Printf("No workspace is declared, so none has limits. drover workspace apply declares some.\n")
				return nil
			}
			t := term.NewTable("WORKSPACE", "COHORT", "NAMESPACE", "WEIGHT", "QUOTA", "BUDGET")
			for _, w := range s.Definitions.Workspaces {
				t.Row(w.Name, w.Cohort, w.Namespace, fmt.Sprint(max(1, w.Weight)), quotaSummary(w.Quotas), budgetSummary(w.Budget))
			}
			a.screen.Print(t)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func quotaSummary(quotas workspace.Quotas) string {
	var parts []string
	for _, f := range slices.Sorted(maps.Keys(quotas)) {
		parts = append(parts, fmt.Sprintf("%s=%s", f, quotas[f].Nominal))
	}
	return strings.Join(parts, " ")
}

func budgetSummary(b *workspace.Budget) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%s GPU-hours a %s", b.GPUHours, b.Per)
}

func (a *app) workspaceExportCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print what is declared, as a file that can be applied",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.Workspaces(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(s)
			}
			_, err = a.Out.Write(s.Definitions.Export())
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) workspaceDeleteCmd() *cobra.Command {
	var asJSON, yes bool
	cmd := &cobra.Command{
		Use:   "delete WORKSPACE",
		Short: "Remove a workspace's definition",
		Long: `Remove a workspace's definition. What runs in it goes on, and what is submitted
to it afterwards has no limits, as in all workspaces that nobody declares.`,
		Args:              exactArgs("WORKSPACE"),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			current, err := c.Workspaces(cmd.Context())
			if err != nil {
				return err
			}
			d, err := current.Definitions.Without(args[0])
			if err != nil {
				return err
			}
			plan := workspace.Plan{Version: current.Version, Changes: workspace.Diff(current.Definitions, d)}
			return a.applyWorkspaces(cmd.Context(), c, d, plan, asJSON, yes)
		},
	}
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) completeWorkspace(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	return a.ask(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		s, err := c.Workspaces(ctx)
		var names []string
		for _, w := range s.Definitions.Workspaces {
			names = append(names, w.Name)
		}
		return names, err
	})
}
