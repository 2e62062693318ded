package run_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
)

// death kills an engine at its n-th effect, a write or a call to the cluster:
// from then on nothing that it does has any effect.
type death struct {
	mu    sync.Mutex
	left  int // effects until it strikes, before or after the effect
	after bool
	once  bool // it is no death but an error that passes
	dead  chan struct{}
	where string
}

var errDead = errors.New("the process is dead")

func dieAt(n int, after bool) *death { return &death{left: n, after: after, dead: make(chan struct{})} }

func (d *death) isDead() bool {
	select {
	case <-d.dead:
		return true
	default:
		return false
	}
}

// context ends with the process, as the questions that are asked it do.
func (d *death) context() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-d.dead
		cancel()
	}()
	return ctx
}

// effect lets f happen, or not.
func (d *death) effect(name string, f func() error) error {
	d.mu.Lock()
	if d.isDead() {
		d.mu.Unlock()
		return errDead
	}
	d.left--
	strikes := d.left == 0
	if strikes && !d.after {
		d.where = "before " + name
		if !d.once {
			close(d.dead)
		}
		d.mu.Unlock()
		return errDead
	}
	d.mu.Unlock()
	err := f()
	if strikes {
		d.mu.Lock()
		d.where = "after " + name
		close(d.dead)
		d.mu.Unlock()
		return errDead
	}
	return err
}

// dyingStore is a store whose writes are effects.
type dyingStore struct {
	run.Store
	*death
}

func (s dyingStore) Create(ctx context.Context, st run.State, ev []run.Event) (id run.ID, created bool, err error) {
	err = s.effect("Create", func() (err error) { id, created, err = s.Store.Create(ctx, st, ev); return })
	return id, created, err
}

func (s dyingStore) Commit(ctx context.Context, c run.Change) error {
	name := "Commit"
	for _, e := range c.Events {
		name += fmt.Sprintf(" [%s %s %s]", e.Type, e.Node, e.Phase)
	}
	return s.effect(name, func() error { return s.Store.Commit(ctx, c) })
}

func (s dyingStore) AddVersion(ctx context.Context, v registry.Version, alias string) (out registry.Version, err error) {
	err = s.effect("AddVersion", func() (err error) { out, err = s.Store.AddVersion(ctx, v, alias); return })
	return out, err
}

func (s dyingStore) Deploy(ctx context.Context, d registry.Deployment) (out registry.Deployment, err error) {
	err = s.effect("Deploy", func() (err error) { out, err = s.Store.Deploy(ctx, d); return })
	return out, err
}

func (s dyingStore) Deployed(ctx context.Context, d registry.Deployment, reason string) error {
	return s.effect("Deployed", func() error { return s.Store.Deployed(ctx, d, reason) })
}

// everything has every kind of node, a retry, a failure and a clean-up.
const everything = `
pipeline "everything" {}
dataset "raw" { path = "raw.csv" }
step "prepare" {
  command = ["prepare"]
  input "data" { from = dataset.raw }
  output "table" {}
  retry { attempts = 1 }
}
step "extra" {
  command    = ["extra"]
  depends_on = [step.prepare]
}
sweep "search" {
  command  = ["train"]
  method   = "grid"
  parallel = 2
  input "table" { from = step.prepare.output.table }
  metric "accuracy" { goal = "maximize" }
  parameter "lr" { values = [1, 2, 3] }
  output "model" {}
}
step "evaluate" {
  command = ["evaluate"]
  input "model" { from = sweep.search.best.output.model }
}
gate "good" {
  check "accuracy" {
    from = step.evaluate
    min  = 0.5
  }
}
model "digits" {
  from  = sweep.search.best.output.model
  gate  = gate.good
  alias = "champion"
}
endpoint "digits" {
  model   = model.digits
  command = ["serve"]
}
step "clean" {
  command = ["clean"]
  on_exit = true
}
`

func (w *world) playEverything() {
	w.task("step.prepare", func(x clustertest.Task) clustertest.Exit {
		if x.Meta("drover.attempt") == "1" {
			return clustertest.Exit{Code: 1}
		}
		return usual(x)
	})
	w.task("step.extra", exits(7))
	for i, v := range []float64{0.6, 0.9, 0.7} {
		w.task(fmt.Sprintf("sweep.search/%d", i), measures(map[string]float64{"accuracy": v}))
	}
	w.task("step.evaluate", measures(map[string]float64{"accuracy": 0.8}))
}

