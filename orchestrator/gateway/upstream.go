package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The standard transport hands every request to two goroutines of its own and
// back, which costs more than the request itself at the rates a gateway is
// for. A pool's round trip stays on the caller's goroutine.

var (
	errNotConnected = errors.New("could not connect")
	errTimeout      = errors.New("no answer in time")
	errUpgrade      = errors.New("connection upgrade asked for")
)

// begunError is a failure after part of the answer has gone to the client.
type begunError struct{ err error }

func (e *begunError) Error() string { return e.err.Error() }
func (e *begunError) Unwrap() error { return e.err }

// pool keeps idle connections to one address.
type pool struct {
	addr string

	mu     sync.Mutex
	idle   []*conn // the most recently used last
	closed bool
}

const (
	maxIdle     = 256
	dialTimeout = 2 * time.Second
)

type conn struct {
	net.Conn
	raw syscall.RawConn
	r   *bufio.Reader
	w   *bufio.Writer
}

func newPool(addr string) *pool { return &pool{addr: addr} }

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}

// get returns an idle connection that the peer has not closed, or a new one.
func (p *pool) get(ctx context.Context) (*conn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if c.quiet() {
			return c, nil
		}
		_ = c.Close()
	}
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotConnected, err)
	}
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("%w: %w", errNotConnected, err)
	}
	return &conn{Conn: nc, raw: raw, r: bufio.NewReaderSize(nc, 8<<10), w: bufio.NewWriterSize(nc, 8<<10)}, nil
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdle {
		_ = c.Close()
		return
	}
	p.idle = append(p.idle, c)
}

// quiet reports that an idle connection is open and has nothing to say. A peer
// that closed it, or speaks out of turn, shows here before a request is lost
// to it.
func (c *conn) quiet() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	quiet := false
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
		return true
	})
	return err == nil && quiet
}

// roundTrip sends r as target and copies the answer to w. It returns the
// answer's status. With errNotConnected nothing was sent, and w is untouched
// unless the error is a *begunError.
func (p *pool) roundTrip(w http.ResponseWriter, r *http.Request, target string, timeout time.Duration) (int, error) {
	if r.Header.Get("Upgrade") != "" {
		return 0, errUpgrade
	}
	c, err := p.get(r.Context())
	if err != nil {
		return 0, err
	}
	// A client that leaves frees its instance at once.
	stop := context.AfterFunc(r.Context(), func() { _ = c.Close() })
	code, reuse, err := c.exchange(w, r, target, timeout)
	if !stop() || !reuse || err != nil {
		_ = c.Close()
		return code, err
	}
	p.put(c)
	return code, nil
}

func (c *conn) exchange(w http.ResponseWriter, r *http.Request, target string, timeout time.Duration) (code int, reuse bool, err error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, false, err
	}
	if err := c.send(r, target); err != nil {
		return 0, false, timeoutOr(err)
	}
	res, err := c.answer(r)
	if err != nil {
		return 0, false, timeoutOr(err)
	}
	defer res.Body.Close()
	// An answer that has begun may take its time, as a stream of tokens does.
	if err := c.SetDeadline(time.Time{}); err != nil {
		return 0, false, err
	}
	copyHeader(w.Header(), res.Header)
	if res.ContentLength >= 0 && res.Header.Get("Content-Length") == "" && r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(res.ContentLength, 10))
	}
	w.WriteHeader(res.StatusCode)
	if err := copyBody(w, res); err != nil {
		return res.StatusCode, false, &begunError{err}
	}
	return res.StatusCode, !res.Close, nil
}

// answer reads the head of the final answer, past interim ones.
func (c *conn) answer(r *http.Request) (*http.Response, error) {
	for range 5 {
		res, err := http.ReadResponse(c.r, r)
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		if res.StatusCode < 100 {
			return nil, fmt.Errorf("reading the answer: its status is %q", res.Status)
		}
		if res.StatusCode >= 200 {
			return res, nil
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			return nil, errUpgrade
		}
	}
	return nil, errors.New("reading the answer: too many interim ones")
}

func timeoutOr(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errTimeout, err)
	}
	return err
}

// send writes r, for this hop.
func (c *conn) send(r *http.Request, target string) error {
	w := c.w
	w.Reset(c.Conn)
	_, _ = w.WriteString(r.Method)
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(target)
	_, _ = w.WriteString(" HTTP/1.1\r\nHost: ")
	_, _ = w.WriteString(r.Host)
	_, _ = w.WriteString("\r\n")
	drop := r.Header["Connection"]
	for name, values := range r.Header {
		if hopByHop(name) || name == "X-Forwarded-For" || name == "Expect" || len(drop) > 0 && named(drop, name) {
			continue
		}
		for _, v := range values {
			_, _ = w.WriteString(name)
			_, _ = w.WriteString(": ")
			_, _ = w.WriteString(v)
			_, _ = w.WriteString("\r\n")
		}
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		_, _ = w.WriteString("X-Forwarded-For: ")
		for _, v := range r.Header["X-Forwarded-For"] {
			_, _ = w.WriteString(v)
			_, _ = w.WriteString(", ")
		}
		_, _ = w.WriteString(host)
		_, _ = w.WriteString("\r\n")
	}
	switch {
	case r.ContentLength > 0:
		_, _ = w.WriteString("Content-Length: ")
		_, _ = w.WriteString(strconv.FormatInt(r.ContentLength, 10))
		_, _ = w.WriteString("\r\n\r\n")
		if _, err := io.Copy(w, r.Body); err != nil {
			return fmt.Errorf("sending the request: %w", err)
		}
	case r.ContentLength < 0:
		_, _ = w.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		cw := httputil.NewChunkedWriter(w)
		if _, err := io.Copy(cw, r.Body); err != nil {
			return fmt.Errorf("sending the request: %w", err)
		}
		_ = cw.Close()
		_, _ = w.WriteString("\r\n")
	default:
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			_, _ = w.WriteString("Content-Length: 0\r\n")
		}
		_, _ = w.WriteString("\r\n")
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	return nil
}

// hopByHop reports headers that are for one connection only (RFC 9110, 7.6.1),
// and those that send writes itself.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host":
		return true
	}
	return false
}

// named reports whether a Connection header names the header.
func named(connection []string, name string) bool {
	for _, v := range connection {
		for token := range strings.SplitSeq(v, ",") {
			if textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(token)) == name {
				return true
			}
		}
	}
	return false
}

func copyHeader(dst, src http.Header) {
	drop := src["Connection"]
	for name, values := range src {
		if name != "Content-Length" && hopByHop(name) || len(drop) > 0 && named(drop, name) {
			continue
		}
		dst[name] = values
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyBody copies an answer's body; one of unknown length is flushed as it
// comes.
func copyBody(w http.ResponseWriter, res *http.Response) error {
	if res.ContentLength == 0 {
		return nil
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if res.ContentLength > 0 {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, res.Body, *buf)
		return err
	}
	flush := http.NewResponseController(w)
	for {
		n, err := res.Body.Read(*buf)
		if n > 0 {
			if _, err := w.Write((*buf)[:n]); err != nil {
				return err
			}
			_ = flush.Flush()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
