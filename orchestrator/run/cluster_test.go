package run_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

const one = `
pipeline "p" {}
step "a" {
  command = ["a"]
  output "x" {}
}
`

// untilStopped runs until the cluster ends it.
func untilStopped(t clustertest.Task) clustertest.Exit {
	<-t.Stopped
	return clustertest.Exit{Signal: 15}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", untilStopped)
	id := w.submit(`
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
`)
	w.until(id, "step.a running", reaches("step.a", run.Running))
	if err := w.engine.Cancel(t.Context(), id, "bob"); err != nil {
		t.Fatal(err)
	}
	r := w.wait(id)
	if r.Phase != run.Cancelled || r.Error != "cancelled by bob" || node(r, "step.a").Phase != run.Cancelled ||
		node(r, "step.b").Phase != run.Cancelled || node(r, "step.clean").Phase != run.Succeeded {
		t.Error(describe(r))
	}
	if err := w.engine.Cancel(t.Context(), id, "bob"); !problem.Is(err, problem.Conflict) {
		t.Errorf("cancelling again: %v, want a problem.Conflict", err)
	}
	if err := w.engine.Cancel(t.Context(), "nope", "bob"); !problem.Is(err, problem.NotFound) {
		t.Errorf("cancelling what is not there: %v, want a problem.NotFound", err)
	}
}

func TestCancelOfASweepAndAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("sweep.search/0", measures(map[string]float64{"accuracy": 1}))
	for _, n := range []string{"1", "2", "3"} {
		w.task("sweep.search/"+n, untilStopped)
	}
	id := w.submit(sweep)
	w.until(id, "trial 2 running", func(e run.Event) bool {
		return e.Type == "trial" && *e.Trial == 2 && e.Phase == run.Running
	})
	w.shut()
	w.open(nil)
	if err := w.engine.Cancel(t.Context(), id, "bob"); err != nil {
		t.Fatal(err)
	}
	r := w.wait(id)
	s := node(r, "sweep.search")
	if r.Phase != run.Cancelled || s.Phase != run.Cancelled || s.Trials[0].Phase != run.Succeeded || s.Trials[3].Phase != run.Cancelled {
		t.Error(describe(r))
	}
}

func TestTimeout(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", untilStopped)
	r := w.wait(w.submit(strings.Replace(one, "output", "timeout = \"1s\"\n  output", 1)))
	if a := node(r, "step.a"); a.Phase != run.Failed || a.Reason != "it ran for longer than its timeout of 1s" {
		t.Error(describe(r))
	}
}

func TestLostNodeIsNoFailure(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		if x.Start == 1 {
			return untilStopped(x)
		}
		return usual(x)
	})
	id := w.submit(one)
	w.until(id, "step.a running", reaches("step.a", run.Running))
	w.cluster.LoseNode(node(w.get(id), "step.a").Attempts[0].JobID)
	r := w.wait(id)
	a := node(r, "step.a")
	if a.Phase != run.Succeeded || len(a.Attempts) != 1 || a.Attempts[0].NodeName != "node-2" {
		t.Error(describe(r))
	}
	w.until(id, "the loss", func(e run.Event) bool { return e.Message == "node node-1 was lost: Nomad places it again" })
}

func TestRemovedJob(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", untilStopped)
	id := w.submit(one)
	w.until(id, "step.a running", reaches("step.a", run.Running))
	job := node(w.get(id), "step.a").Attempts[0].JobID
	w.cluster.Purge(job)
	if r := w.wait(id); node(r, "step.a").Phase != run.Failed {
		t.Error(describe(r))
	}
}

func TestStoppedFromOutside(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", untilStopped)
	id := w.submit(one)
	w.until(id, "step.a running", reaches("step.a", run.Running))
	if err := w.cluster.Stop(t.Context(), node(w.get(id), "step.a").Attempts[0].JobID); err != nil {
		t.Fatal(err)
	}
	if a := node(w.wait(id), "step.a"); a.Phase != run.Failed || a.Reason != "it was killed by signal 15 (SIGTERM)" {
		t.Errorf("step.a ended %s, %q", a.Phase, a.Reason)
	}
}

