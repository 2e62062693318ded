package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

func driverChecks() []check {
	cs := []check{
		{name: "driver/task-schema", run: checkTaskSchema,
			why: "a driver without a valid schema cannot run any task"},
		{name: "driver/capabilities", run: checkCapabilities,
			why: "an agent reads them before each task"},
		{name: "driver/init-and-shutdown", run: checkInit,
			why: "agents from 2.0.4 on call both; older plugins answer Unimplemented"},
		{name: "driver/fingerprint-at-once", run: checkDriverFingerprint,
			why: "an agent's start waits up to 50 seconds for the first fingerprint"},
		{name: "driver/fingerprint-stays-open", run: checkDriverFingerprintOpen,
			why: "an agent reopens an ended stream at once, thousands of times a second"},
		{name: "driver/attribute-names", run: checkAttributeNames, advice: true,
			why: "attributes become node attributes as they are; without the driver's name they collide with others"},
		{name: "driver/events-stay-open", run: checkEventsOpen,
			why: "an agent reopens an ended stream at once, thousands of times a second; not implementing it is worse"},
		{name: "driver/stop-unknown", run: checkStopUnknown,
			why: "an agent does not recognise a not-found error from a plugin and tries again, for minutes"},
		{name: "driver/destroy-unknown", run: checkDestroyUnknown,
			why: "after a failed recovery an agent destroys tasks that the driver never heard of"},
		{name: "driver/unknown-task", run: checkUnknownTask,
			why: "a call for a task that is not there must be an error, at once: a call that hangs hangs its task"},
		{name: "driver/recover-garbage", run: checkRecoverGarbage,
			why: "a handle that cannot be used must be an error: the agent then starts the task anew"},
		{name: "driver/start-garbage", run: checkStartGarbage,
			why: "a task that cannot be started must be an error that says why"},
	}
	for i := range cs {
		cs[i].typ = base.TypeDriver
	}
	return cs
}

func firstFingerprint(ctx context.Context, p *process) (driver.Fingerprint, error) {
	ctx, cancel := within(ctx, fingerprintLimit)
	defer cancel()
	var first driver.Fingerprint
	err := p.driver.Fingerprint(ctx, func(f driver.Fingerprint) error {
		first = f
		return errEnough
	})
	if err != errEnough {
		return first, fmt.Errorf("waiting for the first fingerprint: %w", err)
	}
	return first, nil
}

func checkTaskSchema(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	spec, err := p.driver.TaskSchema(ctx)
	if err != nil {
		return err
	}
	return spec.Validate()
}

func checkCapabilities(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	c, err := p.driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if c.FSIsolation < driver.FSIsolationNone || c.FSIsolation > driver.FSIsolationUnveil {
		return fmt.Errorf("file system isolation is %d, which no agent knows", c.FSIsolation)
	}
	for _, m := range c.NetworkModes {
		if m < driver.NetworkHost || m > driver.NetworkNone {
			return fmt.Errorf("network mode is %d, which no agent knows", m)
		}
	}
	return nil
}

func checkInit(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if err := p.driver.Init(ctx); err != nil {
		return err
	}
	// Once more: the next agent takes up a driver that outlived this one.
	if err := p.driver.Init(ctx); err != nil {
		return fmt.Errorf("second time: %w", err)
	}
	ctx, cancel := within(ctx, exitTimeout)
	defer cancel()
	return p.driver.Shutdown(ctx)
}

func checkDriverFingerprint(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	f, err := firstFingerprint(ctx, p)
	if err != nil {
		return err
	}
	if f.Health < driver.HealthUndetected || f.Health > driver.HealthHealthy {
		return fmt.Errorf("health is %d, which no agent knows", f.Health)
	}
	return nil
}

func checkDriverFingerprintOpen(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	return hold(ctx, s.cfg.Hold, func(ctx context.Context) error {
		return p.driver.Fingerprint(ctx, func(driver.Fingerprint) error { return nil })
	})
}

