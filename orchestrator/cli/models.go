package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/registry"
)

func (a *app) modelsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "models",
		Short: "List models, show their versions, move their aliases",
		Args:  exactArgs(),
	}
	list := a.modelsListCmd()
	cmd.RunE = list.RunE // drover models lists
	cmd.Flags().AddFlagSet(list.Flags())
	cmd.AddCommand(list, a.modelsShowCmd(), a.aliasCmd())
	return cmd
}

func (a *app) modelsListCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List models",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			models, err := c.Models(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(notNil(models))
			}
			if len(models) == 0 {
				a.screen.Printf("No models. A pipeline's model block registers one.\n")
				return nil
			}
			t := term.NewTable("MODEL", "LATEST", "ALIASES", "UPDATED")
			for _, m := range models {
				t.Row(m.Name, fmt.Sprintf("v%d", m.Latest), aliases(m.Aliases), show.Ago(m.Updated, a.Now()))
			}
			a.screen.Print(t)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func aliases(m map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=v%d", name, m[name]))
	}
	return strings.Join(out, " ")
}

func (a *app) modelsShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show MODEL [VERSION]",
		Short:             "Show a model's versions, or one of them with where it comes from",
		Args:              rangeArgs(1, "MODEL", "VERSION"),
		ValidArgsFunction: a.completeModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			versions, err := c.Versions(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				v, err := versionOf(args[0], versions, args[1])
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(v)
				}
				a.printVersion(v)
				return nil
			}
			if asJSON {
				return a.printJSON(notNil(versions))
			}
			t := term.NewTable("VERSION", "ALIASES", "RUN", "SOURCE", "CREATED", "METRICS")
			for _, v := range versions {
				t.Row(fmt.Sprintf("v%d", v.Number), strings.Join(v.Aliases, " "), v.Run, v.Source, show.Ago(v.Created, a.Now()),
					strings.Join(show.Metrics(v.Metrics, 3), " "))
			}
			a.screen.Print(t)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// versionOf finds a version by number ("3" or "v3") or alias.
func versionOf(model string, versions []registry.Version, name string) (registry.Version, error) {
	number, err := strconv.Atoi(strings.TrimPrefix(name, "v"))
	for _, v := range versions {
		if (err == nil && v.Number == number) || slices.Contains(v.Aliases, name) {
			return v, nil
		}
	}
	return registry.Version{}, fmt.Errorf("model %s has no version or alias %q; drover models show %s lists them", model, name, model)
}

func (a *app) printVersion(v registry.Version) {
	a.screen.Fields(
		"Model", v.Model,
		"Version", strconv.Itoa(v.Number),
		"Aliases", strings.Join(v.Aliases, " "),
		"Digest", v.Digest,
		"Run", v.Run,
		"Pipeline", v.Pipeline,
		"Source", v.Source,
		"By", v.By,
		"Created", show.Stamp(&v.Created),
		"Params", show.Pairs(v.Params),
		"Metrics", strings.Join(show.Metrics(v.Metrics, len(v.Metrics)), " "),
	)
	if len(v.Inputs) > 0 {
		a.screen.Printf("\nInputs\n")
		t := term.NewTable("NAME", "DIGEST")
		for _, name := range slices.Sorted(maps.Keys(v.Inputs)) {
			t.Row(name, v.Inputs[name])
		}
		a.screen.Print(t)
	}
}

func (a *app) aliasCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alias",
		Short: "Move a model's aliases",
		Args:  exactArgs(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.aliasSetCmd(), a.aliasDeleteCmd(), a.aliasHistoryCmd())
	return cmd
}

func (a *app) aliasSetCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:               "set MODEL ALIAS VERSION",
		Short:             "Point an alias at a version",
		Example:           "  drover models alias set -reason \"v3 misreads sevens\" digits champion 2",
		Args:              exactArgs("MODEL", "ALIAS", "VERSION"),
		ValidArgsFunction: a.completeModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.Atoi(strings.TrimPrefix(args[2], "v"))
			if err != nil || number < 1 {
				return usagef("VERSION %q is not a version's number", args[2])
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			m, err := c.SetAlias(cmd.Context(), args[0], args[1], number, reason)
			if err != nil {
				return err
			}
			a.printMove(m)
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`WHY`, for the history")
	return cmd
}

func (a *app) aliasDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "delete MODEL ALIAS",
		Short:             "Remove an alias",
		Args:              exactArgs("MODEL", "ALIAS"),
		ValidArgsFunction: a.completeModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			m, err := c.DeleteAlias(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			a.printMove(m)
			return nil
		},
	}
}

func (a *app) aliasHistoryCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "history MODEL",
		Short:             "Say who moved a model's aliases, and why",
		Args:              exactArgs("MODEL"),
		ValidArgsFunction: a.completeModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			moves, err := c.AliasMoves(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(notNil(moves))
			}
			t := term.NewTable("AT", "ALIAS", "FROM", "TO", "BY", "REASON")
			for _, m := range moves {
				t.Row(show.Stamp(&m.At), m.Alias, versionMark(m.From), versionMark(m.To), m.By, term.Clean(m.Reason))
			}
			a.screen.Print(t)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printMove(m registry.AliasMove) {
	switch {
	case m.To == 0:
		a.screen.Printf("Alias %s of model %s is gone; it pointed at version %d.\n", m.Alias, m.Model, m.From)
	case m.From == 0:
		a.screen.Printf("Alias %s of model %s points at version %d.\n", m.Alias, m.Model, m.To)
	default:
		a.screen.Printf("Alias %s of model %s points at version %d; before, at version %d.\n", m.Alias, m.Model, m.To, m.From)
	}
}

func versionMark(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("v%d", n)
}

// notNil makes JSON show an empty list, not null.
func notNil[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
