package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

func recoverChecks() []check {
	cs := []check{
		{name: "recover/known", run: checkRecoverKnown,
			why: "an agent that restarted recovers tasks on a driver that outlived it and knows them"},
		{name: "recover/reattach", run: checkReattach,
			why: "a driver outlives an agent that crashes; the next agent connects to it, does not configure it again, and goes on"},
		{name: "recover/after-kill", run: checkRecoverAfterKill,
			why: "a driver that crashed is relaunched and must take up its tasks, which must not die with it"},
		{name: "recover/without-config", run: checkRecoverWithoutConfig,
			why: "after an agent restart the handle comes without the driver's configuration: decoding it fails with EOF, and the task is killed"},
		{name: "recover/after-shutdown", run: checkRecoverAfterShutdown,
			why: "an agent that is stopped for an upgrade ends its plugins; tasks must run on"},
		{name: "recover/ended", run: checkRecoverEnded,
			why: "handles of ended tasks are recovered as well; the task must not be started again"},
		{name: "recover/exit-status", run: checkRecoverExit, advice: true,
			why: "a task that ended while no driver ran counts as failed and runs again, unless something has kept its exit status"},
		{name: "recover/stop", run: checkRecoverStop,
			why: "a recovered task must be stopped like any other"},
		{name: "recover/output-released", run: checkOutputReleased,
			why: "an agent takes a dead driver for alive while a task holds the driver's stdout or stderr"},
	}
	for i := range cs {
		cs[i].typ = base.TypeDriver
	}
	return cs
}

// takeUp starts another process of the plugin and recovers a task on it.
func (s *session) takeUp(ctx context.Context, h *driver.Handle) (*process, error) {
	p, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	recoverCtx, cancel := within(ctx, s.cfg.Patience)
	defer cancel()
	return p, p.driver.RecoverTask(recoverCtx, h)
}

// stored is the handle as an agent's state has it: without the driver's
// configuration.
func stored(h *driver.Handle) *driver.Handle {
	config := *h.Config
	config.DriverConfig = nil
	return &driver.Handle{Version: h.Version, Config: &config, State: h.State, DriverState: h.DriverState}
}

func checkRecoverKnown(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	defer t.end(p)
	for i := range 2 {
		if err := p.driver.RecoverTask(ctx, stored(t.handle)); err != nil {
			return fmt.Errorf("RecoverTask number %d: %w", i+1, err)
		}
	}
	return stillRuns(ctx, p, t.id())
}

func checkReattach(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	defer t.end(p)
	if _, err := firstFingerprint(ctx, p); err != nil {
		return err
	}
	// The agent crashes: connection and pipes are gone.
	_ = p.conn.Close()
	p.closeOutput()
	if err := p.connect(p.handshake); err != nil {
		return err
	}
	if _, err := p.base.Info(ctx); err != nil {
		return fmt.Errorf("on the next connection: %w", err)
	}
	if err := p.driver.Init(ctx); err != nil {
		return fmt.Errorf("on the next connection: %w", err)
	}
	if _, err := firstFingerprint(ctx, p); err != nil {
		return fmt.Errorf("on the next connection: %w", err)
	}
	if err := p.driver.RecoverTask(ctx, stored(t.handle)); err != nil {
		return fmt.Errorf("on the next connection: %w", err)
	}
	return stillRuns(ctx, p, t.id())
}

func checkRecoverAfterKill(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `echo running; while [ -d "$NOMAD_TASK_DIR" ] && [ ! -e "$NOMAD_TASK_DIR/go" ]; do sleep 0.05; done; echo went-on; sleep 60`)
	if err != nil {
		return err
	}
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		t.end(p)
		return err
	}
	p.kill()
	p, err = s.takeUp(ctx, t.handle)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.touch("go"); err != nil {
		return err
	}
	if err := t.stdout.waitFor(ctx, "went-on"); err != nil {
		return fmt.Errorf("the task did not outlive the plugin: %w", err)
	}
	return stillRuns(ctx, p, t.id())
}

func checkRecoverWithoutConfig(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	p.kill()
	p, err = s.takeUp(ctx, stored(t.handle))
	if err != nil {
		return err
	}
	defer t.end(p)
	return stillRuns(ctx, p, t.id())
}

func checkRecoverAfterShutdown(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	go func() { _, _ = p.driver.WaitTask(ctx, t.id()) }() // as an agent does, all the time
	if err := errors.Join(p.driver.Shutdown(ctx), p.shutdown(ctx)); err != nil {
		return err
	}
	p, err = s.takeUp(ctx, stored(t.handle))
	if err != nil {
		return err
	}
	defer t.end(p)
	return stillRuns(ctx, p, t.id())
}

func checkRecoverEnded(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `echo started; exit 7`)
	if err != nil {
		return err
	}
	if _, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience); err != nil {
		return err
	}
	p.kill()
	// An error is fine; so is a task whose result is known.
	p, err = s.takeUp(ctx, stored(t.handle))
	if p == nil {
		return err
	}
	defer t.end(p)
	if err == nil {
		if _, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience); err != nil && strings.Contains(err.Error(), "did not return") {
			return err
		}
	}
	if t.stdout.seenAgain(ctx, "started\nstarted") {
		return errors.New("the ended task was started again")
	}
	return p.alive(ctx, 0)
}

func checkRecoverExit(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `echo running; while [ -d "$NOMAD_TASK_DIR" ] && [ ! -e "$NOMAD_TASK_DIR/go" ]; do sleep 0.05; done; echo ending; exit 42`)
	if err != nil {
		return err
	}
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		t.end(p)
		return err
	}
	p.kill()
	if err := t.touch("go"); err != nil {
		return err
	}
	if err := t.stdout.waitFor(ctx, "ending"); err != nil {
		return err
	}
	p, err = s.takeUp(ctx, stored(t.handle))
	if err != nil {
		return err
	}
	defer t.end(p)
	r, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience)
	if err != nil {
		return err
	}
	if r.ExitCode != 42 {
		return fmt.Errorf("a task that exited with 42 while no driver ran is reported as %+v", *r)
	}
	return nil
}

func checkRecoverStop(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		t.end(p)
		return err
	}
	p.kill()
	p, err = s.takeUp(ctx, stored(t.handle))
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := p.driver.StopTask(ctx, t.id(), s.cfg.Patience, ""); err != nil {
		return err
	}
	if _, err := waitTask(ctx, p, t.id(), s.cfg.Patience); err != nil {
		return err
	}
	return p.driver.DestroyTask(ctx, t.id(), true)
}

func checkOutputReleased(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		t.end(p)
		return err
	}
	p.kill()
	released := p.outputReleased(ctx)
	p, err = s.takeUp(ctx, stored(t.handle))
	if err != nil {
		return errors.Join(released, err)
	}
	t.end(p)
	return released
}
