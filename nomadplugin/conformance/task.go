package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// task is a task of a check, with its folders and pipes as an agent makes
// them.
type task struct {
	config *driver.TaskConfig
	handle *driver.Handle
	stdout *output
	stderr *output
}

// newTask prepares a task that runs a shell script.
func (s *session) newTask(ctx context.Context, p *process, script string) (*task, error) {
	spec, err := p.driver.TaskSchema(ctx)
	if err != nil {
		return nil, err
	}
	config, err := encodeCommand(spec, s.cfg.Task, "/bin/sh", "-c", script)
	if err != nil {
		return nil, skipf("the driver does not take the task configuration of this run; give one that runs a command: %v", err)
	}
	s.tasks++
	alloc := fmt.Sprintf("c0f0c0f0-0000-4000-8000-%012x", s.tasks)
	dir := filepath.Join(s.dir, alloc)
	logs := filepath.Join(dir, "alloc", "logs")
	for _, d := range []string{logs, filepath.Join(dir, "alloc", "data"), filepath.Join(dir, "alloc", "tmp"),
		filepath.Join(dir, "main", "local"), filepath.Join(dir, "main", "secrets"), filepath.Join(dir, "main", "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	t := &task{config: &driver.TaskConfig{
		ID: fmt.Sprintf("%s/main/%08x", alloc, s.tasks), Name: "main", AllocID: alloc,
		Group: "group", JobName: "conformance", JobID: "conformance", Namespace: "default",
		NodeName: "conformance", NodeID: "c0f0c0f0-0000-4000-8000-000000000000",
		DriverConfig: config, AllocDir: dir,
		StdoutPath: filepath.Join(logs, ".main.stdout.fifo"),
		StderrPath: filepath.Join(logs, ".main.stderr.fifo"),
		Resources: driver.Resources{
			CPUShares: 100, MemoryMB: 256, MemoryLimit: 256 << 20, LinuxShares: 100, CPUFraction: 0.1,
		},
		Env: map[string]string{
			"PATH":              os.Getenv("PATH"),
			"NOMAD_ALLOC_ID":    alloc,
			"NOMAD_ALLOC_DIR":   filepath.Join(dir, "alloc"),
			"NOMAD_TASK_DIR":    filepath.Join(dir, "main", "local"),
			"NOMAD_SECRETS_DIR": filepath.Join(dir, "main", "secrets"),
			"NOMAD_TASK_NAME":   "main",
			"NOMAD_GROUP_NAME":  "group",
			"NOMAD_JOB_NAME":    "conformance",
			"NOMAD_JOB_ID":      "conformance",
			"NOMAD_NAMESPACE":   "default",
			"NOMAD_ALLOC_INDEX": "0",
		},
	}}
	if t.stdout, err = newOutput(t.config.StdoutPath, s.cfg.Patience); err != nil {
		return nil, err
	}
	if t.stderr, err = newOutput(t.config.StderrPath, s.cfg.Patience); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// encodeCommand makes the configuration of a task that runs argv.
func encodeCommand(spec *schema.Spec, config map[string]any, argv ...any) ([]byte, error) {
	return schema.Encode(spec, fill(config, argv).(map[string]any))
}

// fill puts a command line in the places of $COMMAND, $ARGS and $ARGV.
func fill(v any, argv []any) any {
	switch v := v.(type) {
	case string:
		switch v {
		case "$COMMAND":
			return argv[0]
		case "$ARGS":
			return argv[1:]
		case "$ARGV":
			return argv
		}
		return v
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = fill(e, argv)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = fill(e, argv)
		}
		return out
	default:
		return v
	}
}

// startTask prepares and starts a task that runs a shell script.
func (s *session) startTask(ctx context.Context, p *process, script string) (*task, error) {
	t, err := s.newTask(ctx, p, script)
	if err != nil {
		return nil, err
	}
	if t.handle, _, err = p.driver.StartTask(ctx, t.config); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// withTask starts a plugin and a task on it.
func (s *session) withTask(ctx context.Context, script string) (*process, *task, error) {
	p, err := s.ready(ctx)
	if err != nil {
		return nil, nil, err
	}
	t, err := s.startTask(ctx, p, script)
	return p, t, err
}

// sleeper is a script that runs until it gets SIGTERM, and has said that it
// does.
const sleeper = "echo running; exec sleep 60"

// id is the task's ID.
func (t *task) id() string { return t.config.ID }

// cleanupTimeout is how long destroying a task after its check may take.
const cleanupTimeout = 5 * time.Second

// end destroys the task and closes its pipes.
func (t *task) end(p *process) {
	ctx, cancel := within(context.Background(), cleanupTimeout)
	defer cancel()
	_ = p.driver.DestroyTask(ctx, t.id(), true)
	t.close()
}

func (t *task) close() {
	for _, o := range []*output{t.stdout, t.stderr} {
		if o != nil {
			_ = o.file.Close()
		}
	}
}

// touch makes a file in the task's local folder, which scripts wait for.
func (t *task) touch(name string) error {
	return os.WriteFile(filepath.Join(t.config.AllocDir, "main", "local", name), nil, 0o644)
}

// waitTask waits for the task's result and fails after d.
func waitTask(ctx context.Context, p *process, id string, d time.Duration) (*driver.ExitResult, error) {
	waitCtx, cancel := within(ctx, d)
	defer cancel()
	r, err := p.driver.WaitTask(waitCtx, id)
	if err != nil && waitCtx.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("WaitTask did not return within %v", d)
	}
	return r, err
}

// stillRuns checks that a task runs on for a while.
func stillRuns(ctx context.Context, p *process, id string) error {
	waitCtx, cancel := within(ctx, settle)
	defer cancel()
	r, err := p.driver.WaitTask(waitCtx, id)
	if waitCtx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the task has ended: %+v", *r)
}

// output collects what comes out of a FIFO.
type output struct {
	file     *os.File
	patience time.Duration
	mu       sync.Mutex
	buf      bytes.Buffer
	more     chan struct{}
}

func newOutput(path string, patience time.Duration) (*output, error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("making FIFO %s: %w", path, err)
	}
	// Opened for both, the FIFO has a reader at once and never ends.
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	o := &output{file: f, patience: patience, more: make(chan struct{}, 1)}
	go func() {
		b := make([]byte, 32<<10)
		for {
			n, err := f.Read(b)
			o.mu.Lock()
			o.buf.Write(b[:n])
			o.mu.Unlock()
			select {
			case o.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return o, nil
}

// waitFor waits until the output contains text.
func (o *output) waitFor(ctx context.Context, text string) error {
	return o.waitWithin(ctx, o.patience, text)
}

// secondStart is how long a task that must not be started again is watched for
// doing so.
const secondStart = time.Second

// seenAgain reports whether text comes although it must not.
func (o *output) seenAgain(ctx context.Context, text string) bool {
	return o.waitWithin(ctx, secondStart, text) == nil
}

func (o *output) waitWithin(ctx context.Context, d time.Duration, text string) error {
	ctx, cancel := within(ctx, d)
	defer cancel()
	for {
		o.mu.Lock()
		got := o.buf.String()
		o.mu.Unlock()
		if strings.Contains(got, text) {
			return nil
		}
		select {
		case <-o.more:
		case <-ctx.Done():
			return fmt.Errorf("the task's output is %q, want %q in it", got, text)
		}
	}
}
