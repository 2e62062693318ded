package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/devcluster"
	"github.com/drover-ml/drover/orchestrator/server"
)

// devOptions are the flags of drover dev.
type devOptions struct {
	dataDir, pluginDir       string
	listen, gateway, cluster string
	gpus                     []string
	readyFile                string
	stopTasks                bool
	log                      logFlags
}

func (a *app) devCmd() *cobra.Command {
	var opts devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole platform on this machine",
		Long: `Run the whole platform on this machine, for trying Drover out: the server, the
gateway and a devcluster, one process that stands in for a Nomad cluster and
runs tasks with the real plugins.

The state is kept in the data folder, over restarts. Ctrl-C stops the platform;
tasks and endpoints under way go on, and the next drover dev with the same data
folder takes them up. With -stop-tasks, Ctrl-C ends them as well.`,
		Example: "  drover dev\n  drover dev -gpus dgx-h100:2 -data-dir /tmp/drover",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.dev(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.dataDir, "data-dir", ".drover", "`FOLDER` for the state")
	flags.StringVar(&opts.pluginDir, "plugin-dir", "", "`FOLDER` with nomad-driver-ml and nomad-device-gpu. Default: where drover is")
	flags.StringVar(&opts.listen, "listen", server.DefaultListen, "`HOST:PORT` of the API")
	flags.StringVar(&opts.gateway, "gateway-listen", server.DefaultGatewayListen, "`HOST:PORT` of the gateway")
	flags.StringVar(&opts.cluster, "devcluster-listen", "127.0.0.1:4646", "`HOST:PORT` of the devcluster, where Nomad's own tools find it")
	flags.StringSliceVar(&opts.gpus, "gpus", nil, "Simulated GPUs, as `PRESET:NODES` such as dgx-h100:2. Default: one node without")
	flags.StringVar(&opts.readyFile, "ready-file", "", "Write the addresses to `FILE`, as NAME=VALUE lines, once all is up")
	flags.BoolVar(&opts.stopTasks, "stop-tasks", false, "End tasks and endpoints when stopping")
	opts.log.flags(cmd, "warn")
	return cmd
}

// dev runs the platform until ctx ends.
func (a *app) dev(ctx context.Context, opts devOptions) (err error) {
	log, err := a.logger(opts.log)
	if err != nil {
		return err
	}
	plugins, err := findPlugins(opts.pluginDir)
	if err != nil {
		return err
	}
	lock, err := server.LockDir(opts.dataDir)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	dir, err := filepath.Abs(opts.dataDir)
	if err != nil {
		return fmt.Errorf("finding the data folder: %w", err)
	}
	linked := filepath.Join(dir, "plugins")
	if err := linkPlugins(plugins, linked); err != nil {
		return err
	}
	cluster, err := devcluster.Start(ctx, devcluster.Config{
		DataDir: filepath.Join(dir, "devcluster"), Listen: opts.cluster, GPUs: opts.gpus, PluginDir: linked,
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(opts.log.level), Output: a.Err, JSONFormat: opts.log.json}),
	})
	if err != nil {
		return fmt.Errorf("starting the devcluster: %w", err)
	}
	defer func() { err = errors.Join(err, stopCluster(cluster, opts.stopTasks)) }()

	s, err := server.Start(ctx, server.Config{
		DataDir: filepath.Join(dir, "server"), Nomad: &nomad.Config{Address: cluster.Addr()},
		Listen: opts.listen, GatewayListen: opts.gateway, Logger: log,
	})
	if err != nil {
		return err
	}
	where := addresses{api: s.Addr(), gateway: s.GatewayAddr(), nomad: cluster.Addr()}
	a.devIsUp(where, opts)
	if opts.readyFile != "" {
		if err := where.write(opts.readyFile); err != nil {
			return errors.Join(err, s.Stop())
		}
	}
	err = a.untilEnd(ctx, s)
	if ctx.Err() != nil {
		a.screen.Printf("Stopped. %s\n", afterStop(opts.stopTasks))
	}
	return err
}

func afterStop(stopTasks bool) string {
	if stopTasks {
		return "Tasks and endpoints were ended."
	}
	return "Tasks and endpoints under way go on; the next drover dev takes them up."
}

// stopFor bounds how long the devcluster may take to stop.
const stopFor = 30 * time.Second

// stopCluster ends the devcluster, and its tasks if told so.
func stopCluster(c *devcluster.Cluster, tasks bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopFor)
	defer cancel()
	if tasks {
		return c.Destroy(ctx)
	}
	return c.Stop(ctx)
}

// pluginNames are the plugins that drover dev runs tasks with.
var pluginNames = []string{"nomad-driver-ml", "nomad-device-gpu"}

// findPlugins returns the folder with the plugins: beside this program, unless
// told otherwise.
func findPlugins(dir string) (string, error) {
	if dir == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("finding the plugins: %w", err)
		}
		if exe, err = filepath.EvalSymlinks(exe); err != nil {
			return "", fmt.Errorf("finding the plugins: %w", err)
		}
		dir = filepath.Dir(exe)
	}
	for _, name := range pluginNames {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("no plugin %s in %s: build it with make build, or name its folder with -plugin-dir", name, dir)
		}
	}
	return filepath.Abs(dir)
}

// linkPlugins makes a folder that has the plugins and nothing else, since a
// cluster launches whatever is in its plugin folder.
func linkPlugins(from, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("linking the plugins: %w", err)
	}
	for _, name := range pluginNames {
		link := filepath.Join(dir, name)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("linking the plugins: %w", err)
		}
		if err := os.Symlink(filepath.Join(from, name), link); err != nil {
			return fmt.Errorf("linking the plugins: %w", err)
		}
	}
	return nil
}

// addresses is where the parts of drover dev are.
type addresses struct{ api, gateway, nomad string }

// write writes the addresses as lines that a shell can read. A file appears
// whole; a named pipe is written to once someone reads it.
func (w addresses) write(name string) error {
	text := fmt.Sprintf("DROVER_ADDR=%s\nDROVER_GATEWAY=%s\nNOMAD_ADDR=%s\n", w.api, w.gateway, w.nomad)
	info, err := os.Stat(name)
	if err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return fmt.Errorf("telling that all is up: %w", err)
		}
		return nil
	}
	tmp := name + ".tmp"
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, name)); err != nil {
		return fmt.Errorf("telling that all is up: %w", err)
	}
	return nil
}

// devIsUp says where everything is.
func (a *app) devIsUp(w addresses, opts devOptions) {
	gpus := "no GPUs (try -gpus dgx-h100:2)"
	if len(opts.gpus) > 0 {
		gpus = "simulated GPUs: " + strings.Join(opts.gpus, ", ")
	}
	a.screen.Printf("Drover is up, for trying out and development.\n\n")
	a.screen.Fields(
		"Drover API", w.api,
		"API docs", w.api+"/docs",
		"Gateway", w.gateway,
		"Nomad API", w.nomad+"  (devcluster: one process that stands in for Nomad)",
		"Nodes", gpus,
		"State", opts.dataDir,
	)
	a.screen.Printf("\nIn another terminal: drover run examples/digits/pipeline.hcl\nCtrl-C stops.\n")
}
