package health_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// TestCatalogue sends every code of the catalogue to a board of its own, and
// looks at what comes of it.
func TestCatalogue(t *testing.T) {
	classes := []health.Class{
		health.Application, health.Driver, health.Hardware, health.Memory, health.Link, health.Bus, health.Firmware,
		health.Thermal, health.Power, health.Display, health.Notice, health.Unused,
	}
	all := health.Catalogue()
	if len(all) != 172 {
		t.Errorf("the catalogue has %d codes, and NVIDIA published 172", len(all))
	}
	names := map[string]int{}
	for i, x := range all {
		if x.Code != i+1 {
			t.Fatalf("code %d is at place %d", x.Code, i)
		}
		if other, ok := names[x.Name]; ok || x.Name == "" {
			t.Errorf("codes %d and %d are both named %q", other, x.Code, x.Name)
		}
		names[x.Name] = x.Code
		if x.Meaning == "" || !slices.Contains(classes, x.Class) || x.Resolution == "" {
			t.Errorf("%+v is incomplete", x)
		}
		t.Run(fmt.Sprint(x.Code), func(t *testing.T) {
			n := newNode(t, 4, quick())
			n.event(gpu.Event{Board: id(0), XID: x.Code, PID: 42})
			d := n.device(id(0))
			if len(d.XIDs) != 1 || d.XIDs[0].Code != x.Code || d.XIDs[0].Count != 1 {
				t.Errorf("recorded %+v", d.XIDs)
			}
			f, condemned := n.tracker.Faults()[id(0)]
			if want := x.Default.Severity == health.Unhealthy; condemned != want {
				t.Fatalf("%s has verdict %+v, and the fault is %q", x, x.Default, f.Reason)
			}
			if condemned && (f.Action != x.Default.Action || !strings.HasPrefix(f.Reason, x.String()) || !strings.Contains(f.Reason, "process 42")) {
				t.Errorf("fault %+v", f)
			}
			if degraded := len(d.Conditions) == 1 && d.Conditions[0].Severity == health.Degraded; degraded != (x.Default.Severity == health.Degraded) {
				t.Errorf("%s has verdict %+v, and the conditions are %+v", x, x.Default, d.Conditions)
			}
			switch x.Class {
			case health.Application, health.Notice, health.Unused:
				if condemned {
					t.Errorf("a code of class %s condemns", x.Class)
				}
			}
			if x.Resolution == health.RestartApp && condemned {
				t.Error("a code after which a restart of the program is enough condemns")
			}
		})
	}
}

// TestCatalogueDefaults is the table of codes that operators argue about.
func TestCatalogueDefaults(t *testing.T) {
	tests := map[int]struct {
		severity health.Severity
		action   gpustatus.Action
	}{
		13: {health.Record, ""}, 31: {health.Record, ""}, 43: {health.Record, ""}, 45: {health.Record, ""},
		48: {health.Unhealthy, gpustatus.Move}, 61: {health.Unhealthy, gpustatus.Move}, 62: {health.Unhealthy, gpustatus.Move},
		63: {health.Unhealthy, gpustatus.Keep}, 64: {health.Unhealthy, gpustatus.Move}, 68: {health.Record, ""}, 69: {health.Record, ""},
		74: {health.Unhealthy, gpustatus.Keep}, 79: {health.Unhealthy, gpustatus.End}, 92: {health.Unhealthy, gpustatus.Keep},
		94: {health.Record, ""}, 95: {health.Unhealthy, gpustatus.End}, 109: {health.Unhealthy, gpustatus.Move},
		119: {health.Unhealthy, gpustatus.Move}, 120: {health.Unhealthy, gpustatus.Move}, 154: {health.Record, ""},
		0: {health.Degraded, ""}, 173: {health.Degraded, ""}, 9999: {health.Degraded, ""}, // unknown
	}
	for code, want := range tests {
		x, known := health.LookupXID(code)
		if x.Default.Severity != want.severity || x.Default.Action != want.action || x.Code != code {
			t.Errorf("Xid %d: %+v, want %+v", code, x, want)
		}
		if known != (code >= 1 && code <= 172) {
			t.Errorf("Xid %d: known is %v", code, known)
		}
	}
}

