// Package http1 serves HTTP/1.0 and 1.1 to an http.Handler, each connection
// on one goroutine.
//
// net/http's server watches the client of each request from a second
// goroutine, whose start and end switch threads several times a request. Here
// one goroutine watches all connections, and asks the kernel about those whose
// handler takes long: the request's context ends at most 100 ms after the
// client has left.
//
// What a request means is net/http's to say: http.ReadRequest parses it and
// delimits its body. Before that its head passes a check that is stricter than
// RFC 9112 asks (see checkHead), so that nothing behind this server can
// understand it in another way. There is no TLS, no HTTP/2, no hijacking and
// no interim answer but 100 Continue.
package http1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// MaxHead is the largest head of a request, in bytes: its request line and
// its headers.
const MaxHead = 16 << 10

const (
	defaultHeadTimeout = time.Minute
	defaultIOTimeout   = time.Minute
	// watchInterval is the time between two looks for clients that have left.
	watchInterval = 50 * time.Millisecond
)

// Server serves connections. Its fields must not change once it does.
type Server struct {
	Handler http.Handler
	// HeadTimeout bounds the time from the beginning of a connection, or from
	// the end of an answer, until the next request's head is here. Default 1 min.
	HeadTimeout time.Duration
	// IOTimeout bounds each read of a request's body and each write of an
	// answer, not the whole. Default 1 min.
	IOTimeout time.Duration
	Logger    *slog.Logger // nil: no log

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	wait      sync.WaitGroup // one for each of conns
	watching  bool           // watch runs
	draining  atomic.Bool
	date      atomic.Pointer[date]
}

// Serve takes connections from a TCP listener, which it closes, until Shutdown
// is called. Then it returns http.ErrServerClosed.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.listeners == nil {
		s.listeners, s.conns = map[net.Listener]bool{}, map[*conn]bool{}
	}
	s.listeners[ln] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	const firstRetry, lastRetry = 5 * time.Millisecond, time.Second
	retry := firstRetry
	for !s.draining.Load() {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			retry = firstRetry
			if err := s.take(nc); err != nil {
				return err
			}
		case s.draining.Load():
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting: %w", err)
		default:
			// Often there is no file descriptor left, and one will be.
			s.log().Warn("accepting a connection", "retry_in", retry, "error", err)
			time.Sleep(retry)
			retry = min(2*retry, lastRetry)
		}
	}
	return http.ErrServerClosed
}

func (s *Server) take(nc net.Conn) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		_ = nc.Close()
		return fmt.Errorf("serving a %T: only TCP is served", nc)
	}
	c, err := newConn(s, tcp)
	if err != nil {
		_ = nc.Close()
		return nil // it was reset before it was served
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		_ = nc.Close()
		return nil
	}
	s.conns[c] = true
	if !s.watching {
		s.watching = true
		go s.watch()
	}
	s.wait.Add(1)
	go func() {
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			s.wait.Done()
		}()
		c.serve()
	}()
	return nil
}

// watch looks for clients that have left, while there are any clients. A timer
// for each request would wake the scheduler for each.
func (s *Server) watch() {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var conns []*conn
	for range tick.C {
		conns = conns[:0]
		s.mu.Lock()
		for c := range s.conns {
			conns = append(conns, c)
		}
		s.watching = len(conns) > 0
		s.mu.Unlock()
		if len(conns) == 0 {
			return
		}
		for _, c := range conns {
			c.watch()
		}
	}
}

// Shutdown stops taking connections and requests, and waits for the requests
// that have begun to end. If ctx ends first, it cuts their connections and
// returns ctx's error without waiting for their handlers.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining.Store(true)
	for ln := range s.listeners {
		_ = ln.Close()
	}
	for c := range s.conns {
		c.closeIfIdle()
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() { defer close(ended); s.wait.Wait() }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cancel()
		_ = c.tcp.Close()
	}
	return ctx.Err()
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

func (s *Server) headTimeout() time.Duration { return orDefault(s.HeadTimeout, defaultHeadTimeout) }
func (s *Server) ioTimeout() time.Duration   { return orDefault(s.IOTimeout, defaultIOTimeout) }

func orDefault(d, or time.Duration) time.Duration {
	if d == 0 {
		return or
	}
	return d
}

// date is a Date header's value, made once a second.
type date struct {
	second int64
	text   string
}

func (s *Server) now() string {
	t := time.Now()
	d := s.date.Load()
	if d == nil || d.second != t.Unix() {
		d = &date{t.Unix(), t.UTC().Format(http.TimeFormat)}
		s.date.Store(d)
	}
	return d.text
}
