package driver

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/serve"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Serve runs the process as the task driver p until the agent ends it; call it
// from main. If no agent started the process, it says so and exits with status
// 1. Print nothing to stdout before it.
//
// The process gets a SIGPIPE handler, so that it outlives an agent that
// crashed; tasks that it starts still have the default action.
func Serve(p Plugin, opts ...base.ServeOption) {
	serve.Run(p, base.TypeDriver, func(r grpc.ServiceRegistrar, log hclog.Logger) { Register(r, p, log) }, opts)
}

// Register serves the driver protocol of p on r, without the base protocol.
// Serve does it itself; it is exported for servers inside a test.
func Register(r grpc.ServiceRegistrar, p Plugin, log hclog.Logger) {
	driverpb.RegisterDriverServer(r, &server{p: p, log: log})
}

type server struct {
	driverpb.UnimplementedDriverServer
	p   Plugin
	log hclog.Logger
}

func (s *server) Init(ctx context.Context, _ *driverpb.InitRequest) (*driverpb.InitResponse, error) {
	if p, ok := s.p.(Initializer); ok {
		if err := p.Init(ctx); err != nil {
			return nil, statusOfError(err)
		}
	}
	return &driverpb.InitResponse{}, nil
}

func (s *server) Shutdown(ctx context.Context, _ *driverpb.ShutdownRequest) (*driverpb.ShutdownResponse, error) {
	if p, ok := s.p.(Shutdowner); ok {
		if err := p.Shutdown(ctx); err != nil {
			return nil, statusOfError(err)
		}
	}
	return &driverpb.ShutdownResponse{}, nil
}

func (s *server) TaskConfigSchema(context.Context, *driverpb.TaskConfigSchemaRequest) (*driverpb.TaskConfigSchemaResponse, error) {
	spec := s.p.TaskSchema()
	if spec == nil {
		spec = schema.Object(nil) // agents need one
	}
	m, err := wire.SpecMessage(spec)
	if err != nil {
		return nil, err
	}
	return &driverpb.TaskConfigSchemaResponse{Spec: m}, nil
}

func (s *server) Capabilities(context.Context, *driverpb.CapabilitiesRequest) (*driverpb.CapabilitiesResponse, error) {
	return &driverpb.CapabilitiesResponse{Capabilities: capabilitiesMessage(s.p.Capabilities())}, nil
}

func (s *server) Fingerprint(_ *driverpb.FingerprintRequest, stream grpc.ServerStreamingServer[driverpb.FingerprintResponse]) error {
	ctx, out := stream.Context(), serve.NewStream(stream)
	publish := func(f Fingerprint) error {
		m, err := fingerprintMessage(f)
		if err != nil {
			s.log.Error("refused an invalid fingerprint", "error", err)
			return err
		}
		return out.Send(m)
	}
	serve.Hold(ctx, s.log, "Fingerprint",
		func() error { return s.p.Fingerprint(ctx, publish) },
		func(err error) {
			if m := final(out.Last(), err); m != nil {
				_ = out.Send(m) // the stream's end shows in ctx
			}
		})
	return nil
}

// final is what to send when a fingerprint ends with err. An agent's start
// waits for a first one, so there is always one.
func final(last *driverpb.FingerprintResponse, err error) *driverpb.FingerprintResponse {
	if err == nil && last != nil {
		return nil
	}
	m := &driverpb.FingerprintResponse{}
	if last != nil {
		m = proto.CloneOf(last)
	}
	if err != nil {
		m.Health = driverpb.FingerprintResponse_UNHEALTHY
		m.HealthDescription = "driver stopped fingerprinting: " + err.Error()
	}
	return m
}

func (s *server) RecoverTask(ctx context.Context, r *driverpb.RecoverTaskRequest) (*driverpb.RecoverTaskResponse, error) {
	h := handleOf(r.GetHandle())
	if h == nil || h.Config == nil || h.Config.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "handle has no task configuration")
	}
	if err := s.p.RecoverTask(ctx, h); err != nil {
		return nil, statusOfError(err)
	}
	return &driverpb.RecoverTaskResponse{}, nil
}

func (s *server) StartTask(ctx context.Context, r *driverpb.StartTaskRequest) (*driverpb.StartTaskResponse, error) {
	t := taskOf(r.GetTask())
	if t == nil || t.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "task has no ID")
	}
	h, override, err := s.p.StartTask(ctx, t)
	if err != nil {
		return nil, statusOfError(err)
	}
	m := handleMessage(h)
	if m == nil {
		m = &driverpb.TaskHandle{}
	}
	// An agent takes version 0 for a very old state, and a handle without
	// configuration for nothing to recover: it would start the task twice.
	m.Version = max(m.Version, 1)
	if m.Config == nil {
		m.Config = r.GetTask()
	}
	if m.State == driverpb.TaskState_UNKNOWN {
		m.State = driverpb.TaskState_RUNNING
	}
	return &driverpb.StartTaskResponse{
		Result:          driverpb.StartTaskResponse_SUCCESS,
		Handle:          m,
		NetworkOverride: overrideMessage(override),
	}, nil
}

