// Package conformance checks a Nomad plugin binary against what Nomad agents
// need of it: every call of its protocol, and every fault that is known to
// crash an agent, make it spin, or lose a task. The plugin may be written with
// any SDK, in any language.
//
// Each check launches the binary as an agent does, in a process of its own,
// and says in its result what is wrong and what an agent makes of it. Checks of
// good practice that no agent depends on are advice: they warn, but do not fail.
//
// Run is for a plugin's own tests; the command nomad-plugin-conformance, below
// this package, for everything else.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
)

// Config says what to check.
type Config struct {
	Path string
	Args []string
	Env  []string // added to this process's own
	// Plugin is the plugin's configuration, as in the config block of an
	// agent's plugin block.
	Plugin map[string]any
	// Task is the config block that makes a driver run a command. In its
	// values "$COMMAND" stands for the program, "$ARGS" for the list of its
	// arguments, and "$ARGV" for both in one list. The checks run /bin/sh.
	// Default: {"command": "$COMMAND", "args": "$ARGS"}.
	Task map[string]any
	// Only limits the checks to those whose names contain one of these.
	Only []string
	// Hold is how long streams that must stay open are watched. Default 1.5 s.
	Hold time.Duration
	// Patience is how long a call may take that has nothing to wait for, and
	// a task to show what it does. Default 5 s.
	Patience time.Duration
	// Timeout bounds each check. Default 30 s.
	Timeout time.Duration
	// StartLimit is how long the plugin may take from its start to its
	// handshake. Agents allow a minute, but launch each plugin three times
	// while they start. Default 2 s.
	StartLimit time.Duration
}

// Status is the outcome of a check.
type Status string

// The outcomes. Only StatusFail fails a run.
const (
	StatusPass Status = "pass"
	StatusWarn Status = "warn"
	StatusFail Status = "fail"
	StatusSkip Status = "skip"
)

// Result is the outcome of one check.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Detail says what is wrong, or why the check was skipped.
	Detail string `json:"detail,omitempty"`
	// Why says what becomes of it; set if the check warned or failed.
	Why      string        `json:"why,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// check is one check. Run returns nil, a skipError, or what is wrong.
type check struct {
	name   string
	why    string
	typ    base.Type // TypeUnknown for every plugin
	advice bool
	run    func(context.Context, *session) error
}

// skipError says why a check does not apply.
type skipError string

func (e skipError) Error() string { return string(e) }

func skipf(format string, args ...any) error { return skipError(fmt.Sprintf(format, args...)) }

// checks are all checks, in the order in which they run.
func checks() []check {
	return slices.Concat(startChecks(), baseChecks(), deviceChecks(), driverChecks(), taskChecks(), execChecks(), recoverChecks())
}

// Check runs all checks that apply and reports each as it ends. It returns an
// error if the plugin cannot be checked at all.
func Check(ctx context.Context, cfg Config, report func(Result)) error {
	s, err := newSession(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.close()
	for _, c := range s.applicable() {
		report(s.runCheck(ctx, c))
	}
	return ctx.Err()
}

// Run runs all checks that apply as subtests of t.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	s, err := newSession(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, c := range s.applicable() {
		t.Run(c.name, func(t *testing.T) {
			switch r := s.runCheck(t.Context(), c); r.Status {
			case StatusFail:
				t.Errorf("%s\nwhy: %s", r.Detail, r.Why)
			case StatusWarn:
				t.Logf("warning: %s\nwhy: %s", r.Detail, r.Why)
			case StatusSkip:
				t.Skip(r.Detail)
			}
		})
	}
}

func (cfg Config) withDefaults() Config {
	if cfg.Hold <= 0 {
		cfg.Hold = 1500 * time.Millisecond
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.StartLimit <= 0 {
		cfg.StartLimit = 2 * time.Second
	}
	if cfg.Task == nil {
		cfg.Task = map[string]any{"command": "$COMMAND", "args": "$ARGS"}
	}
	return cfg
}

func (s *session) applicable() []check {
	return slices.DeleteFunc(checks(), func(c check) bool {
		if c.typ != base.TypeUnknown && c.typ != s.info.Type {
			return true
		}
		return len(s.cfg.Only) > 0 && !slices.ContainsFunc(s.cfg.Only, func(part string) bool {
			return strings.Contains(c.name, part)
		})
	})
}

func (s *session) runCheck(ctx context.Context, c check) Result {
	ctx, cancel := within(ctx, s.cfg.Timeout)
	defer cancel()
	start := time.Now()
	err := c.run(ctx, s)
	s.killAll()
	r := Result{Name: c.name, Status: StatusPass, Duration: time.Since(start)}
	var skip skipError
	switch {
	case err == nil:
		return r
	case errors.As(err, &skip):
		r.Status = StatusSkip
	case c.advice:
		r.Status = StatusWarn
	default:
		r.Status = StatusFail
	}
	r.Detail = err.Error()
	if r.Status != StatusSkip {
		r.Why = c.why
		if ctx.Err() != nil {
			r.Detail += fmt.Sprintf(" (the check's %v ran out)", s.cfg.Timeout)
		}
	}
	return r
}

// session is what the checks of one plugin share.
type session struct {
	cfg  Config
	dir  string // scratch
	info base.Info

	running []*process // of the check at hand
	tasks   int        // counts, for IDs
}

func newSession(ctx context.Context, cfg Config) (*session, error) {
	cfg = cfg.withDefaults()
	dir, err := os.MkdirTemp("", "npc") // short: socket paths are limited
	if err != nil {
		return nil, err
	}
	s := &session{cfg: cfg, dir: dir}
	ctx, cancel := within(ctx, cfg.Timeout)
	defer cancel()
	p, err := s.start(ctx)
	if err == nil {
		s.info, err = p.base.Info(ctx)
	}
	if err == nil && s.info.Type != base.TypeDriver && s.info.Type != base.TypeDevice {
		err = fmt.Errorf("plugin says it is a %s, want a driver or device plugin", s.info.Type)
	}
	s.killAll()
	if err != nil {
		s.close()
		return nil, fmt.Errorf("plugin %s cannot be checked: %w", cfg.Path, err)
	}
	return s, nil
}

func (s *session) close() {
	s.killAll()
	_ = os.RemoveAll(s.dir)
}
