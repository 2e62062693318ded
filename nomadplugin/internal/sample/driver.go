package sample

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Driver runs commands, each under a shell of its own that notes the exit
// status in the task's folder. So a task outlives the plugin, and a later
// plugin process still learns how it ended.
type Driver struct {
	mu    sync.Mutex
	tasks map[string]*task
}

// NewDriver returns a driver without tasks.
func NewDriver() *Driver { return &Driver{tasks: map[string]*task{}} }

// supervise runs "$@" and writes its status to $0; write and rename, so that
// it is there in full or not at all.
const supervise = `"$@"; echo $? > "$0.tmp"; mv "$0.tmp" "$0"`

// pollPeriod is how often a task's status file is looked for.
const pollPeriod = 20 * time.Millisecond

type task struct {
	state   taskState
	killed  atomic.Bool // by kill: the supervisor notes nothing any more
	ended   chan struct{}
	exit    driver.ExitResult // valid once ended is closed
	endedAt time.Time
}

// taskState is the driver state in a handle.
type taskState struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	PID        int       `json:"pid"`
	StatusFile string    `json:"status_file"`
	StartedAt  time.Time `json:"started_at"`
}

type taskConfig struct {
	Command string   `codec:"command"`
	Args    []string `codec:"args"`
}

const handleVersion = 1

// Info implements base.Plugin.
func (d *Driver) Info() base.Info {
	return base.Info{Type: base.TypeDriver, Name: "sample-driver", Version: "0.1.0"}
}

// ConfigSchema implements base.Plugin.
func (d *Driver) ConfigSchema() *schema.Spec { return nil }

// SetConfig implements base.Plugin.
func (d *Driver) SetConfig(context.Context, base.Config) error { return nil }

// TaskSchema implements driver.Plugin.
func (d *Driver) TaskSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{
		"command": schema.Attr("command", "string", true),
		"args":    schema.Attr("args", "list(string)", false),
	})
}

// Capabilities implements driver.Plugin.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{SendSignals: true, Exec: true}
}