func checkAttributeNames(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	f, err := firstFingerprint(ctx, p)
	if err != nil {
		return err
	}
	want := "driver." + s.info.Name
	for name := range f.Attributes {
		if name != want && !strings.HasPrefix(name, want+".") {
			return fmt.Errorf("attribute %q, want %s.<key>", name, want)
		}
	}
	return nil
}

func checkEventsOpen(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	return hold(ctx, s.cfg.Hold, func(ctx context.Context) error {
		return p.driver.TaskEvents(ctx, func(driver.TaskEvent) error { return nil })
	})
}

// unknownID looks like the ID of a task that is not there.
const unknownID = "00000000-0000-0000-0000-000000000000/nobody/00000000"

func checkStopUnknown(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx, s.cfg.Patience)
	defer cancel()
	return p.driver.StopTask(ctx, unknownID, time.Minute, "")
}

func checkDestroyUnknown(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx, s.cfg.Patience)
	defer cancel()
	return errors.Join(p.driver.DestroyTask(ctx, unknownID, true), p.driver.DestroyTask(ctx, unknownID, false))
}

func checkUnknownTask(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	calls := map[string]func(context.Context) error{
		"WaitTask": func(ctx context.Context) error {
			_, err := p.driver.WaitTask(ctx, unknownID)
			return err
		},
		"InspectTask": func(ctx context.Context) error {
			_, err := p.driver.InspectTask(ctx, unknownID)
			return err
		},
		"SignalTask": func(ctx context.Context) error { return p.driver.SignalTask(ctx, unknownID, "SIGHUP") },
		"ExecTask": func(ctx context.Context) error {
			_, err := p.driver.ExecTask(ctx, unknownID, []string{"true"}, time.Second)
			return err
		},
		"ExecTaskStreaming": func(ctx context.Context) error {
			_, err := p.driver.ExecTaskStreaming(ctx, unknownID, driver.ExecStreams{Command: []string{"true"}})
			return err
		},
	}
	var g errgroup.Group
	for name, call := range calls {
		g.Go(func() error {
			callCtx, cancel := within(ctx, s.cfg.Patience)
			defer cancel()
			switch err := call(callCtx); {
			case callCtx.Err() != nil:
				return fmt.Errorf("%s did not answer within %v", name, s.cfg.Patience)
			case err == nil:
				return fmt.Errorf("%s succeeded", name)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// Statistics may stay silent or end with an error, but must not crash.
	statsCtx, cancel := within(ctx, settle)
	defer cancel()
	_ = p.driver.TaskStats(statsCtx, unknownID, time.Second, func(driver.TaskStats) error { return nil })
	return p.alive(ctx, 0)
}

func checkRecoverGarbage(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	task := &driver.TaskConfig{ID: unknownID, Name: "nobody"}
	for name, h := range map[string]*driver.Handle{
		"nil":                   nil,
		"empty":                 {},
		"without configuration": {Version: 1, State: driver.StateRunning, DriverState: []byte("{}")},
		"without driver state":  {Version: 1, State: driver.StateRunning, Config: task},
		"with garbage":          {Version: 1, State: driver.StateRunning, Config: task, DriverState: []byte{0xc1, 0xff}},
		"of the future":         {Version: 1 << 20, State: driver.StateRunning, Config: task, DriverState: []byte("{}")},
	} {
		callCtx, cancel := within(ctx, s.cfg.Patience)
		err := p.driver.RecoverTask(callCtx, h)
		cancel()
		if err == nil {
			return fmt.Errorf("a handle %s was accepted", name)
		}
		if err := p.alive(ctx, 0); err != nil {
			return fmt.Errorf("a handle %s: %w", name, err)
		}
	}
	return nil
}

func checkStartGarbage(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	t, err := s.newTask(ctx, p, "true")
	if err != nil {
		return err
	}
	defer t.close()
	for name, config := range map[string][]byte{"no bytes": nil, "garbage": {0xc1}, "cut off": {0x82, 0xa1}} {
		t.config.DriverConfig = config
		if _, _, err := p.driver.StartTask(ctx, t.config); err == nil {
			_ = p.driver.DestroyTask(ctx, t.config.ID, true)
			return fmt.Errorf("a task with %s for its configuration was started", name)
		}
		if err := p.alive(ctx, 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
