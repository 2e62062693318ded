package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/internal/sample"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// The test binary is also the plugin.
const roleEnv = "DROVER_TEST_PLUGIN"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "device":
		device.Serve(sample.NewDevice())
	case "driver":
		driver.Serve(sample.NewDriver())
	case "holds output": // by a child that outlives it
		child := exec.Command("sleep", "20")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		log := base.NewLogger("holder")
		log.Warn("child started", "pid", child.Process.Pid)
		device.Serve(sample.NewDevice(), base.WithLogger(log))
	case "silent":
		select {}
	case "exits":
		os.Exit(3)
	default:
		os.Exit(m.Run())
	}
}

func launch(t *testing.T, role string) *host.Process {
	t.Helper()
	p, err := host.Launch(t.Context(), config(t, role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func config(t *testing.T, role string) host.Config {
	return host.Config{
		Path:   os.Args[0],
		Env:    []string{roleEnv + "=" + role, "TMPDIR=" + t.TempDir()},
		Logger: hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Warn}),
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDevicePlugin(t *testing.T) {
	ctx := deadline(t)
	p := launch(t, "device")

	info, err := p.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := base.Info{Type: base.TypeDevice, Name: "sample-device", Version: "0.1.0", APIVersions: []string{base.APIVersion}}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Error(diff)
	}
	spec, err := p.ConfigSchema(ctx)
	if err != nil {
		t.Fatal(err)
	}
	config, err := schema.Encode(spec, map[string]any{"count": 3})
	if err != nil {
		t.Fatal(err)
	}
	agent := &base.AgentConfig{MinPort: 14000, MaxPort: 14512, Topology: &base.Topology{Cores: []base.Core{{ID: 1, Efficiency: true}}}}
	if err := p.SetConfig(ctx, base.Config{MsgPack: config, Agent: agent}); err != nil {
		t.Fatal(err)
	}

	stop := errors.New("seen enough")
	var groups []device.Group
	err = p.Device().Fingerprint(ctx, func(g []device.Group) error {
		groups = g
		return stop
	})
	if err != stop {
		t.Fatal(err)
	}
	if len(groups) != 1 || len(groups[0].Devices) != 3 || groups[0].Attributes["memory"] != base.Int(16384, "MiB") {
		t.Errorf("got groups %+v", groups)
	}
	res, err := p.Device().Reserve(ctx, []string{"sample-02", "sample-00"})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Env["SAMPLE_VISIBLE_DEVICES"]; got != "sample-00,sample-02" {
		t.Errorf("got %q", got)
	}
	if _, err := p.Device().Reserve(ctx, []string{"other"}); err == nil || !strings.Contains(err.Error(), `no device "other"`) {
		t.Errorf("got error %v", err)
	}
	n := 0
	err = p.Device().Stats(ctx, time.Millisecond, func(g []device.GroupStats) error {
		if n++; n < 3 {
			return nil
		}
		if s := g[0].Instances["sample-01"]; *s.Summary.Int != 100 || *s.Summary.IntDenominator != 16384 || s.Time.IsZero() {
			t.Errorf("got %+v", s)
		}
		return stop
	})
	if err != stop {
		t.Fatal(err)
	}
	p.Shutdown()
	p.Shutdown()
}

func newTask(t *testing.T, id string, command ...string) *driver.TaskConfig {
	t.Helper()
	config, err := schema.Encode(sample.NewDriver().TaskSchema(), map[string]any{"command": command[0], "args": command[1:]})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "main"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &driver.TaskConfig{
		ID: id, Name: "main", AllocDir: dir, DriverConfig: config,
		StdoutPath: os.DevNull, StderrPath: os.DevNull,
		Env: map[string]string{"PATH": os.Getenv("PATH")},
	}
}

func TestDriverPlugin(t *testing.T) {
	ctx := deadline(t)
	d := launch(t, "driver").Driver()
	if err := d.Init(ctx); err != nil {
		t.Fatal(err)
	}
	h, _, err := d.StartTask(ctx, newTask(t, "a/main/1", "sh", "-c", "sleep 60 & wait $!; exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	if h.Version != 1 || h.State != driver.StateRunning || h.Config.ID != "a/main/1" {
		t.Errorf("got handle %+v", h)
	}
	res, err := d.ExecTask(ctx, "a/main/1", []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	want := &driver.ExecResult{Stdout: []byte("out\n"), Stderr: []byte("err\n"), Exit: driver.ExitResult{ExitCode: 3}}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Error(diff)
	}
	var out bytes.Buffer
	big := strings.Repeat("0123456789", 100_000)
	exit, err := d.ExecTaskStreaming(ctx, "a/main/1", driver.ExecStreams{
		Command: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out,
	})
	if err != nil || exit.ExitCode != 0 || out.String() != big {
		t.Errorf("cat gave %d bytes, %+v, %v", out.Len(), exit, err)
	}
	// A reader that never ends must not hold up the command's end.
	never, _ := io.Pipe()
	if _, err := d.ExecTaskStreaming(ctx, "a/main/1", driver.ExecStreams{Command: []string{"true"}, Stdin: never}); err != nil {
		t.Error(err)
	}
	if err := d.StopTask(ctx, "a/main/1", 10*time.Second, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if got, err := d.WaitTask(ctx, "a/main/1"); err != nil || got.Signal != 15 {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := d.DestroyTask(ctx, "a/main/1", true); err != nil {
		t.Fatal(err)
	}
}

func TestDriverErrors(t *testing.T) {
	ctx := deadline(t)
	d := launch(t, "driver").Driver()

	_, _, err := d.StartTask(ctx, newTask(t, "a/main/1", "/no/such/command"))
	if !driver.IsRecoverable(err) {
		t.Errorf("recoverable error arrived as %v", err)
	}
	bad := newTask(t, "a/main/2", "true")
	bad.DriverConfig = []byte{0xc1}
	if _, _, err := d.StartTask(ctx, bad); err == nil || driver.IsRecoverable(err) {
		t.Errorf("plain error arrived as %v", err)
	}
	if _, err := d.WaitTask(ctx, "nobody"); !errors.Is(err, driver.ErrTaskNotFound) {
		t.Errorf("got %v", err)
	}
	if err := d.StopTask(ctx, "nobody", 0, ""); err != nil {
		t.Errorf("stopping an unknown task: %v", err)
	}
	if err := d.DestroyTask(ctx, "nobody", true); err != nil {
		t.Errorf("destroying an unknown task: %v", err)
	}
	if _, _, err := d.CreateNetwork(ctx, "a", ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func TestKilledPlugin(t *testing.T) {
	ctx := deadline(t)
	p := launch(t, "driver")
	task := newTask(t, "a/main/1", "sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; exit 42")
	h, _, err := p.Driver().StartTask(ctx, task)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := p.Driver().WaitTask(ctx, "a/main/1")
		failed <- err
	}()
	streams := make(chan error, 1)
	opened := make(chan struct{}, 1)
	go func() {
		streams <- p.Driver().Fingerprint(ctx, func(driver.Fingerprint) error { opened <- struct{}{}; return nil })
	}()
	<-opened
	p.Kill()
	for _, ch := range []chan error{failed, streams} {
		if err := <-ch; !errors.Is(err, host.ErrExited) {
			t.Errorf("got %v, want ErrExited", err)
		}
	}
	if _, err := p.Info(ctx); !errors.Is(err, host.ErrExited) {
		t.Errorf("a call after the end: got %v, want ErrExited", err)
	}

	// The task outlives its driver, and its exit status is not lost.
	if err := os.WriteFile(filepath.Join(task.AllocDir, "main", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := launch(t, "driver").Driver()
	h.Config.DriverConfig = nil
	for range 2 {
		if err := d.RecoverTask(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	if exit, err := d.WaitTask(ctx, "a/main/1"); err != nil || exit.ExitCode != 42 {
		t.Errorf("got %+v, %v", exit, err)
	}
}

func TestReattach(t *testing.T) {
	ctx := deadline(t)
	first := launch(t, "driver")
	info := first.ReattachInfo()
	second, err := host.Reattach(ctx, info, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Info(ctx); err != nil || got.Name != "sample-driver" {
		t.Errorf("got %+v, %v", got, err)
	}
	if second.PID() != first.PID() {
		t.Errorf("got process ID %d, want %d", second.PID(), first.PID())
	}
	second.Shutdown()
	<-first.Done()
	if _, err := host.Reattach(ctx, info, nil); !errors.Is(err, host.ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

func TestLaunchFailures(t *testing.T) {
	for _, tc := range []struct {
		name, path, role string
		timeout          time.Duration
		want             string
	}{
		{name: "no such file", path: "/no/such/plugin", want: "no such file"},
		{name: "exits at once", path: os.Args[0], role: "exits", want: "before we could connect|Unrecognized"},
		{name: "no handshake", path: os.Args[0], role: "silent", timeout: 50 * time.Millisecond, want: "timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t, tc.role)
			cfg.Path, cfg.StartTimeout, cfg.Logger = tc.path, tc.timeout, nil
			_, err := host.Launch(deadline(t), cfg)
			if err == nil {
				t.Fatal("launched")
			}
			for _, alternative := range strings.Split(tc.want, "|") {
				if strings.Contains(err.Error(), alternative) {
					return
				}
			}
			t.Errorf("got %v, want %q", err, tc.want)
		})
	}
	t.Run("context ends", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		cfg := config(t, "silent")
		cfg.Logger = nil
		if _, err := host.Launch(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A child that holds the plugin's output does not hide the plugin's end, nor
// hold up the host.
func TestOutputHeldByChild(t *testing.T) {
	lines := make(logLines, 100)
	cfg := config(t, "holds output")
	cfg.Logger = hclog.New(&hclog.LoggerOptions{Output: lines, Level: hclog.Warn})
	p, err := host.Launch(deadline(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	for pid == 0 {
		select {
		case line := <-lines:
			if !strings.Contains(line, "child started") {
				continue
			}
			if !strings.Contains(line, "[WARN]") {
				t.Errorf("the plugin's warning arrived as %q", line)
			}
			_, after, _ := strings.Cut(line, "pid=") // the pairs come in any order
			if _, err := fmt.Sscan(after, &pid); err != nil {
				t.Fatalf("no pid in %q", line)
			}
		case <-deadline(t).Done():
			t.Fatal("the plugin's log did not arrive")
		}
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-deadline(t).Done():
		t.Fatal("the plugin's end was not seen")
	}
	if _, err := p.Info(deadline(t)); !errors.Is(err, host.ErrExited) {
		t.Errorf("got %v, want ErrExited", err)
	}
	ended := make(chan struct{})
	go func() {
		p.Shutdown()
		close(ended)
	}()
	select {
	case <-ended:
	case <-deadline(t).Done():
		t.Error("Shutdown did not return")
	}
}

// logLines is a log output that a test reads line by line.
type logLines chan string

func (l logLines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}
