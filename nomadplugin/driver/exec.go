package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
)

// execChunk is how much output goes in one message, in bytes.
const execChunk = 64 << 10

func (s *server) ExecTask(ctx context.Context, r *driverpb.ExecTaskRequest) (*driverpb.ExecTaskResponse, error) {
	if len(r.GetCommand()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no command given")
	}
	res, err := s.p.ExecTask(ctx, r.GetTaskId(), r.GetCommand(), r.GetTimeout().AsDuration())
	if err != nil {
		return nil, statusOfError(err)
	}
	if res == nil {
		return nil, errors.New("driver returned no exec result")
	}
	if res.Exit.Err != nil {
		return nil, statusOfError(res.Exit.Err)
	}
	return &driverpb.ExecTaskResponse{Stdout: res.Stdout, Stderr: res.Stderr, Result: exitMessage(&res.Exit)}, nil
}

type execStream = grpc.BidiStreamingServer[driverpb.ExecTaskStreamingRequest, driverpb.ExecTaskStreamingResponse]

func (s *server) ExecTaskStreaming(stream execStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	setup := first.GetSetup()
	if setup == nil || len(setup.GetCommand()) == 0 {
		return status.Error(codes.InvalidArgument, "first message has no setup with a command")
	}
	stdin, feed := io.Pipe()
	defer stdin.Close() // frees the reader below when nobody reads on
	resize := make(chan TerminalSize, 1)
	go func() {
		receiveExec(first, resize, feed)
		for {
			m, err := stream.Recv()
			if err != nil {
				if err == io.EOF {
					_ = feed.Close()
				} else {
					_ = feed.CloseWithError(err)
				}
				return
			}
			receiveExec(m, resize, feed)
		}
	}()

	var mu sync.Mutex
	send := func(m *driverpb.ExecTaskStreamingResponse) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(m)
	}
	res, err := s.p.ExecTaskStreaming(stream.Context(), setup.GetTaskId(), ExecStreams{
		Command: setup.GetCommand(),
		TTY:     setup.GetTty(),
		Stdin:   stdin,
		Stdout: execWriter(func(op *driverpb.ExecTaskStreamingIOOperation) error {
			return send(&driverpb.ExecTaskStreamingResponse{Stdout: op})
		}),
		Stderr: execWriter(func(op *driverpb.ExecTaskStreamingIOOperation) error {
			return send(&driverpb.ExecTaskStreamingResponse{Stderr: op})
		}),
		Resize: resize,
	})
	if err != nil {
		return statusOfError(err)
	}
	if res == nil {
		return errors.New("driver returned no exec result")
	}
	if res.Err != nil {
		return statusOfError(res.Err)
	}
	closed := &driverpb.ExecTaskStreamingIOOperation{Close: true}
	return errors.Join(
		send(&driverpb.ExecTaskStreamingResponse{Stdout: closed}),
		send(&driverpb.ExecTaskStreamingResponse{Stderr: closed}),
		send(&driverpb.ExecTaskStreamingResponse{Exited: true, Result: exitMessage(res)}),
	)
}

// receiveExec applies one message of the agent; an empty one is a heartbeat.
func receiveExec(m *driverpb.ExecTaskStreamingRequest, resize chan TerminalSize, feed *io.PipeWriter) {
	if t := m.GetTtySize(); t != nil {
		select {
		case <-resize: // only the newest size matters
		default:
		}
		resize <- TerminalSize{Height: t.GetHeight(), Width: t.GetWidth()}
	}
	if in := m.GetStdin(); in != nil {
		if len(in.GetData()) > 0 {
			_, _ = feed.Write(in.GetData()) // fails when the command reads no more
		}
		if in.GetClose() {
			_ = feed.Close()
		}
	}
}

// execWriter sends output, in messages of bounded size.
type execWriter func(*driverpb.ExecTaskStreamingIOOperation) error

