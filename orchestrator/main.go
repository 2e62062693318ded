// Command drover takes pipeline files to served models on a Nomad cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/drover-ml/drover/devcluster"
	"github.com/drover-ml/drover/orchestrator/cli"
)

func main() {
	devcluster.MaybeRunHelper() // of drover dev
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a clean end; one that comes later ends the
	// process. Some programs, such as timeout(1), send each signal twice.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	os.Exit(cli.Main(ctx, os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
