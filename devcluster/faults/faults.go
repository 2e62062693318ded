// Package faults makes a cluster misbehave on purpose, for tests.
package faults

import (
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// Kind says what an injected error looks like to the client.
type Kind string

// The kinds of injected error.
const (
	// Status answers 500 without doing what was asked.
	Status Kind = "status"
	// Reset closes the connection without doing what was asked.
	Reset Kind = "reset"
	// Lost does what was asked and then closes the connection without the
	// answer: the client cannot know that it was done.
	Lost Kind = "lost"
)

// Rule injects errors into requests.
type Rule struct {
	// Method is the HTTP method; "" is every method.
	Method string `json:"method"`
	// Path is matched as by path.Match, or as a prefix if it ends in "/**".
	Path string `json:"path"`
	// Count is how many requests it applies to; 0 is one.
	Count int `json:"count"`
	// Skip is how many matching requests pass first.
	Skip int `json:"skip"`
	// Kind is Status by default.
	Kind Kind `json:"kind"`
}

// Faults holds what is to go wrong. The zero value is well-behaved.
type Faults struct {
	mu         sync.Mutex
	rules      []*Rule
	eventDelay time.Duration
	injected   int
}

// ErrorNext injects errors into the next requests that match.
func (f *Faults) ErrorNext(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Count == 0 {
		r.Count = 1
	}
	if r.Kind == "" {
		r.Kind = Status
	}
	f.rules = append(f.rules, &r)
}

// DelayEvents holds events back for a while; 0 ends it.
func (f *Faults) DelayEvents(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.eventDelay = d
}

// EventDelay is the delay that was set.
func (f *Faults) EventDelay() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.eventDelay
}

// Clear takes all back.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.eventDelay = nil, 0
}

// Injected is how many errors were injected.
func (f *Faults) Injected() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.injected
}

func (r *Rule) matches(req *http.Request) bool {
	if r.Method != "" && !strings.EqualFold(r.Method, req.Method) {
		return false
	}
	if prefix, ok := strings.CutSuffix(r.Path, "/**"); ok {
		return strings.HasPrefix(req.URL.Path, prefix+"/")
	}
	ok, err := path.Match(r.Path, req.URL.EscapedPath())
	return err == nil && ok
}

// next takes the first rule that matches a request, if any.
func (f *Faults) next(req *http.Request) (Kind, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range f.rules {
		if !r.matches(req) {
			continue
		}
		if r.Skip > 0 {
			r.Skip--
			continue
		}
		if r.Count--; r.Count == 0 {
			f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
		}
		f.injected++
		return r.Kind, true
	}
	return "", false
}

// Wrap injects the errors into what h answers.
func (f *Faults) Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		kind, ok := f.next(req)
		switch {
		case !ok:
			h.ServeHTTP(w, req)
		case kind == Status:
			http.Error(w, "injected error", http.StatusInternalServerError)
		case kind == Lost:
			h.ServeHTTP(&discard{header: http.Header{}}, req)
			drop(w)
		default:
			drop(w)
		}
	})
}

// drop closes the connection without an answer.
func drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, not an orderly end
	}
	conn.Close()
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}
