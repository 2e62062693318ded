package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/simulated"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Config is the `config` block of the agent's `plugin` block. The first three
// keys are those of HashiCorp's nomad-device-nvidia.
type Config struct {
	Enabled           bool          `codec:"enabled"`
	IgnoredGPUIDs     []string      `codec:"ignored_gpu_ids"`
	FingerprintPeriod time.Duration `codec:"fingerprint_period"`
	// Simulate is a preset or a board file; "" is the real machine.
	Simulate string `codec:"simulate"`
	// SimulateNode tells simulated nodes apart; "" is the board file's node,
	// or the host name.
	SimulateNode string `codec:"simulate_node"`
	// SimulateFaults is a fault file.
	SimulateFaults string `codec:"simulate_faults"`
	// StateDir is where the plugin keeps what must survive its restart, and
	// what tasks read of it.
	StateDir string `codec:"state_dir"`
}

const defaultStateDir = "/var/lib/nomad-device-gpu"

// minPeriod keeps a mistyped period from polling a driver all the time.
const minPeriod = 100 * time.Millisecond

func defaultConfig() Config {
	return Config{Enabled: true, FingerprintPeriod: time.Minute, StateDir: defaultStateDir}
}

func configSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{
		"enabled":            schema.Default(schema.Attr("enabled", "bool", false), `true`),
		"ignored_gpu_ids":    schema.Default(schema.Attr("ignored_gpu_ids", "list(string)", false), `[]`),
		"fingerprint_period": schema.Default(schema.Attr("fingerprint_period", "string", false), `"1m"`),
		"simulate":           schema.Attr("simulate", "string", false),
		"simulate_node":      schema.Attr("simulate_node", "string", false),
		"simulate_faults":    schema.Attr("simulate_faults", "string", false),
		"state_dir":          schema.Default(schema.Attr("state_dir", "string", false), strconv.Quote(defaultStateDir)),
	})
}

// settings is a configuration that was checked.
type settings struct {
	enabled bool
	ignored gpu.IgnoreList
	period  time.Duration
	machine *simulated.Machine // nil is the real one
	faults  string
	// stateDir is an absolute path.
	stateDir string
}

// check turns a configuration into settings, or tells every problem of it. It
// touches no GPU and no driver.
func (c Config) check() (settings, error) {
	s := settings{enabled: c.Enabled, period: c.FingerprintPeriod, faults: c.SimulateFaults, stateDir: c.StateDir}
	var problems []error
	if c.FingerprintPeriod < minPeriod {
		problems = append(problems, fmt.Errorf("fingerprint_period is %s; it must be at least %s", c.FingerprintPeriod, minPeriod))
	}
	if !filepath.IsAbs(c.StateDir) {
		problems = append(problems, fmt.Errorf("state_dir is %q; it must be an absolute path", c.StateDir))
	}
	for i, id := range c.IgnoredGPUIDs {
		if id == "" {
			problems = append(problems, fmt.Errorf("ignored_gpu_ids[%d] is empty; give a UUID as `nomad-device-gpu list` prints it", i))
		}
		s.ignored = append(s.ignored, gpu.ID(id))
	}
	switch {
	case c.Simulate != "":
		m, err := simulate(c.Simulate, c.SimulateNode)
		if err != nil {
			problems = append(problems, fmt.Errorf("simulate: %w", err))
		}
		s.machine = &m
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
