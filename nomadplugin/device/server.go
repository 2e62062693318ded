package device

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/devicepb"
	"github.com/drover-ml/drover/nomadplugin/internal/serve"
)

// Serve runs the process as the device plugin p until the agent ends it; call
// it from main. If no agent started the process, it says so and exits with
// status 1. Print nothing to stdout before it.
func Serve(p Plugin, opts ...base.ServeOption) {
	serve.Run(p, base.TypeDevice, func(r grpc.ServiceRegistrar, log hclog.Logger) { Register(r, p, log) }, opts)
}

// Register serves the device protocol of p on r, without the base protocol.
// Serve does it itself; it is exported for servers inside a test.
func Register(r grpc.ServiceRegistrar, p Plugin, log hclog.Logger) {
	devicepb.RegisterDevicePluginServer(r, &server{p: p, log: log})
}

type server struct {
	devicepb.UnimplementedDevicePluginServer
	p   Plugin
	log hclog.Logger
}

func (s *server) Fingerprint(_ *devicepb.FingerprintRequest, stream grpc.ServerStreamingServer[devicepb.FingerprintResponse]) error {
	ctx, out := stream.Context(), serve.NewStream(stream)
	publish := func(groups []Group) error {
		ms, err := groupMessages(groups)
		if err != nil {
			s.log.Error("refused a fingerprint that the agent would drop this plugin for", "error", err)
			return err
		}
		return out.Send(&devicepb.FingerprintResponse{DeviceGroup: ms})
	}
	serve.Hold(ctx, s.log, "Fingerprint",
		func() error { return s.p.Fingerprint(ctx, publish) },
		func(err error) {
			if r := final(out.Last(), err); r != nil {
				_ = out.Send(r) // the stream's end shows in ctx
			}
		})
	return nil
}

// final is what to send when a fingerprint ends with err: nobody watches the
// devices any more, so they take no new work. An agent's start waits for a
// first set, so there is always one.
func final(last *devicepb.FingerprintResponse, err error) *devicepb.FingerprintResponse {
	if last == nil {
		return &devicepb.FingerprintResponse{}
	}
	if err == nil {
		return nil
	}
	r := proto.CloneOf(last)
	for _, g := range r.DeviceGroup {
		for _, d := range g.Devices {
			d.Healthy = false
			d.HealthDescription = "device plugin stopped watching: " + err.Error()
		}
	}
	return r
}

func (s *server) Reserve(ctx context.Context, r *devicepb.ReserveRequest) (*devicepb.ReserveResponse, error) {
	res, err := s.p.Reserve(ctx, r.GetDeviceIds())
	if err != nil {
		return nil, err
	}
	if res == nil {
		return nil, errors.New("device plugin returned no reservation")
	}
	m, err := reservationMessage(res)
	if err != nil {
		return nil, err
	}
	return &devicepb.ReserveResponse{ContainerRes: m}, nil
}

func (s *server) Stats(r *devicepb.StatsRequest, stream grpc.ServerStreamingServer[devicepb.StatsResponse]) error {
	ctx := stream.Context()
	interval := r.GetCollectionInterval().AsDuration()
	if interval <= 0 {
		interval = time.Second // the agent's own default
	}
	out := serve.NewStream(stream)
	publish := func(groups []GroupStats) error {
		ms, err := statsMessages(groups, time.Now())
		if err != nil {
			return err
		}
		return out.Send(&devicepb.StatsResponse{Groups: ms})
	}
	serve.Hold(ctx, s.log, "Stats", func() error { return s.p.Stats(ctx, interval, publish) }, nil)
	return nil
}
