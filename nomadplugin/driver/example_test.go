package driver_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// timers is a whole driver, whose tasks are timers. Its main is
// driver.Serve(&timers{}).
type timers struct {
	driver.Unsupported
	tasks sync.Map // ID to *timer
}

type timer struct {
	ends time.Time
	stop context.CancelFunc
	done context.Context // ends when the task is stopped
}

func (*timers) Info() base.Info {
	return base.Info{Type: base.TypeDriver, Name: "timer", Version: "1.0.0"}
}

func (*timers) TaskSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{"duration": schema.Attr("duration", "string", true)})
}

func (*timers) Capabilities() driver.Capabilities { return driver.Capabilities{} }

func (*timers) Fingerprint(_ context.Context, publish func(driver.Fingerprint) error) error {
	return publish(driver.Fingerprint{Health: driver.HealthHealthy, Description: "ticking"})
}

func (d *timers) run(id string, ends time.Time) {
	done, stop := context.WithCancel(context.Background())
	d.tasks.LoadOrStore(id, &timer{ends: ends, stop: stop, done: done})
}

func (d *timers) StartTask(_ context.Context, t *driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) {
	var config struct {
		Duration time.Duration `codec:"duration"`
	}
	if err := t.Decode(&config); err != nil {
		return nil, nil, err
	}
	ends := time.Now().Add(config.Duration)
	d.run(t.ID, ends)
	// All that a later plugin process needs to take the task up again.
	state, err := ends.MarshalText()
	return &driver.Handle{Version: 1, Config: t, State: driver.StateRunning, DriverState: state}, nil, err
}

func (d *timers) RecoverTask(_ context.Context, h *driver.Handle) error {
	var ends time.Time
	if err := ends.UnmarshalText(h.DriverState); err != nil {
		return err
	}
	d.run(h.Config.ID, ends)
	return nil
}

func (d *timers) WaitTask(ctx context.Context, id string) (*driver.ExitResult, error) {
	t, ok := d.tasks.Load(id)
	if !ok {
		return nil, driver.ErrTaskNotFound
	}
	select {
	case <-time.After(time.Until(t.(*timer).ends)):
		return &driver.ExitResult{}, nil
	case <-t.(*timer).done.Done():
		return &driver.ExitResult{ExitCode: 143, Signal: 15}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *timers) StopTask(_ context.Context, id string, _ time.Duration, _ string) error {
	t, ok := d.tasks.Load(id)
	if !ok {
		return driver.ErrTaskNotFound // Serve makes it a success
	}
	t.(*timer).stop()
	return nil
}

func (d *timers) DestroyTask(_ context.Context, id string, _ bool) error {
	if t, ok := d.tasks.LoadAndDelete(id); ok {
		t.(*timer).stop()
	}
	return nil
}

// A driver, and what an agent does with it: it starts a task, loses the driver
// in a crash, launches it again and recovers the task.
func Example() {
	ctx := context.Background()
	plugin := host.Config{Path: os.Args[0], Env: []string{"EXAMPLE_PLUGIN=timer"}}
	p, err := host.Launch(ctx, plugin)
	if err != nil {
		fmt.Println(err)
		return
	}
	spec, err := p.Driver().TaskSchema(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = schema.Encode(spec, map[string]any{"durration": "1h"})
	fmt.Println(err)

	config, err := schema.Encode(spec, map[string]any{"duration": "50ms"})
	if err != nil {
		fmt.Println(err)
		return
	}
	h, _, err := p.Driver().StartTask(ctx, &driver.TaskConfig{ID: "alloc/task/0a1b2c3d", DriverConfig: config})
	fmt.Println("started:", err)
	p.Kill()

	p, err = host.Launch(ctx, plugin)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Shutdown()
	fmt.Println("recovered:", p.Driver().RecoverTask(ctx, h))
	exit, err := p.Driver().WaitTask(ctx, "alloc/task/0a1b2c3d")
	fmt.Println("exit code:", exit.ExitCode, err)
	fmt.Println(p.Driver().StopTask(ctx, "some other task", time.Second, "SIGTERM"))

	// Output:
	// missing required argument: The argument "duration" is required, but no definition was found.
	// unknown key: No argument or block type is named "durration". Did you mean "duration"?
	// started: <nil>
	// recovered: <nil>
	// exit code: 0 <nil>
	// <nil>
}
