// Package host launches Nomad plugins as a Nomad agent does, and talks to
// them: same handshake, same environment, same transport.
//
// A Process is one plugin process. Its calls return ErrExited, wrapped, when
// the process died under them; Done tells it without a call. A plugin that
// outlives this process can be taken up again with Reattach.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// ErrExited is returned by calls during which the plugin process ended.
var ErrExited = errors.New("plugin process exited")

// ErrGone is returned by Reattach when there is no such plugin any more.
var ErrGone = errors.New("plugin process to reattach to is gone")

const (
	// agentMinPort and agentMaxPort are what agents tell plugins; only those
	// on systems without Unix sockets use them.
	agentMinPort, agentMaxPort = 10000, 25000
	// shutdownTimeout is how long an agent waits for a driver's Shutdown.
	shutdownTimeout = 2 * time.Second
)

// Config says what to launch.
type Config struct {
	Path string
	Args []string
	// Env is added to this process's own environment.
	Env []string
	// Logger gets the plugin's log lines, at their levels, and the host's own;
	// nil drops them.
	Logger hclog.Logger
	// StartTimeout is how long the plugin may take to its handshake; 0 is an
	// agent's minute.
	StartTimeout time.Duration
}

// Process is one plugin process. It is safe for concurrent use.
type Process struct {
	*base.Client
	client *plugin.Client
	conn   *grpc.ClientConn
	proc   process
	driver *driver.Client
	device *device.Client
}

// process is a plugin process as the operating system sees it.
type process interface {
	pid() int
	done() <-chan struct{}
	kill() error
}

// Launch starts a plugin and waits for its handshake. The process does not
// end with ctx or with this process: call Shutdown or Kill.
func Launch(ctx context.Context, cfg Config) (*Process, error) {
	r := &launched{path: cfg.Path, args: cfg.Args, env: cfg.Env, exited: make(chan struct{})}
	c := clientConfig(cfg.Logger, r)
	c.StartTimeout = cfg.StartTimeout
	c.RunnerFunc = r.prepare
	p, err := connect(ctx, c, r)
	if err != nil {
		return nil, fmt.Errorf("launching plugin %s: %w", cfg.Path, err)
	}
	return p, nil
}

// ReattachInfo is what to keep of a Process to take it up again. It can be
// stored as JSON.
type ReattachInfo struct {
	PID     int    `json:"pid"`
	Network string `json:"network"`
	Address string `json:"address"`
}

// Reattach takes up a plugin that an earlier host launched. It returns ErrGone
// if there is none any more.
func Reattach(ctx context.Context, info ReattachInfo, logger hclog.Logger) (*Process, error) {
	addr, err := resolve(info)
	if err != nil {
		return nil, fmt.Errorf("reattaching to plugin: %w", err)
	}
	// A process ID may belong to another process by now; a plugin's own socket
	// may not.
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		return nil, fmt.Errorf("reattaching to plugin with process ID %d: %w: %v", info.PID, ErrGone, err)
	}
	_ = conn.Close()
	r, err := attach(info.PID)
	if err != nil {
		return nil, fmt.Errorf("reattaching to plugin with process ID %d: %w: %v", info.PID, ErrGone, err)
	}
	c := clientConfig(logger, r)
	c.Reattach = &plugin.ReattachConfig{
		Protocol:        plugin.ProtocolGRPC,
		ProtocolVersion: int(wire.Handshake.ProtocolVersion),
		Addr:            addr,
		Pid:             info.PID,
		ReattachFunc:    func() (runner.AttachedRunner, error) { return r, nil },
	}
	p, err := connect(ctx, c, r)
	if err != nil {
		return nil, fmt.Errorf("reattaching to plugin with process ID %d: %w", info.PID, err)
	}
	return p, nil
}

func resolve(info ReattachInfo) (net.Addr, error) {
	switch info.Network {
	case "unix":
		return net.ResolveUnixAddr("unix", info.Address)
	case "tcp":
		return net.ResolveTCPAddr("tcp", info.Address)
	default:
		return nil, fmt.Errorf("network %q, want unix or tcp", info.Network)
	}
}

func clientConfig(logger hclog.Logger, p process) *plugin.ClientConfig {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	return &plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake,
		Plugins:          plugin.PluginSet{"base": connPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		MinPort:          agentMinPort,
		MaxPort:          agentMaxPort,
		Logger:           logger,
		GRPCDialOptions:  watchExit(p.done()),
	}
}

// connPlugin dispenses the connection itself; the clients are made on it.
type connPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (connPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("this is the host's side")
}

func (connPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

func connect(ctx context.Context, cfg *plugin.ClientConfig, p process) (*Process, error) {
	client := plugin.NewClient(cfg)
	type result struct {
		conn *grpc.ClientConn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		conn, err := dial(client)
		ch <- result{conn, err}
	}()
	var r result
	select {
	case r = <-ch:
	case <-ctx.Done():
		// The handshake has no context of its own: end it by its process.
		_ = p.kill()
		r = <-ch
		r.err = ctx.Err()
	}
	if r.err != nil {
		client.Kill()
		return nil, r.err
	}
	proc := &Process{
		Client: base.NewClient(r.conn),
		client: client,
		conn:   r.conn,
		proc:   p,
		driver: driver.NewClient(r.conn),
		device: device.NewClient(r.conn),
	}
	return proc, nil
}

func dial(client *plugin.Client) (*grpc.ClientConn, error) {
	rpc, err := client.Client()
	if err != nil {
		return nil, err
	}
	raw, err := rpc.Dispense("base")
	if err != nil {
		return nil, err
	}
	return raw.(*grpc.ClientConn), nil
}

// Driver is the plugin as a task driver. Calls fail if it is none.
func (p *Process) Driver() *driver.Client { return p.driver }

// Conn is the connection itself, for services beside Nomad's.
func (p *Process) Conn() grpc.ClientConnInterface { return p.conn }

// Device is the plugin as a device plugin. Calls fail if it is none.
func (p *Process) Device() *device.Client { return p.device }

// PID is the plugin's process ID.
func (p *Process) PID() int { return p.proc.pid() }

// Done is closed when the process has ended, for whatever reason.
func (p *Process) Done() <-chan struct{} { return p.proc.done() }

// ReattachInfo is what Reattach needs.
func (p *Process) ReattachInfo() ReattachInfo {
	c := p.client.ReattachConfig()
	if c == nil || c.Addr == nil {
		return ReattachInfo{PID: p.PID()}
	}
	return ReattachInfo{PID: p.PID(), Network: c.Addr.Network(), Address: c.Addr.String()}
}

// Shutdown ends the plugin as an agent does: a driver is told first, then the
// process is asked to exit and killed if it does not within two seconds. A
// driver's tasks keep running. It returns when the process has ended, and is
// safe to call twice.
func (p *Process) Shutdown() {
	select {
	case <-p.Done():
	default:
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		// A device plugin answers that it does not know the call.
		_ = p.driver.Shutdown(ctx)
		cancel()
	}
	p.client.Kill()
	<-p.Done()
}

// Kill ends the process at once (SIGKILL), and returns when it has ended.
func (p *Process) Kill() {
	_ = p.proc.kill()
	<-p.Done()
	p.client.Kill() // frees what the client holds
}
