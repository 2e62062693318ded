package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/catalog"
	"github.com/drover-ml/drover/orchestrator/gateway"
	"github.com/drover-ml/drover/orchestrator/gateway/http1"
)

// services is a catalog that a test fills.
type services struct {
	sets chan []catalog.Instance
}

func (s *services) Watch(ctx context.Context, update func([]catalog.Instance)) error {
	for {
		select {
		case set := <-s.sets:
			update(set)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// backend is a model server with a switch for its readiness.
type backend struct {
	*httptest.Server
	ready    atomic.Bool
	requests atomic.Int64 // other than probes
}

func newBackend(t *testing.T, ready bool, h http.HandlerFunc) *backend {
	t.Helper()
	b := &backend{}
	b.ready.Store(ready)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/health/ready" {
			if !b.ready.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		}
		b.requests.Add(1)
		h(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) instance(id string) catalog.Instance {
	return instanceAt(id, b.Listener.Addr().String())
}

func instanceAt(id, addr string) catalog.Instance {
	return catalog.Instance{ID: id, Service: "drover-default-m", AllocID: id, Address: addr, Tags: map[string]string{
		catalog.TagWorkspace: "default", catalog.TagEndpoint: "m",
	}}
}

type fixture struct {
	t        *testing.T
	URL      string
	gateway  *gateway.Gateway
	services *services
	news     chan struct{} // the gateway has logged something, as it does of each change
}

// start serves a gateway as drover does.
func start(t *testing.T, cfg gateway.Config, instances ...catalog.Instance) *fixture {
	t.Helper()
	f := &fixture{t: t, services: &services{sets: make(chan []catalog.Instance)}, news: make(chan struct{}, 1)}
	cfg.Catalog = f.services
	cfg.Logger = slog.New(slog.NewTextHandler(f, nil))
	if cfg.ProbeInterval == 0 {
		cfg.ProbeInterval = 20 * time.Millisecond
	}
	f.gateway = gateway.New(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.URL = "http://" + ln.Addr().String()
	server := &http1.Server{Handler: f.gateway}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = f.gateway.Run(ctx) })
	running.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() {
		stopping, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		if err := server.Shutdown(stopping); err != nil {
			t.Errorf("shutting down: %v", err)
		}
		cancel()
		running.Wait()
	})
	f.services.sets <- instances
	return f
}

// Write takes the gateway's log.
func (f *fixture) Write(p []byte) (int, error) {
	select {
	case f.news <- struct{}{}:
	default: // there is news already
	}
	return len(p), nil
}

// ready waits until n instances are ready.
func (f *fixture) ready(n int) {
	f.t.Helper()
	late := time.After(10 * time.Second)
	for {
		got := 0
		for _, e := range f.gateway.Endpoints() {
			got += e.Ready
		}
		if got == n {
			return
		}
		select {
		case <-f.news:
		case <-late:
			f.t.Fatalf("%d instances ready, want %d: %+v", got, n, f.gateway.Endpoints())
		}
	}
}

func (f *fixture) post(path, body string) (int, string, http.Header) {
	f.t.Helper()
	res, err := http.Post(f.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Seen", r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("X-Forwarded-For"))
	_, _ = w.Write(b)
}

func TestRoutes(t *testing.T) {
	b := newBackend(t, true, echo)
	f := start(t, gateway.Config{}, b.instance("a"))
	f.ready(1)
	tests := []struct {
		name, path string
		code       int
		seen       string
	}{
		{"infer", "/v2/models/m/infer", 200, "POST /v2/models/m/infer 127.0.0.1"},
		{"metadata", "/v2/models/m", 200, "POST /v2/models/m 127.0.0.1"},
		{"pass-through", "/endpoints/default/m/any/path?q=1%202", 200, "POST /any/path?q=1%202 127.0.0.1"},
		{"pass-through root", "/endpoints/default/m/", 200, "POST / 127.0.0.1"},
		{"encoded path", "/endpoints/default/m/a%2Fb", 200, "POST /a%2Fb 127.0.0.1"},
		{"unknown endpoint", "/v2/models/x/infer", 404, ""},
		{"other workspace", "/endpoints/other/m/predict", 404, ""},
		{"no path", "/elsewhere", 404, ""},
		{"no model", "/v2/models//infer", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, body, h := f.post(tt.path, `{"x":1}`)
			if code != tt.code || h.Get("X-Seen") != tt.seen {
				t.Errorf("got %d, seen %q, body %s; want %d, seen %q", code, h.Get("X-Seen"), body, tt.code, tt.seen)
			}
			if code == 200 && body != `{"x":1}` {
				t.Errorf("body %q came back", body)
			}
			if code != 200 && !json.Valid([]byte(body)) {
				t.Errorf("problem is not JSON: %s", body)
			}
		})
	}
}

// A registered instance that still loads its model gets nothing; with none
// ready the answer is 503 with Retry-After, not 404.
func TestOnlyReadyInstancesServe(t *testing.T) {
	a, b, loading := newBackend(t, true, echo), newBackend(t, true, echo), newBackend(t, false, echo)
	f := start(t, gateway.Config{}, a.instance("a"), b.instance("b"), loading.instance("c"))
	f.ready(2)
	for range 200 {
		if code, body, _ := f.post("/v2/models/m/infer", "{}"); code != 200 {
			t.Fatalf("got %d: %s", code, body)
		}
	}
	if n := loading.requests.Load(); n != 0 {
		t.Errorf("the loading instance got %d requests", n)
	}
	if a.requests.Load() == 0 || b.requests.Load() == 0 {
		t.Errorf("load is not spread: %d and %d", a.requests.Load(), b.requests.Load())
	}
	a.ready.Store(false)
	b.ready.Store(false)
	f.ready(0)
	for _, path := range []string{"/v2/models/m/infer", "/v2/models/m/ready"} {
		code, _, h := f.post(path, "{}")
		if code != 503 || h.Get("Retry-After") == "" {
			t.Errorf("%s with none ready: got %d, Retry-After %q", path, code, h.Get("Retry-After"))
		}
	}
	loading.ready.Store(true)
	f.ready(1)
	if code, _, _ := f.post("/v2/models/m/infer", "{}"); code != 200 {
		t.Errorf("after loading: got %d", code)
	}
}

// A request to an instance that cannot be connected to goes to another.
func TestConnectionRefusedIsTriedElsewhere(t *testing.T) {
	good := newBackend(t, true, echo)
	dead := newBackend(t, true, echo)
	f := start(t, gateway.Config{ProbeInterval: time.Hour}, good.instance("a"), dead.instance("b"))
	f.ready(2)
	dead.Close()
	for range 50 {
		if code, body, _ := f.post("/v2/models/m/infer", "{}"); code != 200 {
			t.Fatalf("got %d: %s", code, body)
		}
	}
}

// An instance that dies after it has got the request may have processed it:
// the request is not sent again.
func TestSentRequestIsNotReplayed(t *testing.T) {
	cut := func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = c.Close()
		}
	}
	a, b := newBackend(t, true, cut), newBackend(t, true, cut)
	f := start(t, gateway.Config{}, a.instance("a"), b.instance("b"))
	f.ready(2)
	code, _, _ := f.post("/v2/models/m/infer", "{}")
	if code != 502 || a.requests.Load()+b.requests.Load() != 1 {
		t.Errorf("got %d after %d requests, want 502 after 1", code, a.requests.Load()+b.requests.Load())
	}
}

