package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
	"github.com/drover-ml/drover/nomadplugin/internal/sample"
	"github.com/drover-ml/drover/nomadplugin/internal/servetest"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// scripted is a driver of which a test replaces some calls.
type scripted struct {
	*sample.Driver
	schema      *schema.Spec
	fingerprint func(context.Context, func(driver.Fingerprint) error) error
	start       func(*driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error)
	recoverTask func(*driver.Handle) error
	wait        func() (*driver.ExitResult, error)
	stop        func() error
	inspect     func() (*driver.TaskStatus, error)
	stats       func(context.Context, time.Duration, func(driver.TaskStats) error) error
	events      func(context.Context, func(driver.TaskEvent) error) error
	exec        func() (*driver.ExecResult, error)
	stream      func(context.Context, driver.ExecStreams) (*driver.ExitResult, error)
}

func (s scripted) TaskSchema() *schema.Spec { return s.schema }
func (s scripted) Fingerprint(ctx context.Context, publish func(driver.Fingerprint) error) error {
	return s.fingerprint(ctx, publish)
}
func (s scripted) StartTask(_ context.Context, t *driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) {
	return s.start(t)
}
func (s scripted) RecoverTask(_ context.Context, h *driver.Handle) error { return s.recoverTask(h) }
func (s scripted) WaitTask(context.Context, string) (*driver.ExitResult, error) {
	return s.wait()
}
func (s scripted) StopTask(context.Context, string, time.Duration, string) error { return s.stop() }
func (s scripted) DestroyTask(context.Context, string, bool) error               { return s.stop() }
func (s scripted) InspectTask(context.Context, string) (*driver.TaskStatus, error) {
	return s.inspect()
}
func (s scripted) TaskStats(ctx context.Context, _ string, d time.Duration, publish func(driver.TaskStats) error) error {
	return s.stats(ctx, d, publish)
}
func (s scripted) TaskEvents(ctx context.Context, publish func(driver.TaskEvent) error) error {
	return s.events(ctx, publish)
}
func (s scripted) ExecTask(context.Context, string, []string, time.Duration) (*driver.ExecResult, error) {
	return s.exec()
}
func (s scripted) ExecTaskStreaming(ctx context.Context, _ string, x driver.ExecStreams) (*driver.ExitResult, error) {
	return s.stream(ctx, x)
}

func connect(t *testing.T, p driver.Plugin) *grpc.ClientConn {
	return servetest.Connect(t, func(r grpc.ServiceRegistrar, log hclog.Logger) { driver.Register(r, p, log) })
}

func client(t *testing.T, p driver.Plugin) *driver.Client { return driver.NewClient(connect(t, p)) }

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func fullTask() *driver.TaskConfig {
	return &driver.TaskConfig{
		ID: "a/t/1", Name: "t", DriverConfig: []byte{0x80}, User: "u", AllocDir: "/a",
		Env: map[string]string{"A": "b"}, DeviceEnv: map[string]string{"C": "d"},
		Resources: driver.Resources{
			CPUShares: 1, MemoryMB: 2, MemoryMaxMB: 3, MemoryLimit: 4, CPUSet: "0,1", CPUFraction: 0.5, CgroupPath: "/c",
			LinuxShares: 5, CPUPeriod: 6, CPUQuota: 7, OOMScoreAdj: 8,
			Ports: []driver.Port{{Label: "http", Value: 80, To: 8080, HostIP: "127.0.0.1"}},
		},
		Mounts:     []driver.Mount{{TaskPath: "/t", HostPath: "/h", ReadOnly: true, Propagation: "private", SELinuxLabel: "z", RequestName: "r"}},
		Devices:    []driver.Device{{TaskPath: "/dev/t", HostPath: "/dev/h", Permissions: "rw"}},
		StdoutPath: "/o", StderrPath: "/e", Group: "g", JobName: "j", JobID: "i", AllocID: "a", Namespace: "n", NodeName: "nn", NodeID: "ni",
		Network: &driver.NetworkIsolation{Mode: driver.NetworkGroup, Path: "/ns", Labels: map[string]string{"l": "m"}, Hosts: &driver.Hosts{Hostname: "h", Address: "1.2.3.4"}},
		DNS:     &driver.DNS{Servers: []string{"s"}, Searches: []string{"q"}, Options: []string{"o"}},
	}
}

