package run_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

const chain = `
pipeline "chain" {}
dataset "raw" { path = "raw.csv" }
step "a" {
  command = ["a"]
  input "data" { from = dataset.raw }
  output "x" {}
}
step "b" {
  command = ["b"]
  input "x" { from = step.a.output.x }
  output "y" {}
}
`

func TestChainSucceeds(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.b", measures(map[string]float64{"accuracy": 0.9}))
	r := w.wait(w.submit(chain, "raw.csv"))
	if r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	b := node(r, "step.b")
	if b.Metrics["accuracy"] != 0.9 || len(b.Attempts) != 1 || b.Attempts[0].NodeName != "node-1" || b.Attempts[0].Phase != run.Succeeded {
		t.Errorf("step.b = %+v", b)
	}
	if got, want := b.Inputs["x"], node(r, "step.a").Outputs["x"].Digest; got != want || got == "" {
		t.Errorf("step.b read %q, step.a wrote %q", got, want)
	}
	l, err := w.engine.Lineage(t.Context(), "default", b.Outputs["y"].Digest)
	if err != nil || len(l.Produced) != 1 || len(l.Ancestors) != 2 || l.Ancestors[0].Node != "step.a" || l.Ancestors[1].Node != "dataset.raw" {
		t.Errorf("lineage = %+v, %v", l, err)
	}
}

func TestHowRunsEnd(t *testing.T) {
	const diamond = `
pipeline "p" {}
step "a" { command = ["a"] }
step "b" {
  command    = ["b"]
  depends_on = [step.a]
}
step "c" {
  command = ["c"]
}
step "clean" {
  command = ["clean"]
  on_exit = true
  params  = { status = run.status, failed = run.failed_steps }
}
`
	type ends = map[pipeline.NodeID]run.Phase
	tests := map[string]struct {
		source string
		codes  map[string]int
		phase  run.Phase
		error  string
		want   ends
	}{
		"all succeed": {diamond, nil, run.Succeeded, "",
			ends{"step.a": run.Succeeded, "step.b": run.Succeeded, "step.c": run.Succeeded, "step.clean": run.Succeeded}},
		"a failure skips what depends on it, the rest goes on, and a clean-up does not mend it": {diamond, map[string]int{"step.a": 1}, run.Failed, "step.a failed: it exited with code 1",
			ends{"step.a": run.Failed, "step.b": run.Skipped, "step.c": run.Succeeded, "step.clean": run.Succeeded}},
		"a clean-up that fails fails the run": {diamond, map[string]int{"step.clean": 1}, run.Failed, "step.clean failed: it exited with code 1",
			ends{"step.a": run.Succeeded, "step.b": run.Succeeded, "step.c": run.Succeeded, "step.clean": run.Failed}},
		"skipped is not succeeded, but no failure": {`
pipeline "p" {}
step "a" {
  command = ["a"]
  when    = false
}
step "b" {
  command    = ["b"]
  depends_on = [step.a]
}
step "c" { command = ["c"] }
step "e" {
  command    = ["e"]
  depends_on = [step.c]
  when       = step.a.status == "skipped" || step.a.status == "succeeded"
}
`, nil, run.Succeeded, "", ends{"step.a": run.Skipped, "step.b": run.Skipped, "step.c": run.Succeeded, "step.e": run.Succeeded}},
		"the same with a loop": {`
pipeline "p" {}
step "a" {
  for_each = toset(["x", "y"])
  command  = ["a"]
  when     = false
}
step "b" {
  command    = ["b"]
  depends_on = [step.a]
}
`, nil, run.Succeeded, "", ends{`step.a["x"]`: run.Skipped, `step.a["y"]`: run.Skipped, "step.b": run.Skipped}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(nil)
			for node, code := range tt.codes {
				w.task(node, exits(code))
			}
			r := w.wait(w.submit(tt.source))
			if r.Phase != tt.phase || r.Error != tt.error {
				t.Errorf("the run ended %s, %q; want %s, %q", r.Phase, r.Error, tt.phase, tt.error)
			}
			if d := cmp.Diff(tt.want, phases(r)); d != "" {
				t.Errorf("phases (-want +got):\n%s\n%s", d, describe(r))
			}
		})
	}
}

