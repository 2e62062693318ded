package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/server"
)

// logFlags are those of the commands that go on and log.
type logFlags struct {
	level string
	json  bool
}

func (l *logFlags) flags(cmd *cobra.Command, level string) {
	cmd.Flags().StringVar(&l.level, "log-level", level, "Least `LEVEL` that is logged: debug, info, warn or error")
	cmd.Flags().BoolVar(&l.json, "log-json", false, "Log JSON lines")
	mustComplete(cmd, "log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, noFiles))
}

// logger writes to standard error.
func (a *app) logger(l logFlags) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("-log-level %q: debug, info, warn and error are known", l.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if l.json {
		return slog.New(slog.NewJSONHandler(a.Err, opts)), nil
	}
	return slog.New(slog.NewTextHandler(a.Err, opts)), nil
}

// nomadFlags say which cluster, and where in it jobs go.
type nomadFlags struct {
	address, namespace, region, nodePool string
	datacenters                          string
}

func (n *nomadFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&n.address, "nomad-addr", "", "`URL` of Nomad. Default: NOMAD_ADDR, else http://127.0.0.1:4646")
	flags.StringVar(&n.namespace, "nomad-namespace", "", "Nomad `NAMESPACE` of the jobs. Default: NOMAD_NAMESPACE, else \"default\"")
	flags.StringVar(&n.region, "nomad-region", "", "Nomad `REGION` of the jobs. Default: NOMAD_REGION, else the agent's")
}

// placement adds where jobs go.
func (n *nomadFlags) placement(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.datacenters, "datacenters", "", "`NAMES` of the datacenters that jobs may go to, with commas. Default: all")
	cmd.Flags().StringVar(&n.nodePool, "node-pool", "", "`NAME` of the node pool that jobs go to. Default: \"default\"")
}

// config is how to reach Nomad. Token and TLS settings come from Nomad's own
// variables, NOMAD_TOKEN, NOMAD_CACERT and so on.
func (n *nomadFlags) config() *nomad.Config {
	cfg := nomad.DefaultConfig()
	cfg.Address = first(n.address, cfg.Address)
	cfg.Namespace = first(n.namespace, cfg.Namespace)
	cfg.Region = first(n.region, cfg.Region)
	return cfg
}

func (n *nomadFlags) jobs() jobspec.Cluster {
	cfg := n.config()
	c := jobspec.Cluster{Namespace: cfg.Namespace, Region: cfg.Region, NodePool: n.nodePool}
	if n.datacenters != "" {
		c.Datacenters = strings.Split(n.datacenters, ",")
	}
	return c
}

func (a *app) serverCmd() *cobra.Command {
	var opts struct {
		cfg       server.Config
		tokenFile string
		nomad     nomadFlags
		log       logFlags
	}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the server against a Nomad cluster",
		Long: `Run the server, and the gateway unless told otherwise, against a Nomad cluster.

The cluster's nodes need the ml driver plugin and must be able to reach the
artefact store. The state is kept in the data folder: when the server stops or
dies, tasks go on, and the next start takes them up. SIGINT and SIGTERM stop it.`,
		Example: "  NOMAD_ADDR=https://nomad.example:4646 drover server -data-dir /var/lib/drover \\\n    -listen 0.0.0.0:4680 -token-file /etc/drover/tokens -store file:///mnt/shared/drover",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.cfg.DataDir == "" {
				return usagef("drover server needs -data-dir FOLDER for its state")
			}
			log, err := a.logger(opts.log)
			if err != nil {
				return err
			}
			cfg := opts.cfg
			cfg.Logger, cfg.Nomad, cfg.Jobs = log, opts.nomad.config(), opts.nomad.jobs()
			if opts.tokenFile != "" {
				if cfg.Tokens, err = api.ReadTokens(opts.tokenFile); err != nil {
					return err
				}
			}
			lock, err := server.LockDir(cfg.DataDir)
			if err != nil {
				return err
			}
			defer lock.Unlock() // so does the process's end
			s, err := server.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			log.Info("server is up", "api", s.Addr(), "gateway", s.GatewayAddr(), "nomad", cfg.Nomad.Address)
			return a.untilEnd(cmd.Context(), s)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.cfg.DataDir, "data-dir", "", "`FOLDER` for the state (required)")
	flags.StringVar(&opts.cfg.Listen, "listen", server.DefaultListen, "`HOST:PORT` of the API")
	flags.StringVar(&opts.cfg.GatewayListen, "gateway-listen", server.DefaultGatewayListen, "`HOST:PORT` of the gateway, \"\" for none in here")
	flags.StringVar(&opts.cfg.GatewayURL, "gateway-url", "", "`URL` at which clients find a gateway that is not in here")
	flags.StringVar(&opts.cfg.StoreURL, "store", "", "`URL` of the artefact store, file:///absolute/path. Default: a folder in the data folder")
	flags.StringVar(&opts.tokenFile, "token-file", "", "`FILE` with the tokens to accept; drover token makes its lines")
	opts.nomad.flags(cmd)
	opts.nomad.placement(cmd)
	opts.log.flags(cmd, "info")
	return cmd
}

