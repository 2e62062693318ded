package run_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// A check runs a whole engine, several times: by default there are fewer of
// them than rapid makes. -rapid.checks still says otherwise.
func TestMain(m *testing.M) {
	flag.Set("rapid.checks", "30")
	flag.Parse()
	os.Exit(m.Run())
}

// plan is a random pipeline and what its tasks do.
type plan struct {
	source string
	nodes  []planned
}

type planned struct {
	id      pipeline.NodeID
	deps    []pipeline.NodeID
	when    bool
	onExit  bool
	retries int
	fails   int // attempts that fail before one succeeds
}

func drawPlan(t *rapid.T) plan {
	p := plan{source: "pipeline \"p\" {}\n"}
	for i := range rapid.IntRange(1, 8).Draw(t, "nodes") {
		n := planned{
			id: pipeline.NodeID(fmt.Sprintf("step.n%d", i)), when: rapid.IntRange(0, 5).Draw(t, "when") > 0,
			onExit:  rapid.IntRange(0, 6).Draw(t, "on exit") == 0,
			retries: rapid.IntRange(0, 2).Draw(t, "retries"), fails: rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "fails"),
		}
		if !n.onExit {
			for _, d := range p.nodes {
				if !d.onExit && rapid.IntRange(0, 2).Draw(t, "dependency") == 0 {
					n.deps = append(n.deps, d.id)
				}
			}
		}
		p.nodes = append(p.nodes, n)
		p.source += fmt.Sprintf("step \"n%d\" {\n  command = [\"n%d\"]\n  output \"o\" {}\n  retry { attempts = %d }\n", i, i, n.retries)
		if n.onExit {
			p.source += "  on_exit = true\n"
		}
		if !n.when {
			p.source += "  when = false\n"
		}
		if len(n.deps) > 0 {
			deps := make([]string, len(n.deps))
			for j, d := range n.deps {
				deps[j] = string(d)
			}
			p.source += "  depends_on = [" + strings.Join(deps, ", ") + "]\n"
		}
		p.source += "}\n"
	}
	return p
}

// want says how each node must end, by a naive reading of the rules.
func (p plan) want() map[pipeline.NodeID]run.Phase {
	ends := map[pipeline.NodeID]run.Phase{}
	for _, n := range p.nodes {
		phase := run.Succeeded
		if n.fails > n.retries {
			phase = run.Failed
		}
		for _, d := range n.deps {
			if ends[d] != run.Succeeded {
				phase = run.Skipped
			}
		}
		if !n.when {
			phase = run.Skipped
		}
		ends[n.id] = phase
	}
	return ends
}

// Random pipelines with random failures, crashes, lost nodes and network
// errors end as a naive model says, in an order that respects dependencies,
// and nothing runs that need not.
func TestRandomRuns(t *testing.T) {
	dir := t.TempDir()
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		count++
		p := drawPlan(t)
		w := makeWorld(t, fmt.Sprintf("%s/%d", dir, count))
		defer w.close()
		if tasks := rapid.IntRange(0, 3).Draw(t, "room of the queue"); tasks > 0 {
			w.room = &room{int64(tasks)}
		}
		for _, n := range p.nodes {
			w.task(string(n.id), func(x clustertest.Task) clustertest.Exit {
				var attempt int
				fmt.Sscan(x.Meta("drover.attempt"), &attempt)
				if attempt <= n.fails {
					return clustertest.Exit{Code: 1}
				}
				return usual(x)
			})
		}
		network := rapid.SampledFrom([]float64{0, 0.1, 0.25}).Draw(t, "share of calls that fail")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var mu sync.Mutex
		var d *death
		w.cluster.Fault(func(when, call, job string) error {
			mu.Lock()
			defer mu.Unlock()
			if d != nil && d.isDead() {
				return errDead
			}
			if random.Float64() < network {
				return errors.New("connection reset by peer")
			}
			return nil
		})
		s := w.submission(p.source)
		s.Key = "k"
		for range rapid.IntRange(0, 3).Draw(t, "crashes") {
			mu.Lock()
			d = dieAt(rapid.IntRange(1, 15).Draw(t, "effects"), rapid.Bool().Draw(t, "after"))
			mu.Unlock()
			w.open(func(s run.Store) run.Store { return dyingStore{s, d} })
			if r, _, err := w.engine.Submit(d.context(), s); err == nil {
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				events, err := w.engine.Watch(ctx, r.ID, 0)
				for err == nil {
					select {
					case _, ok := <-events:
						if ok {
							continue
						}
					case <-d.dead:
					}
					break
				}
				if ctx.Err() != nil {
					t.Fatalf("the run gets no further: %s", describe(w.get(r.ID)))
				}
				cancel()
			}
			w.shut()
		}
		mu.Lock()
		d = nil
		mu.Unlock()
		w.open(nil)
		r := w.finish(s)
		if diff := cmp.Diff(p.want(), phases(r)); diff != "" {
			t.Fatalf("phases (-model +engine):\n%s%s\n%s", diff, describe(r), p.source)
		}
		w.startedOnce()
		w.checkOrder(p)
	})
}

// checkOrder checks that no task started before those it depends on, that
// clean-up came last, and that just the attempts that were due were made.
func (w *world) checkOrder(p plan) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	want := p.want()
	for _, n := range p.nodes {
		starts := 0
		first := slices.Index(w.before, string(n.id))
		for _, id := range w.before {
			if id == string(n.id) {
				starts++
			}
		}
		due := 0
		if want[n.id] != run.Skipped {
			due = min(n.fails, n.retries) + 1
		}
		if starts != due {
			w.t.Fatalf("%s started %d times, want %d (%v)", n.id, starts, due, w.before)
		}
		for _, d := range n.deps {
			if first >= 0 && lastIndex(w.before, string(d)) > first {
				w.t.Fatalf("%s started before %s ended: %v", n.id, d, w.before)
			}
		}
		for _, m := range p.nodes {
			if n.onExit && !m.onExit && first >= 0 && lastIndex(w.before, string(m.id)) > first {
				w.t.Fatalf("the clean-up step %s started before %s ended: %v", n.id, m.id, w.before)
			}
		}
	}
}

func lastIndex(all []string, s string) int {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i] == s {
			return i
		}
	}
	return -1
}
