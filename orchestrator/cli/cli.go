// Package cli is the drover command.
//
// It is written for two readers at once: people get aligned tables, colours
// on a terminal and sentences that say what to do next; programs get -json,
// plain lines when the output is not a terminal, and exit codes: 0 for success,
// 1 when what was asked for failed, 2 when it was asked wrongly, 130 when it
// was interrupted.
//
// Flags are written with one dash, as Nomad's are; two dashes work too.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/term"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitMisused     = 2
	exitChanges     = 2 // only where it was asked for
	exitInterrupted = 130
)

// IO is what a command reads from and writes to.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	// Getenv reads an environment variable; nil means os.Getenv.
	Getenv func(string) string
	// Now is the clock that ages and running times are told by; nil means
	// time.Now.
	Now func() time.Time
}

// errReported ends a command with exit code 1 when everything that there is to
// say has been printed already.
var errReported = errors.New("already reported")

// errChanges ends a plan whose exit code tells that something would change.
var errChanges = errors.New("something would change")

// errInterrupted ends a command that the user interrupted, which it said.
var errInterrupted = errors.New("interrupted")

// usageError is a command line that cannot be understood.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// Main runs one command line (without the program's name) and returns the exit
// code. It ends early, and cleanly, when ctx does.
func Main(ctx context.Context, args []string, streams IO) int {
	if streams.Getenv == nil {
		streams.Getenv = os.Getenv
	}
	if streams.Now == nil {
		streams.Now = time.Now
	}
	a := &app{IO: streams}
	a.screen = term.New(streams.Out, streams.Getenv)
	a.errScreen = term.New(streams.Err, streams.Getenv)
	root := a.root()
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return completeArgs(ctx, root, args, streams.Out)
	}
	root.SetArgs(normalizeArgs(root, args))
	err := root.ExecuteContext(ctx)
	return a.exitCode(err)
}

// exitCode prints err, if it is worth it, and turns it into an exit code.
func (a *app) exitCode(err error) int {
	var misuse *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case errors.Is(err, errChanges):
		return exitChanges
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(a.Err, "Interrupted.")
		return exitInterrupted
	case errors.As(err, &misuse):
		fmt.Fprintf(a.Err, "drover: %s\n", misuse.msg)
		return exitMisused
	default:
		a.printError(err)
		return exitFailed
	}
}

func init() {
	cobra.EnableCommandSorting = false // help lists them in the order of use
}

// app is what the commands share.
type app struct {
	IO
	screen    *term.Screen // of Out
	errScreen *term.Screen // of Err

	address   string
	workspace string
	noColor   bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "drover",
		Short:             "Production machine learning on Nomad",
		Long:              "Drover takes a pipeline file to a served model on a Nomad cluster.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.ArbitraryArgs,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRun: func(*cobra.Command, []string) {
			if a.noColor {
				a.screen.NoColor()
				a.errScreen.NoColor()
			}
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			msg := fmt.Sprintf("unknown command %q", args[0])
			cmd.SuggestionsMinimumDistance = 2
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				msg += fmt.Sprintf("; did you mean %q?", s[0])
			}
			return usagef("%s (drover -help lists the commands)", msg)
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s (%s -help lists the options)", flagMessage(err), cmd.CommandPath())
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { writeHelp(cmd.OutOrStdout(), cmd) })
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})

	flags := root.PersistentFlags()
	flags.StringVar(&a.address, "address", "", "`URL` of the Drover server. Default: DROVER_ADDR, else "+client.DefaultAddress)
	flags.StringVar(&a.workspace, "workspace", "", "`NAME` of the workspace. Default: DROVER_WORKSPACE, else \"default\"")
	flags.BoolVar(&a.noColor, "no-color", false, "Print no colours. NO_COLOR does the same")
	if err := root.RegisterFlagCompletionFunc("workspace", cobra.NoFileCompletions); err != nil {
		panic(err) // the flag was defined a line above
	}

	root.AddGroup(
		&cobra.Group{ID: groupPipeline, Title: "Pipelines and runs"},
		&cobra.Group{ID: groupModel, Title: "Models and endpoints"},
		&cobra.Group{ID: groupPlatform, Title: "Platform"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupPipeline, a.validateCmd(), a.planCmd(), a.runCmd(), a.runsCmd(), a.statusCmd(), a.logsCmd(),
		a.metricsCmd(), a.compareCmd(), a.artifactsCmd(), a.cancelCmd(), a.retryCmd())
	add(groupModel, a.modelsCmd(), a.endpointsCmd(), a.predictCmd())
	add(groupPlatform, a.queueCmd(), a.workspaceCmd(), a.incidentsCmd(), a.simulateCmd(), a.devCmd(), a.serverCmd(), a.gatewayCmd(), a.tokenCmd(), a.versionCmd(), a.completionCmd())
	return root
}

// The groups that help lists commands in.
const (
	groupPipeline = "pipeline"
	groupModel    = "model"
	groupPlatform = "platform"
)

// client returns a client of the server that flags and environment name.
func (a *app) client() (*client.Client, error) {
	c, err := client.New(client.Config{
		Address:   first(a.address, a.Getenv("DROVER_ADDR")),
		Token:     a.Getenv("DROVER_TOKEN"),
		Workspace: a.workspaceName(),
		User:      a.userName(),
	})
	if err != nil {
		return nil, usagef("%s", err)
	}
	return c, nil
}

func (a *app) workspaceName() string {
	return first(a.workspace, a.Getenv("DROVER_WORKSPACE"), client.DefaultWorkspace)
}

// first returns the first of values that is not "".
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// exactArgs refuses any other number of arguments than names has, saying which
// are missing.
func exactArgs(names ...string) cobra.PositionalArgs { return rangeArgs(len(names), names...) }

// rangeArgs takes at least least and at most len(names) arguments.
func rangeArgs(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s needs %s (usage: drover %s)", cmd.CommandPath(), strings.Join(names[len(args):least], " and "), usageLine(cmd))
		case len(args) > len(names):
			return usagef("%s takes no further argument %q (usage: drover %s)", cmd.CommandPath(), args[len(names)], usageLine(cmd))
		}
		return nil
	}
}
