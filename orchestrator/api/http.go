package api

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// onlyLocal protects an API without tokens from web pages that a user of this
// machine visits: their scripts may reach a loopback address too. It refuses
// requests from other origins, and those for a host name that is not this
// machine's (a name that was made to point here).
func onlyLocal(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusForbidden, "This server takes no requests from other web pages. Give it tokens, and send one.")
	}))
	checked := protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r.Host) {
			writeProblem(w, http.StatusForbidden, "This server has no tokens and so answers under localhost, 127.0.0.1 and [::1] only.")
			return
		}
		if name := r.Header.Get(UserHeader); holderName.MatchString(name) {
			r = withUser(r, name)
		}
		checked.ServeHTTP(w, r)
	})
}

func localHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// recoverPanics answers a request whose handler panicked, and logs why.
func recoverPanics(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // meant for net/http
			}
			log.Error("panic while answering a request", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			writeProblem(w, http.StatusInternalServerError, "Something went wrong inside the server; its log says what.")
		}()
		next.ServeHTTP(w, r)
	})
}

// observe counts and times requests by operation.
func observe(reg *prometheus.Registry, mux *http.ServeMux, next http.Handler) http.Handler {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "drover_http_requests_total", Help: "API requests, by operation and status.",
	}, []string{"operation", "status"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "drover_http_request_seconds", Help: "Time to answer API requests, waiting and streaming included.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
	}, []string{"operation"})
	reg.MustRegister(requests, seconds)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, operation := mux.Handler(r)
		start := time.Now()
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			requests.WithLabelValues(operation, strconv.Itoa(rec.status)).Inc()
			seconds.WithLabelValues(operation).Observe(time.Since(start).Seconds())
		}()
		next.ServeHTTP(rec, r)
	})
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what is below.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// noSuchPath answers a request that no operation takes: 405 if another method
// would have been taken, else 404.
func noSuchPath(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, http.StatusMethodNotAllowed, r.URL.Path+" takes "+strings.Join(allowed, ", ")+".")
		return
	}
	writeProblem(w, http.StatusNotFound, "No such path: "+r.URL.Path+". /docs lists what there is.")
}
