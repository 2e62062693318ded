package http1_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/gateway/http1"
)

// serve starts a server for a test and returns its address.
func serve(t testing.TB, s *http1.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutting down: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return ln.Addr().String()
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// echo answers with what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	w.Header().Set("Date", "now")
	text := fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.Host, body)
	if err != nil {
		text = err.Error()
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	_, _ = io.WriteString(w, text)
}

func TestRequests(t *testing.T) {
	addr := serve(t, &http1.Server{Handler: http.HandlerFunc(echo)})
	tests := []struct{ name, sent, want string }{
		{"get", "GET /a?b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "200 GET /a?b h "},
		{"length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", "200 POST / h abc"},
		{"chunks", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "200 POST / h abc"},
		{"two at once", "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "200 GET /1 h |200 GET /2 h "},
		{"version 1.0", "GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n", "200 GET /  "},
		{"absolute target", "GET http://x/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "200 GET http://x/a x "},
		{"nothing", "", ""},
		{"half a head", "GET / HTTP/1.1\r\nHo", ""},
		{"head at the limit", long(http1.MaxHead), "200 GET / h "},
		{"head over the limit", long(http1.MaxHead + 1), "431 the headers may have at most 16384 bytes\n"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400 there must be one Host header\n"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 there must be one Host header\n"},
		{"length and coding", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 the body's length is told more than once\n"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "400 the body's length is told more than once\n"},
		{"list of lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", "400 the Content-Length is not a number\n"},
		{"signed length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", "400 the Content-Length is not a number\n"},
		{"huge length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nabc", `400 bad Content-Length "99999999999999999999"` + "\n"},
		{"other coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501 the only transfer coding known is chunked\n"},
		{"hidden coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", "400 a header has a control character in it\n"},
		{"coding in 1.0", "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 HTTP/1.0 has no transfer codings\n"},
		{"blank after a name", "GET / HTTP/1.1\r\nHost : h\r\n\r\n", "400 a header has no valid name\n"},
		{"folded line", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", "400 a header has no valid name\n"},
		{"bare LF", "GET / HTTP/1.1\r\nHost: h\nX: a\r\n\r\n", "400 a header has a control character in it\n"},
		{"bare CR", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", "400 a header has a control character in it\n"},
		{"control in the target", "GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", "400 the request's target has a control character in it\n"},
		{"version 2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 the versions known are HTTP/1.0 and HTTP/1.1\n"},
		{"not HTTP", "\x16\x03\x01\x02\r\n\r\n", "400 the request line is malformed\n"},
		{"broken chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "200 invalid byte in chunk length"},
		{"expects", "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", "100 |200 POST / h a"},
		{"expects more", "POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n", "417 the only expectation known is 100-continue\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, addr)
			if _, err := io.WriteString(c, tt.sent); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := answers(t, c); got != tt.want {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func long(n int) string {
	const start, end = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: ", "\r\n\r\n"
	return start + strings.Repeat("x", n-len(start)-len(end)) + end
}

// answers reads all answers of a connection, as "status body|status body".
func answers(t testing.TB, c net.Conn) string {
	t.Helper()
	var all []string
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return strings.Join(all, "|")
		}
		if err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		all = append(all, fmt.Sprintf("%d %s", res.StatusCode, body))
	}
}

func TestAnswers(t *testing.T) {
	const get, head, old = "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"
	tests := []struct {
		name, sent string
		handler    func(w http.ResponseWriter, r *http.Request)
		want       string
	}{
		{"nothing", get, func(http.ResponseWriter, *http.Request) {}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: now\r\n\r\n"},
		{"declared", get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "ab")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\n\r\nab"},
		{"undeclared", get, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(418)
			_, _ = io.WriteString(w, "ab")
			_, _ = io.WriteString(w, "")
			_, _ = io.WriteString(w, "c")
		}, "HTTP/1.1 418 I'm a teapot\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"},
		{"undeclared to 1.0", old, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "ab")
		}, "HTTP/1.1 200 OK\r\nDate: now\r\nConnection: close\r\n\r\nab"},
		{"to HEAD", head, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "ab")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\n\r\n"},
		{"no content", get, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "ab"); !errors.Is(err, http.ErrBodyNotAllowed) {
				panic(err)
			}
		}, "HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"},
		{"longer than declared", get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1")
			if _, err := io.WriteString(w, "ab"); !errors.Is(err, http.ErrContentLength) {
				panic(err)
			}
			_, _ = io.WriteString(w, "c")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nDate: now\r\n\r\nc"},
		{"malformed length", get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "-1")
			_, _ = io.WriteString(w, "c")
		}, "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n"},
		{"line break in a header", get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "0")
			w.Header().Set("Date", "now\r\nX: y")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: now  X: y\r\n\r\n"},
		{"end of the connection", get, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			w.WriteHeader(304)
		}, "HTTP/1.1 304 Not Modified\r\nDate: now\r\nConnection: close\r\n\r\n"},
		{"abort", get, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "ab")
			panic(http.ErrAbortHandler)
		}, "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"},
		{"panic", get, func(w http.ResponseWriter, _ *http.Request) { panic("oops") }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, &http1.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", "now")
				tt.handler(w, r)
			})})
			c := dial(t, addr)
			if _, err := io.WriteString(c, tt.sent); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			if headSorted(string(got)) != headSorted(tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// headSorted sorts the headers of one answer, which come in no order.
func headSorted(answer string) string {
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}
