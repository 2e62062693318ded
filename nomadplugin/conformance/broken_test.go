package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/basepb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/devicepb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/hclspecpb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
	"github.com/drover-ml/drover/nomadplugin/internal/sample"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// The plugins here speak the wire directly, since the SDK would not let them.

var (
	stdout, stderr = os.Stdout, os.Stderr // before go-plugin replaces them
	errSabotage    = errors.New("sabotage")
)

// serveBroken serves a good plugin with one fault, named by its check.
func serveBroken(role, fault string) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	switch fault {
	case "start/without-cookie":
		_ = os.Setenv(wire.Handshake.MagicCookieKey, wire.Handshake.MagicCookieValue)
	case "start/handshake":
		_ = os.Setenv("TMPDIR", "/tmp")
	case "start/time":
		time.Sleep(time.Second)
	case "start/no-leftovers":
		_ = os.WriteFile(os.TempDir()+"/left", nil, 0o600)
	case "task/default-sigpipe":
		signal.Ignore(syscall.SIGPIPE)
	}
	b := &brokenBase{fault: fault}
	set := plugin.PluginSet{"base": registered{do: func(r grpc.ServiceRegistrar) { basepb.RegisterBasePluginServer(r, b) }}}
	log := base.NewLogger("broken")
	var inner captured
	if role == "device" {
		base.Register(&inner, sample.NewDevice())
		b.BasePluginServer = inner.impl.(basepb.BasePluginServer)
		device.Register(&inner, sample.NewDevice(), log)
		d := &brokenDevice{DevicePluginServer: inner.impl.(devicepb.DevicePluginServer), base: b, fault: fault}
		set["device"] = registered{do: func(r grpc.ServiceRegistrar) { devicepb.RegisterDevicePluginServer(r, d) }}
	} else {
		base.Register(&inner, sample.NewDriver())
		b.BasePluginServer = inner.impl.(basepb.BasePluginServer)
		driver.Register(&inner, sample.NewDriver(), log)
		d := &brokenDriver{DriverServer: inner.impl.(driverpb.DriverServer), fault: fault, seen: map[string]int{}}
		set["driver"] = registered{do: func(r grpc.ServiceRegistrar) { driverpb.RegisterDriverServer(r, d) }}
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: wire.Handshake,
		Plugins:         set,
		Logger:          log,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			if fault == "base/unknown-call" {
				opts = append(opts, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))
			}
			return plugin.DefaultGRPCServer(opts)
		},
	})
	if fault == "start/graceful-exit" {
		select {}
	}
}

// captured keeps the server that is registered on it.
type captured struct{ impl any }

func (c *captured) RegisterService(_ *grpc.ServiceDesc, impl any) { c.impl = impl }

type registered struct {
	plugin.NetRPCUnsupportedPlugin
	do func(grpc.ServiceRegistrar)
}

func (r registered) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	r.do(s)
	return nil
}

func (registered) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errSabotage
}

// crowd fails calls that come together.
type crowd struct{ inside atomic.Int32 }

func (c *crowd) enter() error {
	n := c.inside.Add(1)
	time.Sleep(50 * time.Millisecond)
	c.inside.Add(-1)
	if n > 2 {
		return errSabotage
	}
	return nil
}

// keepOutput leaves a child behind that holds stdout.
func keepOutput() {
	cmd := exec.Command("sleep", "5")
	cmd.Stdout = stdout
	_ = cmd.Start()
}

type brokenBase struct {
	basepb.BasePluginServer
	fault string
	crowd crowd
	calls atomic.Int32 // of SetConfig
}

func (b *brokenBase) PluginInfo(ctx context.Context, r *basepb.PluginInfoRequest) (*basepb.PluginInfoResponse, error) {
	info, err := b.BasePluginServer.PluginInfo(ctx, r)
	if err != nil {
		return nil, err
	}
	switch b.fault {
	case "start/stdout-clean":
		fmt.Fprintln(stdout, "hello")
	case "start/ignores-interrupt":
		signal.Reset(syscall.SIGINT)
	case "base/info":
		info.PluginVersion = "banana"
	case "base/info-is-stable":
		if b.calls.Load() > 0 {
			info.Name = "other"
		}
	case "base/concurrent-calls":
		return info, b.crowd.enter()
	}
	return info, nil
}

func (b *brokenBase) ConfigSchema(ctx context.Context, r *basepb.ConfigSchemaRequest) (*basepb.ConfigSchemaResponse, error) {
	switch b.fault {
	case "start/stdout-clean":
		fmt.Fprintln(stdout, "hello")
	case "base/config-schema":
		attr := &hclspecpb.Spec{Block: &hclspecpb.Spec_Attr{Attr: &hclspecpb.Attr{Name: "a", Type: "strng"}}}
		object := &hclspecpb.Object{Attributes: map[string]*hclspecpb.Spec{"a": attr}}
		return &basepb.ConfigSchemaResponse{Spec: &hclspecpb.Spec{Block: &hclspecpb.Spec_Object{Object: object}}}, nil
	}
	return b.BasePluginServer.ConfigSchema(ctx, r)
}

