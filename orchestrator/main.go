// Command drover takes pipeline files to served models on a Nomad cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/drover-ml/drover/devcluster"
	"github.com/drover-ml/drover/orchestrator/cli"
)

func main() {
	devcluster.MaybeRunHelper() // of drover dev
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a clean end; a second one ends the process.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Main(ctx, os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
