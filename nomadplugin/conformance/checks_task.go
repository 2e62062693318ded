package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

func taskChecks() []check {
	cs := []check{
		{name: "task/start", run: checkStart,
			why: "the handle is all that a later agent has of the task: without configuration, version or driver state it starts the task a second time"},
		{name: "task/output", run: checkOutput,
			why: "what a task prints must reach the FIFOs that the agent reads its logs from"},
		{name: "task/exit-code", run: checkExitCode,
			why: "exit code 0 is success, everything else starts the restart policy"},
		{name: "task/wait-again", run: checkWaitAgain,
			why: "until the task is destroyed, every WaitTask must give its result, also a late or a second one"},
		{name: "task/start-twice", run: checkStartTwice,
			why: "a plugin that dies during StartTask gets the same call again; the task must not run twice"},
		{name: "task/start-failure", run: checkStartFailure,
			why: "a task that cannot run must fail in StartTask or in WaitTask, with a reason"},
		{name: "task/stop", run: checkStop,
			why: "an agent waits without a limit for a task that it has stopped"},
		{name: "task/stop-kills", run: checkStopKills,
			why: "a task that ignores its signal must be killed when its time is up; the agent waits without a limit"},
		{name: "task/stop-blocks-nothing", run: checkStopBlocksNothing,
			why: "WaitTask, InspectTask and TaskStats go on while a task takes its time to stop"},
		{name: "task/stop-ended", run: checkStopEnded,
			why: "a task may end by itself just before it is stopped; an error is tried again, for minutes"},
		{name: "task/signal", run: checkSignal,
			why: "`nomad alloc signal`, templates and actions send signals"},
		{name: "task/inspect", run: checkInspect, advice: true,
			why: "no released agent inspects tasks, but other hosts of plugins do"},
		{name: "task/stats", run: checkTaskStats,
			why: "a reading without its time or total panics the agent"},
		{name: "task/stats-stay-open", run: checkTaskStatsOpen,
			why: "an ended stream is logged as an error and opened again, every interval"},
		{name: "task/destroy-running", run: checkDestroyRunning,
			why: "after a failed recovery an agent destroys what runs, by force"},
		{name: "task/destroyed-is-gone", run: checkDestroyed,
			why: "each restart of a task leaves a destroyed one: what is kept of it leaks"},
		{name: "task/whole-tree-ends", run: checkTreeEnds, advice: true,
			why: "what a task leaves running holds its memory, ports and devices, which Nomad gives to the next task"},
		{name: "task/concurrent", run: checkConcurrentTasks,
			why: "agents start, wait for and stop many tasks at once"},
		{name: "task/default-sigpipe", run: checkTaskSigpipe, advice: true,
			why: "an ignored SIGPIPE is inherited: in the task, a command such as `yes | head` never ends"},
	}
	for i := range cs {
		cs[i].typ = base.TypeDriver
	}
	return cs
}

func checkStart(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	defer t.end(p)
	h := t.handle
	var errs []error
	if h.Version < 1 {
		errs = append(errs, fmt.Errorf("the handle's version is %d, want 1 or more", h.Version))
	}
	if h.Config == nil || h.Config.ID != t.id() {
		errs = append(errs, errors.New("the handle has not the task's configuration"))
	}
	if h.State != driver.StateRunning {
		errs = append(errs, fmt.Errorf("the handle's state is %d, want running (%d)", h.State, driver.StateRunning))
	}
	if len(h.DriverState) == 0 {
		errs = append(errs, errors.New("the handle has no driver state"))
	}
	return errors.Join(append(errs, stillRuns(ctx, p, t.id()))...)
}

func checkOutput(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, "echo to-stdout; echo to-stderr >&2; exec sleep 60")
	if err != nil {
		return err
	}
	defer t.end(p)
	return errors.Join(t.stdout.waitFor(ctx, "to-stdout"), t.stderr.waitFor(ctx, "to-stderr"))
}

func checkExitCode(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	for _, code := range []int{0, 7} {
		t, err := s.startTask(ctx, p, fmt.Sprintf("exit %d", code))
		if err != nil {
			return err
		}
		defer t.end(p)
		r, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience)
		if err != nil {
			return err
		}
		if r.ExitCode != code || r.Signal != 0 || r.OOMKilled || r.Err != nil {
			return fmt.Errorf("a task that exits with %d is reported as %+v", code, *r)
		}
	}
	return nil
}

func checkWaitAgain(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, "exit 7")
	if err != nil {
		return err
	}
	defer t.end(p)
	for i := range 3 {
		r, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience)
		if err != nil {
			return fmt.Errorf("WaitTask number %d: %w", i+1, err)
		}
		if r.ExitCode != 7 {
			return fmt.Errorf("WaitTask number %d: got %+v, want exit code 7", i+1, *r)
		}
	}
	return nil
}

func checkStartTwice(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `echo started; exec sleep 60`)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.stdout.waitFor(ctx, "started"); err != nil {
		return err
	}
	// An error is fine, the running task again as well.
	_, _, _ = p.driver.StartTask(ctx, t.config)
	if err := stillRuns(ctx, p, t.id()); err != nil {
		return fmt.Errorf("after a second StartTask: %w", err)
	}
	if t.stdout.seenAgain(ctx, "started\nstarted") {
		return errors.New("the task was started a second time")
	}
	return nil
}

