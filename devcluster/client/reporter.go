package client

import (
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
)

// reporter tells the server of changes at once, one report at a time; what
// changes while one is under way goes with the next. (Nomad's client collects
// for 200 ms.) What cannot be told is told again later.
type reporter struct {
	n       *Node
	mu      sync.Mutex
	pending map[string]*api.Allocation
	wake    chan struct{} // capacity 1
}

func newReporter(n *Node) *reporter {
	return &reporter{n: n, pending: map[string]*api.Allocation{}, wake: make(chan struct{}, 1)}
}

func (r *reporter) add(a *api.Allocation) {
	r.mu.Lock()
	r.pending[a.ID] = a
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// ended reports an allocation that was stopped before it began.
func (r *reporter) ended(a *api.Allocation) {
	u := *a
	u.ClientStatus = api.AllocClientStatusComplete
	r.add(&u)
}

// all reports every allocation again.
func (r *reporter) all() {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	for _, a := range r.n.allocs {
		r.add(a.report())
	}
}

func (r *reporter) run() {
	const retry = 200 * time.Millisecond
	for {
		select {
		case <-r.wake:
		case <-r.n.ctx.Done():
			return
		}
		r.mu.Lock()
		batch := r.pending
		r.pending = map[string]*api.Allocation{}
		r.mu.Unlock()
		updates := make([]*api.Allocation, 0, len(batch))
		for _, a := range batch {
			updates = append(updates, a)
		}
		if err := r.n.link.UpdateAllocs(updates); err != nil {
			r.n.log.Debug("reporting allocations", "error", err)
			r.mu.Lock()
			for id, a := range batch {
				if r.pending[id] == nil {
					r.pending[id] = a
				}
			}
			r.mu.Unlock()
			if !r.n.pause(retry) {
				return
			}
			select {
			case r.wake <- struct{}{}:
			default:
			}
			continue
		}
		for _, a := range updates {
			r.n.told(a)
		}
	}
}

// told forgets an allocation that has ended once the server knows it. Its
// files stay until the server forgets it too.
func (n *Node) told(a *api.Allocation) {
	r := n.runner(a.ID)
	if r == nil || !r.ended() || !clientTerminal(a.ClientStatus) {
		return
	}
	if err := n.store.dropAlloc(a.ID); err != nil {
		n.log.Warn("an ended allocation could not be forgotten", "alloc_id", a.ID, "error", err)
	}
}

func clientTerminal(status string) bool {
	switch status {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return true
	}
	return false
}
