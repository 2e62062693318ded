package gateway

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the gateway's own. Label values come from registered services,
// never from requests, so their number is bounded.
type metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	brokenOff prometheus.Counter
	mu        sync.Mutex
	byKey     map[key]*endpointMetrics
}

type endpointMetrics struct {
	duration prometheus.Observer
	classes  [6]prometheus.Counter // by status code / 100
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		byKey: map[key]*endpointMetrics{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_gateway_requests_total",
			Help: "Requests to endpoints, by class of the answer's status.",
		}, []string{"workspace", "endpoint", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "drover_gateway_request_duration_seconds",
			Help:    "Time from a request's arrival to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"workspace", "endpoint"}),
		brokenOff: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "drover_gateway_broken_answers_total",
			Help: "Answers that broke off after they had begun.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.brokenOff)
	}
	return m
}

func (m *metrics) endpoint(k key) *endpointMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byKey[k]
	if e == nil {
		e = &endpointMetrics{duration: m.duration.WithLabelValues(k.workspace, k.name)}
		for class := range e.classes {
			e.classes[class] = m.requests.WithLabelValues(k.workspace, k.name, strconv.Itoa(class)+"xx")
		}
		m.byKey[k] = e
	}
	return e
}

func (m *metrics) observe(e *endpoint, code int, start time.Time) {
	e.metrics.duration.Observe(time.Since(start).Seconds())
	if code < http.StatusContinue || code > 599 {
		code = http.StatusBadGateway
	}
	e.metrics.classes[code/100].Inc()
}
