package health

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Config is the `health` block of the plugin's configuration. DefaultConfig
// has the defaults; a zero field is a zero.
type Config struct {
	// VitalsPeriod is how often the vitals are read. 100 ms at least.
	VitalsPeriod time.Duration `codec:"vitals_period"`
	// StallAfter is for how long the vitals may not answer before the
	// devices are unhealthy for that.
	StallAfter time.Duration `codec:"stall_after"`

	// SlowAfter is for how long a board must be slowed down, or another slow
	// signal be seen without a break, before it is condemned; SlowClear is for
	// how long it must have been gone.
	SlowAfter time.Duration `codec:"slow_after"`
	SlowClear time.Duration `codec:"slow_clear"`
	// Quiet is for how long an Xid that no reset is advised for must not
	// happen again before its condition is over.
	Quiet time.Duration `codec:"quiet"`

	// HoldDown is how long a device is still kept out after what condemned it
	// is over. Each attempt to return doubles it, up to MaxHoldDown.
	HoldDown    time.Duration `codec:"hold_down"`
	MaxHoldDown time.Duration `codec:"max_hold_down"`
	// MaxAttempts is how many checks a device gets. One that stays healthy for
	// Settle begins anew.
	MaxAttempts int           `codec:"max_attempts"`
	Settle      time.Duration `codec:"settle"`
	// ValidateCommand is run as a part of each check, with the device in
	// CUDA_VISIBLE_DEVICES; it must exit 0 within ValidateTimeout.
	ValidateCommand []string      `codec:"validate_command"`
	ValidateTimeout time.Duration `codec:"validate_timeout"`

	// BreakerShare is the share of a node's boards that one soft signal may
	// condemn within BreakerWindow; at least one board. 1 turns the circuit
	// breaker off.
	BreakerShare  float64       `codec:"breaker_share"`
	BreakerWindow time.Duration `codec:"breaker_window"`

	// NVLinkErrorsPerMinute and PCIeReplaysPerMinute are rates of a board
	// above which its links are bad; RetiredPages is the number from which on
	// a board is worn out.
	NVLinkErrorsPerMinute int64 `codec:"nvlink_errors_per_minute"`
	PCIeReplaysPerMinute  int64 `codec:"pcie_replays_per_minute"`
	RetiredPages          int64 `codec:"retired_pages"`

	// XID overrides by code ("79"), or for "unknown" codes; Signal by the name
	// of a signal.
	XID    map[string]Override `codec:"xid"`
	Signal map[string]Override `codec:"signal"`
}

// Override replaces the verdict on a signal.
type Override struct {
	Severity string `codec:"severity"` // "record", "degraded" or "unhealthy"
	// Action is "keep", "move" or "end", and allowed with "unhealthy" only; ""
	// is the signal's own, or "move" if that has none.
	Action string `codec:"action"`
}

// DefaultConfig is the configuration of a plugin without a health block.
func DefaultConfig() Config {
	return Config{
		VitalsPeriod: 15 * time.Second, StallAfter: 2 * time.Minute,
		SlowAfter: 5 * time.Minute, SlowClear: 5 * time.Minute, Quiet: 30 * time.Minute,
		HoldDown: 2 * time.Minute, MaxHoldDown: time.Hour, MaxAttempts: 3, Settle: 24 * time.Hour,
		ValidateTimeout: 5 * time.Minute,
		BreakerShare:    0.5, BreakerWindow: 10 * time.Minute,
		NVLinkErrorsPerMinute: 6000, PCIeReplaysPerMinute: 8, RetiredPages: 60,
	}
}

// Spec is the schema of the block, for inclusion in the plugin's.
func Spec() *schema.Spec {
	override := schema.Object(map[string]*schema.Spec{
		"severity": schema.Attr("severity", "string", true),
		"action":   schema.Attr("action", "string", false),
	})
	d := DefaultConfig()
	attr := func(name, kind, expr string) *schema.Spec {
		return schema.Default(schema.Attr(name, kind, false), expr)
	}
	duration := func(name string, v time.Duration) *schema.Spec {
		return attr(name, "string", strconv.Quote(v.String()))
	}
	number := func(name string, v int64) *schema.Spec { return attr(name, "number", strconv.FormatInt(v, 10)) }
	return schema.Block("health", false, schema.Object(map[string]*schema.Spec{
		"vitals_period":            duration("vitals_period", d.VitalsPeriod),
		"stall_after":              duration("stall_after", d.StallAfter),
		"slow_after":               duration("slow_after", d.SlowAfter),
		"slow_clear":               duration("slow_clear", d.SlowClear),
		"quiet":                    duration("quiet", d.Quiet),
		"hold_down":                duration("hold_down", d.HoldDown),
		"max_hold_down":            duration("max_hold_down", d.MaxHoldDown),
		"max_attempts":             number("max_attempts", int64(d.MaxAttempts)),
		"settle":                   duration("settle", d.Settle),
		"validate_command":         attr("validate_command", "list(string)", "[]"),
		"validate_timeout":         duration("validate_timeout", d.ValidateTimeout),
		"breaker_share":            attr("breaker_share", "number", strconv.FormatFloat(d.BreakerShare, 'g', -1, 64)),
		"breaker_window":           duration("breaker_window", d.BreakerWindow),
		"nvlink_errors_per_minute": number("nvlink_errors_per_minute", d.NVLinkErrorsPerMinute),
		"pcie_replays_per_minute":  number("pcie_replays_per_minute", d.PCIeReplaysPerMinute),
		"retired_pages":            number("retired_pages", d.RetiredPages),
		"xid":                      schema.BlockMap("xid", []string{"code"}, override),
		"signal":                   schema.BlockMap("signal", []string{"name"}, override),
	}))
}

