package logmon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// orphanGrace is how long a FIFO without a writer is kept open once no
	// cluster is connected: one may just be about to start its task.
	orphanGrace = 10 * time.Second
	// drainTime bounds the wait for writers that outlive their task.
	drainTime = time.Second
)

// Serve is the logmon process of a folder. It returns when it has nothing
// more to do.
func Serve(dir string) error {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another log collector runs in %s: %w", dir, err)
	}
	var ln net.Listener
	err = inDir(dir, func(path string) error {
		_ = os.Remove(filepath.Join(dir, socketName))
		var err error
		ln, err = net.Listen("unix", path)
		return err
	})
	if err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		log.Printf("telling that the collector is ready: %v", err)
	}
	ready.Close()
	s := &server{streams: map[string]*collector{}, ln: ln}
	s.idle = time.AfterFunc(orphanGrace, s.orphaned)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		s.connected()
		go s.serve(conn)
	}
}

type server struct {
	mu      sync.Mutex
	ln      net.Listener
	conns   int
	idle    *time.Timer // runs while nobody is connected
	streams map[string]*collector
}

func (s *server) connected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns++
	s.idle.Stop()
	for _, c := range s.streams {
		c.hold()
	}
}

func (s *server) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conns--; s.conns == 0 {
			s.idle.Reset(orphanGrace)
		}
	}()
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var req request
		if err := dec.Decode(&req); err != nil {
			return
		}
		resp := response{PID: os.Getpid()}
		if err := s.do(req); err != nil {
			resp.Error = err.Error()
		}
		if err := enc.Encode(resp); err != nil {
			return
		}
	}
}

func (s *server) do(req request) error {
	switch req.Op {
	case "hello":
		return nil
	case "collect":
		return s.collect(req.Stream)
	case "finish":
		s.mu.Lock()
		c := s.streams[req.Stream.FIFO]
		s.mu.Unlock()
		if c != nil {
			c.finish(drainTime)
		}
		return nil
	}
	return fmt.Errorf("unknown request %q", req.Op)
}

func (s *server) collect(st Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.streams[st.FIFO]; c != nil {
		c.hold()
		return nil
	}
	c, err := newCollector(st)
	if err != nil {
		return err
	}
	s.streams[st.FIFO] = c
	go func() {
		c.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, st.FIFO)
		if s.conns == 0 && len(s.streams) == 0 {
			s.idle.Reset(0)
		}
	}()
	return nil
}

// orphaned is called when no cluster has been connected for a while. Streams
// now end with their last writer, and the process with its last stream.
func (s *server) orphaned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns > 0 {
		return
	}
	for _, c := range s.streams {
		c.release()
	}
	if len(s.streams) == 0 {
		s.ln.Close()
	}
}

// collector reads one FIFO. While it holds a writing end of its own, the FIFO
// has no end of file between one start of a task and the next.
type collector struct {
	Stream
	in   *os.File
	done chan struct{}

	mu   sync.Mutex
	held *os.File
}

func newCollector(st Stream) (*collector, error) {
	in, err := os.OpenFile(st.FIFO, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening log FIFO: %w", err)
	}
	c := &collector{Stream: st, in: in, done: make(chan struct{})}
	c.hold()
	return c, nil
}

func (c *collector) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		return
	}
	if f, err := os.OpenFile(c.FIFO, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
		c.held = f
	}
}

func (c *collector) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		c.held.Close()
		c.held = nil
	}
}

// finish lets the stream end with its writers, or after a while without them.
func (c *collector) finish(patience time.Duration) {
	c.release()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = c.in.SetReadDeadline(time.Now())
		<-c.done
	}
}

func (c *collector) run() {
	defer close(c.done)
	defer c.in.Close()
	defer c.release()
	out, err := openRotated(c.Stream)
	if err != nil {
		log.Printf("opening log file: %v", err)
	}
	defer out.close()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.in.Read(buf)
		if n > 0 {
			// A full disk loses log lines, it must not stop the task.
			if err := out.write(buf[:n]); err != nil {
				log.Printf("writing log file: %v", err)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				log.Printf("reading log FIFO %s: %v", c.FIFO, err)
			}
			return
		}
	}
}

// rotated is a row of log files, of which the last is written.
type rotated struct {
	Stream
	file  *os.File
	index int
	size  int64
}

// openRotated goes on with the last file that there is.
func openRotated(st Stream) (*rotated, error) {
	r := &rotated{Stream: st}
	names, err := filepath.Glob(st.Base + ".*")
	if err != nil {
		return r, err
	}
	for _, name := range names {
		if i, err := strconv.Atoi(strings.TrimPrefix(name, st.Base+".")); err == nil {
			r.index = max(r.index, i)
		}
	}
	return r, r.open()
}

func (r *rotated) open() error {
	f, err := os.OpenFile(fmt.Sprintf("%s.%d", r.Base, r.index), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	r.file, r.size = f, fi.Size()
	return nil
}

// write appends p, beginning a new file where one is full. Lines are not
// broken unless they are longer than a file.
func (r *rotated) write(p []byte) error {
	for len(p) > 0 {
		if r.file == nil {
			if err := r.open(); err != nil {
				return err
			}
		}
		n := len(p)
		if room := r.MaxBytes - r.size; r.MaxBytes > 0 && int64(n) > room {
			n = int(max(0, room))
			if cut := strings.LastIndexByte(string(p[:n]), '\n'); cut >= 0 {
				n = cut + 1
			} else if r.size > 0 {
				n = 0
			}
		}
		if n > 0 {
			w, err := r.file.Write(p[:n])
			r.size += int64(w)
			if err != nil {
				return err
			}
			p = p[n:]
		}
		if len(p) > 0 {
			r.rotate()
		}
	}
	return nil
}

func (r *rotated) rotate() {
	r.close()
	r.index++
	_ = os.Remove(fmt.Sprintf("%s.%d", r.Base, r.index-max(1, r.MaxFiles)))
}

func (r *rotated) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}
