package run_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

// How a task ends decides whether it is tried again: codes that are permanent end
// it at once, others use up its retries.
func TestExitCodesAndRetries(t *testing.T) {
	tests := map[string]struct {
		exit   clustertest.Exit
		retry  string
		starts int
		reason string
	}{
		"permanent":                {exit: clustertest.Exit{Code: 1}, retry: "attempts = 3\n permanent = [1, 64]", starts: 1, reason: "it exited with code 1 (1 is permanent: it is not tried again)"},
		"another code":             {exit: clustertest.Exit{Code: 2}, retry: "attempts = 1\n permanent = [1, 64]", starts: 2, reason: "it exited with code 2"},
		"143 each time":            {exit: clustertest.Exit{Code: 143}, retry: "attempts = 3", starts: 4, reason: "it exited with code 143"},
		"a signal each time":       {exit: clustertest.Exit{Signal: 15}, retry: "attempts = 3\n permanent = [1]", starts: 4, reason: "it was killed by signal 15 (SIGTERM)"},
		"the driver's refusal":     {exit: clustertest.Exit{Problem: "no such file: train.py"}, retry: "attempts = 1\n permanent = [1]", starts: 2, reason: "no such file: train.py"},
		"permanent, no retries":    {exit: clustertest.Exit{Code: 1}, retry: "attempts = 0\n permanent = [1]", starts: 1, reason: "it exited with code 1 (1 is permanent: it is not tried again)"},
		"permanent without record": {exit: clustertest.Exit{Code: 64, NoRecord: true}, retry: "attempts = 3\n permanent = [1, 64]", starts: 1, reason: "it exited with code 64 (64 is permanent: it is not tried again)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(nil)
			w.task("step.a", func(clustertest.Task) clustertest.Exit { return tt.exit })
			r := w.wait(w.submit("pipeline \"p\" {}\nstep \"a\" {\n command = [\"a\"]\n retry {\n " + tt.retry + "\n }\n}"))
			a := node(r, "step.a")
			if r.Phase != run.Failed || len(a.Attempts) != tt.starts || a.Reason != tt.reason || retries(a) != tt.starts-1 {
				t.Errorf("%d retries, want %d starts and reason %q: %s", retries(a), tt.starts, tt.reason, describe(r))
			}
			w.startedOnce()
		})
	}
}

// retries is how many of a node's retries were used: what failed at its own expense,
// but for the last.
func retries(n run.Node) int {
	used := 0
	for _, a := range n.Attempts {
		if a.Phase == run.Failed && !a.Free {
			used++
		}
	}
	if n.Phase == run.Failed {
		used--
	}
	return used
}

// A task that is stopped for its timeout has not said that its error is permanent,
// whatever code it ends with.
func TestTimeoutIsNotPermanent(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		<-x.Stopped
		return clustertest.Exit{Code: 1}
	})
	r := w.wait(w.submit("pipeline \"p\" {}\nstep \"a\" {\n command = [\"a\"]\n timeout = \"1s\"\n retry {\n attempts = 1\n permanent = [1]\n }\n}"))
	if a := node(r, "step.a"); r.Phase != run.Failed || len(a.Attempts) != 2 {
		t.Error(describe(r))
	}
}

const pair = `
pipeline "pair" {}
step "train" {
  command = ["train"]
  gang { size = 2 }
  retry {
    attempts  = 3
    permanent = [3]
  }
}`

// brokenPair has rank 1 end with a code once both run, and rank 0 when it is
// stopped. It counts those that were.
func brokenPair(code int) (f func(clustertest.Task) clustertest.Exit, failed chan struct{}, stopped *atomic.Int32) {
	first, failed, stopped := make(chan struct{}), make(chan struct{}), new(atomic.Int32)
	return func(x clustertest.Task) clustertest.Exit {
		if x.Rank == 1 {
			<-first
			close(failed)
			return clustertest.Exit{Code: code}
		}
		close(first)
		<-x.Stopped
		stopped.Add(1)
		return clustertest.Exit{Signal: 15}
	}, failed, stopped
}

