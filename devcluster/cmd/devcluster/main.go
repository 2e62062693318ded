// Command devcluster runs a development cluster by itself, for comparing it
// with a real Nomad. Users start it as a part of `drover dev`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/devcluster"
)

func main() {
	devcluster.MaybeRunHelper()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		os.Exit(1)
	}
}

func run() error {
	var cfg devcluster.Config
	flag.StringVar(&cfg.DataDir, "data-dir", ".devcluster", "folder for everything the cluster keeps")
	flag.StringVar(&cfg.Listen, "listen", "127.0.0.1:4646", "address of the API, on loopback")
	flag.StringVar(&cfg.PluginDir, "plugin-dir", "bin", "folder with the plugins")
	flag.Func("gpus", "nodes with simulated GPUs, <preset>[:<nodes>]; may be given several times", func(s string) error {
		cfg.GPUs = append(cfg.GPUs, s)
		return nil
	})
	level := flag.String("log-level", "info", "trace, debug, info, warn or error")
	destroy := flag.Bool("destroy", false, "stop all tasks at the end instead of leaving them for the next start")
	flag.Parse()
	cfg.Logger = hclog.New(&hclog.LoggerOptions{Name: "devcluster", Level: hclog.LevelFromString(*level)})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c, err := devcluster.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Println(c.Addr())
	<-ctx.Done()
	if *destroy {
		return c.Destroy(context.Background())
	}
	return c.Stop(context.Background())
}
