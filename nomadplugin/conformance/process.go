package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

const (
	// handshakeTimeout is an agent's limit from start to handshake.
	handshakeTimeout = time.Minute
	// exitTimeout is how long an agent waits for a plugin that it asked to
	// exit before it kills it.
	exitTimeout = 2 * time.Second
)

// process is a plugin process with everything in the open that host.Process
// hides: its output, its handshake, its pipes.
type process struct {
	cmd    *exec.Cmd
	tmp    string // its TMPDIR
	conn   *grpc.ClientConn
	base   *base.Client
	device *device.Client
	driver *driver.Client

	handshake     string
	handshakeTime time.Duration
	exited        chan struct{} // the process ended
	outputEnded   chan struct{} // nobody holds its stdout and stderr any more
	pipes         []*os.File

	mu     sync.Mutex
	stdout []string // lines after the handshake
	stderr []string
}

// launch starts the plugin with the environment of an agent, without waiting
// for anything. With agent unset it lacks what tells it that an agent did.
func (s *session) launch(agent bool) (*process, <-chan string, error) {
	tmp, err := os.MkdirTemp(s.dir, "t")
	if err != nil {
		return nil, nil, err
	}
	p := &process{tmp: tmp, exited: make(chan struct{}), outputEnded: make(chan struct{})}
	p.cmd = exec.Command(s.cfg.Path, s.cfg.Args...)
	p.cmd.Env = append(os.Environ(), s.cfg.Env...)
	p.cmd.Env = append(p.cmd.Env, "TMPDIR="+tmp)
	if agent {
		p.cmd.Env = append(p.cmd.Env,
			wire.Handshake.MagicCookieKey+"="+wire.Handshake.MagicCookieValue,
			"PLUGIN_MIN_PORT=10000", "PLUGIN_MAX_PORT=25000",
			fmt.Sprintf("PLUGIN_PROTOCOL_VERSIONS=%d", wire.Handshake.ProtocolVersion))
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer outW.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		_ = outR.Close()
		return nil, nil, err
	}
	defer errW.Close()
	p.cmd.Stdout, p.cmd.Stderr = outW, errW
	p.pipes = []*os.File{outR, errR}
	if err := p.cmd.Start(); err != nil {
		p.closeOutput()
		return nil, nil, err
	}
	first := make(chan string, 1)
	var readers sync.WaitGroup
	readers.Go(func() {
		defer close(first)
		p.readLines(outR, func(line string) {
			if p.handshake == "" {
				p.handshake = line
				first <- line
				return
			}
			p.stdout = append(p.stdout, line)
		})
	})
	readers.Go(func() {
		p.readLines(errR, func(line string) { p.stderr = append(p.stderr, line) })
	})
	go func() {
		readers.Wait()
		close(p.outputEnded)
	}()
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	s.running = append(s.running, p)
	return p, first, nil
}

func (p *process) readLines(r io.Reader, each func(string)) {
	b := bufio.NewReader(r)
	for {
		line, err := b.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			each(strings.TrimRight(line, "\r\n"))
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// start launches the plugin and connects to it.
func (s *session) start(ctx context.Context) (*process, error) {
	begin := time.Now()
	p, first, err := s.launch(true)
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(handshakeTimeout)
	defer timeout.Stop()
	select {
	case line, ok := <-first:
		if !ok {
			return nil, fmt.Errorf("plugin ended without a handshake%s", p.lastWords())
		}
		p.handshakeTime = time.Since(begin)
		return p, p.connect(line)
	case <-timeout.C:
		return nil, fmt.Errorf("no handshake within %v", handshakeTimeout)
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the handshake: %w", ctx.Err())
	}
}

// lastWords quotes the end of stderr.
func (p *process) lastWords() string {
	<-p.exited
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.stderr) == 0 {
		return ""
	}
	return fmt.Sprintf("; its last words: %q", strings.Join(p.stderr[max(0, len(p.stderr)-3):], "\n"))
}

func (p *process) connect(handshake string) error {
	parts := strings.Split(handshake, "|")
	if len(parts) < 5 || parts[4] != "grpc" {
		return fmt.Errorf("handshake is %q, want 1|2|unix|<path>|grpc|", handshake)
	}
	network, addr := parts[2], parts[3]
	conn, err := grpc.NewClient("passthrough:plugin",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}))
	if err != nil {
		return err
	}
	p.conn = conn
	p.base, p.device, p.driver = base.NewClient(conn), device.NewClient(conn), driver.NewClient(conn)
	return nil
}

// configure does what an agent does before it uses a plugin.
func (s *session) configure(ctx context.Context, p *process) error {
	spec, err := p.base.ConfigSchema(ctx)
	if err != nil {
		return err
	}
	config, err := schema.Encode(spec, s.cfg.Plugin)
	if err != nil {
		return fmt.Errorf("encoding the plugin configuration: %w", err)
	}
	return p.base.SetConfig(ctx, base.Config{
		MsgPack: config,
		Agent: &base.AgentConfig{MinPort: 14000, MaxPort: 14512, Topology: &base.Topology{
			NodeIDs: []uint32{0}, Cores: []base.Core{{GuessSpeed: 2000}},
		}},
	})
}

// ready starts and configures the plugin.
func (s *session) ready(ctx context.Context) (*process, error) {
	p, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	return p, s.configure(ctx, p)
}

// shutdown asks the process to exit, as an agent does.
func (p *process) shutdown(ctx context.Context) error {
	// The reply may get lost on the way out.
	_ = p.conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
	return p.waitExit(ctx, exitTimeout)
}

func (p *process) waitExit(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.exited:
		return nil
	case <-t.C:
		return fmt.Errorf("the process did not exit within %v", d)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// alive holds for d that the process lives and answers.
func (p *process) alive(ctx context.Context, d time.Duration) error {
	err := p.waitExit(ctx, d)
	if err == nil {
		return fmt.Errorf("the process died (%s)", p.cmd.ProcessState)
	}
	if ctx.Err() != nil {
		return err
	}
	_, err = p.base.Info(ctx)
	return err
}

// kill ends the process at once and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// closeOutput makes stdout and stderr pipes that nobody reads, as a crash of
// the agent does.
func (p *process) closeOutput() {
	for _, f := range p.pipes {
		_ = f.Close()
	}
}

func (s *session) killAll() {
	for _, p := range s.running {
		p.kill()
		p.closeOutput()
		if p.conn != nil {
			_ = p.conn.Close()
		}
	}
	s.running = nil
}

// leftovers are the files in the process's temporary folder.
func (p *process) leftovers() []string {
	var names []string
	_ = filepath.WalkDir(p.tmp, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != p.tmp {
			names = append(names, strings.TrimPrefix(path, p.tmp+"/"))
		}
		return nil
	})
	return names
}

// within is context.WithTimeout, but without a deadline for the plugin to see:
// agents set none.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	t := time.AfterFunc(d, cancel)
	return ctx, func() { t.Stop(); cancel() }
}

// hold watches a stream that must stay open: open is called with a context
// that ends after d, and must not return before.
func hold(ctx context.Context, d time.Duration, open func(context.Context) error) error {
	held, cancel := within(ctx, d)
	defer cancel()
	err := open(held)
	if held.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = errors.New("it ended")
	}
	return fmt.Errorf("the stream did not stay open: %w", err)
}

// signal sends a signal to the process.
func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }
