package gateway

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drover-ml/drover/orchestrator/catalog"
)

// endpoint is an immutable set of instances.
type endpoint struct {
	key       key
	instances []*instance
	metrics   *endpointMetrics
}

// instance is one place that serves an endpoint. It lives as long as its
// registration.
type instance struct {
	catalog.Instance
	pool     *pool
	inFlight atomic.Int64
	isReady  atomic.Bool
	reason   atomic.Pointer[string]
	// probe asks for a readiness probe now.
	probe chan struct{}
	stop  context.CancelFunc
}

// pick returns the less busy of two ready instances taken at random (the
// "power of two choices" of Mitzenmacher, 2001), but not tried; nil if there
// is none.
func (e *endpoint) pick(tried *instance) *instance {
	var a, b *instance
	seen := 0
	for _, in := range e.instances {
		if in == tried || !in.isReady.Load() {
			continue
		}
		// Reservoir sampling of two.
		seen++
		switch {
		case seen == 1:
			a = in
		case seen == 2:
			b = in
		default:
			switch rand.IntN(seen) {
			case 0:
				a = in
			case 1:
				b = in
			}
		}
	}
	if b == nil {
		return a
	}
	la, lb := a.inFlight.Load(), b.inFlight.Load()
	if lb < la || lb == la && rand.IntN(2) == 0 {
		return b
	}
	return a
}

func (e *endpoint) ready() int {
	n := 0
	for _, in := range e.instances {
		if in.isReady.Load() {
			n++
		}
	}
	return n
}

// lost takes in out of service until a probe succeeds.
func (in *instance) lost(err error) {
	in.setReady(false, err.Error())
	select {
	case in.probe <- struct{}{}:
	default:
	}
}

func (in *instance) setReady(ready bool, reason string) (changed bool) {
	in.reason.Store(&reason)
	return in.isReady.Swap(ready) != ready
}

func (t *table) status() []EndpointStatus {
	out := []EndpointStatus{}
	for k, e := range t.endpoints {
		s := EndpointStatus{Workspace: k.workspace, Name: k.name, Ready: e.ready(), Instances: []InstanceStatus{}}
		for _, in := range e.instances {
			reason := ""
			if p := in.reason.Load(); p != nil {
				reason = *p
			}
			s.Instances = append(s.Instances, InstanceStatus{
				AllocID: in.AllocID, Address: in.Address, Ready: in.isReady.Load(), Reason: reason,
				Revision: in.Tags[catalog.TagRevision], Model: in.Tags[catalog.TagModel],
				Version: in.Tags[catalog.TagVersion], InFlight: in.inFlight.Load(),
			})
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b EndpointStatus) int {
		return cmp.Or(cmp.Compare(a.Workspace, b.Workspace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Run keeps the routes up to date with the catalog until ctx ends, and returns
// when all probes have stopped.
func (g *Gateway) Run(ctx context.Context) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	known := map[string]*instance{}
	var once sync.Once
	err := g.cfg.Catalog.Watch(ctx, func(found []catalog.Instance) {
		g.update(ctx, known, found, &probes)
		once.Do(func() { close(g.synced) })
	})
	for _, in := range known {
		in.stop()
		in.pool.close()
	}
	return err
}

// update makes the routes those of found, keeping what is known of instances
// that stay.
func (g *Gateway) update(ctx context.Context, known map[string]*instance, found []catalog.Instance, probes *sync.WaitGroup) {
	next := &table{endpoints: map[key]*endpoint{}}
	seen := map[string]bool{}
	var begin []func()
	for _, f := range found {
		k := key{f.Tags[catalog.TagWorkspace], f.Tags[catalog.TagEndpoint]}
		if k.name == "" || k.workspace == "" {
			continue // a service of Drover's that is no endpoint
		}
		id := f.ID + "@" + f.Address
		seen[id] = true
		in := known[id]
		if in == nil {
			pctx, stop := context.WithCancel(ctx)
			in = newInstance(f, stop)
			begin = append(begin, func() { g.probeLoop(pctx, in) })
			known[id] = in
		}
		e := next.endpoints[k]
		if e == nil {
			e = &endpoint{key: k, metrics: g.metrics.endpoint(k)}
			next.endpoints[k] = e
		}
		e.instances = append(e.instances, in)
	}
	g.routes.Store(next)
	// Not before: who is told that an instance is ready finds it among the routes.
	for _, probe := range begin {
		probes.Go(probe)
	}
	for id, in := range known {
		if !seen[id] {
			g.cfg.Logger.Info("instance gone", "endpoint", in.Tags[catalog.TagEndpoint], "address", in.Address)
			in.setReady(false, "its registration ended")
			in.stop()
			in.pool.close()
			delete(known, id)
		}
	}
}

func newInstance(f catalog.Instance, stop context.CancelFunc) *instance {
	in := &instance{Instance: f, pool: newPool(f.Address), probe: make(chan struct{}, 1), stop: stop}
	in.setReady(false, "not asked yet")
	return in
}

// probeLoop asks an instance whether it is ready, until ctx ends.
func (g *Gateway) probeLoop(ctx context.Context, in *instance) {
	path := in.Tags[catalog.TagReady]
	if path == "" {
		path = "/v2/health/ready"
	}
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   2 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	failures := 0
	for {
		err := probe(ctx, client, "http://"+in.Address+path)
		if ctx.Err() != nil {
			return
		}
		wait := g.cfg.ProbeInterval
		switch {
		case err == nil:
			failures = 0
			if in.setReady(true, "") {
				g.cfg.Logger.Info("instance ready", "endpoint", in.Tags[catalog.TagEndpoint], "address", in.Address)
			}
		default:
			failures++
			wait /= 5
			// One slow answer under load must not empty an endpoint: an instance
			// that was ready stays so until the second failure in a row.
			if failures < 2 && in.isReady.Load() {
				break
			}
			if in.setReady(false, err.Error()) {
				g.cfg.Logger.Warn("instance not ready", "endpoint", in.Tags[catalog.TagEndpoint], "address", in.Address, "error", err)
			}
		}
		select {
		case <-time.After(wait):
		case <-in.probe:
			// A connection was refused: ask again soon, but not in a busy loop.
			select {
			case <-time.After(min(wait, 50*time.Millisecond)):
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func probe(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asked whether it is ready, it answers %s", res.Status)
	}
	return nil
}
