package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// normalizeArgs rewrites one-dash flags ("-detach", "-var") to the two dashes
// that pflag understands, and "-h" to "--help". It knows which flags take a value, so that a value
// which begins with a dash stays as it is, and it stops at "--".
func normalizeArgs(root *cobra.Command, args []string) []string {
	takesValue := valueFlags(root)
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...)
		}
		name, isFlag := flagName(arg)
		if !isFlag {
			out = append(out, arg)
			continue
		}
		if arg == "-h" {
			arg = "-help"
		}
		out = append(out, "--"+strings.TrimLeft(arg, "-"))
		if takesValue[name] && !strings.Contains(arg, "=") && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}

var flagPattern = regexp.MustCompile(`^--?([A-Za-z][A-Za-z0-9-]*)(=.*)?$`)

// flagName returns the name of the flag that arg sets.
func flagName(arg string) (string, bool) {
	line, _, _ := strings.Cut(arg, "\n") // a value may have several lines
	m := flagPattern.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// valueFlags are the names of all flags, of any command, that take a value. A
// name means the same for every command: TestFlagsAgree holds us to it.
func valueFlags(root *cobra.Command) map[string]bool {
	names := map[string]bool{}
	visitFlags(root, func(_ *cobra.Command, f *pflag.Flag) {
		if f.NoOptDefVal == "" {
			names[f.Name] = true
		}
	})
	return names
}

func visitFlags(cmd *cobra.Command, fn func(*cobra.Command, *pflag.Flag)) {
	visit := func(f *pflag.Flag) { fn(cmd, f) }
	cmd.Flags().VisitAll(visit)
	cmd.PersistentFlags().VisitAll(visit)
	for _, sub := range cmd.Commands() {
		visitFlags(sub, fn)
	}
}

// flagMessage makes pflag's message show flags as they are written here.
func flagMessage(err error) string {
	return strings.ReplaceAll(err.Error(), "--", "-")
}

// completeArgs answers a shell's request for completions. Cobra completes flags
// with two dashes; a user who typed one gets one.
func completeArgs(ctx context.Context, root *cobra.Command, args []string, out io.Writer) int {
	typed := args[len(args)-1]
	oneDash := strings.HasPrefix(typed, "-") && !strings.HasPrefix(typed, "--")
	normalized := append([]string{args[0]}, normalizeArgs(root, args[1:])...)
	if typed == "-" {
		normalized[len(normalized)-1] = "--"
	}
	var buf bytes.Buffer
	root.SetOut(&buf)
	root.SetErr(io.Discard)
	root.SetArgs(normalized)
	if err := root.ExecuteContext(ctx); err != nil {
		return exitFailed
	}
	text := buf.String()
	if oneDash {
		text = regexp.MustCompile(`(?m)^--`).ReplaceAllString(text, "-")
	}
	if _, err := io.WriteString(out, text); err != nil {
		return exitFailed
	}
	return exitOK
}

// usageLine is a command's line of use, without the program's name.
func usageLine(cmd *cobra.Command) string {
	path := strings.TrimPrefix(cmd.CommandPath(), "drover")
	_, operands, _ := strings.Cut(cmd.Use, " ")
	line := strings.TrimSpace(path)
	if cmd.HasAvailableLocalFlags() {
		line += " [options]"
	}
	if operands != "" {
		line += " " + operands
	}
	return line
}

// writeHelp prints a command's help, flags with one dash.
func writeHelp(w io.Writer, cmd *cobra.Command) {
	var b strings.Builder
	switch {
	case cmd == cmd.Root():
		fmt.Fprintf(&b, "Usage: drover COMMAND [options] [arguments]\n\n%s\n", cmd.Long)
	case cmd.HasAvailableSubCommands() && cmd.HasAvailableLocalFlags(): // it does something of its own
		fmt.Fprintf(&b, "Usage: drover %s\n       %s COMMAND [options] [arguments]\n\n%s\n", usageLine(cmd), cmd.CommandPath(), first(cmd.Long, cmd.Short+"."))
	case cmd.HasAvailableSubCommands():
		fmt.Fprintf(&b, "Usage: %s COMMAND [options] [arguments]\n\n%s\n", cmd.CommandPath(), first(cmd.Long, cmd.Short+"."))
	default:
		fmt.Fprintf(&b, "Usage: drover %s\n\n%s\n", usageLine(cmd), first(cmd.Long, cmd.Short+"."))
	}
	writeCommands(&b, cmd)
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nExamples\n\n%s\n", strings.TrimRight(cmd.Example, "\n"))
	}
	writeFlags(&b, "Options", cmd.NonInheritedFlags())
	writeFlags(&b, "General options", cmd.InheritedFlags())
	if cmd == cmd.Root() {
		b.WriteString("\nEnvironment\n\n")
		for _, e := range environment {
			fmt.Fprintf(&b, "  %-18s %s\n", e.name, e.what)
		}
		b.WriteString("\ndrover COMMAND -help tells more about a command.\n")
	}
	_, _ = io.WriteString(w, b.String())
}

func writeCommands(b *strings.Builder, cmd *cobra.Command) {
	if !cmd.HasAvailableSubCommands() {
		return
	}
	write := func(group string) {
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.GroupID == group {
				fmt.Fprintf(b, "  %-12s %s\n", sub.Name(), sub.Short)
			}
		}
	}
	if len(cmd.Groups()) == 0 {
		b.WriteString("\nCommands\n\n")
		write("")
		return
	}
	for _, g := range cmd.Groups() {
		fmt.Fprintf(b, "\n%s\n\n", g.Title)
		write(g.ID)
	}
}

func writeFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, "\n%s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(b, "\n  -%s", f.Name)
		if value != "" && f.NoOptDefVal == "" {
			fmt.Fprintf(b, " %s", value)
		}
		fmt.Fprintf(b, "\n      %s.", strings.ReplaceAll(usage, "\n", "\n      "))
		if !zeroDefault(f) {
			fmt.Fprintf(b, " Default: %s.", f.DefValue)
		}
		b.WriteString("\n")
	})
}

func zeroDefault(f *pflag.Flag) bool {
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return true
	default:
		return false
	}
}

// environment lists the variables that drover reads.
var environment = []struct{ name, what string }{
	{"DROVER_ADDR", "the Drover server, default http://127.0.0.1:4680"},
	{"DROVER_TOKEN", "the token to show it"},
	{"DROVER_WORKSPACE", "the workspace, default \"default\""},
	{"DROVER_GATEWAY", "the gateway that predict calls, default http://127.0.0.1:4681"},
	{"NOMAD_ADDR", "the Nomad cluster of server and gateway; NOMAD_TOKEN, NOMAD_NAMESPACE,"},
	{"", "NOMAD_REGION, NOMAD_CACERT and the like are read too"},
	{"NO_COLOR", "anything but \"\" turns colours off"},
}
