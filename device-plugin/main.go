// Command nomad-device-gpu is a Nomad device plugin for NVIDIA GPUs and MIG
// slices. A Nomad agent runs it without arguments; people at the node run its
// commands, which the table below lists.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// command is one that people run. It writes its answer to stdout, and what
// else there is to say to stderr. A usageError of it is exit status 2, any
// other error 1.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

var commands = []command{
	{"list", "print the GPUs and slices that the plugin offers", listCommand},
	{"topo", "print how GPUs and network cards are connected", topoCommand},
	{"health", "print the health of the GPUs, explain an Xid, or clear a GPU that was repaired", healthCommand},
	{"mig", "plan, apply or check how boards are cut into MIG slices", migCommand},
	{"simulate", "check and print a simulated machine and what goes wrong with it", simulateCommand},
	{"version", "print the version", versionCommand},
}

func main() {
	if len(os.Args) == 1 {
		log := base.NewLogger(pluginName)
		p := newPlugin(log)
		device.Serve(p, base.WithLogger(log))
		_ = p.Close() // the process ends; the driver cleans up after it
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1], os.Args[2:], os.Stdout, os.Stderr))
}

// run is a command for people. It returns the exit status.
func run(ctx context.Context, name string, args []string, stdout, stderr io.Writer) int {
	switch name {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage())
		return 0
	case "-version", "--version":
		name = "version"
	}
	for _, c := range commands {
		if c.name != name {
			continue
		}
		err := c.run(ctx, args, stdout, stderr)
		var misuse usageError
		switch {
		case err == nil || errors.Is(err, flag.ErrHelp):
			return 0
		case errors.As(err, &misuse):
			fmt.Fprintf(stderr, "nomad-device-gpu %s: %v (-h lists the options)\n", name, err)
			return 2
		}
		fmt.Fprintf(stderr, "nomad-device-gpu %s: %v\n", name, err)
		return 1
	}
	fmt.Fprintf(stderr, "nomad-device-gpu: unknown command %q\n\n%s", name, usage())
	return 2
}

func usage() string {
	var b strings.Builder
	b.WriteString(`Usage: nomad-device-gpu [command]

Without a command it is a Nomad device plugin, which a Nomad agent starts.

Commands (<command> -h lists the options of one):
`)
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-9s %s\n", c.name, c.summary)
	}
	return b.String()
}

// usageError is a command line that says nothing sensible.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (e usageError) Unwrap() error { return e.error }

// newFlags is the flag set of a command.
func newFlags(command string) *flag.FlagSet {
	return flag.NewFlagSet("nomad-device-gpu "+command, flag.ContinueOnError)
}

// parseFlags parses options, which come before at most the given number of
// arguments. Asked for help, it prints that and returns flag.ErrHelp.
func parseFlags(flags *flag.FlagSet, args []string, most int, stdout io.Writer) error {
	var said strings.Builder
	flags.SetOutput(&said)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, said.String())
		return err
	case err != nil:
		return usageError{err}
	case flags.NArg() > most:
		return usagef("unexpected argument %q", flags.Arg(most))
	}
	return nil
}

func versionCommand(_ context.Context, args []string, stdout, _ io.Writer) error {
	if err := parseFlags(newFlags("version"), args, 0, stdout); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, "nomad-device-gpu", version.String())
	return err
}