// A stream's parts arrive as they are sent, and one that breaks off ends in an
// error for the client, not in a silent end.
func TestStreams(t *testing.T) {
	next := make(chan struct{})
	b := newBackend(t, true, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-next
		_, _ = io.WriteString(w, "second\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	f := start(t, gateway.Config{}, b.instance("a"))
	f.ready(1)
	res, err := http.Post(f.URL+"/v2/models/m/infer", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	if line, err := r.ReadString('\n'); line != "first\n" || err != nil {
		t.Fatalf("got %q, %v before the second part was sent", line, err)
	}
	close(next)
	rest, err := io.ReadAll(r)
	if string(rest) != "second\n" || err == nil {
		t.Errorf("got %q, %v; want the second part and an error", rest, err)
	}
	if n := b.requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestLimits(t *testing.T) {
	b := newBackend(t, true, echo)
	slow := make(chan struct{})
	defer close(slow)
	s := newBackend(t, true, func(http.ResponseWriter, *http.Request) { <-slow })
	si := s.instance("s")
	si.Tags = map[string]string{catalog.TagWorkspace: "default", catalog.TagEndpoint: "slow"}
	f := start(t, gateway.Config{MaxBody: 10, Timeout: 50 * time.Millisecond}, b.instance("a"), si)
	f.ready(2)
	if code, _, _ := f.post("/v2/models/m/infer", "12345678901"); code != 413 {
		t.Errorf("declared length over the limit: got %d", code)
	}
	req, _ := http.NewRequest("POST", f.URL+"/v2/models/m/infer", io.NopCloser(strings.NewReader("12345678901")))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("chunked body over the limit: got %d", res.StatusCode)
	}
	if code, _, _ := f.post("/v2/models/m/infer", "1234567890"); code != 200 {
		t.Errorf("body at the limit: got %d", code)
	}
	if code, _, _ := f.post("/v2/models/slow/infer", "{}"); code != 504 {
		t.Errorf("slow answer: got %d", code)
	}
}

// An idle connection that the instance has closed costs no request.
func TestClosedIdleConnectionIsNotUsed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	closed := make(chan struct{}, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { // one answer a connection, with no word of closing it
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_ = c.Close()
				if req.Method == http.MethodPost {
					closed <- struct{}{}
				}
			}()
		}
	}()
	f := start(t, gateway.Config{}, instanceAt("a", ln.Addr().String()))
	f.ready(1)
	for i := range 50 {
		code, body, _ := f.post("/v2/models/m/infer", fmt.Sprint(i))
		if code != 200 || body != "ok" {
			t.Fatalf("request %d: got %d %s", i, code, body)
		}
		<-closed
	}
}

// An instance whose registration ends gets no more requests.
func TestDeregistration(t *testing.T) {
	a, b := newBackend(t, true, echo), newBackend(t, true, echo)
	f := start(t, gateway.Config{}, a.instance("a"), b.instance("b"))
	f.ready(2)
	f.services.sets <- []catalog.Instance{b.instance("b")}
	f.ready(1)
	for range 20 {
		if code, _, _ := f.post("/v2/models/m/infer", "{}"); code != 200 {
			t.Fatalf("got %d", code)
		}
	}
	if n := a.requests.Load(); n != 0 {
		t.Errorf("the deregistered instance got %d requests", n)
	}
	f.services.sets <- nil
	f.ready(0)
	if code, _, _ := f.post("/v2/models/m/infer", "{}"); code != 404 {
		t.Errorf("with no registration left: got %d", code)
	}
}

// A client that leaves ends the request at the instance too.
func TestClientLeaves(t *testing.T) {
	gone := make(chan struct{})
	arrived := make(chan struct{})
	b := newBackend(t, true, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
		close(gone)
	})
	f := start(t, gateway.Config{}, b.instance("a"))
	f.ready(1)
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "POST", f.URL+"/v2/models/m/infer", strings.NewReader("{}"))
	go func() { <-arrived; cancel() }()
	if _, err := http.DefaultClient.Do(req); err == nil {
		t.Fatal("no error")
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the instance still works for a client that left")
	}
}