func TestWaitingIsExplained(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	for _, id := range []string{"a", "b", "c", "d"} {
		w.cluster.AddGPU("n1", "GPU-"+id)
	}
	w.cluster.Full("1 node filtered by missing drivers, 2 nodes exhausted on devices")
	id := w.submit(strings.Replace(one, "output", "resources {\n gpu { count = 4 }\n }\n  output", 1))
	want := "no node has 4 x nvidia/gpu, 500 MHz and 256 MiB free: 1 node filtered by missing drivers, 2 nodes exhausted on devices"
	w.until(id, "the reason", func(e run.Event) bool { return e.Node == "step.a" && e.Message == want })
	if a := node(w.get(id), "step.a"); a.Phase != run.Queued || a.Reason != want {
		t.Errorf("step.a = %s, %q", a.Phase, a.Reason)
	}
	w.cluster.Full("")
	if a := node(w.wait(id), "step.a"); a.Phase != run.Succeeded || a.Reason != "" {
		t.Errorf("step.a ended %s, %q", a.Phase, a.Reason)
	}
}

func TestRefusedJob(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.cluster.Fault(func(when, call, job string) error {
		if call == "Register" {
			return &run.RefusedError{Reason: "too big"}
		}
		return nil
	})
	if a := node(w.wait(w.submit(one)), "step.a"); a.Phase != run.Failed || a.Reason != "Nomad refuses the job: too big" {
		t.Errorf("step.a ended %s, %q", a.Phase, a.Reason)
	}
}

func TestClusterThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	var down atomic.Bool
	down.Store(true)
	w.cluster.Fault(func(string, string, string) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return nil
	})
	w.open(nil)
	id := w.submit(one)
	w.until(id, "the trouble", func(e run.Event) bool {
		return e.Node == "step.a" && e.Message == "the cluster does not answer: connection refused"
	})
	down.Store(false)
	if r := w.wait(id); r.Phase != run.Succeeded || node(r, "step.a").Reason != "" {
		t.Error(describe(r))
	}
}

// News that is lost with a connection is asked for.
func TestGapInTheEventStream(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	release := make(chan struct{})
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		<-release
		return usual(x)
	})
	id := w.submit(one)
	w.until(id, "step.a running", reaches("step.a", run.Running))
	var down atomic.Bool
	down.Store(true)
	w.cluster.Fault(func(_, call, _ string) error {
		if down.Load() && call == "Watch" {
			return errors.New("connection refused")
		}
		return nil
	})
	w.cluster.CutStreams()
	close(release)
	w.cluster.Forget()
	down.Store(false)
	if r := w.wait(id); r.Phase != run.Succeeded {
		t.Error(describe(r))
	}
}

func TestProgressMetricsAndTaskEvents(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	release := make(chan struct{})
	file := jobspec.TaskName + "/" + mltask.Folder + "/" + mltask.MetricsFile
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		x.Say("resumed from checkpoint 7")
		x.Write(file, `{"step": 8, "epoch": 0.5, "metrics": {"loss": 0.5}}`+"\n"+`{"step": 9, "metr`)
		<-release
		return usual(x)
	})
	id := w.submit(one)
	w.until(id, "progress", func(e run.Event) bool {
		return e.Type == "progress" && e.Message == "step 8, epoch 0.5, loss 0.5"
	})
	if p := node(w.get(id), "step.a").Progress; p == nil || p.Step != 8 {
		t.Errorf("progress = %+v", p)
	}
	w.shut()
	w.open(nil) // the same is read again, and told once
	close(release)
	w.wait(id)
	points, err := w.engine.Metrics(t.Context(), id, run.MetricFilter{})
	if err != nil || len(points) != 1 || points[0].Step != 8 || points[0].Value != 0.5 {
		t.Errorf("points = %+v, %v", points, err)
	}
	events, err := w.engine.Events(t.Context(), id, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for i, e := range events {
		count[e.Type]++
		if e.Seq != int64(i+1) {
			t.Errorf("event %d has number %d", i, e.Seq)
		}
	}
	if count["task"] != 1 || count["progress"] != 1 {
		t.Errorf("%d task events and %d of progress, want one of each", count["task"], count["progress"])
	}
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		e := usual(x)
		e.Stdout = "hello\nworld\n"
		return e
	})
	id := w.submit(one)
	w.wait(id)
	tests := map[string]struct {
		selector run.LogSelector
		want     string
		kind     problem.Kind
	}{
		"all":             {run.LogSelector{Node: "step.a"}, "hello\nworld\n", ""},
		"tail":            {run.LogSelector{Node: "step.a", Tail: 6}, "world\n", ""},
		"unknown node":    {run.LogSelector{Node: "step.b"}, "", problem.NotFound},
		"unknown attempt": {run.LogSelector{Node: "step.a", Attempt: 2}, "", problem.NotFound},
		"unknown stream":  {run.LogSelector{Node: "step.a", Stream: "../x"}, "", problem.Invalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			err := w.engine.Logs(t.Context(), id, tt.selector, &b)
			if b.String() != tt.want || (err == nil) != (tt.kind == "") || err != nil && problem.Of(err) != tt.kind {
				t.Errorf("Logs = %q, %v", b.String(), err)
			}
		})
	}
}