func TestTaskOverTheWire(t *testing.T) {
	var started *driver.TaskConfig
	var recovered *driver.Handle
	override := &driver.NetworkOverride{Ports: map[string]int32{"a": 1}, Addr: "1.2.3.4", AutoAdvertise: true}
	c := client(t, scripted{
		start: func(tc *driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) {
			started = tc
			return &driver.Handle{Version: 3, Config: tc, State: driver.StateRunning, DriverState: []byte("s")}, override, nil
		},
		recoverTask: func(h *driver.Handle) error { recovered = h; return nil },
	})
	h, got, err := c.StartTask(deadline(t), fullTask())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RecoverTask(deadline(t), h); err != nil {
		t.Fatal(err)
	}
	want := &driver.Handle{Version: 3, Config: fullTask(), State: driver.StateRunning, DriverState: []byte("s")}
	for _, diff := range []string{
		cmp.Diff(fullTask(), started), cmp.Diff(want, h), cmp.Diff(want, recovered), cmp.Diff(override, got),
	} {
		if diff != "" {
			t.Error(diff)
		}
	}
}

func TestStartTaskFillsHandle(t *testing.T) {
	want := &driver.Handle{Version: 1, Config: fullTask(), State: driver.StateRunning}
	for name, h := range map[string]*driver.Handle{"nil": nil, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			c := client(t, scripted{start: func(*driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) { return h, nil, nil }})
			got, _, err := c.StartTask(deadline(t), fullTask())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStartTaskErrors(t *testing.T) {
	for _, tc := range []struct {
		name        string
		err         error
		recoverable bool
	}{
		{"plain", errors.New("no image"), false},
		{"recoverable", driver.Recoverable(errors.New("no image")), true},
		{"recoverable inside", fmt.Errorf("starting: %w", driver.Recoverable(errors.New("no image"))), true},
		{"unknown task", driver.ErrTaskNotFound, false},
		{"deadline", context.DeadlineExceeded, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := scripted{start: func(*driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) { return nil, nil, tc.err }}
			_, _, err := client(t, p).StartTask(deadline(t), fullTask())
			if err == nil || !strings.Contains(err.Error(), tc.err.Error()) || driver.IsRecoverable(err) != tc.recoverable {
				t.Errorf("got %v, recoverable: %v", err, driver.IsRecoverable(err))
			}
			for _, sentinel := range []error{driver.ErrTaskNotFound, context.DeadlineExceeded} {
				if errors.Is(err, sentinel) != errors.Is(tc.err, sentinel) {
					t.Errorf("%v is %v: %v", err, sentinel, errors.Is(err, sentinel))
				}
			}
			// What an agent looks for: the first detail.
			_, raw := driverpb.NewDriverClient(connect(t, p)).StartTask(deadline(t), &driverpb.StartTaskRequest{Task: &driverpb.TaskConfig{Id: "x"}})
			details := status.Convert(raw).Details()
			if d, ok := details[0].(*structspb.RecoverableError); !ok || d.Recoverable != tc.recoverable {
				t.Errorf("first detail is %v", details[0])
			}
		})
	}
	if driver.Recoverable(nil) != nil {
		t.Error("Recoverable(nil) is not nil")
	}
}

func TestUnknownTasks(t *testing.T) {
	c := client(t, scripted{stop: func() error { return fmt.Errorf("task x: %w", driver.ErrTaskNotFound) }})
	if err := c.StopTask(deadline(t), "x", 0, ""); err != nil {
		t.Error(err)
	}
	if err := c.DestroyTask(deadline(t), "x", true); err != nil {
		t.Error(err)
	}
	c = client(t, scripted{stop: func() error { return errors.New("stuck") }})
	if err := c.StopTask(deadline(t), "x", 0, ""); err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("got %v", err)
	}
}

