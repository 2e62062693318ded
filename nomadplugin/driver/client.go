package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Client is an agent's side of the driver protocol. It is safe for concurrent
// use. Errors of the plugin keep the mark of Recoverable and match
// ErrTaskNotFound where the plugin says so.
type Client struct{ rpc driverpb.DriverClient }

// NewClient returns a client on a connection to a plugin; host.Launch makes
// one.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: driverpb.NewDriverClient(conn)}
}

// Init tells the driver that this is its real launch. Plugins of before Nomad
// 2.0.4 do not know the call; that is no error.
func (c *Client) Init(ctx context.Context) error {
	_, err := c.rpc.Init(ctx, &driverpb.InitRequest{})
	return optional("initializing driver", err)
}

// Shutdown tells the driver that the agent is about to end it; tasks keep
// running. Plugins of before Nomad 2.0.4 do not know the call; that is no
// error.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.rpc.Shutdown(ctx, &driverpb.ShutdownRequest{})
	return optional("shutting driver down", err)
}

func optional(act string, err error) error {
	if err = errorOfStatus(err); err == nil || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}

// TaskSchema asks for the schema of a job's config block.
func (c *Client) TaskSchema(ctx context.Context) (*schema.Spec, error) {
	r, err := c.rpc.TaskConfigSchema(ctx, &driverpb.TaskConfigSchemaRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking driver for its task schema: %w", errorOfStatus(err))
	}
	if r.GetSpec() == nil {
		return nil, errors.New("asking driver for its task schema: it has none")
	}
	return wire.Spec(r.GetSpec())
}

// Capabilities asks what the driver can do.
func (c *Client) Capabilities(ctx context.Context) (Capabilities, error) {
	r, err := c.rpc.Capabilities(ctx, &driverpb.CapabilitiesRequest{})
	if err != nil {
		return Capabilities{}, fmt.Errorf("asking driver for its capabilities: %w", errorOfStatus(err))
	}
	if r.GetCapabilities() == nil {
		return Capabilities{}, errors.New("asking driver for its capabilities: it replied with none")
	}
	return capabilitiesOf(r.GetCapabilities()), nil
}

// Fingerprint calls each with every state that the driver publishes, one after
// the other, until ctx ends, each returns an error, or the plugin ends the
// stream. It never returns nil.
func (c *Client) Fingerprint(ctx context.Context, each func(Fingerprint) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Fingerprint(ctx, &driverpb.FingerprintRequest{})
	return wire.Receive("fingerprinting driver", errorOfStatus, stream, err, func(m *driverpb.FingerprintResponse) error {
		f, err := fingerprintOf(m)
		if err != nil {
			return fmt.Errorf("fingerprinting driver: %w", err)
		}
		return each(f)
	})
}

// StartTask starts a task. A started task without a handle is an error: it
// could not be recovered.
func (c *Client) StartTask(ctx context.Context, t *TaskConfig) (*Handle, *NetworkOverride, error) {
	r, err := c.rpc.StartTask(ctx, &driverpb.StartTaskRequest{Task: taskMessage(t)})
	if err != nil {
		return nil, nil, fmt.Errorf("starting task %q: %w", t.ID, errorOfStatus(err))
	}
	h := handleOf(r.GetHandle())
	if h == nil || h.Config == nil {
		return nil, nil, fmt.Errorf("starting task %q: plugin returned no handle with the task's configuration", t.ID)
	}
	return h, overrideOf(r.GetNetworkOverride()), nil
}

// RecoverTask makes the driver take up a task by its handle.
func (c *Client) RecoverTask(ctx context.Context, h *Handle) error {
	if _, err := c.rpc.RecoverTask(ctx, &driverpb.RecoverTaskRequest{Handle: handleMessage(h)}); err != nil {
		return fmt.Errorf("recovering task: %w", errorOfStatus(err))
	}
	return nil
}

// WaitTask blocks until the task ends or ctx does. The result's Err is what
// the driver reported about the task itself.
func (c *Client) WaitTask(ctx context.Context, id string) (*ExitResult, error) {
	r, err := c.rpc.WaitTask(ctx, &driverpb.WaitTaskRequest{TaskId: id})
	if err != nil {
		return nil, fmt.Errorf("waiting for task %q: %w", id, errorOfStatus(err))
	}
	res := exitOf(r.GetResult())
	if res == nil {
		res = &ExitResult{}
	}
	if r.GetErr() != "" {
		res.Err = errors.New(r.GetErr())
	} else if r.GetResult() == nil {
		return nil, fmt.Errorf("waiting for task %q: plugin replied without a result", id)
	}
	return res, nil
}