func (w execWriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		// A copy: the transport may hold the message after the call.
		chunk := append([]byte(nil), p[n:min(n+execChunk, len(p))]...)
		if err := w(&driverpb.ExecTaskStreamingIOOperation{Data: chunk}); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

// ExecTask runs a command beside a task and collects its output.
func (c *Client) ExecTask(ctx context.Context, id string, command []string, timeout time.Duration) (*ExecResult, error) {
	r, err := c.rpc.ExecTask(ctx, &driverpb.ExecTaskRequest{TaskId: id, Command: command, Timeout: durationpb.New(timeout)})
	if err != nil {
		return nil, fmt.Errorf("executing in task %q: %w", id, errorOfStatus(err))
	}
	if r.GetResult() == nil {
		return nil, fmt.Errorf("executing in task %q: plugin replied without a result, which crashes a Nomad agent", id)
	}
	return &ExecResult{Stdout: r.GetStdout(), Stderr: r.GetStderr(), Exit: *exitOf(r.GetResult())}, nil
}

// ExecTaskStreaming runs a command beside a task with x's streams, until it
// ends; nil streams are empty. It does not wait for a read of x.Stdin that is
// under way when the command ends.
func (c *Client) ExecTaskStreaming(ctx context.Context, id string, x ExecStreams) (*ExitResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := c.execStreaming(ctx, id, x)
	if err != nil {
		return nil, fmt.Errorf("executing in task %q: %w", id, err)
	}
	return res, nil
}

func (c *Client) execStreaming(ctx context.Context, id string, x ExecStreams) (*ExitResult, error) {
	stream, err := c.rpc.ExecTaskStreaming(ctx)
	if err != nil {
		return nil, errorOfStatus(err)
	}
	err = stream.Send(&driverpb.ExecTaskStreamingRequest{
		Setup: &driverpb.ExecTaskStreamingRequest_Setup{TaskId: id, Command: x.Command, Tty: x.TTY},
	})
	if err != nil && err != io.EOF { // on EOF, Recv has the reason
		return nil, errorOfStatus(err)
	}
	var mu sync.Mutex
	send := func(m *driverpb.ExecTaskStreamingRequest) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(m)
	}
	// The size that the terminal has now goes first: behind input it would wait
	// until the command reads that.
	select {
	case size, ok := <-x.Resize:
		if ok {
			_ = send(sizeMessage(size)) // if the stream ended, Recv has the reason
		}
	default:
	}
	go sendStdin(x.Stdin, send)
	go sendSizes(ctx, x.Resize, send)

	var exit *ExitResult
	for {
		m, err := stream.Recv()
		switch {
		case err == io.EOF && exit != nil:
			return exit, nil
		case err == io.EOF:
			return nil, errors.New("plugin ended the stream without an exit result")
		case err != nil:
			return nil, errorOfStatus(err)
		}
		if err := writeOutput(x.Stdout, m.GetStdout()); err != nil {
			return nil, fmt.Errorf("writing stdout: %w", err)
		}
		if err := writeOutput(x.Stderr, m.GetStderr()); err != nil {
			return nil, fmt.Errorf("writing stderr: %w", err)
		}
		if m.GetExited() {
			if m.GetResult() == nil {
				return nil, errors.New("plugin reported an exit without its result")
			}
			exit = exitOf(m.GetResult())
		}
	}
}

func writeOutput(w io.Writer, op *driverpb.ExecTaskStreamingIOOperation) error {
	if w == nil || len(op.GetData()) == 0 {
		return nil
	}
	_, err := w.Write(op.GetData())
	return err
}

func sendStdin(r io.Reader, send func(*driverpb.ExecTaskStreamingRequest) error) {
	buf := make([]byte, execChunk)
	for r != nil {
		n, err := r.Read(buf)
		if n > 0 {
			op := &driverpb.ExecTaskStreamingIOOperation{Data: append([]byte(nil), buf[:n]...)}
			if send(&driverpb.ExecTaskStreamingRequest{Stdin: op}) != nil {
				return // the stream ended; Recv has the reason
			}
		}
		if err != nil {
			break
		}
	}
	_ = send(&driverpb.ExecTaskStreamingRequest{Stdin: &driverpb.ExecTaskStreamingIOOperation{Close: true}})
}

func sendSizes(ctx context.Context, sizes <-chan TerminalSize, send func(*driverpb.ExecTaskStreamingRequest) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			if send(sizeMessage(s)) != nil {
				return
			}
		}
	}
}

func sizeMessage(s TerminalSize) *driverpb.ExecTaskStreamingRequest {
	return &driverpb.ExecTaskStreamingRequest{
		TtySize: &driverpb.ExecTaskStreamingRequest_TerminalSize{Height: s.Height, Width: s.Width},
	}
}
