package run_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

// inNamespace has new jobs go to a namespace, which it creates.
func (w *world) inNamespace(name string) {
	w.cluster.AddNamespace(name)
	w.namespace.Store(&name)
}

// All that a run does happens in its workspace's namespace.
func TestNamespace(t *testing.T) {
	w := newWorld(t)
	w.inNamespace("vision")
	w.open(nil)
	w.task("step.train", func(x clustertest.Task) clustertest.Exit {
		if x.Meta("drover.attempt") == "1" {
			return clustertest.Exit{Code: 1, Stderr: "out of luck\n"}
		}
		return measures(map[string]float64{"accuracy": 1})(x)
	})
	r := w.wait(w.submit(strings.Replace(served, "command = [\"train\"]", "command = [\"train\"]\n  retry { attempts = 1 }", 1)))
	if r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	train := node(r, "step.train")
	if len(train.Attempts) != 2 || train.Attempts[0].LogTail != "out of luck\n" {
		t.Errorf("attempts: %+v", train.Attempts)
	}
	for _, n := range r.Nodes {
		for _, a := range n.Attempts {
			if a.Namespace != "vision" {
				t.Errorf("%s is in namespace %q", a.JobID, a.Namespace)
			}
			if _, err := w.cluster.Job(t.Context(), a.JobID); !errors.Is(err, run.ErrNoJob) {
				t.Errorf("%s is in the default namespace, too: %v", a.JobID, err)
			}
		}
	}
	var log bytes.Buffer
	if err := w.engine.Logs(t.Context(), r.ID, run.LogSelector{Node: "step.train", Attempt: 1, Stream: "stderr"}, &log); err != nil || log.String() != "out of luck\n" {
		t.Errorf("log %q, %v", log.String(), err)
	}
	e, err := w.engine.Endpoint(t.Context(), "default", "digits")
	if err != nil || e.Namespace != "vision" {
		t.Errorf("endpoint %+v, %v", e, err)
	}
	if err := w.engine.DeleteEndpoint(t.Context(), "default", "digits", "ann"); err != nil {
		t.Fatal(err)
	}
	if s, err := w.cluster.In("vision").Job(t.Context(), e.JobID); err != nil || !s.Stopped {
		t.Errorf("the deleted endpoint's job: %+v, %v", s, err)
	}
}

// What runs when a workspace gets another namespace is not lost, also by an engine
// that did not start it; what starts later goes there.
func TestNamespaceChanges(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 1}
	w.inNamespace("old")
	w.open(nil)
	release := make(chan struct{})
	w.task("step.first", func(x clustertest.Task) clustertest.Exit {
		<-release
		return usual(x)
	})
	first := w.submit("pipeline \"p\" {}\nstep \"first\" { command = [\"a\"] }")
	w.until(first, "the first running", reaches("step.first", run.Running))
	second := w.submit("pipeline \"p\" {}\nstep \"second\" { command = [\"b\"] }")
	w.until(second, "the second waiting", reaches("step.second", run.Queued))

	w.shut()
	w.inNamespace("new")
	w.open(nil)
	close(release)
	for id, want := range map[run.ID]string{first: "old", second: "new"} {
		r := w.wait(id)
		if a := r.Nodes[0].Attempts; r.Phase != run.Succeeded || len(a) != 1 || a[0].Namespace != want {
			t.Errorf("%+v, want namespace %q: %s", a, want, describe(r))
		}
	}
	w.startedOnce()
}

// A task that runs in the old namespace can be stopped there.
func TestCancelAfterNamespaceChanged(t *testing.T) {
	w := newWorld(t)
	w.inNamespace("old")
	w.open(nil)
	w.task("step.a", untilStopped)
	id := w.submit("pipeline \"p\" {}\nstep \"a\" { command = [\"a\"] }")
	w.until(id, "running", reaches("step.a", run.Running))
	w.inNamespace("new")
	if err := w.engine.Cancel(t.Context(), id, "bob"); err != nil {
		t.Fatal(err)
	}
	if r := w.wait(id); r.Phase != run.Cancelled {
		t.Error(describe(r))
	}
}

// An endpoint moves with its workspace: once the new revision serves, the job in the
// old namespace is stopped. A revision that fails there leaves the old one as it is.
func TestEndpointMovesToAnotherNamespace(t *testing.T) {
	w := newWorld(t)
	w.inNamespace("old")
	w.open(nil)
	w.task("step.train", measures(map[string]float64{"accuracy": 1}))
	if r := w.wait(w.submit(served)); r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	job := func(namespace string) run.JobState {
		s, err := w.cluster.In(namespace).Job(t.Context(), "drover-endpoint-default-digits")
		if err != nil {
			t.Fatalf("namespace %s: %v", namespace, err)
		}
		return s
	}
	w.inNamespace("new")
	w.task("endpoint.digits", exits(1))
	if r := w.wait(w.submit(served)); r.Phase != run.Failed {
		t.Fatal(describe(r))
	}
	if e, err := w.engine.Endpoint(t.Context(), "default", "digits"); err != nil || e.Namespace != "old" || e.Revision != 1 {
		t.Errorf("after a failure: %+v, %v", e, err)
	}
	if job("old").Stopped || !job("new").Stopped {
		t.Errorf("after a failure: old stopped %v, new stopped %v", job("old").Stopped, job("new").Stopped)
	}

	w.task("endpoint.digits", usual)
	if r := w.wait(w.submit(served)); r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	if e, err := w.engine.Endpoint(t.Context(), "default", "digits"); err != nil || e.Namespace != "new" || e.Revision != 3 {
		t.Errorf("after the move: %+v, %v", e, err)
	}
	if !job("old").Stopped || job("new").Stopped {
		t.Errorf("after the move: old stopped %v, new stopped %v", job("old").Stopped, job("new").Stopped)
	}
}

// A namespace that is not there is told when a run is submitted, or else by the
// task that finds it gone.
func TestNamespaceIsNotThere(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.namespace.Store(new("nowhere"))
	const source = "pipeline \"p\" {}\nstep \"a\" { command = [\"a\"] }"
	_, _, err := w.engine.Submit(context.Background(), w.submission(source))
	if !problem.Is(err, problem.Invalid) || !strings.Contains(err.Error(), `namespace "nowhere", which does not exist`) {
		t.Errorf("Submit: %v", err)
	}
	w.cluster.Fault(func(when, call, _ string) error {
		if call == "Exist" {
			return errors.New("connection refused")
		}
		return nil
	})
	r := w.wait(w.submit(source))
	if a := node(r, "step.a"); r.Phase != run.Failed || len(a.Attempts) != 1 || !strings.Contains(a.Reason, `nonexistent namespace "nowhere"`) {
		t.Error(describe(r))
	}
}