const served = `
pipeline "p" {}
step "train" {
  command = ["train"]
  output "model" {}
}
gate "good" {
  model = "digits"
  check "accuracy" {
    from = step.train
    min  = 0.5
  }
  check "accuracy" {
    from     = step.train
    champion = true
  }
}
model "digits" {
  from    = step.train.output.model
  gate    = gate.good
  alias   = "champion"
  metrics = [step.train]
}
endpoint "digits" {
  model   = model.digits
  command = ["serve"]
}
`

func TestGateModelAndEndpoint(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	ctx := t.Context()
	release := func(accuracy float64, command string) run.Run {
		t.Helper()
		w.task("step.train", measures(map[string]float64{"accuracy": accuracy}))
		return w.wait(w.submit(strings.Replace(served, `["train"]`, `["train", "`+command+`"]`, 1)))
	}
	endpoint := func(what string, revision, version int, reason string) {
		t.Helper()
		e, err := w.engine.Endpoint(ctx, "default", "digits")
		if err != nil || e.Revision != revision || e.Version != version || e.Pending != 0 || e.Reason != reason {
			t.Errorf("%s: endpoint = %+v, %v", what, e, err)
		}
	}

	r := release(0.8, "v1")
	if r.Phase != run.Succeeded || node(r, "model.digits").Version != 1 {
		t.Fatal(describe(r))
	}
	endpoint("the first", 1, 1, "")

	r = release(0.7, "v2")
	if want := `gate.good refused: accuracy 0.7 is below champion v1's 0.8`; r.Phase != run.Failed || r.Error != want {
		t.Errorf("worse: the run ended %s, %q; want failed, %q", r.Phase, r.Error, want)
	}
	if v := node(r, "gate.good").Gate; v == nil || v.Passed || v.Champion != 1 || len(v.Checks) != 2 {
		t.Errorf("verdict = %+v", v)
	}
	if node(r, "model.digits").Phase != run.Skipped || node(r, "endpoint.digits").Phase != run.Skipped {
		t.Error(describe(r))
	}
	endpoint("a refused one changes nothing", 1, 1, "")

	w.task("endpoint.digits", func(clustertest.Task) clustertest.Exit {
		return clustertest.Exit{Code: 1, Stderr: "cannot serve\n"}
	})
	r = release(0.9, "v3")
	ep := node(r, "endpoint.digits")
	if r.Phase != run.Failed || ep.Phase != run.Failed || ep.Attempts[0].LogTail != "cannot serve\n" {
		t.Error(describe(r))
	}
	if want := "it did not become ready: an instance ended: it exited with code 1 (Failed due to progress deadline - rolling back to job version 0)"; ep.Reason != want {
		t.Errorf("reason = %q, want %q", ep.Reason, want)
	}
	endpoint("one that is not ready changes nothing", 1, 1, "revision 2: "+ep.Reason)

	w.task("endpoint.digits", nil)
	if _, err := w.engine.Retry(ctx, r.ID, "bob"); err != nil {
		t.Fatal(err)
	}
	if r = w.wait(r.ID); r.Phase != run.Succeeded {
		t.Error(describe(r))
	}
	endpoint("tried again", 3, 2, "")
	versions, err := w.engine.Registry().Versions(ctx, "default", "digits")
	if err != nil || len(versions) != 2 || versions[0].Aliases[0] != "champion" || versions[0].Metrics["accuracy"] != 0.9 {
		t.Errorf("versions = %+v, %v", versions, err)
	}
	if err := w.engine.DeleteEndpoint(ctx, "default", "digits", "bob"); err != nil {
		t.Fatal(err)
	}
	if all, err := w.engine.Endpoints(ctx, "default"); err != nil || len(all) != 0 {
		t.Errorf("endpoints = %+v, %v", all, err)
	}
}