// Limits of durations: long enough to mean something, short enough to end.
const (
	minVitalsPeriod = 100 * time.Millisecond
	maxDuration     = 30 * 24 * time.Hour
	maxAttempts     = 1000
	maxCode         = 1 << 16
)

// Check tells every problem of a configuration, each with its path.
func (c Config) Check() error {
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf("health."+format, args...)) }
	between := func(name string, v, least time.Duration) {
		if v < least || v > maxDuration {
			wrong("%s is %s; it must be %s to %s", name, v, least, maxDuration)
		}
	}
	between("vitals_period", c.VitalsPeriod, minVitalsPeriod)
	between("stall_after", c.StallAfter, max(c.VitalsPeriod, time.Second))
	between("slow_after", c.SlowAfter, 0)
	between("slow_clear", c.SlowClear, 0)
	between("quiet", c.Quiet, 0)
	between("hold_down", c.HoldDown, 0)
	between("max_hold_down", c.MaxHoldDown, max(c.HoldDown, 0))
	between("settle", c.Settle, time.Second)
	between("validate_timeout", c.ValidateTimeout, time.Second)
	between("breaker_window", c.BreakerWindow, time.Second)
	if c.MaxAttempts < 1 || c.MaxAttempts > maxAttempts {
		wrong("max_attempts is %d; it must be 1 to %d", c.MaxAttempts, maxAttempts)
	}
	if !(c.BreakerShare > 0 && c.BreakerShare <= 1) { // also not a number
		wrong("breaker_share is %v; it must be above 0 and at most 1", c.BreakerShare)
	}
	for name, v := range map[string]int64{
		"nvlink_errors_per_minute": c.NVLinkErrorsPerMinute, "pcie_replays_per_minute": c.PCIeReplaysPerMinute, "retired_pages": c.RetiredPages,
	} {
		if v < 1 {
			wrong("%s is %d; it must be at least 1", name, v)
		}
	}
	if len(c.ValidateCommand) > 0 && c.ValidateCommand[0] == "" {
		wrong("validate_command[0] is empty; it must be a program")
	}
	if _, err := c.verdicts(); err != nil {
		problems = append(problems, err)
	}
	slices.SortStableFunc(problems, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

// unknownXID is the key of XID for codes that are not in the catalogue.
const unknownXID = "unknown"

// verdicts are the overrides, by signal.
func (c Config) verdicts() (map[Signal]Verdict, error) {
	verdicts := make(map[Signal]Verdict, len(c.XID)+len(c.Signal))
	var problems []error
	add := func(path string, s Signal, base Verdict, o Override) {
		v, err := o.verdict(base)
		if err != nil {
			problems = append(problems, fmt.Errorf("health.%s: %w", path, err))
			return
		}
		if old, ok := verdicts[s]; ok && old != v {
			problems = append(problems, fmt.Errorf("health.%s: the code is overridden twice", path))
			return
		}
		verdicts[s] = v
	}
	for _, key := range slices.Sorted(maps.Keys(c.XID)) {
		path := fmt.Sprintf("xid[%q]", key)
		if key == unknownXID {
			x, _ := LookupXID(0)
			add(path, unknownXID, x.Default, c.XID[key])
			continue
		}
		code, err := strconv.Atoi(key)
		if err != nil || code < 1 || code > maxCode {
			problems = append(problems, fmt.Errorf("health.%s: the label must be an Xid code from 1 to %d, or %q", path, maxCode, unknownXID))
			continue
		}
		x, _ := LookupXID(code)
		add(path, xidSignal(code), x.Default, c.XID[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.Signal)) {
		path := fmt.Sprintf("signal[%q]", key)
		i := slices.IndexFunc(rules, func(r rule) bool { return string(r.signal) == key })
		if i < 0 {
			problems = append(problems, fmt.Errorf("health.%s: there is no such signal; use one of %q", path, Signals()))
			continue
		}
		if rules[i].signal == Lost && c.Signal[key].Severity != string(Unhealthy) {
			problems = append(problems, fmt.Errorf("health.%s.severity is %q; a lost GPU is always %q", path, c.Signal[key].Severity, Unhealthy))
			continue
		}
		add(path, rules[i].signal, rules[i].verdict, c.Signal[key])
	}
	return verdicts, errors.Join(problems...)
}

var (
	severities = []Severity{Record, Degraded, Unhealthy}
	actions    = []gpustatus.Action{gpustatus.Keep, gpustatus.Move, gpustatus.End}
)

func (o Override) verdict(base Verdict) (Verdict, error) {
	v := Verdict{Severity: Severity(o.Severity), Action: gpustatus.Action(o.Action)}
	switch {
	case !slices.Contains(severities, v.Severity):
		return v, fmt.Errorf("severity is %q; use one of %q", o.Severity, severities)
	case v.Severity != Unhealthy && o.Action != "":
		return v, fmt.Errorf("action is %q, but a device that is not unhealthy has none; remove it, or set severity to %q", o.Action, Unhealthy)
	case v.Severity == Unhealthy && v.Action == "":
		v.Action = cmp.Or(base.Action, gpustatus.Move)
	case v.Severity == Unhealthy && !slices.Contains(actions, v.Action):
		return v, fmt.Errorf("action is %q; use one of %q", o.Action, actions)
	}
	return v, nil
}