func checkStartFailure(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	t, err := s.newTask(ctx, p, "true")
	if err != nil {
		return err
	}
	defer t.end(p)
	spec, err := p.driver.TaskSchema(ctx)
	if err != nil {
		return err
	}
	if t.config.DriverConfig, err = encodeCommand(spec, s.cfg.Task, "/no/such/command"); err != nil {
		return err
	}
	_, _, err = p.driver.StartTask(ctx, t.config)
	if err == nil {
		r, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience)
		if err == nil && r.ExitCode == 0 && r.Signal == 0 && r.Err == nil {
			return errors.New("a command that does not exist was reported as a success")
		}
	}
	return p.alive(ctx, 0)
}

func checkStop(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		return err
	}
	begin := time.Now()
	if err := p.driver.StopTask(ctx, t.id(), 2*s.cfg.Patience, "SIGTERM"); err != nil {
		return err
	}
	if took := time.Since(begin); took > s.cfg.Patience {
		return fmt.Errorf("StopTask took %v for a task that ends at once on SIGTERM", took.Round(time.Millisecond))
	}
	r, err := waitTask(ctx, p, t.id(), s.cfg.Patience)
	if err != nil {
		return err
	}
	if r.ExitCode == 0 && r.Signal == 0 {
		return fmt.Errorf("a task that died of SIGTERM is reported as %+v, a success", *r)
	}
	return nil
}

// stubborn ignores SIGTERM.
const stubborn = `trap "" TERM INT; echo running; while :; do sleep 1; done`

func checkStopKills(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, stubborn)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		return err
	}
	stopCtx, cancel := within(ctx, time.Second+2*s.cfg.Patience)
	defer cancel()
	if err := p.driver.StopTask(stopCtx, t.id(), time.Second, ""); err != nil {
		return err
	}
	_, err = waitTask(ctx, p, t.id(), s.cfg.Patience)
	return err
}

func checkStopBlocksNothing(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, stubborn)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return p.driver.StopTask(ctx, t.id(), 3*time.Second, "") })
	// All of these must answer before the stop is over.
	callCtx, cancel := within(ctx, 2500*time.Millisecond)
	defer cancel()
	if _, err := p.driver.WaitTask(callCtx, unknownID); err == nil || callCtx.Err() != nil {
		return errors.New("WaitTask of another task did not answer during a stop")
	}
	if err := p.driver.DestroyTask(callCtx, unknownID, true); callCtx.Err() != nil {
		return fmt.Errorf("DestroyTask of another task did not answer during a stop: %w", err)
	}
	if _, err := p.driver.InspectTask(callCtx, t.id()); callCtx.Err() != nil {
		return fmt.Errorf("InspectTask did not answer during a stop: %w", err)
	}
	other, err := s.startTask(callCtx, p, sleeper)
	if err != nil {
		return fmt.Errorf("starting another task during a stop: %w", err)
	}
	defer other.end(p)
	return g.Wait()
}

func checkStopEnded(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, "exit 7")
	if err != nil {
		return err
	}
	defer t.end(p)
	if _, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience); err != nil {
		return err
	}
	stopCtx, cancel := within(ctx, s.cfg.Patience)
	defer cancel()
	return p.driver.StopTask(stopCtx, t.id(), time.Minute, "")
}

func checkSignal(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	c, err := p.driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if !c.SendSignals {
		return skipf("the driver sends no signals")
	}
	t, err := s.startTask(ctx, p, `trap "echo got-hup" HUP; trap "echo got-usr1" USR1; echo running; while :; do sleep 0.1; done`)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		return err
	}
	for sig, want := range map[string]string{"SIGHUP": "got-hup", "SIGUSR1": "got-usr1"} {
		if err := p.driver.SignalTask(ctx, t.id(), sig); err != nil {
			return err
		}
		if err := t.stdout.waitFor(ctx, want); err != nil {
			return fmt.Errorf("after %s: %w", sig, err)
		}
	}
	if err := p.driver.SignalTask(ctx, t.id(), "SIGNONSENSE"); err == nil {
		return errors.New("a signal that does not exist was sent")
	}
	return stillRuns(ctx, p, t.id())
}

func checkInspect(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `while [ -d "$NOMAD_TASK_DIR" ] && [ ! -e "$NOMAD_TASK_DIR/go" ]; do sleep 0.05; done; exit 7`)
	if err != nil {
		return err
	}
	defer t.end(p)
	st, err := p.driver.InspectTask(ctx, t.id())
	if err != nil {
		return err
	}
	if st.ID != t.id() || st.Name != "main" || st.State != driver.StateRunning || st.StartedAt.IsZero() {
		return fmt.Errorf("a running task is inspected as %+v", *st)
	}
	if err := t.touch("go"); err != nil {
		return err
	}
	if _, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience); err != nil {
		return err
	}
	if st, err = p.driver.InspectTask(ctx, t.id()); err != nil {
		return err
	}
	if st.State != driver.StateExited || st.CompletedAt.IsZero() || st.Exit == nil || st.Exit.ExitCode != 7 {
		return fmt.Errorf("a task that exited with 7 is inspected as %+v", *st)
	}
	return nil
}