func (s *server) WaitTask(ctx context.Context, r *driverpb.WaitTaskRequest) (*driverpb.WaitTaskResponse, error) {
	res, err := s.p.WaitTask(ctx, r.GetTaskId())
	if err != nil {
		return nil, statusOfError(err)
	}
	if res == nil {
		return nil, errors.New("driver returned no exit result")
	}
	m := &driverpb.WaitTaskResponse{Result: exitMessage(res)}
	if res.Err != nil {
		m.Err = res.Err.Error()
	}
	return m, nil
}

// StopTask and DestroyTask succeed for unknown tasks: agents do not recognise
// that error across the wire, and would retry for minutes.

func (s *server) StopTask(ctx context.Context, r *driverpb.StopTaskRequest) (*driverpb.StopTaskResponse, error) {
	err := s.p.StopTask(ctx, r.GetTaskId(), r.GetTimeout().AsDuration(), r.GetSignal())
	if err != nil && !errors.Is(err, ErrTaskNotFound) {
		return nil, statusOfError(err)
	}
	return &driverpb.StopTaskResponse{}, nil
}

func (s *server) DestroyTask(ctx context.Context, r *driverpb.DestroyTaskRequest) (*driverpb.DestroyTaskResponse, error) {
	err := s.p.DestroyTask(ctx, r.GetTaskId(), r.GetForce())
	if err != nil && !errors.Is(err, ErrTaskNotFound) {
		return nil, statusOfError(err)
	}
	return &driverpb.DestroyTaskResponse{}, nil
}

func (s *server) InspectTask(ctx context.Context, r *driverpb.InspectTaskRequest) (*driverpb.InspectTaskResponse, error) {
	st, err := s.p.InspectTask(ctx, r.GetTaskId())
	if err != nil {
		return nil, statusOfError(err)
	}
	if st == nil {
		return nil, errors.New("driver returned no task status")
	}
	return statusMessage(r.GetTaskId(), st), nil
}

func (s *server) TaskStats(r *driverpb.TaskStatsRequest, stream grpc.ServerStreamingServer[driverpb.TaskStatsResponse]) error {
	ctx, id := stream.Context(), r.GetTaskId()
	interval := r.GetCollectionInterval().AsDuration()
	if interval <= 0 {
		interval = time.Second // the agent's own default
	}
	out := serve.NewStream(stream)
	publish := func(st TaskStats) error {
		return out.Send(&driverpb.TaskStatsResponse{Stats: statsMessage(id, st, time.Now())})
	}
	// An unknown task is the one early end that helps: the agent logs it and
	// asks again, at its interval, so that a task just recovered is measured.
	var notFound error
	streamCtx, stop := context.WithCancel(ctx)
	defer stop()
	serve.Hold(streamCtx, s.log, "TaskStats", func() error {
		err := s.p.TaskStats(ctx, id, interval, publish)
		if errors.Is(err, ErrTaskNotFound) {
			notFound = err
			stop()
		}
		return err
	}, nil)
	return statusOfError(notFound)
}

func (s *server) TaskEvents(_ *driverpb.TaskEventsRequest, stream grpc.ServerStreamingServer[driverpb.DriverTaskEvent]) error {
	ctx, out := stream.Context(), serve.NewStream(stream)
	publish := func(e TaskEvent) error { return out.Send(eventMessage(e, time.Now())) }
	serve.Hold(ctx, s.log, "TaskEvents", func() error { return s.p.TaskEvents(ctx, publish) }, nil)
	return nil
}

func (s *server) SignalTask(ctx context.Context, r *driverpb.SignalTaskRequest) (*driverpb.SignalTaskResponse, error) {
	if err := s.p.SignalTask(ctx, r.GetTaskId(), r.GetSignal()); err != nil {
		return nil, statusOfError(err)
	}
	return &driverpb.SignalTaskResponse{}, nil
}

func (s *server) CreateNetwork(ctx context.Context, r *driverpb.CreateNetworkRequest) (*driverpb.CreateNetworkResponse, error) {
	p, ok := s.p.(NetworkManager)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "driver makes no networks")
	}
	spec, created, err := p.CreateNetwork(ctx, r.GetAllocId(), r.GetHostname())
	if err != nil {
		return nil, statusOfError(err)
	}
	return &driverpb.CreateNetworkResponse{IsolationSpec: isolationMessage(spec), Created: created}, nil
}

func (s *server) DestroyNetwork(ctx context.Context, r *driverpb.DestroyNetworkRequest) (*driverpb.DestroyNetworkResponse, error) {
	p, ok := s.p.(NetworkManager)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "driver makes no networks")
	}
	if err := p.DestroyNetwork(ctx, r.GetAllocId(), isolationOf(r.GetIsolationSpec())); err != nil {
		return nil, statusOfError(err)
	}
	return &driverpb.DestroyNetworkResponse{}, nil
}
