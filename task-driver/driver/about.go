package driver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/stage"
)

// Settings is the `config` block of the plugin in an agent's configuration.
type Settings struct {
	Enabled bool `codec:"enabled"`
	// Store is the artefact store of tasks that name none, "" for none.
	Store string `codec:"store"`
	// StateDir holds the state of tasks while they run, CacheDir what they
	// have read. CacheDir is below StateDir by default.
	StateDir string `codec:"state_dir"`
	CacheDir string `codec:"cache_dir"`
	// CacheMaxGiB bounds the cache; 0 is as much as there is space for.
	CacheMaxGiB int64 `codec:"cache_max_gib"`
	// LogFile gets the driver's log, too: after a crash of the agent nobody
	// reads the other one.
	LogFile string `codec:"log_file"`
	// Cgroups is "auto", or "off" for tasks without limits.
	Cgroups string `codec:"cgroups"`
}

func defaultSettings() Settings {
	return Settings{Enabled: true, StateDir: defaultStateDir(), Cgroups: "auto"}
}

func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/nomad-driver-ml"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "nomad-driver-ml")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("nomad-driver-ml-%d", os.Geteuid()))
}

// complete fills in what follows from other settings, and checks the rest. It
// looks at no file, for an agent does not start if this fails.
func (s *Settings) complete() error {
	if s.CacheDir == "" {
		s.CacheDir = filepath.Join(s.StateDir, "cache")
	}
	var errs []error
	for name, dir := range map[string]string{"state_dir": s.StateDir, "cache_dir": s.CacheDir, "log_file": s.LogFile} {
		if dir != "" && !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("%s: %q is not an absolute path", name, dir))
		}
	}
	if s.Store != "" {
		if u, err := url.Parse(s.Store); err != nil || u.Scheme == "" {
			errs = append(errs, fmt.Errorf("store: %q is not a URL such as file:///srv/artifacts", s.Store))
		}
	}
	if s.CacheMaxGiB < 0 || s.CacheMaxGiB > 1<<30 {
		errs = append(errs, fmt.Errorf("cache_max_gib: %d is not between 0 and %d", s.CacheMaxGiB, 1<<30))
	}
	if s.Cgroups != "auto" && s.Cgroups != "off" {
		errs = append(errs, fmt.Errorf(`cgroups: %q is neither "auto" nor "off"`, s.Cgroups))
	}
	return errors.Join(errs...)
}

// Info implements base.Plugin.
func (d *Driver) Info() base.Info {
	return base.Info{Type: base.TypeDriver, Name: mltask.DriverName, Version: d.version}
}

// ConfigSchema implements base.Plugin.
func (d *Driver) ConfigSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{
		"enabled":       schema.Default(schema.Attr("enabled", "bool", false), "true"),
		"store":         schema.Attr("store", "string", false),
		"state_dir":     schema.Attr("state_dir", "string", false),
		"cache_dir":     schema.Attr("cache_dir", "string", false),
		"cache_max_gib": schema.Default(schema.Attr("cache_max_gib", "number", false), "0"),
		"log_file":      schema.Attr("log_file", "string", false),
		"cgroups":       schema.Default(schema.Attr("cgroups", "string", false), `"auto"`),
	})
}