func TestFirstRevisionThatFailsIsStopped(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.train", measures(map[string]float64{"accuracy": 1}))
	w.task("endpoint.digits", exits(1))
	r := w.wait(w.submit(served))
	s, err := w.cluster.Job(context.Background(), jobspec.EndpointJobID("default", "digits"))
	if err != nil || !s.Stopped || r.Phase != run.Failed {
		t.Errorf("job = %+v, %v\n%s", s, err, describe(r))
	}
}

func TestStopIsSafe(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.engine.Stop()
	w.engine.Stop()
	if _, _, err := w.engine.Submit(t.Context(), w.submission(one)); !problem.Is(err, problem.Unavailable) {
		t.Errorf("Submit after Stop = %v, want a problem.Unavailable", err)
	}
	run.New(run.Config{Store: w.db, Cluster: w.cluster, Artifacts: w.artifacts}).Stop()
}

// A record that was written before the node was lost proves the success: the
// replacement is stopped, and nothing of what it does counts.
func TestSuccessBeforeTheLossCounts(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	output := string(w.artifacts.Put("the model"))
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		if x.Start == 1 {
			key := x.Job.TaskGroups[0].Tasks[0].Config["result_key"].(string)
			w.artifacts.PutRecord("results/"+key, mltask.Result{
				Version: 1, AllocID: x.AllocID, Outputs: map[string]mltask.StoredOutput{"x": {Digest: output, Kind: "file"}},
			})
			x.Say("stored")
		}
		return untilStopped(x)
	})
	id := w.submit(one)
	w.until(id, "the record", func(e run.Event) bool { return e.Type == "task" && e.Message == "stored" })
	w.cluster.LoseNode(node(w.get(id), "step.a").Attempts[0].JobID)
	r := w.wait(id)
	a := node(r, "step.a")
	if a.Phase != run.Succeeded || a.Outputs["x"].Digest != output || len(a.Attempts) != 1 {
		t.Error(describe(r))
	}
	if s, err := w.cluster.Job(t.Context(), a.Attempts[0].JobID); err != nil || !s.Stopped {
		t.Errorf("the replacement goes on: %+v, %v", s, err)
	}
}

