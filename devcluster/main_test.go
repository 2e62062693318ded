package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

const testDriverName = "sh"

// TestMain also serves as the log collector, and, under its other name, as a
// tiny driver that runs shell scripts which outlive it.
func TestMain(m *testing.M) {
	MaybeRunHelper()
	if filepath.Base(os.Args[0]) == "nomad-driver-test" {
		driver.Serve(&shDriver{})
		return
	}
	if dir := os.Getenv(serveEnv); dir != "" {
		serveForTest(dir)
	}
	os.Exit(m.Run())
}

// serveEnv has a process be a cluster that a test kills.
const serveEnv = "DROVER_TEST_SERVE"

// serveForTest runs a cluster until standard input ends.
func serveForTest(dir string) {
	c, err := Start(context.Background(), Config{DataDir: filepath.Join(dir, "data"), PluginDir: filepath.Join(dir, "plugins"),
		Listen: os.Getenv("DROVER_TEST_LISTEN"),
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(os.Getenv("DROVER_TEST_LOG")), Output: os.Stderr})})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(c.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := c.Destroy(context.Background()); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// shDriver runs a script with sh. All that it knows of a task is on disk.
type shDriver struct{}

type shConfig struct {
	Script string `codec:"script"`
}

func (*shDriver) Info() base.Info {
	return base.Info{Type: base.TypeDriver, Name: testDriverName, Version: "0.1.0"}
}
func (*shDriver) ConfigSchema() *schema.Spec                   { return nil }
func (*shDriver) SetConfig(context.Context, base.Config) error { return nil }
func (*shDriver) TaskSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{"script": schema.Attr("script", "string", true)})
}
func (*shDriver) Capabilities() driver.Capabilities {
	return driver.Capabilities{SendSignals: true, Exec: true}
}

func (*shDriver) Fingerprint(ctx context.Context, publish func(driver.Fingerprint) error) error {
	if err := publish(driver.Fingerprint{Health: driver.HealthHealthy, Description: "Healthy"}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func stateFile(allocDir, id, what string) string {
	parts := strings.Split(id, "/")
	return filepath.Join(allocDir, parts[1], "private", parts[2]+"."+what)
}

func (*shDriver) StartTask(_ context.Context, t *driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) {
	var c shConfig
	if err := t.Decode(&c); err != nil {
		return nil, nil, err
	}
	h := &driver.Handle{Version: 1, Config: t, State: driver.StateRunning, DriverState: []byte(t.AllocDir)}
	pidFile, exitFile := stateFile(t.AllocDir, t.ID, "pid"), stateFile(t.AllocDir, t.ID, "exit")
	if _, err := os.Stat(pidFile); err == nil {
		return h, nil, nil // the same start again
	}
	stdout, err := os.OpenFile(t.StdoutPath, os.O_WRONLY, 0)
	if err != nil {
		return nil, nil, driver.Recoverable(err)
	}
	defer stdout.Close()
	stderr, err := os.OpenFile(t.StderrPath, os.O_WRONLY, 0)
	if err != nil {
		return nil, nil, driver.Recoverable(err)
	}
	defer stderr.Close()
	script := fmt.Sprintf("trap : TERM USR1; ( %s\n); echo $? > %q.tmp; mv %q.tmp %q", c.Script, exitFile, exitFile, exitFile)
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdout, cmd.Stderr, cmd.Dir = stdout, stderr, filepath.Join(t.AllocDir, t.Name, "local")
	for k, v := range t.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	go func() { _ = cmd.Wait() }()
	return h, nil, os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

func allocDirOf(id string) (string, error) {
	v, ok := known[id]
	if !ok {
		return "", driver.ErrTaskNotFound
	}
	return v, nil
}

// known maps task IDs to allocation folders, filled by start and recover.
var known = map[string]string{}

func (*shDriver) RecoverTask(_ context.Context, h *driver.Handle) error {
	if _, err := os.Stat(stateFile(string(h.DriverState), h.Config.ID, "pid")); err != nil {
		return err
	}
	known[h.Config.ID] = string(h.DriverState)
	return nil
}

func (d *shDriver) files(id string) (pid int, exit string, err error) {
	// The folder is in the environment of no call but start and recover; the
	// process's own working folder tells it for this test driver.
	dir, err := allocDirOf(id)
	if err != nil {
		dirs, _ := filepath.Glob(filepath.Join(os.Getenv("DROVER_DEVCLUSTER_NODE"), "allocs", strings.Split(id, "/")[0]))
		if len(dirs) == 0 {
			return 0, "", err
		}
		dir = dirs[0]
	}
	b, err := os.ReadFile(stateFile(dir, id, "pid"))
	if err != nil {
		return 0, "", driver.ErrTaskNotFound
	}
	pid, _ = strconv.Atoi(string(b))
	return pid, stateFile(dir, id, "exit"), nil
}

func (d *shDriver) WaitTask(ctx context.Context, id string) (*driver.ExitResult, error) {
	pid, exit, err := d.files(id)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(exit); err == nil {
			code, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			return &driver.ExitResult{ExitCode: code}, nil
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if _, err := os.Stat(exit); err != nil {
				return &driver.ExitResult{ExitCode: 137, Signal: 9}, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (d *shDriver) StopTask(ctx context.Context, id string, timeout time.Duration, _ string) error {
	pid, _, err := d.files(id)
	if err != nil {
		return nil
	}
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := d.WaitTask(ctx, id); err != nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	return nil
}

func (d *shDriver) DestroyTask(_ context.Context, id string, _ bool) error {
	if pid, _, err := d.files(id); err == nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	return nil
}

func (*shDriver) InspectTask(context.Context, string) (*driver.TaskStatus, error) {
	return nil, errors.New("not part of the test driver")
}

func (*shDriver) TaskStats(ctx context.Context, id string, interval time.Duration, publish func(driver.TaskStats) error) error {
	rss := uint64(1 << 20)
	if err := publish(driver.TaskStats{ID: id, Time: time.Now(), Total: driver.Usage{Memory: driver.MemoryUsage{RSS: &rss}}}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (*shDriver) TaskEvents(ctx context.Context, _ func(driver.TaskEvent) error) error {
	<-ctx.Done()
	return nil
}

func (d *shDriver) SignalTask(_ context.Context, id, signal string) error {
	pid, _, err := d.files(id)
	if err != nil {
		return err
	}
	if signal == "SIGUSR1" {
		return syscall.Kill(-pid, syscall.SIGUSR1)
	}
	return fmt.Errorf("signal %s is not part of the test driver", signal)
}

func (*shDriver) ExecTask(context.Context, string, []string, time.Duration) (*driver.ExecResult, error) {
	return nil, errors.New("not part of the test driver")
}

func (*shDriver) ExecTaskStreaming(ctx context.Context, _ string, x driver.ExecStreams) (*driver.ExitResult, error) {
	cmd := exec.CommandContext(ctx, x.Command[0], x.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = x.Stdin, x.Stdout, x.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &driver.ExitResult{ExitCode: exit.ExitCode()}, nil
	}
	return &driver.ExitResult{}, err
}
