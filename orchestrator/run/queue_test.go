package run_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// room is a cluster of one node with so many whole tasks' worth of CPU.
type room struct{ tasks int64 }

func (r room) Inventory(context.Context) ([]inventory.Node, []inventory.Alloc, error) {
	return []inventory.Node{{
		ID: "pretend", Name: "pretend", Eligible: true, Drivers: []string{"ml"}, CPUMHz: r.tasks * 500, MemoryMiB: 1 << 20,
	}}, nil, nil
}

func (room) Services(context.Context) ([]admission.Service, error) { return nil, nil }

func (room) Changes(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// nobody has declared anything.
type nobody struct{}

func (nobody) Definitions() workspace.Definitions                       { return workspace.Definitions{} }
func (nobody) Changed() <-chan struct{}                                 { return nil }
func (nobody) AddUsage(context.Context, []workspace.Charge) error       { return nil }
func (nobody) Used(context.Context, time.Time) ([]workspace.Use, error) { return nil, nil }

// dyingQueue is a store of the queue whose writes are effects.
type dyingQueue struct {
	admission.Store
	*death
}

func (s dyingQueue) SaveQueue(ctx context.Context, c admission.Change) error {
	return s.effect("SaveQueue", func() error { return s.Store.SaveQueue(ctx, c) })
}

// queue is the queue of an engine on s, nil if the world has none.
func (w *world) queue(s run.Store) run.Queue {
	if w.room == nil {
		return nil
	}
	var kept admission.Store = w.db
	if d, ok := s.(dyingStore); ok {
		kept = dyingQueue{w.db, d.death}
	}
	return admission.New(admission.Config{
		Store: kept, Cluster: *w.room, Workspaces: nobody{}, Logger: quiet(), Settle: time.Millisecond, Backoff: time.Millisecond,
	})
}

// One that runs leaves for one of higher priority, and goes on when that has ended.
func TestEvictedTaskGoesOn(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 1}
	w.task("step.low", untilStopped)
	w.open(nil)
	low := w.submit(`
pipeline "low" {}
step "low" {
  command  = ["low"]
  priority = 10
  preemptible = true
}`)
	w.until(low, "step.low running", reaches("step.low", run.Running))
	w.task("step.low", usual)
	w.task("step.high", usual)
	high := w.submit(`
pipeline "high" {}
step "high" {
  command  = ["high"]
  priority = 90
}`)
	if r := w.wait(high); r.Phase != run.Succeeded {
		t.Fatalf("high: %s %s", r.Phase, r.Error)
	}
	r := w.wait(low)
	attempts := r.Nodes[0].Attempts
	if r.Phase != run.Succeeded || len(attempts) != 2 || !attempts[0].Evicted || !strings.Contains(attempts[0].Reason, string(high)) {
		t.Errorf("low: %s, %+v", r.Phase, attempts)
	}
}

// times waits for the n-th event that is ok.
func times(ok func(run.Event) bool, n int) func(run.Event) bool {
	return func(e run.Event) bool {
		if ok(e) {
			n--
		}
		return n == 0
	}
}

// What makes room takes nothing from its retries, however often; what fails does.
func TestEvictionsAreNoFailures(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 1}
	w.task("step.low", untilStopped)
	w.open(nil)
	low := w.submit(`
pipeline "low" {}
step "low" {
  command  = ["low"]
  priority = 10
  preemptible = true
  retry { attempts = 1 }
}`)
	const evictions = 5
	for i := range evictions {
		w.until(low, "step.low running", times(reaches("step.low", run.Running), i+1))
		if r := w.wait(w.submit("pipeline \"high\" {}\nstep \"high\" {\n  command  = [\"high\"]\n  priority = 90\n  cache = false\n}")); r.Phase != run.Succeeded {
			t.Fatalf("high: %s %s", r.Phase, r.Error)
		}
	}
	w.until(low, "step.low running", times(reaches("step.low", run.Running), evictions+1))
	w.task("step.low", usual)
	w.cluster.LoseNode(w.get(low).Nodes[0].Attempts[evictions].JobID)
	r := w.wait(low)
	n, evicted := r.Nodes[0], 0
	for _, a := range n.Attempts {
		if a.Evicted {
			evicted++
		}
	}
	if r.Phase != run.Succeeded || evicted != evictions || retries(n) != 0 {
		t.Errorf("after %d evictions (%d seen) and a lost node, %d retries: %s", evictions, evicted, retries(n), describe(r))
	}
}

// Two at a time, as many as there is room for, each once.
func TestRoomIsNeverExceeded(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 2}
	w.open(nil)
	var ids []run.ID
	running := make(chan struct{}, 2)
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		select {
		case running <- struct{}{}:
		default:
			t.Error("three ran at once")
		}
		defer func() { <-running }()
		return usual(x)
	})
	for range 12 {
		ids = append(ids, w.submit("pipeline \"p\" {}\nstep \"a\" {\n  command = [\"a\"]\n  cache = false\n}"))
	}
	for _, id := range ids {
		if r := w.wait(id); r.Phase != run.Succeeded {
			t.Errorf("%s: %s", r.Phase, r.Error)
		}
	}
	w.startedOnce()
}

// What no node can ever have is refused when it is submitted, with the line.
func TestTooLargeIsRefusedAtSubmission(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 2}
	w.open(nil)
	w.wait(w.submit("pipeline \"p\" {}\nstep \"a\" { command = [\"a\"] }")) // the queue knows the cluster now
	_, _, err := w.engine.Submit(context.Background(), w.submission("pipeline \"p\" {}\nstep \"big\" {\n  command = [\"a\"]\n  resources { cpu = 5000 }\n}"))
	var never *admission.NeverError
	if !errors.As(err, &never) || !strings.Contains(err.Error(), "pipeline.hcl:2") || !strings.Contains(err.Error(), "step.big") {
		t.Errorf("ten tasks' worth of CPU on a node for two: %v", err)
	}
}