// TaskSchema implements driver.Plugin: mltask.Config, as job files write it.
func (d *Driver) TaskSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{
		"command":  schema.Attr("command", "string", true),
		"args":     schema.Attr("args", "list(string)", false),
		"work_dir": schema.Attr("work_dir", "string", false),
		"store":    schema.Attr("store", "string", false),
		"code":     schema.Attr("code", "string", false),
		"input": schema.BlockList("input", 0, 0, schema.Object(map[string]*schema.Spec{
			"name":   schema.Attr("name", "string", true),
			"source": schema.Attr("source", "string", true),
			"sha256": schema.Attr("sha256", "string", false),
		})),
		"output": schema.BlockList("output", 0, 0, schema.Object(map[string]*schema.Spec{
			"name":     schema.Attr("name", "string", true),
			"optional": schema.Default(schema.Attr("optional", "bool", false), "false"),
		})),
		"params": schema.Attr("params", "string", false),
		"checkpoint": schema.BlockList("checkpoint", 0, 1, schema.Object(map[string]*schema.Spec{
			"key":  schema.Attr("key", "string", false),
			"keep": schema.Default(schema.Attr("keep", "number", false), fmt.Sprint(defaultKeep)),
		})),
		"gang": schema.BlockList("gang", 0, 1, schema.Object(map[string]*schema.Spec{
			"key":     schema.Attr("key", "string", true),
			"rank":    schema.Attr("rank", "number", true),
			"size":    schema.Attr("size", "number", true),
			"timeout": schema.Attr("timeout", "string", false),
		})),
		"run":           schema.Attr("run", "string", false),
		"step":          schema.Attr("step", "string", false),
		"attempt":       schema.Attr("attempt", "number", false),
		"seed":          schema.Attr("seed", "number", false),
		"result_key":    schema.Attr("result_key", "string", false),
		"stall_timeout": schema.Attr("stall_timeout", "string", false),
	})
}

const defaultKeep = 3

// Capabilities implements driver.Plugin. Tasks see the host's files, so the
// driver shows them no volumes at other places.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		SendSignals:  true,
		Exec:         true,
		FSIsolation:  driver.FSIsolationNone,
		NetworkModes: []driver.NetworkMode{driver.NetworkHost, driver.NetworkGroup},
		NoMounts:     true,
	}
}

// fingerprintInterval is how often health is looked at again.
const fingerprintInterval = 30 * time.Second

// Fingerprint implements driver.Plugin.
func (d *Driver) Fingerprint(ctx context.Context, publish func(driver.Fingerprint) error) error {
	tick := time.NewTicker(fingerprintInterval)
	defer tick.Stop()
	var last string
	for {
		f := d.fingerprint()
		if now := fmt.Sprint(f); now != last {
			if err := publish(f); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (d *Driver) fingerprint() driver.Fingerprint {
	s := d.current()
	if !s.Enabled {
		return driver.Fingerprint{Health: driver.HealthUndetected, Description: "disabled in the plugin's config"}
	}
	host := d.host(s)
	attrs := map[string]base.Attribute{
		"driver.ml":         base.Bool(true),
		"driver.ml.version": base.String(d.version),
		"driver.ml.cgroups": base.String(cgroupsText(host)),
	}
	if s.Store != "" {
		attrs["driver.ml.store"] = base.String(s.Store)
	}
	f := driver.Fingerprint{Attributes: attrs, Health: driver.HealthHealthy, Description: "Healthy"}
	if host.Version == 0 {
		f.Description = "Healthy, but tasks have no memory and CPU limits: " + host.Reason
	}
	if err := s.check(); err != nil {
		f.Health, f.Description = driver.HealthUnhealthy, strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return f
}

// stores are the artifact stores that were used with these settings.
func stores(s Settings) stage.Stores { return stage.Stores(filepath.Join(s.StateDir, "stores")) }

// check looks at what every task needs.
func (s Settings) check() error {
	errs := []error{process.CheckKernel(), os.MkdirAll(s.StateDir, 0o700)}
	if s.Store != "" {
		errs = append(errs, stores(s).Check(s.Store))
	}
	return errors.Join(errs...)
}

func cgroupsText(h cgroup.Host) string {
	if h.Version == 0 {
		return "none"
	}
	return fmt.Sprintf("v%d (%s)", h.Version, strings.Join(h.Controllers(), ","))
}

// host is what of control groups the driver is to use.
func (d *Driver) host(s Settings) cgroup.Host {
	if s.Cgroups == "off" {
		return cgroup.Host{Reason: "switched off in the plugin's config"}
	}
	return cgroup.Detect()
}
