package nvml

import (
	"slices"
	"sync"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

const (
	// sameFor is for how long a report from another place is one of the same
	// event.
	sameFor = 5 * time.Second
	// A board may report a code so often in so long; what is beyond that says
	// nothing new. A broken board reports thousands a second.
	mostReports = 30
	reportsFor  = time.Minute
)

// gate lets each event through once, though several places report it: the
// kernel log, NVML's event for the code, NVML's event for its cause.
type gate struct {
	mu   sync.Mutex
	seen map[report][]sighting
}

type report struct {
	board gpu.ID
	xid   int
}

// sighting is an event that was let through, and where it was reported.
type sighting struct {
	at       time.Time
	narrowed bool // to a slice
	places   []string
}

// admit reports whether an event is a new one. It is a new one also if it
// alone tells which slice it is of.
func (g *gate) admit(e gpu.Event, place string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := report{e.Board, e.XID}
	recent := slices.DeleteFunc(g.seen[key], func(s sighting) bool { return e.Time.Sub(s.at) > reportsFor })
	if g.seen == nil {
		g.seen = make(map[report][]sighting)
	}
	g.seen[key] = recent
	narrowed := e.GPUInstance != nil
	for i := range recent {
		s := &recent[i]
		if e.Time.Sub(s.at).Abs() > sameFor || slices.Contains(s.places, place) {
			continue
		}
		s.places = append(s.places, place)
		if !narrowed || s.narrowed {
			return false
		}
		s.narrowed = true
		return true
	}
	if len(recent) >= mostReports {
		return false
	}
	g.seen[key] = append(recent, sighting{e.Time, narrowed, []string{place}})
	return true
}