func TestCleanUpIsToldHowItWent(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.train", exits(1))
	var params string
	w.task("step.clean", func(x clustertest.Task) clustertest.Exit {
		params = fmt.Sprint(x.Job.TaskGroups[0].Tasks[0].Config["params"])
		return clustertest.Exit{}
	})
	w.wait(w.submit(`
pipeline "p" {}
step "train" { command = ["train"] }
step "clean" {
  command = ["clean"]
  on_exit = true
  params  = { status = run.status, failed = run.failed_steps }
}
`))
	if want := `{"failed":["step.train"],"status":"failed"}`; params != want {
		t.Errorf("the clean-up step got %s, want %s", params, want)
	}
}

func TestFailuresAreExplained(t *testing.T) {
	tests := map[string]struct {
		exit   clustertest.Exit
		reason string
		tail   string
	}{
		"code":                      {clustertest.Exit{Code: 3, Stderr: "a\nb\n"}, "it exited with code 3", "a\nb\n"},
		"signal":                    {clustertest.Exit{Signal: 9}, "it was killed by signal 9 (SIGKILL)", ""},
		"memory":                    {clustertest.Exit{Code: 137, OOM: true}, "it ran out of memory and was killed: raise resources.memory", ""},
		"staging":                   {clustertest.Exit{Problem: "staging input \"data\": checksum differs"}, "staging input \"data\": checksum differs", ""},
		"no record":                 {clustertest.Exit{NoRecord: true}, "it exited with code 0 but left no result record in the artefact store: has the node the same store as the server?", ""},
		"stdout if stderr is blank": {clustertest.Exit{Code: 1, Stderr: "\n", Stdout: "out\n"}, "it exited with code 1", "out\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(nil)
			w.task("step.a", func(clustertest.Task) clustertest.Exit { return tt.exit })
			r := w.wait(w.submit(`
pipeline "p" {}
step "a" { command = ["a"] }
`))
			a := node(r, "step.a")
			if a.Phase != run.Failed || a.Reason != tt.reason {
				t.Errorf("step.a ended %s, %q; want failed, %q", a.Phase, a.Reason, tt.reason)
			}
			if len(a.Attempts) != 1 || a.Attempts[0].LogTail != tt.tail {
				t.Errorf("attempts = %+v, want a log tail of %q", a.Attempts, tt.tail)
			}
		})
	}
}

func TestRetry(t *testing.T) {
	const source = `
pipeline "p" {}
step "a" {
  command = ["a"]
  retry {
    attempts = 2
    delay    = "1ms"
  }
}
`
	tests := map[string]struct {
		fails    int
		phase    run.Phase
		attempts int
	}{
		"succeeds the third time": {2, run.Succeeded, 3},
		"fails for good":          {9, run.Failed, 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(nil)
			n := 0
			w.task("step.a", func(x clustertest.Task) clustertest.Exit {
				n++
				if n <= tt.fails {
					return clustertest.Exit{Code: 1}
				}
				return usual(x)
			})
			r := w.wait(w.submit(source))
			if a := node(r, "step.a"); a.Phase != tt.phase || len(a.Attempts) != tt.attempts {
				t.Error(describe(r))
			}
		})
	}
}

func TestRetryOfARunKeepsWhatSucceeded(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.b", exits(1))
	id := w.submit(chain, "raw.csv")
	if r := w.wait(id); r.Phase != run.Failed {
		t.Fatal(describe(r))
	}
	w.task("step.b", usual)
	if _, err := w.engine.Retry(t.Context(), id, "bob"); err != nil {
		t.Fatal(err)
	}
	r := w.wait(id)
	if r.Phase != run.Succeeded || len(node(r, "step.a").Attempts) != 1 || len(node(r, "step.b").Attempts) != 2 {
		t.Error(describe(r))
	}
	if _, err := w.engine.Retry(t.Context(), id, "bob"); !problem.Is(err, problem.Conflict) {
		t.Errorf("retrying a run that succeeded: %v, want a problem.Conflict", err)
	}
}