func TestOverrides(t *testing.T) {
	tests := []struct {
		name   string
		change func(*health.Config)
		code   int
		want   gpustatus.Action // "" leaves it in service
	}{
		{"a code is made worse", func(c *health.Config) {
			c.XID = map[string]health.Override{"69": {Severity: "unhealthy", Action: "end"}}
		}, 69, gpustatus.End},
		{"without an action it moves", func(c *health.Config) { c.XID = map[string]health.Override{"68": {Severity: "unhealthy"}} }, 68, gpustatus.Move},
		{"without an action it is the code's", func(c *health.Config) { c.XID = map[string]health.Override{"79": {Severity: "unhealthy"}} }, 79, gpustatus.End},
		{"a code is made milder", func(c *health.Config) { c.XID = map[string]health.Override{"109": {Severity: "record"}} }, 109, ""},
		{"only shown", func(c *health.Config) { c.XID = map[string]health.Override{"109": {Severity: "degraded"}} }, 109, ""},
		{"another code is not touched", func(c *health.Config) { c.XID = map[string]health.Override{"109": {Severity: "record"}} }, 48, gpustatus.Move},
		{"unknown codes", func(c *health.Config) {
			c.XID = map[string]health.Override{"unknown": {Severity: "unhealthy", Action: "keep"}}
		}, 777, gpustatus.Keep},
		{"unknown codes leave known ones", func(c *health.Config) { c.XID = map[string]health.Override{"unknown": {Severity: "unhealthy"}} }, 13, ""},
		{"one that the catalogue lacks", func(c *health.Config) {
			c.XID = map[string]health.Override{"unknown": {Severity: "record"}, "777": {Severity: "unhealthy"}}
		}, 777, gpustatus.Move},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := quick()
			tt.change(&c)
			n := newNode(t, 4, c)
			n.xid(0, tt.code)
			if got := n.fault(id(0)); got.Action != tt.want {
				t.Errorf("fault %+v, want action %q", got, tt.want)
			}
		})
	}
}

func TestConfigRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*health.Config)
		want   string
	}{
		{"severity", func(c *health.Config) { c.XID = map[string]health.Override{"79": {Severity: "fatal"}} },
			`health.xid["79"]: severity is "fatal"; use one of ["record" "degraded" "unhealthy"]`},
		{"action", func(c *health.Config) {
			c.XID = map[string]health.Override{"79": {Severity: "unhealthy", Action: "stop"}}
		},
			`health.xid["79"]: action is "stop"; use one of ["keep" "move" "end"]`},
		{"action without effect", func(c *health.Config) { c.XID = map[string]health.Override{"13": {Severity: "record", Action: "end"}} },
			`health.xid["13"]: action is "end", but a device that is not unhealthy has none`},
		{"code", func(c *health.Config) { c.XID = map[string]health.Override{"x79": {Severity: "record"}} },
			`health.xid["x79"]: the label must be an Xid code from 1 to 65536, or "unknown"`},
		{"code twice", func(c *health.Config) {
			c.XID = map[string]health.Override{"79": {Severity: "record"}, "079": {Severity: "degraded"}}
		}, `the code is overridden twice`},
		{"signal", func(c *health.Config) { c.Signal = map[string]health.Override{"heat": {Severity: "record"}} },
			`health.signal["heat"]: there is no such signal; use one of ["lost"`},
		{"a lost board", func(c *health.Config) { c.Signal = map[string]health.Override{"lost": {Severity: "record"}} },
			`health.signal["lost"].severity is "record"; a lost GPU is always "unhealthy"`},
		{"period", func(c *health.Config) { c.VitalsPeriod = 0 }, "health.vitals_period is 0s; it must be 100ms to 720h0m0s"},
		{"share", func(c *health.Config) { c.BreakerShare = 1.5 }, "health.breaker_share is 1.5; it must be above 0 and at most 1"},
		{"attempts", func(c *health.Config) { c.MaxAttempts = 0 }, "health.max_attempts is 0; it must be 1 to 1000"},
		{"hold-down", func(c *health.Config) { c.HoldDown = 4 * time.Hour }, "health.max_hold_down is 1h0m0s; it must be 4h0m0s to 720h0m0s"},
		{"rate", func(c *health.Config) { c.PCIeReplaysPerMinute = -1 }, "health.pcie_replays_per_minute is -1; it must be at least 1"},
		{"command", func(c *health.Config) { c.ValidateCommand = []string{""} }, "health.validate_command[0] is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := health.DefaultConfig()
			tt.change(&c)
			err := c.Check()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
			if _, err := health.NewTracker(c, ""); err == nil {
				t.Error("a tracker takes it")
			}
		})
	}
	if err := health.DefaultConfig().Check(); err != nil {
		t.Error(err)
	}
	if err := (health.Config{}).Check(); err == nil || strings.Count(err.Error(), "\n") < 5 {
		t.Errorf("an empty configuration has several problems, not: %v", err)
	}
}
