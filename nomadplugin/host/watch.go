package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// signalPeriod is how often a process is looked for where nothing better
// exists.
const signalPeriod = 500 * time.Millisecond

// watchBySignal is watch by asking over and over.
func watchBySignal(proc *os.Process) (chan struct{}, error) {
	if err := proc.Signal(syscall.Signal(0)); err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(signalPeriod)
		defer tick.Stop()
		for range tick.C {
			if err := proc.Signal(syscall.Signal(0)); err != nil && !errors.Is(err, os.ErrPermission) {
				return
			}
		}
	}()
	return gone, nil
}

// exitWait is how long a broken call waits for the process to be seen dead,
// as long as an agent does.
const exitWait = 3 * time.Second

// watchExit makes calls that break because the process ends return ErrExited.
func watchExit(done <-chan struct{}) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return exitError(ctx, done, call(ctx, method, req, reply, cc, opts...))
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, exitError(ctx, done, err)
			}
			return &watchedStream{ClientStream: s, ctx: ctx, done: done}, nil
		}),
	}
}

type watchedStream struct {
	grpc.ClientStream
	ctx  context.Context // the caller's; the stream's own ends with the stream
	done <-chan struct{}
}

func (s *watchedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || err == io.EOF {
		return err
	}
	return exitError(s.ctx, s.done, err)
}

func exitError(ctx context.Context, done <-chan struct{}, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if c := status.Code(err); c != codes.Unavailable && c != codes.Canceled {
		return err
	}
	t := time.NewTimer(exitWait)
	defer t.Stop()
	select {
	case <-done:
		return fmt.Errorf("%w: %w", ErrExited, err)
	case <-ctx.Done():
	case <-t.C:
	}
	return err
}
