// Package logmon reads what tasks write to their FIFOs into rotated log files,
// in a process of its own: so a task never blocks and never gets EPIPE when
// the cluster's process dies, and what it writes meanwhile is kept.
//
// There is one such process per node. It ends by itself when no cluster is
// connected and the last writer is gone.
package logmon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// EnvDir is the environment variable by which a process is told to be a
// logmon, and for which folder.
const EnvDir = "DROVER_DEVCLUSTER_LOGMON"

const (
	socketName = "logmon.sock"
	lockName   = "logmon.lock"
	logName    = "logmon.log"
)

// Stream is one FIFO to read.
type Stream struct {
	FIFO string `json:"fifo"`
	// Base is the path of the log files, to which a dot and a number are added.
	Base string `json:"base"`
	// MaxFiles of MaxBytes each are kept.
	MaxFiles int   `json:"max_files"`
	MaxBytes int64 `json:"max_bytes"`
}

// request is a line on the socket.
type request struct {
	Op     string `json:"op"` // hello, collect, finish
	Stream Stream `json:"stream"`
}

type response struct {
	PID   int    `json:"pid"`
	Error string `json:"error,omitempty"`
}

// Client is a connection to a node's logmon.
type Client struct {
	mu   sync.Mutex
	conn net.Conn
	enc  *json.Encoder
	dec  *json.Decoder
	pid  int
}

// Connect connects to the logmon of a folder, and starts it if it does not run.
func Connect(ctx context.Context, dir string) (*Client, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating logmon folder: %w", err)
	}
	if c, err := dial(dir); err == nil {
		return c, nil
	}
	if err := launch(ctx, dir); err != nil {
		return nil, fmt.Errorf("starting log collection: %w", err)
	}
	c, err := dial(dir)
	if err != nil {
		return nil, fmt.Errorf("connecting to log collection: %w", err)
	}
	return c, nil
}

// inDir calls fn with a path of the socket that is short enough for a socket
// address, however long the folder's own path is.
func inDir(dir string, fn func(path string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), socketName))
}

func dial(dir string) (*Client, error) {
	var c *Client
	err := inDir(dir, func(path string) error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		c = &Client{conn: conn, enc: json.NewEncoder(conn), dec: json.NewDecoder(bufio.NewReader(conn))}
		return c.call(request{Op: "hello"})
	})
	return c, err
}

// launch starts a logmon and waits until it listens.
func launch(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), EnvDir+"="+dir)
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	deadline := time.Now().Add(10 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		return fmt.Errorf("%s did not become a log collector (does its main call devcluster.MaybeRunHelper first?); see %s: %w",
			self, log.Name(), err)
	}
	return nil
}

func (c *Client) call(req request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if err := c.enc.Encode(req); err != nil {
		return fmt.Errorf("asking log collection: %w", err)
	}
	var resp response
	if err := c.dec.Decode(&resp); err != nil {
		return fmt.Errorf("asking log collection: %w", err)
	}
	if resp.Error != "" {
		return errors.New(resp.Error)
	}
	c.pid = resp.PID
	return nil
}

// Collect has a FIFO read from now on. The FIFO must exist. Asking twice is
// the same as once.
func (c *Client) Collect(s Stream) error { return c.call(request{Op: "collect", Stream: s}) }

// Finish says that the writers of a FIFO are gone: what is in it is read, and
// then no more.
func (c *Client) Finish(s Stream) error { return c.call(request{Op: "finish", Stream: s}) }

// PID is the logmon's process ID.
func (c *Client) PID() int { return c.pid }

// Close disconnects. The logmon goes on for as long as there are writers.
func (c *Client) Close() error { return c.conn.Close() }

// MakeFIFO creates a FIFO, or leaves one that is there.
func MakeFIFO(path string) error {
	err := syscall.Mkfifo(path, 0o600)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating FIFO %s: %w", path, err)
	}
	return nil
}
