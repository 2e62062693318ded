// Command nomad-plugin-conformance checks a Nomad plugin binary and prints one
// line a check.
//
//	nomad-plugin-conformance [flags] <plugin> [arguments of the plugin]
//
// It exits with status 0 if no check failed, 1 if one did, and 2 if the plugin
// could not be checked.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/drover-ml/drover/nomadplugin/conformance"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("nomad-plugin-conformance", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: nomad-plugin-conformance [flags] <plugin> [arguments of the plugin]")
		flags.PrintDefaults()
	}
	var cfg conformance.Config
	asJSON := flags.Bool("json", false, "print one JSON object a check")
	verbose := flags.Bool("v", false, "print the time of each check, too")
	only := flags.String("run", "", "run only checks whose names contain one of these, with commas between")
	flags.Func("config", "the plugin's configuration, a JSON object or @file", object(&cfg.Plugin))
	flags.Func("task", "a driver's task configuration that runs a command, a JSON object or @file; $COMMAND, $ARGS and $ARGV stand for the command (default {\"command\":\"$COMMAND\",\"args\":\"$ARGS\"})", object(&cfg.Task))
	flags.DurationVar(&cfg.Hold, "hold", 0, "how long to watch streams that must stay open (default 1.5s)")
	flags.DurationVar(&cfg.Patience, "patience", 0, "how long a call may take that has nothing to wait for (default 5s)")
	flags.DurationVar(&cfg.Timeout, "timeout", 0, "limit of each check (default 30s)")
	flags.DurationVar(&cfg.StartLimit, "start-limit", 0, "limit from start to handshake (default 2s)")
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return 0
		}
		return 2
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return 2
	}
	cfg.Path, cfg.Args = flags.Arg(0), flags.Args()[1:]
	if *only != "" {
		cfg.Only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	count := map[conformance.Status]int{}
	err := conformance.Check(ctx, cfg, func(r conformance.Result) {
		count[r.Status]++
		if *asJSON {
			_ = json.NewEncoder(stdout).Encode(r)
			return
		}
		printResult(stdout, r, *verbose)
	})
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if !*asJSON {
		fmt.Fprintf(stdout, "\n%d passed, %d failed, %d warnings, %d skipped\n", count[conformance.StatusPass],
			count[conformance.StatusFail], count[conformance.StatusWarn], count[conformance.StatusSkip])
	}
	if count[conformance.StatusFail] > 0 {
		return 1
	}
	return 0
}

func printResult(w io.Writer, r conformance.Result, verbose bool) {
	line := fmt.Sprintf("%-4s  %s", strings.ToUpper(string(r.Status)), r.Name)
	if verbose {
		line += fmt.Sprintf("  (%v)", r.Duration.Round(time.Millisecond))
	}
	if r.Detail != "" {
		line += ": " + strings.ReplaceAll(r.Detail, "\n", "; ")
	}
	if r.Why != "" {
		line += " [" + r.Why + "]"
	}
	fmt.Fprintln(w, line)
}

// object reads a JSON object, or with @ the file that holds it.
func object(dst *map[string]any) func(string) error {
	return func(s string) error {
		data := []byte(s)
		if name, ok := strings.CutPrefix(s, "@"); ok {
			var err error
			if data, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		return json.Unmarshal(data, dst)
	}
}
