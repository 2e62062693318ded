package serve

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
)

// Stream is a server's side of a stream that plugins publish on: from any
// goroutine, and without harm after its end.
type Stream[M any] struct {
	stream grpc.ServerStreamingServer[M]
	mu     sync.Mutex
	last   *M
}

// NewStream wraps a stream.
func NewStream[M any](stream grpc.ServerStreamingServer[M]) *Stream[M] {
	return &Stream[M]{stream: stream}
}

// Send sends m, or returns why the stream has ended.
func (s *Stream[M]) Send(m *M) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stream.Context().Err(); err != nil {
		return err
	}
	s.last = m
	return s.stream.Send(m)
}

// Last is the last message sent, nil before the first.
func (s *Stream[M]) Last() *M {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Hold runs the body of a stream and then keeps the stream open until ctx
// ends, because agents take an ended one badly: a device plugin is dropped for
// good, and a driver's stream is reopened thousands of times a second.
// If body ends before ctx, ended is called once with what ended it: an error, a
// panic made an error, or nil.
func Hold(ctx context.Context, log hclog.Logger, call string, body func() error, ended func(error)) {
	err := protect(log, call, body)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		log.Error("stream ended early, holding it open", "call", call, "error", err)
	}
	if ended != nil {
		ended(err)
	}
	<-ctx.Done()
}