const sweep = `
pipeline "p" {}
sweep "search" {
  command  = ["train"]
  method   = "grid"
  parallel = 2
  metric "accuracy" { goal = "maximize" }
  parameter "lr" { values = [1, 2, 3, 4] }
  output "model" {}
}
step "use" {
  command = ["use"]
  input "model" { from = sweep.search.best.output.model }
  params = { lr = sweep.search.best.params.lr }
}
`

func TestSweepTakesTheBestTrial(t *testing.T) {
	nan := math.NaN()
	tests := map[string]struct {
		values []float64 // NaN: not logged
		best   int
		phase  run.Phase
	}{
		"highest":            {[]float64{0.1, 0.3, 0.2, 0}, 1, run.Succeeded},
		"tie to the lowest":  {[]float64{0.1, 0.3, 0.3, 0.3}, 1, run.Succeeded},
		"missing never wins": {[]float64{nan, -5, nan, -6}, 1, run.Succeeded},
		"none":               {[]float64{nan, nan, nan, nan}, 0, run.Failed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(nil)
			for i, v := range tt.values {
				metrics := map[string]float64{}
				if !math.IsNaN(v) {
					metrics["accuracy"] = v
				}
				w.task(fmt.Sprintf("sweep.search/%d", i), measures(metrics))
			}
			r := w.wait(w.submit(sweep))
			s := node(r, "sweep.search")
			if s.Phase != tt.phase {
				t.Fatal(describe(r))
			}
			if tt.phase == run.Succeeded && (s.Best == nil || *s.Best != tt.best || node(r, "step.use").Params["lr"] != float64(tt.best+1)) {
				t.Errorf("best = %v, step.use got %v; want trial %d", s.Best, node(r, "step.use").Params, tt.best)
			}
		})
	}
}

func TestSweepRunsNoMoreThanParallel(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	var mu sync.Mutex
	now, most := 0, 0
	started := make(chan struct{}, 4)
	release := make(chan struct{})
	for i := range 4 {
		w.task(fmt.Sprintf("sweep.search/%d", i), func(x clustertest.Task) clustertest.Exit {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			started <- struct{}{}
			<-release
			mu.Lock()
			now--
			mu.Unlock()
			return measures(map[string]float64{"accuracy": 1})(x)
		})
	}
	id := w.submit(sweep)
	<-started
	<-started
	close(release)
	w.wait(id)
	if most != 2 {
		t.Errorf("%d trials ran at once, want 2", most)
	}
}

func TestSweepWithAFailedTrialSaysSo(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("sweep.search/0", exits(1))
	for i := 1; i < 4; i++ {
		w.task(fmt.Sprintf("sweep.search/%d", i), measures(map[string]float64{"accuracy": 1}))
	}
	s := node(w.wait(w.submit(sweep)), "sweep.search")
	if s.Phase != run.Succeeded || *s.Best != 1 || s.Reason != "1 of 4 trials failed" || s.Trials[0].Phase != run.Failed {
		t.Errorf("sweep = %+v", s)
	}
}