func (b *brokenBase) SetConfig(ctx context.Context, r *basepb.SetConfigRequest) (*basepb.SetConfigResponse, error) {
	n := b.calls.Add(1)
	switch b.fault {
	case "start/logs-are-json":
		fmt.Fprintln(stderr, "hello")
	case "start/survives-agent":
		signal.Reset(syscall.SIGPIPE)
	case "start/three-launches":
		if r.NomadConfig == nil {
			return nil, errSabotage
		}
	case "base/set-config-twice":
		if n > 1 {
			return nil, errSabotage
		}
	case "base/set-config-garbage":
		return &basepb.SetConfigResponse{}, nil
	}
	return b.BasePluginServer.SetConfig(ctx, r)
}

type brokenDevice struct {
	devicepb.DevicePluginServer
	base          *brokenBase
	fault         string
	crowd         crowd
	reserved      atomic.Int32
	fingerprinted atomic.Bool
}

type fingerprintStream struct {
	grpc.ServerStreamingServer[devicepb.FingerprintResponse]
	edit func(*devicepb.FingerprintResponse)
}

func (s fingerprintStream) Send(r *devicepb.FingerprintResponse) error {
	s.edit(r)
	return s.ServerStreamingServer.Send(r)
}

func (d *brokenDevice) Fingerprint(r *devicepb.FingerprintRequest, stream grpc.ServerStreamingServer[devicepb.FingerprintResponse]) error {
	if d.fault == "base/not-configured" && d.base.calls.Load() == 0 {
		os.Exit(1)
	}
	d.fingerprinted.Store(true)
	switch d.fault {
	case "device/fingerprint-stays-open":
		return stream.Send(&devicepb.FingerprintResponse{})
	case "device/killed":
		keepOutput()
	}
	return d.DevicePluginServer.Fingerprint(r, fingerprintStream{stream, func(r *devicepb.FingerprintResponse) {
		g := r.DeviceGroup[0]
		switch d.fault {
		case "device/fingerprint-at-once":
			g.Attributes["load"] = &structspb.Attribute{Value: &structspb.Attribute_IntVal{IntVal: 1}, Unit: "%"}
		case "device/ids-are-stable":
			g.Devices[0].ID = fmt.Sprint("process-", os.Getpid())
		}
	}})
}

func (d *brokenDevice) Reserve(ctx context.Context, r *devicepb.ReserveRequest) (*devicepb.ReserveResponse, error) {
	res, err := d.DevicePluginServer.Reserve(ctx, r)
	switch d.fault {
	case "device/reserve":
		if len(r.DeviceIds) > 0 {
			return &devicepb.ReserveResponse{}, nil
		}
	case "device/reserve-nothing":
		if len(r.DeviceIds) == 0 {
			return &devicepb.ReserveResponse{}, nil
		}
	case "device/reserve-twice":
		if d.reserved.Add(1) > 1 {
			return nil, errSabotage
		}
	case "device/reserve-unordered":
		res.ContainerRes.Envs["SAMPLE_VISIBLE_DEVICES"] = fmt.Sprint(r.DeviceIds)
	case "device/reserve-first":
		if !d.fingerprinted.Load() {
			return nil, errSabotage
		}
	case "device/reserve-unknown":
		return &devicepb.ReserveResponse{ContainerRes: &devicepb.ContainerReservation{}}, nil
	case "device/concurrent-calls":
		return res, d.crowd.enter()
	}
	return res, err
}

type deviceStatsStream struct {
	grpc.ServerStreamingServer[devicepb.StatsResponse]
}

func (s deviceStatsStream) Send(r *devicepb.StatsResponse) error {
	for _, in := range r.Groups[0].InstanceStats {
		in.Timestamp = nil
	}
	return s.ServerStreamingServer.Send(r)
}

func (d *brokenDevice) Stats(r *devicepb.StatsRequest, stream grpc.ServerStreamingServer[devicepb.StatsResponse]) error {
	switch d.fault {
	case "device/stats":
		stream = deviceStatsStream{stream}
	case "device/stats-stay-open":
		return nil
	case "device/stats-first":
		if !d.fingerprinted.Load() {
			return errSabotage
		}
	}
	return d.DevicePluginServer.Stats(r, stream)
}

type brokenDriver struct {
	driverpb.DriverServer
	fault string
	crowd crowd
	stop  sync.RWMutex

	mu   sync.Mutex
	seen map[string]int // calls by name and task
}

// times counts the calls of a kind for a task, this one included.
func (d *brokenDriver) times(call, id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[call+id]++
	return d.seen[call+id]
}

// started are the tasks that this process started.
func (d *brokenDriver) started() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for key := range d.seen {
		if id, ok := strings.CutPrefix(key, "start"); ok {
			ids = append(ids, id)
		}
	}
	return ids
}
