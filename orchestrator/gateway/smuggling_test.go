package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/gateway"
)

// arrivals is an instance that keeps what requests arrive at it.
type arrivals struct {
	mu   sync.Mutex
	seen []arrival
}

type arrival struct {
	method, path, query, host, body string
	header                          http.Header
}

func (a *arrivals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte("broken: " + err.Error())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, arrival{r.Method, r.URL.Path, r.URL.RawQuery, r.Host, string(body), r.Header})
}

func (a *arrivals) take() []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.seen = nil }()
	return a.seen
}

// Whatever a client writes as one request, at most one arrives at an instance,
// with the path, the query and the body that it had.
func TestNothingIsSmuggled(t *testing.T) {
	var a arrivals
	b := newBackend(t, true, a.ServeHTTP)
	f := start(t, gateway.Config{}, b.instance("a"))
	f.ready(1)
	addr := strings.TrimPrefix(f.URL, "http://")

	inner := "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
	text := rapid.OneOf(
		rapid.StringMatching(`[ -~]{0,20}`),
		rapid.StringOfN(rapid.RuneFrom([]rune("aA%20/?#&;=:.,\\ \t\r\n\x00\x7f\u0080é")), 0, 12, -1),
		rapid.Just(" HTTP/1.1\nHost: h\n\n"+inner), rapid.Just("a\nTransfer-Encoding: chunked"),
	)
	name := rapid.OneOf(rapid.SampledFrom([]string{
		"X-A", "Connection", "Transfer-Encoding", "Content-Length", "Te", "Trailer", "Upgrade", "Host", "Keep-Alive",
		"X-Forwarded-For", "transfer-encoding ", " Content-Length", "Transfer_Encoding", "Expect",
	}), rapid.StringMatching(`[!-~]{1,10}`))
	value := rapid.OneOf(text,
		rapid.SampledFrom([]string{"chunked", "0", "5", "close", "Content-Length", "100-continue", "websocket"}),
	).Filter(func(v string) bool { return !strings.Contains(v, "\r\n\r\n") }) // that would be two requests

	rapid.Check(t, func(t *rapid.T) {
		path := text.Draw(t, "path")
		body := rapid.OneOf(text, rapid.Just(inner)).Draw(t, "body")
		var request strings.Builder
		fmt.Fprintf(&request, "POST /endpoints/default/m/%s HTTP/1.1\r\nHost: h\r\n", path)
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			fmt.Fprintf(&request, "%s: %s\r\n", name.Draw(t, "name"), value.Draw(t, "value"))
		}
		chunked := rapid.Bool().Draw(t, "chunked")
		if chunked {
			request.WriteString("Transfer-Encoding: chunked\r\n\r\n")
			if body != "" {
				fmt.Fprintf(&request, "%x\r\n%s\r\n", len(body), body)
			}
			request.WriteString("0\r\n\r\n")
		} else {
			fmt.Fprintf(&request, "Content-Length: %d\r\n\r\n%s", len(body), body)
		}
		code := exchange(t, addr, request.String())
		seen := a.take()
		if code != http.StatusOK {
			if len(seen) > 0 {
				t.Fatalf("%q was answered with %d, but arrived as %+v", request.String(), code, seen)
			}
			return
		}
		if len(seen) != 1 {
			t.Fatalf("%q arrived as %d requests: %+v", request.String(), len(seen), seen)
		}
		got := seen[0]
		want, err := url.ParseRequestURI("/" + path)
		if err != nil {
			t.Fatalf("%q was served: %v", request.String(), err)
		}
		if got.method != http.MethodPost || got.path != want.Path || got.query != want.RawQuery || got.host != "h" || got.body != body {
			t.Fatalf("%q arrived as %+v", request.String(), got)
		}
		for _, hop := range []string{"Connection", "Te", "Trailer", "Upgrade", "Keep-Alive", "Expect"} {
			if got.header.Get(hop) != "" {
				t.Fatalf("%q: %s was passed on", request.String(), hop)
			}
		}
	})
}

// exchange sends bytes and returns the status of the first final answer, once
// the gateway has ended the connection or waits for more.
func exchange(t *rapid.T, addr, sent string) int {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer to %q: %v", sent, err)
		}
		if res.StatusCode >= 200 {
			return res.StatusCode
		}
	}
}