func checkTaskStats(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	defer t.end(p)
	statsCtx, cancel := within(ctx, s.cfg.Patience)
	defer cancel()
	readings := 0
	err = p.driver.TaskStats(statsCtx, t.id(), 100*time.Millisecond, func(st driver.TaskStats) error {
		if age := time.Since(st.Time); age < -time.Minute || age > time.Hour {
			return fmt.Errorf("a reading is of %v", st.Time)
		}
		if readings++; readings == 3 {
			return errEnough
		}
		return nil
	})
	switch {
	case err == errEnough:
		return nil
	case readings == 0 && statsCtx.Err() != nil:
		return skipf("the driver sends no statistics (at 100 ms, within %v)", s.cfg.Patience)
	}
	return fmt.Errorf("after %d readings: %w", readings, err)
}

func checkTaskStatsOpen(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, sleeper)
	if err != nil {
		return err
	}
	defer t.end(p)
	return hold(ctx, s.cfg.Hold, func(ctx context.Context) error {
		return p.driver.TaskStats(ctx, t.id(), 0, func(driver.TaskStats) error { return nil })
	})
}

func checkDestroyRunning(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `echo $$; exec sleep 60`)
	if err != nil {
		return err
	}
	defer t.end(p)
	waited := make(chan error, 1)
	go func() {
		_, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience)
		waited <- err
	}()
	destroyCtx, cancel := within(ctx, 2*s.cfg.Patience)
	defer cancel()
	if err := p.driver.DestroyTask(destroyCtx, t.id(), true); err != nil {
		return err
	}
	// The waiting call ends, with a result or an error.
	if err := <-waited; err != nil && ctx.Err() != nil {
		return err
	}
	return nil
}

func checkDestroyed(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, "exit 0")
	if err != nil {
		return err
	}
	defer t.end(p)
	if _, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience); err != nil {
		return err
	}
	for i := range 2 {
		if err := p.driver.DestroyTask(ctx, t.id(), i == 0); err != nil {
			return fmt.Errorf("DestroyTask number %d: %w", i+1, err)
		}
	}
	if r, err := waitTask(ctx, p, t.id(), s.cfg.Patience); err == nil {
		return fmt.Errorf("WaitTask of a destroyed task gave %+v", *r)
	}
	return nil
}

func checkTreeEnds(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `(trap "" TERM; while :; do : > "$NOMAD_TASK_DIR/beat"; sleep 0.05; done) & echo running; exec sleep 60`)
	if err != nil {
		return err
	}
	defer t.end(p)
	if err := t.stdout.waitFor(ctx, "running"); err != nil {
		return err
	}
	if err := p.driver.StopTask(ctx, t.id(), time.Second, "SIGTERM"); err != nil {
		return err
	}
	if _, err := waitTask(ctx, p, t.id(), s.cfg.Patience); err != nil {
		return err
	}
	if err := p.driver.DestroyTask(ctx, t.id(), true); err != nil {
		return err
	}
	beat := filepath.Join(t.config.AllocDir, "main", "local", "beat")
	_ = os.Remove(beat)
	if err := p.alive(ctx, settle); err != nil {
		return err
	}
	if _, err := os.Stat(beat); err == nil {
		return errors.New("a background process of the task runs on after the task was destroyed")
	}
	return nil
}

func checkConcurrentTasks(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	tasks := make([]*task, callers/2)
	for i := range tasks {
		if tasks[i], err = s.newTask(ctx, p, sleeper); err != nil {
			return err
		}
		defer tasks[i].end(p)
	}
	var g errgroup.Group
	for _, t := range tasks {
		g.Go(func() error {
			if _, _, err := p.driver.StartTask(ctx, t.config); err != nil {
				return err
			}
			var both errgroup.Group
			for range 2 {
				both.Go(func() error {
					_, err := waitTask(ctx, p, t.id(), 4*s.cfg.Patience)
					return err
				})
			}
			both.Go(func() error {
				if err := t.stdout.waitFor(ctx, "running"); err != nil {
					return err
				}
				return p.driver.StopTask(ctx, t.id(), s.cfg.Patience, "")
			})
			if err := both.Wait(); err != nil {
				return err
			}
			return p.driver.DestroyTask(ctx, t.id(), true)
		})
	}
	return g.Wait()
}

func checkTaskSigpipe(ctx context.Context, s *session) error {
	p, t, err := s.withTask(ctx, `kill -PIPE $$; exit 0`)
	if err != nil {
		return err
	}
	defer t.end(p)
	r, err := waitTask(ctx, p, t.id(), 2*s.cfg.Patience)
	if err != nil {
		return err
	}
	if r.ExitCode == 0 && r.Signal == 0 {
		return errors.New("SIGPIPE is ignored in tasks")
	}
	return nil
}