// While the engine was away, its job has ended and Nomad has forgotten it.
func TestJobThatCameAndWent(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	release := make(chan struct{})
	ended := make(chan struct{})
	w.task("step.a", func(x clustertest.Task) clustertest.Exit {
		<-release
		defer close(ended)
		return usual(x)
	})
	id := w.submit(one)
	w.until(id, "step.a running", reaches("step.a", run.Running))
	job := node(w.get(id), "step.a").Attempts[0].JobID
	w.shut()
	news := make(chan run.Update, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go w.cluster.Watch(ctx, 1, func() {}, func(u run.Update) { news <- u })
	close(release)
	<-ended
	for u := range news {
		if u.Alloc != nil && u.Alloc.Client == "complete" {
			break
		}
	}
	w.cluster.Purge(job)
	w.open(nil)
	r := w.wait(id)
	if r.Phase != run.Succeeded || w.cluster.Starts()[job] != 1 {
		t.Error(describe(r), w.cluster.Starts())
	}
}

func TestWatchGoesOnWhereItStopped(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	id := w.submit(one)
	w.wait(id)
	all, err := w.engine.Events(t.Context(), id, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for after := range int64(len(all) + 2) {
		events, err := w.engine.Watch(t.Context(), id, after)
		if err != nil {
			t.Fatal(err)
		}
		next := after
		for e := range events {
			next++
			if e.Seq != next {
				t.Fatalf("after %d came event %d", next-1, e.Seq)
			}
		}
		if want := max(after, int64(len(all))); next != want {
			t.Errorf("a watch after %d ended at %d, want %d", after, next, want)
		}
	}
	if _, err := w.engine.Watch(t.Context(), "nope", 0); !problem.Is(err, problem.NotFound) {
		t.Errorf("watching what is not there: %v, want a problem.NotFound", err)
	}
}

func TestEndpointsOfTwoWorkspacesNeverShareAJob(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.train", measures(map[string]float64{"accuracy": 1}))
	deploy := func(workspace, name string) run.Run {
		s := w.submission(strings.Replace(served, `endpoint "digits"`, `endpoint "`+name+`"`, 1))
		s.Workspace = workspace
		r, _, err := w.engine.Submit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return w.wait(r.ID)
	}
	if r := deploy("a", "b-c"); r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	if r := deploy("a-b", "c"); r.Phase != run.Succeeded {
		t.Error(describe(r))
	}
	if first, second := jobspec.EndpointJobID("a", "b-c"), jobspec.EndpointJobID("a-b", "c"); first == second {
		t.Errorf("both are job %s", first)
	}
}

// What is the same is left alone: the second run of an unchanged pipeline
// registers no version and touches no job.
func TestUnchangedModelAndEndpoint(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.train", measures(map[string]float64{"accuracy": 1}))
	first := w.wait(w.submit(served))
	if first.Phase != run.Succeeded {
		t.Fatal(describe(first))
	}
	job := node(first, "endpoint.digits").Attempts[0].JobID
	before, err := w.cluster.Job(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	second := w.wait(w.submit(served))
	m, e := node(second, "model.digits"), node(second, "endpoint.digits")
	if second.Phase != run.Succeeded || m.Version != 1 || !strings.HasPrefix(m.Reason, "unchanged: version 1 ") || e.Reason != "unchanged: revision 1 serves it" {
		t.Errorf("the second run: %s; model: %q, endpoint: %q", describe(second), m.Reason, e.Reason)
	}
	after, err := w.cluster.Job(t.Context(), job)
	if err != nil || after.Index != before.Index {
		t.Errorf("the endpoint's job was registered again: index %d, then %d, %v", before.Index, after.Index, err)
	}

	// With no instance that runs, it is deployed again.
	w.cluster.Full("no room")
	if err := w.cluster.StopAlloc(t.Context(), after.Allocs[0].ID); err != nil {
		t.Fatal(err)
	}
	id := w.submit(served)
	w.until(id, "a new revision", func(e run.Event) bool { return e.Type == "endpoint" && e.Phase == run.Queued })
	w.cluster.Full("")
	without := w.wait(id)
	if e := node(without, "endpoint.digits"); without.Phase != run.Succeeded || e.Reason != "" {
		t.Errorf("after its instance had died: %s; endpoint: %q", describe(without), e.Reason)
	}

	// Changed by hand, it is deployed again.
	if err := w.cluster.Stop(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	third := w.wait(w.submit(served))
	if e := node(third, "endpoint.digits"); third.Phase != run.Succeeded || e.Reason != "" {
		t.Errorf("after its job was stopped: %s; endpoint: %q", describe(third), e.Reason)
	}
}

// A server with a new state does not take the job that an earlier one left for
// its own, though both count revisions from 1.
func TestEndpointOfAnEarlierServer(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.task("step.train", measures(map[string]float64{"accuracy": 1}))
	first := w.wait(w.submit(served))
	job := node(first, "endpoint.digits").Attempts[0].JobID
	before, err := w.cluster.Job(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	w.shut()
	w.path += ".new"
	w.open(nil)
	second := w.wait(w.submit(served))
	after, err := w.cluster.Job(t.Context(), job)
	if err != nil || second.Phase != run.Succeeded || after.Meta["drover.run"] != string(second.ID) || after.Index == before.Index {
		t.Errorf("%s; the job is of run %s, index %d then %d, %v", describe(second), after.Meta["drover.run"], before.Index, after.Index, err)
	}
}
