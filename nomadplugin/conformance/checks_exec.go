package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
)

func execChecks() []check {
	cs := []check{
		{name: "exec/command", run: checkExec,
			why: "script checks of services run by it; a reply without a result panics the agent"},
		{name: "exec/timeout", run: checkExecTimeout,
			why: "a script check that hangs must end at its timeout"},
		{name: "exec/streaming", run: checkExecStreaming,
			why: "`nomad alloc exec` shows what comes over the streams and exits with the command's exit code"},
		{name: "exec/stream-end", run: checkExecEnd,
			why: "`nomad alloc exec` waits for stdout and stderr to be closed, and for the exit"},
		{name: "exec/failure", run: checkExecFailure,
			why: "the user of `nomad alloc exec` sees the error, or an exit code that is not zero"},
		{name: "exec/concurrent", run: checkExecConcurrent,
			why: "several users may be in one task at once"},
	}
	for i := range cs {
		cs[i].typ = base.TypeDriver
	}
	return cs
}

// withExec starts a task to run commands in, if the driver can.
func (s *session) withExec(ctx context.Context) (*process, *task, error) {
	p, err := s.ready(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := p.driver.Capabilities(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !c.Exec {
		return nil, nil, skipf("the driver runs no commands in tasks")
	}
	t, err := s.startTask(ctx, p, sleeper)
	if err != nil {
		return nil, nil, err
	}
	return p, t, t.stdout.waitFor(ctx, "running")
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

func checkExec(ctx context.Context, s *session) error {
	p, t, err := s.withExec(ctx)
	if err != nil {
		return err
	}
	defer t.end(p)
	r, err := p.driver.ExecTask(ctx, t.id(), shell("echo out; echo err >&2; exit 3"), s.cfg.Patience)
	if errors.Is(err, errors.ErrUnsupported) {
		return skipf("the driver has no unary ExecTask: script checks will not work")
	}
	if err != nil {
		return err
	}
	if r.Exit.ExitCode != 3 || !strings.Contains(string(r.Stdout), "out") {
		return fmt.Errorf("got exit code %d and stdout %q, want 3 and out", r.Exit.ExitCode, r.Stdout)
	}
	return nil
}

func checkExecTimeout(ctx context.Context, s *session) error {
	p, t, err := s.withExec(ctx)
	if err != nil {
		return err
	}
	defer t.end(p)
	execCtx, cancel := within(ctx, 2*s.cfg.Patience)
	defer cancel()
	r, err := p.driver.ExecTask(execCtx, t.id(), shell("exec sleep 60"), 500*time.Millisecond)
	if errors.Is(err, errors.ErrUnsupported) {
		return skipf("the driver has no unary ExecTask: script checks will not work")
	}
	if execCtx.Err() != nil {
		return fmt.Errorf("a command with a timeout of 500 ms ran on for %v", 2*s.cfg.Patience)
	}
	if err == nil && r.Exit.ExitCode == 0 && r.Exit.Signal == 0 {
		return errors.New("a command that was cut off is reported as a success")
	}
	return nil
}

func checkExecStreaming(ctx context.Context, s *session) error {
	p, t, err := s.withExec(ctx)
	if err != nil {
		return err
	}
	defer t.end(p)
	in := strings.Repeat("0123456789abcdef", 16<<10)
	var stdout, stderr bytes.Buffer
	r, err := p.driver.ExecTaskStreaming(ctx, t.id(), driver.ExecStreams{
		Command: shell("cat; echo to-stderr >&2; exit 5"),
		Stdin:   strings.NewReader(in), Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil {
		return err
	}
	if r.ExitCode != 5 {
		return fmt.Errorf("got exit code %d, want 5", r.ExitCode)
	}
	if stdout.String() != in {
		return fmt.Errorf("sent %d bytes through cat, got %d back", len(in), stdout.Len())
	}
	if !strings.Contains(stderr.String(), "to-stderr") {
		return fmt.Errorf("stderr is %q, want to-stderr", stderr.String())
	}
	return nil
}

// checkExecEnd looks at the messages themselves.
func checkExecEnd(ctx context.Context, s *session) error {
	p, t, err := s.withExec(ctx)
	if err != nil {
		return err
	}
	defer t.end(p)
	stream, err := driverpb.NewDriverClient(p.conn).ExecTaskStreaming(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*driverpb.ExecTaskStreamingRequest{
		{Setup: &driverpb.ExecTaskStreamingRequest_Setup{TaskId: t.id(), Command: shell("echo out")}},
		{}, // a heartbeat
		{TtySize: &driverpb.ExecTaskStreamingRequest_TerminalSize{Height: 24, Width: 80}},
	} {
		if err := stream.Send(m); err != nil && err != io.EOF {
			return err
		}
	}
	var outClosed, errClosed, exited bool
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		outClosed = outClosed || m.GetStdout().GetClose()
		errClosed = errClosed || m.GetStderr().GetClose()
		if m.GetExited() {
			exited = true
			if m.GetResult() == nil {
				return errors.New("the exit came without its result")
			}
		}
	}
	if !outClosed || !errClosed || !exited {
		return fmt.Errorf("the stream ended with stdout closed: %v, stderr closed: %v, exited: %v; want all of them", outClosed, errClosed, exited)
	}
	return nil
}

func checkExecFailure(ctx context.Context, s *session) error {
	p, t, err := s.withExec(ctx)
	if err != nil {
		return err
	}
	defer t.end(p)
	for _, command := range [][]string{{"/no/such/command"}, nil} {
		r, err := p.driver.ExecTaskStreaming(ctx, t.id(), driver.ExecStreams{Command: command})
		if err == nil && r.ExitCode == 0 && r.Signal == 0 {
			return fmt.Errorf("command %q is reported as a success", command)
		}
		if err := p.alive(ctx, 0); err != nil {
			return fmt.Errorf("command %q: %w", command, err)
		}
	}
	return stillRuns(ctx, p, t.id())
}

func checkExecConcurrent(ctx context.Context, s *session) error {
	p, t, err := s.withExec(ctx)
	if err != nil {
		return err
	}
	defer t.end(p)
	var g errgroup.Group
	for i := range callers {
		g.Go(func() error {
			var out bytes.Buffer
			r, err := p.driver.ExecTaskStreaming(ctx, t.id(), driver.ExecStreams{
				Command: shell(fmt.Sprintf("echo %d; exit %d", i, i)), Stdout: &out,
			})
			if err != nil {
				return err
			}
			if r.ExitCode != i || strings.TrimSpace(out.String()) != fmt.Sprint(i) {
				return fmt.Errorf("command %d gave exit code %d and %q", i, r.ExitCode, out.String())
			}
			return nil
		})
	}
	return g.Wait()
}
