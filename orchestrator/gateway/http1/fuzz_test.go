package http1_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/gateway/http1"
)

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// seenBy is the requests that a handler has got on the connection of a client.
type seenBy struct {
	mu       sync.Mutex
	byClient map[string][]string
}

func (s *seenBy) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var header bytes.Buffer
	_ = r.Header.Write(&header) // sorted
	text := fmt.Sprintf("%s %s %s %d %v %s %q %v", r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, header.Bytes(), body, err == nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byClient[r.RemoteAddr] = append(s.byClient[r.RemoteAddr], text)
}

// ask sends bytes and returns the requests that the handler saw in them.
func (s *seenBy) ask(t testing.TB, addr string, sent []byte) []string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(sent); err != nil && !isReset(err) {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil && !isReset(err) {
		t.Fatalf("reading the answers to %q: %v", sent, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	client := c.LocalAddr().String()
	defer delete(s.byClient, client)
	return s.byClient[client]
}

// Whatever bytes a client sends, this server finds no request in them that
// net/http's does not find in the same place: it may only stop earlier. Two
// servers that agree cannot be played against each other.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /a%20b?c HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\nX: y\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nGET /\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\n chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\nHost: h\n\nGET / HTTP/1.1\nHost: h\n\n",
		"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
		"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n",
		"GET http://a/b HTTP/1.1\r\nHost: c\r\nConnection: keep-alive, X\r\nX: y\r\n\r\n",
		"HEAD //../x HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	ours, theirs := &seenBy{byClient: map[string][]string{}}, &seenBy{byClient: map[string][]string{}}
	addr := serve(f, &http1.Server{Handler: ours})
	reference := httptest.NewUnstartedServer(theirs)
	reference.Config.DisableGeneralOptionsHandler = true // it answers OPTIONS * itself
	reference.Start()
	f.Cleanup(reference.Close)
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) > http1.MaxHead {
			t.Skip()
		}
		got := ours.ask(t, addr, sent)
		want := theirs.ask(t, reference.Listener.Addr().String(), sent)
		if len(got) > len(want) || len(got) > 0 && strings.Join(got, "|") != strings.Join(want[:len(got)], "|") {
			t.Errorf("%q\nis here     %q\nin net/http %q", sent, got, want)
		}
	})
}