// essence is what must be the same, whatever happened on the way.
func essence(r run.Run) map[string]string {
	m := map[string]string{"run": fmt.Sprint(r.Phase, " ", r.Error)}
	for _, n := range r.Nodes {
		s := fmt.Sprint(n.Phase, " ", n.Metrics, " v", n.Version)
		for name, o := range n.Outputs {
			s += " " + name + "=" + o.Digest
		}
		for _, a := range n.Attempts {
			s += fmt.Sprintf(" %d:%s", a.Number, a.Phase)
		}
		for _, t := range n.Trials {
			s += fmt.Sprintf(" t%d:%s", t.Index, t.Phase)
		}
		m[string(n.ID)] = s
	}
	return m
}

// finish submits again, as a client does that got no answer, and waits.
func (w *world) finish(s run.Submission) run.Run {
	w.t.Helper()
	r, _, err := w.engine.Submit(context.Background(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.wait(r.ID)
}

func (w *world) startedOnce() {
	w.t.Helper()
	for job, n := range w.cluster.Starts() {
		if n != 1 {
			w.t.Fatalf("job %s started %d times", job, n)
		}
	}
}

func TestKillAtEveryEffect(t *testing.T) {
	t.Run("the endpoint serves", func(t *testing.T) { killAtEveryEffect(t, (*world).playEverything) })
	t.Run("through a queue", func(t *testing.T) {
		killAtEveryEffect(t, func(w *world) {
			w.room = &room{tasks: 2}
			w.playEverything()
		})
	})
	t.Run("the endpoint fails", func(t *testing.T) {
		killAtEveryEffect(t, func(w *world) {
			w.playEverything()
			w.task("endpoint.digits", exits(1))
		})
	})
}

func killAtEveryEffect(t *testing.T, play func(*world)) {
	undisturbed := newWorld(t)
	play(undisturbed)
	undisturbed.open(nil)
	s := undisturbed.submission(everything, "raw.csv")
	s.Key = "k"
	want := essence(undisturbed.finish(s))
	if got, want := want["run"], "failed step.extra failed: it exited with code 7"; !strings.HasPrefix(got, want) {
		t.Fatalf("undisturbed, the run ended %q, want %q", got, want)
	}

	places := map[string]bool{}
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			w := makeWorld(t, t.TempDir())
			play(w)
			s := w.submission(everything, "raw.csv")
			s.Key = "k"
			d := dieAt(n, after)
			w.cluster.Fault(func(when, call, job string) error {
				if (when == "after") == after && (call == "Register" || call == "Stop") {
					return d.effect(call, func() error { return nil })
				}
				if d.isDead() {
					return errDead
				}
				return nil
			})
			w.open(func(s run.Store) run.Store { return dyingStore{s, d} })
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if r, _, err := w.engine.Submit(d.context(), s); err == nil {
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					events, err := w.engine.Watch(ctx, r.ID, 0)
					for err == nil {
						select {
						case _, ok := <-events:
							if !ok {
								return
							}
						case <-d.dead:
							return
						}
					}
				}
			}()
			select {
			case <-d.dead:
			case <-ended:
			}
			<-ended
			w.shut()
			survived := !d.isDead()
			w.cluster.Fault(nil)
			w.open(nil)
			got := essence(w.finish(s))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("killed %s (effect %d): (-undisturbed +killed):\n%s", d.where, n, diff)
			}
			w.startedOnce()
			w.close()
			if survived {
				break
			}
			places[d.where] = true
		}
	}
	t.Logf("killed at %d places", len(places))
	if len(places) < 30 {
		t.Errorf("killed at %d places only: %v", len(places), places)
	}
}

