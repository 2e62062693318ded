package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/device-plugin/simulated"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Config is the `config` block of the agent's `plugin` block. The first three
// keys are those of HashiCorp's nomad-device-nvidia.
type Config struct {
	Enabled           bool          `codec:"enabled"`
	IgnoredGPUIDs     []string      `codec:"ignored_gpu_ids"`
	FingerprintPeriod time.Duration `codec:"fingerprint_period"`
	// Include and Exclude choose the devices on offer; see gpu.NewFilter.
	Include []string `codec:"include"`
	Exclude []string `codec:"exclude"`
	// MIGStrategy is a gpu.Strategy.
	MIGStrategy string `codec:"mig_strategy"`
	// Simulate is a preset or a board file; "" is the real machine.
	Simulate string `codec:"simulate"`
	// SimulateNode tells simulated nodes apart; "" is the board file's node,
	// or the host name.
	SimulateNode string `codec:"simulate_node"`
	// SimulateFaults is a fault file.
	SimulateFaults string `codec:"simulate_faults"`
	// Sharing are the devices that several tasks share.
	Sharing []sharing.Block `codec:"sharing"`
	// Health are the rules of what is healthy.
	Health health.Config `codec:"health"`
	// MetricsAddress is where Prometheus is answered; "" is nowhere.
	MetricsAddress string `codec:"metrics_address"`
	// StateDir is where the plugin keeps what must survive its restart, and
	// what tasks read of it.
	StateDir string `codec:"state_dir"`
	// CDISpecDir is the folder for a file of CDI devices; "" writes none.
	CDISpecDir string `codec:"cdi_spec_dir"`
}

const defaultStateDir = "/var/lib/nomad-device-gpu"

// minPeriod keeps a mistyped period from polling a driver all the time.
const minPeriod = 100 * time.Millisecond

func defaultConfig() Config {
	return Config{Enabled: true, FingerprintPeriod: time.Minute, MIGStrategy: string(gpu.Mixed), Health: health.DefaultConfig(), StateDir: defaultStateDir}
}

func configSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{
		"enabled":            schema.Default(schema.Attr("enabled", "bool", false), `true`),
		"ignored_gpu_ids":    schema.Default(schema.Attr("ignored_gpu_ids", "list(string)", false), `[]`),
		"fingerprint_period": schema.Default(schema.Attr("fingerprint_period", "string", false), `"1m"`),
		"include":            schema.Default(schema.Attr("include", "list(string)", false), `[]`),
		"exclude":            schema.Default(schema.Attr("exclude", "list(string)", false), `[]`),
		"mig_strategy":       schema.Default(schema.Attr("mig_strategy", "string", false), `"mixed"`),
		"sharing":            sharing.Schema(),
		"health":             health.Spec(),
		"metrics_address":    schema.Attr("metrics_address", "string", false),
		"simulate":           schema.Attr("simulate", "string", false),
		"simulate_node":      schema.Attr("simulate_node", "string", false),
		"simulate_faults":    schema.Attr("simulate_faults", "string", false),
		"cdi_spec_dir":       schema.Attr("cdi_spec_dir", "string", false),
		"state_dir":          schema.Default(schema.Attr("state_dir", "string", false), strconv.Quote(defaultStateDir)),
	})
}

// settings is a configuration that was checked.
type settings struct {
	enabled bool
	policy  gpu.Policy
	sharing sharing.Plan
	health  health.Config
	period  time.Duration
	machine *simulated.Machine // nil is the real one
	faults  string
	// Absolute paths; cdiDir may be "".
	stateDir, cdiDir string
	metricsAddress   string // "" is off
}

// nodeName is the name that simulated nodes are told apart by; "" is the
// host's.
func (s settings) nodeName() string {
	if s.machine == nil {
		return ""
	}
	return s.machine.Node
}

var strategies = []gpu.Strategy{gpu.Mixed, gpu.Single, gpu.None}

// check turns a configuration into settings, or tells every problem of it. It
// touches no GPU and no driver.
func (c Config) check() (settings, error) {
	s := settings{
		enabled: c.Enabled, period: c.FingerprintPeriod, faults: c.SimulateFaults, health: c.Health,
		stateDir: c.StateDir, cdiDir: c.CDISpecDir, metricsAddress: c.MetricsAddress,
	}
	var problems []error
	if c.FingerprintPeriod < minPeriod {
		problems = append(problems, fmt.Errorf("fingerprint_period is %s; it must be at least %s", c.FingerprintPeriod, minPeriod))
	}
	if !filepath.IsAbs(c.StateDir) {
		problems = append(problems, fmt.Errorf("state_dir is %q; it must be an absolute path", c.StateDir))
	}
	if c.CDISpecDir != "" && !filepath.IsAbs(c.CDISpecDir) {
		problems = append(problems, fmt.Errorf("cdi_spec_dir is %q; it must be an absolute path", c.CDISpecDir))
	}
	var err error
	if s.policy.Filter, err = gpu.NewFilter(c.Include, c.Exclude, c.IgnoredGPUIDs); err != nil {
		problems = append(problems, err)
	}
	s.policy.Strategy = gpu.Strategy(c.MIGStrategy)
	if !slices.Contains(strategies, s.policy.Strategy) {
		problems = append(problems, fmt.Errorf("mig_strategy is %q; use one of %q", c.MIGStrategy, strategies))
	}
	if s.sharing, err = sharing.NewPlan(c.Sharing, c.Simulate != ""); err != nil {
		problems = append(problems, err)
	}
	s.policy.Share = s.sharing.Share
	if err := c.Health.Check(); err != nil {
		problems = append(problems, err)
	}
	if c.MetricsAddress != "" {
		if _, port, err := net.SplitHostPort(c.MetricsAddress); err != nil || port == "" {
			problems = append(problems, fmt.Errorf("metrics_address is %q; write host and port as in \"127.0.0.1:9445\"", c.MetricsAddress))
		}
	}
	switch {
	case c.Simulate != "":
		m, err := simulate(c.Simulate, c.SimulateNode)
		if err != nil {
			problems = append(problems, fmt.Errorf("simulate: %w", err))
		}
		s.machine = &m
		if _, err := simulated.ReadScript(c.SimulateFaults); c.SimulateFaults != "" && err != nil {
			problems = append(problems, fmt.Errorf("simulate_faults: %w", err))
		}
	case c.SimulateNode != "" || c.SimulateFaults != "":
		problems = append(problems, errors.New("simulate_node and simulate_faults need simulate"))
	}
	return s, errors.Join(problems...)
}

// simulate makes the simulated machine of a node.
func simulate(spec, node string) (simulated.Machine, error) {
	m, err := simulated.Load(spec)
	if err != nil {
		return m, err
	}
	if node != "" {
		m.Node = node
	}
	if m.Node == "" {
		if m.Node, err = os.Hostname(); err != nil {
			return m, fmt.Errorf("naming the simulated node (set simulate_node): %w", err)
		}
	}
	return m, nil
}
