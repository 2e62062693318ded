// Package serve runs a plugin process: the handshake, the guards around every
// call, and the streams that must stay open.
package serve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// Run serves p until the agent ends it. Register adds the protocol beside the
// base protocol. It exits with status 1 if the process was not started by an
// agent or p is one that no agent would take.
func Run(p base.Plugin, typ base.Type, register func(grpc.ServiceRegistrar, hclog.Logger), opts []base.ServeOption) {
	surviveAgent()
	var o base.ServeOptions
	for _, opt := range opts {
		opt(&o)
	}
	info := p.Info()
	if o.Logger == nil {
		o.Logger = base.NewLogger(info.Name)
	}
	err := info.Validate()
	if err == nil && info.Type != typ {
		err = fmt.Errorf("plugin says it is a %s, but is served as a %s", info.Type, typ)
	}
	if err != nil {
		o.Logger.Error("no agent would take this plugin", "error", err)
		os.Exit(1)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: wire.Handshake,
		Plugins: plugin.PluginSet{
			"base":       service{register: func(r grpc.ServiceRegistrar) { base.Register(r, p) }},
			typ.String(): service{register: func(r grpc.ServiceRegistrar) { register(r, o.Logger) }},
		},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return plugin.DefaultGRPCServer(append(opts, Guards(o.Logger)...))
		},
		Logger: o.Logger,
	})
}

// surviveAgent makes writes to a pipe that nobody reads fail with EPIPE. After
// a crash of the agent the first log line would otherwise kill the process.
// The signal is caught, not ignored: a task would inherit an ignored one.
func surviveAgent() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// An agent that was started with nohup ignores SIGHUP, and so would every
	// task. Caught, it has its usual meaning again in what the plugin starts.
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// service is a go-plugin entry that only registers a gRPC service.
type service struct {
	plugin.NetRPCUnsupportedPlugin
	register func(grpc.ServiceRegistrar)
}

func (s service) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	s.register(g)
	return nil
}

func (service) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is the plugin's side")
}

// Guards are server options that turn a panic in a call into that call's
// error.
func Guards(log hclog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
			err = protect(log, info.FullMethod, func() (err error) {
				resp, err = h(ctx, req)
				return err
			})
			return resp, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return protect(log, info.FullMethod, func() error { return h(srv, ss) })
		}),
	}
}

// protect makes an error of a panic in body, and logs where it came from.
func protect(log hclog.Logger, call string, body func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("recovered from a panic", "call", call, "panic", r, "stack", string(debug.Stack()))
			err = &panicError{call: call, value: r}
		}
	}()
	return body()
}

// panicError is what becomes of a panic.
type panicError struct {
	call  string
	value any
}

func (e *panicError) Error() string {
	return fmt.Sprintf("panic in %s: %v (the plugin logged its stack)", e.call, e.value)
}

// GRPCStatus makes it an internal error on the wire.
func (e *panicError) GRPCStatus() *status.Status { return status.New(codes.Internal, e.Error()) }