// A cancel that was confirmed is carried out, wherever the engine is killed.
func TestKillAtEveryEffectOfACancel(t *testing.T) {
	const source = `
pipeline "p" {}
step "a" { command = ["a"] }
step "b" {
  command    = ["b"]
  depends_on = [step.a]
}
step "clean" {
  command = ["clean"]
  on_exit = true
}
`
	want := map[pipeline.NodeID]run.Phase{"step.a": run.Cancelled, "step.b": run.Cancelled, "step.clean": run.Succeeded}
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			w := makeWorld(t, t.TempDir())
			w.task("step.a", untilStopped)
			d := dieAt(1<<30, after)
			w.cluster.Fault(func(when, call, job string) error {
				if (when == "after") == after && (call == "Register" || call == "Stop") {
					return d.effect(call, func() error { return nil })
				}
				if d.isDead() {
					return errDead
				}
				return nil
			})
			w.open(func(s run.Store) run.Store { return dyingStore{s, d} })
			id := w.submit(source)
			w.until(id, "step.a running", reaches("step.a", run.Running))
			d.mu.Lock()
			d.left = n
			d.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			answer := make(chan error, 1)
			go func() { answer <- w.engine.Cancel(ctx, id, "bob") }()
			var confirmed bool
			select {
			case err := <-answer:
				confirmed = err == nil
			case <-d.dead:
			}
			if confirmed {
				events, err := w.engine.Watch(ctx, id, 0)
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
			}
			cancel()
			w.shut()
			survived := !d.isDead()
			w.cluster.Fault(nil)
			w.open(nil)
			if !confirmed {
				// Nobody was told that it is cancelled, so it is asked for again.
				_ = w.engine.Cancel(t.Context(), id, "bob")
			}
			r := w.wait(id)
			got := phases(r)
			if !confirmed && got["step.clean"] == run.Cancelled {
				got["step.clean"] = run.Succeeded // the second cancel has ended that, too
			}
			if diff := cmp.Diff(want, got); diff != "" || r.Phase != run.Cancelled {
				t.Fatalf("killed %s (effect %d): (-want +got):\n%s%s", d.where, n, diff, describe(r))
			}
			w.startedOnce()
			w.close()
			if survived {
				break
			}
		}
	}
}

// Every call to the cluster fails once, before or after it has had its effect.
func TestNetworkErrorAtEveryCall(t *testing.T) {
	undisturbed := newWorld(t)
	undisturbed.playEverything()
	undisturbed.open(nil)
	want := essence(undisturbed.finish(undisturbed.submission(everything, "raw.csv")))
	calls := 0
	for _, when := range []string{"before", "after"} {
		for n := 1; ; n++ {
			w := makeWorld(t, t.TempDir())
			w.playEverything()
			var mu sync.Mutex
			seen, failed := 0, ""
			w.cluster.Fault(func(at, call, job string) error {
				mu.Lock()
				defer mu.Unlock()
				if at != when || call == "ReadFile" {
					return nil
				}
				seen++
				if seen == n {
					failed = call + " " + job
					return errors.New("connection reset by peer")
				}
				return nil
			})
			w.open(nil)
			got := essence(w.finish(w.submission(everything, "raw.csv")))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("with an error %s %s: (-undisturbed +disturbed):\n%s", when, failed, diff)
			}
			w.startedOnce()
			w.close()
			mu.Lock()
			over := failed == ""
			mu.Unlock()
			if over {
				break
			}
			calls++
		}
	}
	t.Logf("%d calls failed", calls)
}

// A write that fails, as on a full disk, is repeated, and nothing that it
// stands for happens before it has succeeded.
func TestStoreErrorAtEveryWrite(t *testing.T) {
	undisturbed := newWorld(t)
	undisturbed.playEverything()
	undisturbed.open(nil)
	want := essence(undisturbed.finish(undisturbed.submission(everything, "raw.csv")))
	for n := 2; ; n++ { // the first is Create, whose error is Submit's
		w := makeWorld(t, t.TempDir())
		w.playEverything()
		d := &death{left: n, once: true, dead: make(chan struct{})}
		w.open(func(s run.Store) run.Store { return dyingStore{s, d} })
		got := essence(w.finish(w.submission(everything, "raw.csv")))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("with an error %s: (-undisturbed +disturbed):\n%s", d.where, diff)
		}
		w.startedOnce()
		w.close()
		if d.where == "" {
			break
		}
	}
}