// A driver that returns nothing where an agent needs something gets an error,
// not a crashed agent.
func TestNilResults(t *testing.T) {
	c := client(t, scripted{
		wait:    func() (*driver.ExitResult, error) { return nil, nil },
		inspect: func() (*driver.TaskStatus, error) { return nil, nil },
		exec:    func() (*driver.ExecResult, error) { return nil, nil },
		stream:  func(context.Context, driver.ExecStreams) (*driver.ExitResult, error) { return nil, nil },
	})
	ctx := deadline(t)
	_, wait := c.WaitTask(ctx, "x")
	_, inspect := c.InspectTask(ctx, "x")
	_, exec := c.ExecTask(ctx, "x", []string{"true"}, 0)
	_, stream := c.ExecTaskStreaming(ctx, "x", driver.ExecStreams{Command: []string{"true"}})
	for name, err := range map[string]error{"wait": wait, "inspect": inspect, "exec": exec, "stream": stream} {
		if err == nil || !strings.Contains(err.Error(), "driver returned no") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := c.TaskSchema(ctx); err != nil {
		t.Errorf("a nil schema is an empty one: %v", err)
	}
}

func TestRequestsWithoutTask(t *testing.T) {
	rpc := driverpb.NewDriverClient(connect(t, scripted{}))
	ctx := deadline(t)
	_, start := rpc.StartTask(ctx, &driverpb.StartTaskRequest{})
	_, recovered := rpc.RecoverTask(ctx, &driverpb.RecoverTaskRequest{Handle: &driverpb.TaskHandle{}})
	_, exec := rpc.ExecTask(ctx, &driverpb.ExecTaskRequest{})
	for name, err := range map[string]error{"start": start, "recover": recovered, "exec": exec} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWaitTask(t *testing.T) {
	want := driver.ExitResult{ExitCode: 137, Signal: 9, OOMKilled: true}
	c := client(t, scripted{wait: func() (*driver.ExitResult, error) { r := want; return &r, nil }})
	got, err := c.WaitTask(deadline(t), "x")
	if err != nil || *got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	c = client(t, scripted{wait: func() (*driver.ExitResult, error) { return &driver.ExitResult{Err: errors.New("lost")}, nil }})
	if got, err := c.WaitTask(deadline(t), "x"); err != nil || got.Err == nil || got.Err.Error() != "lost" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestInspectTask(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, want := range []*driver.TaskStatus{
		{ID: "x", Name: "t", State: driver.StateRunning, StartedAt: at},
		{ID: "x", Name: "t", State: driver.StateExited, StartedAt: at, CompletedAt: at, Exit: &driver.ExitResult{ExitCode: 1}, Attributes: map[string]string{"a": "b"}},
	} {
		c := client(t, scripted{inspect: func() (*driver.TaskStatus, error) { return want, nil }})
		got, err := c.InspectTask(deadline(t), "x")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTaskStats(t *testing.T) {
	f, n, zero := 1.5, uint64(7), uint64(0)
	full := driver.TaskStats{ID: "x", Time: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC), Total: driver.Usage{
		CPU:    driver.CPUUsage{SystemMode: &f, UserMode: &f, TotalTicks: &f, Percent: &f, ThrottledPeriods: &n, ThrottledTime: &n},
		Memory: driver.MemoryUsage{RSS: &n, Cache: &n, MaxUsage: &n, KernelUsage: &n, KernelMaxUsage: &n, Usage: &n, Swap: &zero},
	}, Processes: map[string]driver.Usage{"12": {Memory: driver.MemoryUsage{RSS: &n}}}}
	c := client(t, scripted{stats: func(_ context.Context, d time.Duration, publish func(driver.TaskStats) error) error {
		if d != time.Second {
			return fmt.Errorf("interval 0 arrived as %v", d)
		}
		return errors.Join(publish(full), publish(driver.TaskStats{}))
	}})
	var got []driver.TaskStats
	stop := errors.New("stop")
	err := c.TaskStats(deadline(t), "x", 0, func(s driver.TaskStats) error {
		if got = append(got, s); len(got) == 2 {
			return stop
		}
		return nil
	})
	if err != stop {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full, got[0]); diff != "" {
		t.Error(diff)
	}
	if got[1].ID != "x" || time.Since(got[1].Time) > time.Minute {
		t.Errorf("an empty reading arrived as %+v", got[1])
	}
}

// Streams stay open however the driver's part of them ends, but for the
// statistics of a task that is not there.
func TestStreamsStayOpen(t *testing.T) {
	ends := map[string]func() error{
		"returned": func() error { return nil },
		"failed":   func() error { return errors.New("failed") },
		"panicked": func() error { panic("oops") },
	}
	for name, end := range ends {
		c := client(t, scripted{
			fingerprint: func(context.Context, func(driver.Fingerprint) error) error { return end() },
			events:      func(context.Context, func(driver.TaskEvent) error) error { return end() },
			stats:       func(context.Context, time.Duration, func(driver.TaskStats) error) error { return end() },
		})
		for call, open := range map[string]func(context.Context) error{
			"fingerprint": func(ctx context.Context) error {
				return c.Fingerprint(ctx, func(driver.Fingerprint) error { return nil })
			},
			"events": func(ctx context.Context) error {
				return c.TaskEvents(ctx, func(driver.TaskEvent) error { return nil })
			},
			"stats": func(ctx context.Context) error {
				return c.TaskStats(ctx, "x", time.Second, func(driver.TaskStats) error { return nil })
			},
		} {
			t.Run(call+" "+name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancel(t.Context())
				defer time.AfterFunc(100*time.Millisecond, cancel).Stop()
				if err := open(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("the stream ended by itself: %v", err)
				}
			})
		}
	}
	t.Run("statistics of an unknown task", func(t *testing.T) {
		c := client(t, scripted{stats: func(context.Context, time.Duration, func(driver.TaskStats) error) error {
			return driver.ErrTaskNotFound
		}})
		err := c.TaskStats(deadline(t), "x", time.Second, func(driver.TaskStats) error { return nil })
		if !errors.Is(err, driver.ErrTaskNotFound) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFingerprintThatEnds(t *testing.T) {
	healthy := driver.Fingerprint{Health: driver.HealthHealthy, Description: "ready", Attributes: map[string]base.Attribute{"driver.x.n": base.Int(1, "")}}
	lost := healthy
	lost.Health, lost.Description = driver.HealthUnhealthy, "driver stopped fingerprinting: lost"
	for _, tc := range []struct {
		name    string
		publish []driver.Fingerprint
		err     error
		want    []driver.Fingerprint
	}{
		{"nothing published", nil, nil, []driver.Fingerprint{{Attributes: map[string]base.Attribute{}}}},
		{"failed at once", nil, errors.New("lost"), []driver.Fingerprint{{Health: driver.HealthUnhealthy, Description: lost.Description, Attributes: map[string]base.Attribute{}}}},
		{"failed later", []driver.Fingerprint{healthy}, errors.New("lost"), []driver.Fingerprint{healthy, lost}},
		{"returned", []driver.Fingerprint{healthy}, nil, []driver.Fingerprint{healthy}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client(t, scripted{fingerprint: func(_ context.Context, publish func(driver.Fingerprint) error) error {
				for _, f := range tc.publish {
					if err := publish(f); err != nil {
						return err
					}
				}
				return tc.err
			}})
			var got []driver.Fingerprint
			stop := errors.New("stop")
			err := c.Fingerprint(deadline(t), func(f driver.Fingerprint) error {
				if got = append(got, f); len(got) == len(tc.want) {
					return stop
				}
				return nil
			})
			if err != stop {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExecStreaming(t *testing.T) {
	c := client(t, scripted{stream: func(ctx context.Context, x driver.ExecStreams) (*driver.ExitResult, error) {
		if !x.TTY || len(x.Command) != 2 {
			return nil, fmt.Errorf("got %+v", x)
		}
		select {
		case size := <-x.Resize:
			fmt.Fprintf(x.Stderr, "%dx%d", size.Height, size.Width)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		_, err := io.Copy(x.Stdout, x.Stdin)
		return &driver.ExitResult{ExitCode: 9}, err
	}})
	sizes := make(chan driver.TerminalSize, 1)
	sizes <- driver.TerminalSize{Height: 24, Width: 80}
	big := strings.Repeat("x", 3*64<<10+1)
	var stdout, stderr bytes.Buffer
	exit, err := c.ExecTaskStreaming(deadline(t), "x", driver.ExecStreams{
		Command: []string{"a", "b"}, TTY: true, Stdin: strings.NewReader(big), Stdout: &stdout, Stderr: &stderr, Resize: sizes,
	})
	if err != nil || exit.ExitCode != 9 || stdout.String() != big || stderr.String() != "24x80" {
		t.Errorf("got %+v, %v, %d bytes, %q", exit, err, stdout.Len(), stderr.String())
	}
}

// A command that reads no input ends all the same, and one whose caller goes
// away sees its context end.
func TestExecStreamingEnds(t *testing.T) {
	t.Run("input left unread", func(t *testing.T) {
		c := client(t, scripted{stream: func(context.Context, driver.ExecStreams) (*driver.ExitResult, error) {
			return &driver.ExitResult{}, nil
		}})
		if _, err := c.ExecTaskStreaming(deadline(t), "x", driver.ExecStreams{Command: []string{"true"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20))}); err != nil {
			t.Error(err)
		}
	})
	t.Run("caller goes away", func(t *testing.T) {
		ended, running := make(chan error, 1), make(chan struct{})
		c := client(t, scripted{stream: func(ctx context.Context, x driver.ExecStreams) (*driver.ExitResult, error) {
			close(running)
			_, err := io.Copy(io.Discard, x.Stdin)
			<-ctx.Done()
			ended <- err
			return nil, ctx.Err()
		}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-running
			cancel()
		}()
		never, _ := io.Pipe()
		if _, err := c.ExecTaskStreaming(ctx, "x", driver.ExecStreams{Command: []string{"true"}, Stdin: never}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a broken input looked like its end")
			}
		case <-deadline(t).Done():
			t.Error("the command was not told")
		}
	})
	t.Run("no command", func(t *testing.T) {
		c := client(t, scripted{})
		if _, err := c.ExecTaskStreaming(deadline(t), "x", driver.ExecStreams{}); err == nil {
			t.Error("accepted")
		}
	})
}

func TestEvents(t *testing.T) {
	want := driver.TaskEvent{TaskID: "i", AllocID: "a", Task: "t", Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Message: "m", Annotations: map[string]string{"k": "v"}}
	c := client(t, scripted{events: func(_ context.Context, publish func(driver.TaskEvent) error) error { return publish(want) }})
	stop := errors.New("stop")
	err := c.TaskEvents(deadline(t), func(e driver.TaskEvent) error {
		if diff := cmp.Diff(want, e); diff != "" {
			t.Error(diff)
		}
		return stop
	})
	if err != stop {
		t.Error(err)
	}
}

// networked is a driver with all optional parts.
type networked struct {
	*sample.Driver
	calls chan string
}

func (n networked) Init(context.Context) error     { n.calls <- "init"; return nil }
func (n networked) Shutdown(context.Context) error { n.calls <- "shutdown"; return errors.New("busy") }
func (n networked) CreateNetwork(_ context.Context, alloc, hostname string) (*driver.NetworkIsolation, bool, error) {
	n.calls <- "create " + alloc + " " + hostname
	return &driver.NetworkIsolation{Mode: driver.NetworkGroup, Path: "/p"}, true, nil
}
func (n networked) DestroyNetwork(_ context.Context, alloc string, spec *driver.NetworkIsolation) error {
	n.calls <- "destroy " + alloc + " " + spec.Path
	return nil
}

func TestOptionalCalls(t *testing.T) {
	ctx := deadline(t)
	p := networked{Driver: sample.NewDriver(), calls: make(chan string, 4)}
	c := client(t, p)
	if err := c.Init(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Shutdown(ctx); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("got %v", err)
	}
	spec, created, err := c.CreateNetwork(ctx, "a", "h")
	if err != nil || !created || spec.Path != "/p" {
		t.Errorf("got %+v, %v, %v", spec, created, err)
	}
	if err := c.DestroyNetwork(ctx, "a", spec); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"init", "shutdown", "create a h", "destroy a /p"} {
		if got := <-p.calls; got != want {
			t.Errorf("got call %q, want %q", got, want)
		}
	}
	// A driver without them still answers.
	c = client(t, sample.NewDriver())
	if err := errors.Join(c.Init(ctx), c.Shutdown(ctx)); err != nil {
		t.Error(err)
	}
	if err := c.DestroyNetwork(ctx, "a", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	want := driver.Capabilities{
		SendSignals: true, Exec: true, FSIsolation: driver.FSIsolationImage, NoMounts: true,
		NetworkModes:      []driver.NetworkMode{driver.NetworkHost, driver.NetworkGroup},
		MustCreateNetwork: true, DisableLogCollection: true, DynamicWorkloadUsers: true,
	}
	got, err := client(t, capable{sample.NewDriver(), want}).Capabilities(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type capable struct {
	*sample.Driver
	caps driver.Capabilities
}

func (c capable) Capabilities() driver.Capabilities { return c.caps }
