// Command nomad-device-gpu is a Nomad device plugin for NVIDIA GPUs and MIG
// slices. A Nomad agent runs it without arguments; people run
//
//	nomad-device-gpu list [-simulate <preset or file>] [-node <name>] [-json]
//	nomad-device-gpu version
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

const usage = `Usage: nomad-device-gpu [command]

Without a command it is a Nomad device plugin, which a Nomad agent starts.

Commands:
  list     print the GPUs that the plugin offers (list -h for options)
  version  print the version
`

func main() {
	if len(os.Args) == 1 {
		log := base.NewLogger(pluginName)
		p := newPlugin(log)
		device.Serve(p, base.WithLogger(log))
		_ = p.Close() // the process ends; the driver cleans up after it
		return
	}
	os.Exit(run(os.Args[1], os.Args[2:]))
}

// run is a command for people. It returns the exit status.
func run(command string, args []string) int {
	switch command {
	case "list":
		err := list(context.Background(), args, os.Stdout, os.Stderr)
		switch {
		case errors.Is(err, flag.ErrHelp):
			return 0
		case err != nil:
			fmt.Fprintln(os.Stderr, "nomad-device-gpu list:", err)
			return 1
		}
		return 0
	case "version", "-version", "--version":
		fmt.Println("nomad-device-gpu", version.String())
		return 0
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "nomad-device-gpu: unknown command %q\n\n%s", command, usage)
	return 2
}
