package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// checkGap is between the two readings of vitals of a check.
const checkGap = 2 * time.Second

// check finds out whether a device may return to service.
func (m *Monitor) check(ctx context.Context, c health.Check) {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.checking, c.Device)
		wake(m.kick) // it may be due again
	}()
	err := m.examine(ctx, c)
	var machine machineError
	switch {
	case ctx.Err() != nil:
		return // the plugin ends: this was no attempt
	case errors.As(err, &machine): // nor was this
		m.ObserveFailure(machine.error)
		return
	}
	m.log.Info("GPU was checked", "id", c.Device, "passed", err == nil, "error", err)
	m.observe(func(now time.Time, t *health.Tracker) { t.ObserveCheck(now, c, err) })
}

// machineError is that the machine as a whole could not be read.
type machineError struct{ error }

// examine identifies the device, reads its board's vitals twice, and runs the
// site's command.
func (m *Monitor) examine(ctx context.Context, c health.Check) error {
	inv, err := m.config.Inventory(ctx)
	if err != nil {
		return machineError{err}
	}
	if err := listed(inv, c); err != nil {
		return err
	}
	if m.config.Vitals != nil {
		first, err := m.vitalsOf(ctx, c.Board)
		if err != nil {
			return err
		}
		if !pause(ctx, checkGap) {
			return ctx.Err()
		}
		second, err := m.vitalsOf(ctx, c.Board)
		if err != nil {
			return err
		}
		if err := health.Compare(first, second); err != nil {
			return err
		}
	}
	if len(m.config.Health.ValidateCommand) == 0 {
		return nil
	}
	return runCommand(ctx, m.config.Health.ValidateCommand, c.Device, m.config.Health.ValidateTimeout)
}

func (m *Monitor) vitalsOf(ctx context.Context, board gpu.ID) (gpu.Vitals, error) {
	readings, err := m.config.Vitals.Vitals(ctx, []gpu.ID{board})
	if err != nil {
		return gpu.Vitals{}, fmt.Errorf("reading the vitals: %w", err)
	}
	v, ok := readings[board]
	if !ok {
		return gpu.Vitals{}, errors.New("the vitals cannot be read")
	}
	return v, nil
}

// maxOutput is how much of a command's output is looked at for a reason.
const maxOutput = 4 << 10

// runCommand runs a site's check with a device visible. What it printed last is
// the reason if it fails. Its whole process group is killed when it takes too
// long.
func runCommand(ctx context.Context, command []string, id gpu.ID, timeout time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES="+string(id), "NVIDIA_VISIBLE_DEVICES="+string(id))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case limited.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("validate_command %s did not end within %s", command[0], timeout)
	}
	said := out.lastLine()
	if said == "" {
		return fmt.Errorf("validate_command %s: %w", command[0], err)
	}
	return fmt.Errorf("validate_command %s: %w: %s", command[0], err, said)
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - maxOutput; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(p), nil
}

func (t *tail) lastLine() string {
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
