package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/gateway/http1"
)

const patience = 10 * time.Second

func await[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s in %v", what, patience)
		panic("unreachable")
	}
}

// A body that the handler leaves is read over if it is small; else the
// connection ends, but not before the client could read the answer.
func TestUnreadBodies(t *testing.T) {
	addr := serve(t, &http1.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})})
	tests := []struct {
		name    string
		length  int
		expects bool
		stays   bool
	}{
		{"none", 0, false, true},
		{"small", 200 << 10, false, true},
		{"large", 8 << 20, false, false},
		{"awaited", 10, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, addr)
			r := bufio.NewReader(c)
			req, err := http.NewRequest("POST", "http://h/", strings.NewReader(strings.Repeat("x", tt.length)))
			if err != nil {
				t.Fatal(err)
			}
			if tt.expects {
				_, err = io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
			} else {
				err = req.Write(c)
			}
			if err != nil && tt.stays {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(r, req)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusRequestEntityTooLarge || res.Close == tt.stays {
				t.Errorf("got %d, close %v", res.StatusCode, res.Close)
			}
			if tt.stays {
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				if _, err := http.ReadResponse(r, nil); err != nil {
					t.Errorf("the next request: %v", err)
				}
			}
		})
	}
}

// A request's context ends when its client leaves, also after the answer has
// begun.
func TestClientLeaves(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	addr := serve(t, &http1.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		started <- struct{}{}
		<-r.Context().Done()
		close(ended)
	})})
	c := dial(t, addr)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	await(t, "request", started)
	c.Close()
	await(t, "end of the context", ended)
}

func TestTimeouts(t *testing.T) {
	read := make(chan error, 1)
	addr := serve(t, &http1.Server{HeadTimeout: 50 * time.Millisecond, IOTimeout: 50 * time.Millisecond, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	})})
	for name, tt := range map[string]struct{ sent, want string }{
		"no request":  {"", ""},
		"half a head": {"GET / HTTP/1.1\r\nHost", "408 the headers took too long\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, addr)
			if _, err := io.WriteString(c, tt.sent); err != nil {
				t.Fatal(err)
			}
			if got := answers(t, c); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("half a body", func(t *testing.T) {
		c := dial(t, addr)
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na"); err != nil {
			t.Fatal(err)
		}
		if err := await(t, "end of the read", read); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading the body: %v", err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("the connection does not end: %v", err)
		}
	})
	t.Run("client that does not read", func(t *testing.T) {
		wrote := make(chan error, 1)
		addr := serve(t, &http1.Server{IOTimeout: 50 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, 64<<20))
			wrote <- err
		})})
		c := dial(t, addr)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := await(t, "end of the write", wrote); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("writing the answer: %v", err)
		}
	})
}

// Shutdown closes idle connections, lets a request end and refuses new ones.
func TestShutdown(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s := &http1.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			started <- struct{}{}
			<-release
		}
	})}
	addr := serve(t, s)
	unused, used, busy := dial(t, addr), dial(t, addr), dial(t, addr)
	if _, err := io.WriteString(used, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(used)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	await(t, "request", started)
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	for name, c := range map[string]io.Reader{"unused": unused, "used": r} {
		if b, err := io.ReadAll(c); err != nil && !isReset(err) || len(b) > 0 {
			t.Errorf("%s connection: %q, %v", name, b, err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v before the request ended", err)
	default:
	}
	close(release)
	res, err := http.ReadResponse(bufio.NewReader(busy), nil)
	if err != nil || !res.Close {
		t.Errorf("the request in flight: %v, %v", res, err)
	}
	if err := await(t, "end of Shutdown", done); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a connection was taken after Shutdown")
	}
}

// Shutdown cuts what does not end in time.
func TestShutdownCuts(t *testing.T) {
	started := make(chan struct{})
	s := &http1.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
	})}
	c := dial(t, serve(t, s))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	await(t, "request", started)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown returned %v", err)
	}
	if b, err := io.ReadAll(c); err != nil && !isReset(err) || len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
}