// Fingerprint implements driver.Plugin.
func (d *Driver) Fingerprint(ctx context.Context, publish func(driver.Fingerprint) error) error {
	err := publish(driver.Fingerprint{
		Health:      driver.HealthHealthy,
		Description: "ready",
		Attributes:  map[string]base.Attribute{"driver.sample-driver.version": base.String("0.1.0")},
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// StartTask implements driver.Plugin.
func (d *Driver) StartTask(_ context.Context, t *driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) {
	var cfg taskConfig
	if err := t.Decode(&cfg); err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.tasks[t.ID]; ok {
		return nil, nil, fmt.Errorf("task %q is there already", t.ID)
	}
	state := taskState{
		ID: t.ID, Name: t.Name, StartedAt: time.Now(),
		StatusFile: filepath.Join(t.AllocDir, strings.ReplaceAll(t.ID, "/", "-")+".status"),
	}
	if err := os.RemoveAll(state.StatusFile); err != nil { // of an earlier start
		return nil, nil, err
	}
	pid, err := launch(t, cfg, state.StatusFile)
	if err != nil {
		return nil, nil, driver.Recoverable(err)
	}
	state.PID = pid
	raw, err := json.Marshal(state)
	if err != nil {
		return nil, nil, err
	}
	d.tasks[t.ID] = follow(state)
	return &driver.Handle{Version: handleVersion, Config: t, State: driver.StateRunning, DriverState: raw}, nil, nil
}

func launch(t *driver.TaskConfig, cfg taskConfig, statusFile string) (pid int, err error) {
	stdout, err := os.OpenFile(t.StdoutPath, os.O_WRONLY, 0)
	if err != nil {
		return 0, fmt.Errorf("opening stdout: %w", err)
	}
	defer stdout.Close()
	stderr, err := os.OpenFile(t.StderrPath, os.O_WRONLY, 0)
	if err != nil {
		return 0, fmt.Errorf("opening stderr: %w", err)
	}
	defer stderr.Close()
	if _, err := exec.LookPath(cfg.Command); err != nil {
		return 0, fmt.Errorf("command %q: %w", cfg.Command, err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", supervise, statusFile, cfg.Command}, cfg.Args...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Dir = filepath.Join(t.AllocDir, t.Name)
	for k, v := range t.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlive the plugin
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting supervisor: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reap it; the status comes from the file
	return cmd.Process.Pid, nil
}

// follow watches a task until its status is known.
func follow(s taskState) *task {
	t := &task{state: s, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		tick := time.NewTicker(pollPeriod)
		defer tick.Stop()
		for range tick.C {
			alive := !t.killed.Load() && alive(s.PID)
			if code, ok := readStatus(s.StatusFile); ok {
				t.exit = exitOf(code)
				break
			}
			if !alive { // killed together with its supervisor
				t.exit = driver.ExitResult{ExitCode: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL)}
				break
			}
		}
		t.kill() // what it left running
		t.endedAt = time.Now()
	}()
	return t
}

// alive reports whether a process runs; one that only waits to be reaped does
// not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state comes after the name, which is in brackets and may have any.
	_, rest, _ := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), " ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

func readStatus(path string) (int, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return code, err == nil
}

// exitOf reads a shell's status, where 128 and above is a signal.
func exitOf(code int) driver.ExitResult {
	if code > 128 && code <= 128+64 {
		return driver.ExitResult{ExitCode: code, Signal: code - 128}
	}
	return driver.ExitResult{ExitCode: code}
}

func (d *Driver) task(id string) (*task, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tasks[id]
	if !ok {
		return nil, driver.ErrTaskNotFound
	}
	return t, nil
}

// RecoverTask implements driver.Plugin.
func (d *Driver) RecoverTask(_ context.Context, h *driver.Handle) error {
	if h.Version != handleVersion {
		return fmt.Errorf("handle of task %q has version %d, want %d", h.Config.ID, h.Version, handleVersion)
	}
	var s taskState
	if err := json.Unmarshal(h.DriverState, &s); err != nil {
		return fmt.Errorf("reading handle of task %q: %w", h.Config.ID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.tasks[s.ID]; !ok {
		d.tasks[s.ID] = follow(s)
	}
	return nil
}

// WaitTask implements driver.Plugin.
func (d *Driver) WaitTask(ctx context.Context, id string) (*driver.ExitResult, error) {
	t, err := d.task(id)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.ended:
		exit := t.exit
		return &exit, nil
	}
}

// StopTask implements driver.Plugin.
func (d *Driver) StopTask(ctx context.Context, id string, timeout time.Duration, signal string) error {
	t, err := d.task(id)
	if err != nil {
		return err
	}
	if signal == "" {
		signal = "SIGTERM"
	}
	if err := t.signal(signal); err != nil {
		return err
	}
	grace := time.NewTimer(timeout)
	defer grace.Stop()
	select {
	case <-t.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-grace.C:
	}
	t.kill()
	<-t.ended
	return nil
}

// signal sends a signal to the command, not to its supervisor.
func (t *task) signal(name string) error {
	sig := unix.SignalNum(name)
	if sig == 0 {
		return fmt.Errorf("unknown signal %q", name)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", t.state.PID))
	if err != nil {
		return nil // it has ended
	}
	for _, f := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(f)
		if err == nil {
			_ = syscall.Kill(pid, sig)
		}
	}
	return nil
}

// kill ends the whole session's process group.
func (t *task) kill() {
	_ = syscall.Kill(-t.state.PID, syscall.SIGKILL)
	t.killed.Store(true)
}

// DestroyTask implements driver.Plugin.
func (d *Driver) DestroyTask(_ context.Context, id string, force bool) error {
	t, err := d.task(id)
	if err != nil {
		return err
	}
	select {
	case <-t.ended:
	default:
		if !force {
			return fmt.Errorf("task %q is running", id)
		}
		t.kill()
		<-t.ended
	}
	d.mu.Lock()
	delete(d.tasks, id)
	d.mu.Unlock()
	return os.RemoveAll(t.state.StatusFile)
}

// InspectTask implements driver.Plugin.
func (d *Driver) InspectTask(_ context.Context, id string) (*driver.TaskStatus, error) {
	t, err := d.task(id)
	if err != nil {
		return nil, err
	}
	s := &driver.TaskStatus{ID: id, Name: t.state.Name, State: driver.StateRunning, StartedAt: t.state.StartedAt}
	select {
	case <-t.ended:
		exit := t.exit
		s.State, s.CompletedAt, s.Exit = driver.StateExited, t.endedAt, &exit
	default:
	}
	return s, nil
}

// TaskStats implements driver.Plugin.
func (d *Driver) TaskStats(ctx context.Context, id string, interval time.Duration, publish func(driver.TaskStats) error) error {
	t, err := d.task(id)
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := publish(driver.TaskStats{Total: driver.Usage{Memory: driver.MemoryUsage{RSS: residentBytes(t.state.PID)}}}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// residentBytes reads a process's resident memory; nil if it has ended.
func residentBytes(pid int) *uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return nil
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return nil
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return nil
	}
	n := pages * uint64(os.Getpagesize())
	return &n
}

// TaskEvents implements driver.Plugin.
func (d *Driver) TaskEvents(ctx context.Context, _ func(driver.TaskEvent) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// SignalTask implements driver.Plugin.
func (d *Driver) SignalTask(_ context.Context, id, signal string) error {
	t, err := d.task(id)
	if err != nil {
		return err
	}
	return t.signal(signal)
}

// ExecTask implements driver.Plugin.
func (d *Driver) ExecTask(ctx context.Context, id string, command []string, timeout time.Duration) (*driver.ExecResult, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var stdout, stderr bytes.Buffer
	exit, err := d.ExecTaskStreaming(ctx, id, driver.ExecStreams{Command: command, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return nil, err
	}
	return &driver.ExecResult{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Exit: *exit}, nil
}

// ExecTaskStreaming implements driver.Plugin.
func (d *Driver) ExecTaskStreaming(ctx context.Context, id string, x driver.ExecStreams) (*driver.ExitResult, error) {
	if _, err := d.task(id); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, x.Command[0], x.Command[1:]...)
	cmd.Stdout, cmd.Stderr = x.Stdout, x.Stderr
	if x.Stdin != nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		go copyAndClose(in, x.Stdin)
	}
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("command %q: %w", x.Command, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &driver.ExitResult{ExitCode: exit.ExitCode()}, nil
	}
	if err != nil {
		return nil, err
	}
	return &driver.ExitResult{}, nil
}

func copyAndClose(w io.WriteCloser, r io.Reader) {
	_, _ = io.Copy(w, r)
	_ = w.Close()
}
