package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxDrain is how much of a body that the handler left unread is read to
	// keep the connection, in bytes.
	maxDrain = 256 << 10
	// linger is how long a client that still sends may take to read the answer
	// before the connection is cut.
	linger = 500 * time.Millisecond
	// maxWrite is how much one IOTimeout is for, in bytes.
	maxWrite = 256 << 10
)

// The states of a connection.
const (
	idle int32 = iota // waits for a request
	busy
	closed
)

type conn struct {
	server *Server
	tcp    *net.TCPConn
	raw    syscall.RawConn
	remote string
	r      *bufio.Reader // its size is the largest head
	w      *bufio.Writer // writes to the conn's own Write
	state  atomic.Int32

	// ctx is every request's. It ends when the client leaves, or when the
	// connection does.
	ctx    context.Context
	cancel context.CancelFunc

	// turn counts the starts and ends of handlers: one runs while it is odd.
	turn atomic.Uint32
	seen uint32 // the watcher's: turn at its last look

	answer answer // reused
	body   body   // reused
}

func newConn(s *Server, tcp *net.TCPConn) (*conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &conn{server: s, tcp: tcp, raw: raw, remote: tcp.RemoteAddr().String(), r: bufio.NewReaderSize(tcp, MaxHead)}
	c.w = bufio.NewWriterSize(c, 8<<10)
	c.answer.header = http.Header{}
	return c, nil
}

// Write writes to the client, each piece in the time that it may take.
func (c *conn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if err := c.tcp.SetWriteDeadline(time.Now().Add(c.server.ioTimeout())); err != nil {
			return n, err
		}
		m, err := c.tcp.Write(p[:min(len(p), maxWrite)])
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

func (c *conn) serve() {
	c.ctx, c.cancel = context.WithCancel(context.Background())
	defer c.cancel()
	defer c.tcp.Close()
	for c.next() {
		// The order matters: Shutdown sets draining first and looks at the
		// state then.
		c.state.Store(idle)
		if c.server.draining.Load() {
			return
		}
	}
}

// closeIfIdle closes a connection on which no request has begun.
func (c *conn) closeIfIdle() {
	if c.state.CompareAndSwap(idle, closed) {
		_ = c.tcp.Close()
	}
}

// next serves one request and reports whether there may be another.
func (c *conn) next() bool {
	r, err := c.request()
	if err != nil {
		var no *refusal
		if errors.As(err, &no) {
			c.refuse(no)
		}
		return false
	}
	c.body.begin(c, r)
	c.answer.begin(c, r)
	if !c.handle(r) {
		return false
	}
	if c.ctx.Err() != nil && c.answer.code == 0 {
		return false // the handler gave up; an empty answer would say that it succeeded
	}
	if err := c.answer.finish(); err != nil {
		return false
	}
	if c.answer.close {
		if !c.body.ended {
			c.lingerOn()
		}
		return false
	}
	return c.body.drain()
}

// request reads a request's head. An error that is no *refusal means that
// there is nobody to answer.
func (c *conn) request() (*http.Request, error) {
	if err := c.tcp.SetReadDeadline(time.Now().Add(c.server.headTimeout())); err != nil {
		return nil, err
	}
	if _, err := c.r.Peek(1); err != nil {
		return nil, err
	}
	if !c.state.CompareAndSwap(idle, busy) {
		return nil, net.ErrClosed
	}
	seen, end := 0, 0
	for end == 0 {
		if seen == MaxHead {
			return nil, &refusal{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the headers may have at most %d bytes", MaxHead)}
		}
		if _, err := c.r.Peek(seen + 1); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, &refusal{http.StatusRequestTimeout, "the headers took too long"}
			}
			return nil, err
		}
		b, _ := c.r.Peek(c.r.Buffered())
		end = headEnd(b, seen)
		seen = len(b)
	}
	head, _ := c.r.Peek(end)
	if err := checkHead(head); err != nil {
		return nil, err
	}
	r, err := http.ReadRequest(c.r)
	if err != nil {
		return nil, bad(err.Error())
	}
	r.RemoteAddr = c.remote
	return r.WithContext(c.ctx), nil
}

// handle calls the handler and reports whether it has returned as it should.
func (c *conn) handle(r *http.Request) (ok bool) {
	defer func() {
		if ok {
			return
		}
		if p := recover(); p != http.ErrAbortHandler {
			c.server.log().Error("a handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			return
		}
		// What was written so far is the client's.
		_ = c.w.Flush()
	}()
	c.turn.Add(1)
	defer c.turn.Add(1)
	c.server.Handler.ServeHTTP(&c.answer, r)
	return true
}

// watch is the watcher's look at a connection: if the handler that ran at its
// last look still does, the client may have left meanwhile. That the handler
// may end during this does no harm: a client that has left has left.
func (c *conn) watch() {
	turn := c.turn.Load()
	if turn%2 == 1 && turn == c.seen && c.left() {
		c.cancel()
	}
	c.seen = turn
}

// left reports whether the client has closed its side. It cannot tell while
// there is something to read from it, as when it has sent the next request.
func (c *conn) left() bool {
	left := false
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		left = err == nil && n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return err != nil || left
}

// refuse answers a request that could not be read, and gives the connection up.
func (c *conn) refuse(no *refusal) {
	fmt.Fprintf(c.w, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		no.code, http.StatusText(no.code), c.server.now(), len(no.reason)+1, no.reason)
	if c.w.Flush() == nil {
		c.lingerOn()
	}
}

// lingerOn lets a client that still sends read the answer: closing a
// connection with something unread in it would take the answer back.
func (c *conn) lingerOn() {
	if c.tcp.CloseWrite() != nil || c.tcp.SetReadDeadline(time.Now().Add(linger)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.tcp)
}

// body is a request's body.
type body struct {
	conn   *conn
	of     io.ReadCloser
	length int64
	ended  bool
	// awaited tells that the client waits to be told to send it.
	awaited bool
}

func (b *body) begin(c *conn, r *http.Request) {
	*b = body{conn: c, of: r.Body, length: r.ContentLength, ended: r.Body == http.NoBody}
	if !b.ended {
		b.awaited = r.ProtoAtLeast(1, 1) && r.Header.Get("Expect") != ""
		r.Body = b
	}
}

func (b *body) Read(p []byte) (int, error) {
	if b.awaited {
		b.awaited = false
		if _, err := b.conn.w.WriteString("HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return 0, err
		}
		if err := b.conn.w.Flush(); err != nil {
			return 0, err
		}
	}
	if b.length < 0 || int64(b.conn.r.Buffered()) < b.length {
		if err := b.conn.tcp.SetReadDeadline(time.Now().Add(b.conn.server.ioTimeout())); err != nil {
			return 0, err
		}
	}
	n, err := b.of.Read(p)
	if b.length > 0 {
		b.length -= int64(n)
	}
	b.ended = b.ended || err == io.EOF
	return n, err
}

// Close leaves the rest to drain.
func (b *body) Close() error { return nil }

// drain reads what the handler left, and reports whether the connection can
// go on.
func (b *body) drain() bool {
	if b.ended {
		return true
	}
	_, err := io.CopyN(io.Discard, b, maxDrain)
	return err == nil && b.ended || err == io.EOF
}