// StopTask ends a task: signal ("" is the driver's choice), then after timeout
// a kill.
func (c *Client) StopTask(ctx context.Context, id string, timeout time.Duration, signal string) error {
	_, err := c.rpc.StopTask(ctx, &driverpb.StopTaskRequest{TaskId: id, Timeout: durationpb.New(timeout), Signal: signal})
	if err != nil {
		return fmt.Errorf("stopping task %q: %w", id, errorOfStatus(err))
	}
	return nil
}

// DestroyTask makes the driver forget a task; with force also a running one.
func (c *Client) DestroyTask(ctx context.Context, id string, force bool) error {
	if _, err := c.rpc.DestroyTask(ctx, &driverpb.DestroyTaskRequest{TaskId: id, Force: force}); err != nil {
		return fmt.Errorf("destroying task %q: %w", id, errorOfStatus(err))
	}
	return nil
}

// InspectTask asks for a task's state.
func (c *Client) InspectTask(ctx context.Context, id string) (*TaskStatus, error) {
	r, err := c.rpc.InspectTask(ctx, &driverpb.InspectTaskRequest{TaskId: id})
	if err != nil {
		return nil, fmt.Errorf("inspecting task %q: %w", id, errorOfStatus(err))
	}
	t := r.GetTask()
	if t.GetStartedAt() == nil || t.GetCompletedAt() == nil || t.GetResult() == nil {
		return nil, fmt.Errorf("inspecting task %q: plugin left out a time or the result, which agents need", id)
	}
	return statusOf(r), nil
}

// TaskStats calls each with every reading, as Fingerprint does.
func (c *Client) TaskStats(ctx context.Context, id string, interval time.Duration, each func(TaskStats) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	act := fmt.Sprintf("reading statistics of task %q", id)
	stream, err := c.rpc.TaskStats(ctx, &driverpb.TaskStatsRequest{TaskId: id, CollectionInterval: durationpb.New(interval)})
	return wire.Receive(act, errorOfStatus, stream, err, func(m *driverpb.TaskStatsResponse) error {
		s, err := statsOf(m.GetStats())
		if err != nil {
			return fmt.Errorf("%s: %w", act, err)
		}
		return each(s)
	})
}

// TaskEvents calls each with every event of any task, as Fingerprint does.
func (c *Client) TaskEvents(ctx context.Context, each func(TaskEvent) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.TaskEvents(ctx, &driverpb.TaskEventsRequest{})
	return wire.Receive("reading task events", errorOfStatus, stream, err, func(m *driverpb.DriverTaskEvent) error {
		return each(eventOf(m))
	})
}

// SignalTask sends a signal such as "SIGHUP" to a task.
func (c *Client) SignalTask(ctx context.Context, id, signal string) error {
	if _, err := c.rpc.SignalTask(ctx, &driverpb.SignalTaskRequest{TaskId: id, Signal: signal}); err != nil {
		return fmt.Errorf("signalling task %q: %w", id, errorOfStatus(err))
	}
	return nil
}

// CreateNetwork asks a NetworkManager for an allocation's network.
func (c *Client) CreateNetwork(ctx context.Context, allocID, hostname string) (*NetworkIsolation, bool, error) {
	r, err := c.rpc.CreateNetwork(ctx, &driverpb.CreateNetworkRequest{AllocId: allocID, Hostname: hostname})
	if err != nil {
		return nil, false, fmt.Errorf("creating network of allocation %q: %w", allocID, errorOfStatus(err))
	}
	return isolationOf(r.GetIsolationSpec()), r.GetCreated(), nil
}

// DestroyNetwork removes an allocation's network.
func (c *Client) DestroyNetwork(ctx context.Context, allocID string, spec *NetworkIsolation) error {
	_, err := c.rpc.DestroyNetwork(ctx, &driverpb.DestroyNetworkRequest{AllocId: allocID, IsolationSpec: isolationMessage(spec)})
	if err != nil {
		return fmt.Errorf("destroying network of allocation %q: %w", allocID, errorOfStatus(err))
	}
	return nil
}