// untilEnd waits for a server to end by itself, or stops it when ctx ends.
func (a *app) untilEnd(ctx context.Context, s *server.Server) error {
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		if err == nil && ctx.Err() == nil {
			return fmt.Errorf("the server has ended by itself")
		}
		return joinStop(err, s)
	case <-ctx.Done():
		return s.Stop()
	}
}

func joinStop(err error, s *server.Server) error {
	if stopErr := s.Stop(); err == nil {
		return stopErr
	}
	return err
}

func (a *app) gatewayCmd() *cobra.Command {
	var opts struct {
		cfg   server.GatewayConfig
		nomad nomadFlags
		log   logFlags
	}
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Run a gateway on its own",
		Long: `Run a gateway on its own. It finds endpoints through Nomad's services and needs
nothing else, so predictions go on while the server is down. Any number may run.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logger(opts.log)
			if err != nil {
				return err
			}
			opts.cfg.Logger, opts.cfg.Nomad = log, opts.nomad.config()
			return server.RunGateway(cmd.Context(), opts.cfg, func(url string) {
				log.Info("gateway is up", "url", url, "nomad", opts.cfg.Nomad.Address)
			})
		},
	}
	cmd.Flags().StringVar(&opts.cfg.Listen, "listen", server.DefaultGatewayListen, "`HOST:PORT` to listen on")
	cmd.Flags().StringVar(&opts.cfg.MetricsListen, "metrics-listen", "", "`HOST:PORT` of /metrics. Default: nowhere")
	opts.nomad.flags(cmd)
	opts.log.flags(cmd, "info")
	return cmd
}

func (a *app) tokenCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for a server that has a token file",
		Long: `Make a token, print it once, and print the line for the server's token file to
standard error, or append it with -token-file. The file has only a hash of it.`,
		Example: "  drover token alice -token-file /etc/drover/tokens",
		Args:    exactArgs("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			secret, line, err := api.NewToken(args[0])
			if err != nil {
				return usagef("%s", err)
			}
			if file == "" {
				fmt.Fprintf(a.Err, "Add this line to the server's token file:\n%s\n", line)
			} else if err := appendLine(file, line); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, secret)
			return err
		},
	}
	cmd.Flags().StringVar(&file, "token-file", "", "`FILE` with the tokens to accept; drover token makes its lines")
	return cmd
}

func appendLine(name, line string) error {
	f, err := os.OpenFile(filepath.Clean(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("adding to the token file: %w", err)
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		f.Close()
		return fmt.Errorf("adding to the token file: %w", err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return fmt.Errorf("adding to the token file: %w", err)
	}
	return f.Close()
}