func TestCache(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	first := w.wait(w.submit(chain, "raw.csv"))
	cached := func(r run.Run) map[pipeline.NodeID]run.ID {
		m := map[pipeline.NodeID]run.ID{}
		for _, n := range r.Nodes {
			if n.Kind == pipeline.KindStep {
				m[n.ID] = n.Cached
			}
		}
		return m
	}
	check := func(what string, r run.Run, a, b run.ID) {
		t.Helper()
		if d := cmp.Diff(map[pipeline.NodeID]run.ID{"step.a": a, "step.b": b}, cached(r)); d != "" || r.Phase != run.Succeeded {
			t.Errorf("%s: cached from (-want +got):\n%s%s", what, d, describe(r))
		}
	}
	again := w.wait(w.submit(chain, "raw.csv"))
	check("nothing changed", again, first.ID, first.ID)
	if node(again, "step.b").Outputs["y"] != node(first, "step.b").Outputs["y"] {
		t.Error("a cached step has other outputs")
	}
	plan, err := w.engine.Plan(t.Context(), w.submission(chain, "raw.csv"))
	if err != nil || plan.Nodes[1].Action != run.ActCached || plan.Nodes[2].Action != run.ActCached {
		t.Errorf("plan = %+v, %v", plan, err)
	}

	changed := strings.Replace(chain, `["b"]`, `["b", "-v"]`, 1)
	check("the command of b changed", w.wait(w.submit(changed, "raw.csv")), first.ID, "")

	s := w.submission(chain, "raw.csv")
	s.NoCache = true
	r, _, err := w.engine.Submit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	fresh := w.wait(r.ID)
	check("no cache", fresh, "", "")

	w.artifacts.Delete(node(first, "step.b").Outputs["y"].Digest)
	check("the output of b was deleted", w.wait(w.submit(chain, "raw.csv")), fresh.ID, "")

	s = w.submission(chain)
	s.Uploads["raw.csv"] = string(w.artifacts.Put("other content"))
	if r, _, err = w.engine.Submit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	check("the dataset changed", w.wait(r.ID), "", "")
}

func TestFailedStepIsNotCached(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", exits(1))
	w.wait(w.submit(chain, "raw.csv"))
	w.task("step.a", usual)
	r := w.wait(w.submit(chain, "raw.csv"))
	if a := node(r, "step.a"); a.Phase != run.Succeeded || a.Cached != "" {
		t.Error(describe(r))
	}
}

func TestSubmitOncePerKey(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	s := w.submission(chain, "raw.csv")
	s.Key = "nightly-7"
	var wg sync.WaitGroup
	ids := make([]run.ID, 20)
	for i := range ids {
		wg.Go(func() {
			r, _, err := w.engine.Submit(context.Background(), s)
			if err != nil {
				t.Error(err)
			}
			ids[i] = r.ID
		})
	}
	wg.Wait()
	w.wait(ids[0])
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("runs %s and %s for one key", id, ids[0])
		}
	}
	for job, n := range w.cluster.Starts() {
		if n != 1 {
			t.Errorf("job %s started %d times", job, n)
		}
	}
}

func TestBadSubmissions(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	tests := map[string]struct {
		change func(*run.Submission)
		field  string
	}{
		"not a pipeline file": {func(s *run.Submission) { s.Source = "step {" }, "source"},
		"empty":               {func(s *run.Submission) { s.Source = "" }, "source"},
		"not uploaded":        {func(s *run.Submission) { s.Uploads = nil }, "uploads.raw.csv"},
		"not in the store":    {func(s *run.Submission) { s.Uploads["raw.csv"] = "sha256:" + strings.Repeat("0", 64) }, "uploads.raw.csv"},
		"not a digest":        {func(s *run.Submission) { s.Uploads["raw.csv"] = "../../etc/passwd" }, "uploads.raw.csv"},
		"workspace":           {func(s *run.Submission) { s.Workspace = "../x" }, "workspace"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := w.submission(chain, "raw.csv")
			tt.change(&s)
			_, _, err := w.engine.Submit(t.Context(), s)
			var p *problem.Error
			if !errors.As(err, &p) || p.Kind != problem.Invalid || p.Field != tt.field {
				t.Errorf("Submit = %#v, want a problem.Invalid about %s", err, tt.field)
			}
		})
	}
	if len(w.cluster.Starts()) != 0 {
		t.Error("a bad submission has started something")
	}
}

// Whoever submits, a file is no code.
func TestCodeMustBeAFolder(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	s := w.submission(`
pipeline "p" {}
step "a" {
  code    = "a.py"
  command = ["python3", "a.py"]
}
`, "a.py")
	s.Uploads["a.py"] = string(w.artifacts.PutFile("print()"))
	_, _, err := w.engine.Submit(t.Context(), s)
	if want := "pipeline.hcl:4: a.py is a file; "; !problem.Is(err, problem.Invalid) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Submit = %v, want a problem.Invalid that begins with %q", err, want)
	}
}