// A member that ends for good ends its gang: the other is stopped, and what they
// had goes to who waits for it.
func TestPermanentFailureOfAMemberEndsItsGang(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 2}
	w.open(nil)
	f, _, stopped := brokenPair(3)
	w.task("step.train", f)
	id := w.submit(pair)
	w.until(id, "both running", reaches("step.train", run.Running))
	next := w.submit("pipeline \"next\" {}\nstep \"a\" {\n command = [\"a\"]\n gang { size = 2 }\n}")
	r := w.wait(id)
	n := node(r, "step.train")
	if r.Phase != run.Failed || len(n.Attempts) != 1 || n.Reason != "rank 1 of 2: it exited with code 3 (3 is permanent: it is not tried again)" {
		t.Error(describe(r))
	}
	if a := n.Attempts[0]; a.ExitCode == nil || *a.ExitCode != 3 || len(a.Members) != 2 {
		t.Errorf("the attempt: %+v", a)
	}
	if got := stopped.Load(); got != 1 {
		t.Errorf("%d members were stopped, want the other one", got)
	}
	if r := w.wait(next); r.Phase != run.Succeeded {
		t.Errorf("who waited for the room: %s", describe(r))
	}
}

// A member's failure that is not permanent starts the whole gang anew.
func TestFailureOfAMemberStartsTheGangAnew(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	f, _, stopped := brokenPair(4)
	w.task("step.train", func(x clustertest.Task) clustertest.Exit {
		if x.Meta("drover.attempt") == "1" {
			return f(x)
		}
		return usual(x)
	})
	r := w.wait(w.submit(pair))
	n := node(r, "step.train")
	if r.Phase != run.Succeeded || len(n.Attempts) != 2 || retries(n) != 1 || stopped.Load() != 1 {
		t.Errorf("%d members stopped, %d retries: %s", stopped.Load(), retries(n), describe(r))
	}
}

// The other is stopped although the engine dies before it could ask for that.
func TestGangIsStoppedByTheNextEngine(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	f, failed, stopped := brokenPair(3)
	w.task("step.train", f)
	w.cluster.Fault(func(when, call, _ string) error {
		if call == "Stop" && when == "before" {
			return errors.New("connection refused")
		}
		return nil
	})
	id := w.submit(pair)
	<-failed
	w.shut()
	w.cluster.Fault(nil)
	w.open(nil)
	r := w.wait(id)
	if n := node(r, "step.train"); r.Phase != run.Failed || len(n.Attempts) != 1 || !strings.Contains(n.Reason, "3 is permanent") || stopped.Load() != 1 {
		t.Errorf("%d members stopped: %s", stopped.Load(), describe(r))
	}
}

// What is left of a gang that is cancelled is nothing.
func TestCancelledGang(t *testing.T) {
	w := newWorld(t)
	w.room = &room{tasks: 2}
	w.open(nil)
	w.task("step.train", untilStopped)
	id := w.submit(pair)
	w.until(id, "both running", reaches("step.train", run.Running))
	if err := w.engine.Cancel(context.Background(), id, "bob"); err != nil {
		t.Fatal(err)
	}
	if r := w.wait(id); r.Phase != run.Cancelled {
		t.Error(describe(r))
	}
	w.task("step.train", usual)
	if r := w.wait(w.submit(pair)); r.Phase != run.Succeeded {
		t.Errorf("who needs all that it had: %s", describe(r))
	}
}

// Each member of a gang has a log of its own.
func TestLogsOfAGang(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.train", func(x clustertest.Task) clustertest.Exit {
		e := usual(x)
		e.Stdout = fmt.Sprintf("rank %d\n", x.Rank)
		return e
	})
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		e := usual(x)
		e.Stdout = "alone\n"
		return e
	})
	r := w.wait(w.submit(pair + "\nstep \"a\" { command = [\"a\"] }"))
	if r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	tests := map[string]struct {
		node pipeline.NodeID
		rank *int
		want string
		kind problem.Kind
	}{
		"no rank":           {"step.train", nil, "rank 0\n", ""},
		"rank 0":            {"step.train", new(0), "rank 0\n", ""},
		"rank 1":            {"step.train", new(1), "rank 1\n", ""},
		"rank 2 of 2":       {"step.train", new(2), "", problem.Invalid},
		"a negative rank":   {"step.train", new(-1), "", problem.Invalid},
		"rank 0 of no gang": {"step.a", new(0), "alone\n", ""},
		"rank 1 of no gang": {"step.a", new(1), "", problem.Invalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			err := w.engine.Logs(t.Context(), r.ID, run.LogSelector{Node: tt.node, Rank: tt.rank}, &log)
			if log.String() != tt.want || (err != nil) != (tt.kind != "") || err != nil && !problem.Is(err, tt.kind) {
				t.Errorf("log %q, %v", log.String(), err)
			}
		})
	}
}
