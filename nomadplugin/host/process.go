package host

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
)

// outputGrace is how long after a plugin's death its output is still read.
// What holds the pipes open after that is a child that inherited them.
const outputGrace = 2 * time.Second

// launched is a plugin process that this process started. It closes exited
// when the process ends, even if a child holds its output open.
type launched struct {
	path string
	args []string
	env  []string

	cmd            *exec.Cmd
	stdout, stderr *os.File
	id             int
	exited         chan struct{}
	once           sync.Once

	mu      sync.Mutex
	killed  bool // also before the start
	started *os.Process
	err     error // the process's, once exited is closed
}

var _ runner.Runner = (*launched)(nil)

// prepare is called by go-plugin with the environment that the plugin needs.
func (l *launched) prepare(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
	l.cmd = exec.Command(l.path, l.args...)
	// An agent leaves the place of the socket to the plugin.
	l.cmd.Env = slices.DeleteFunc(spec.Env, func(kv string) bool {
		return strings.HasPrefix(kv, plugin.EnvUnixSocketDir+"=")
	})
	l.cmd.Env = append(l.cmd.Env, l.env...)
	l.cmd.Stdin = spec.Stdin
	return l, nil
}

func (l *launched) Start(context.Context) error {
	var outW, errW *os.File
	var err error
	if l.stdout, outW, err = os.Pipe(); err != nil {
		l.finish(err)
		return err
	}
	defer outW.Close()
	if l.stderr, errW, err = os.Pipe(); err != nil {
		l.finish(err)
		return err
	}
	defer errW.Close()
	l.cmd.Stdout, l.cmd.Stderr = outW, errW
	if err := l.start(); err != nil {
		l.finish(err)
		return err
	}
	go func() { l.finish(l.cmd.Wait()) }()
	return nil
}

func (l *launched) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed {
		return errors.New("killed before its start")
	}
	if err := l.cmd.Start(); err != nil {
		return err
	}
	l.started, l.id = l.cmd.Process, l.cmd.Process.Pid
	return nil
}

func (l *launched) finish(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.exited)
		time.AfterFunc(outputGrace, func() {
			for _, f := range []*os.File{l.stdout, l.stderr} {
				if f != nil {
					_ = f.Close()
				}
			}
		})
	})
}

func (l *launched) Wait(context.Context) error {
	<-l.exited
	return l.err
}

func (l *launched) Kill(context.Context) error { return l.kill() }

func (l *launched) pid() int              { return l.id }
func (l *launched) done() <-chan struct{} { return l.exited }

func (l *launched) kill() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killed = true
	if l.started == nil {
		return nil
	}
	if err := l.started.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (l *launched) Stdout() io.ReadCloser { return l.stdout }
func (l *launched) Stderr() io.ReadCloser { return l.stderr }
func (l *launched) Name() string          { return l.path }
func (l *launched) ID() string            { return strconv.Itoa(l.id) }

func (l *launched) Diagnose(context.Context) string {
	return "The plugin must be executable here, be a Nomad plugin, and print nothing to stdout before its handshake."
}

func (l *launched) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (l *launched) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// attached is a plugin process that another process started.
type attached struct {
	proc   *os.Process
	exited chan struct{}
}

var _ runner.AttachedRunner = (*attached)(nil)

func attach(pid int) (*attached, error) {
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	gone, err := watch(proc)
	if err != nil {
		return nil, err
	}
	return &attached{proc: proc, exited: gone}, nil
}

func (a *attached) Wait(context.Context) error {
	<-a.exited
	return nil
}

func (a *attached) Kill(context.Context) error { return a.kill() }
func (a *attached) ID() string                 { return strconv.Itoa(a.proc.Pid) }
func (a *attached) pid() int                   { return a.proc.Pid }
func (a *attached) done() <-chan struct{}      { return a.exited }

func (a *attached) kill() error {
	if err := a.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (a *attached) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (a *attached) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
