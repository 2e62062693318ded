package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
)

func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func temp(t testing.TB) string { return filepath.Join(t.TempDir(), "drover.db") }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)

// state is a run with a step and a sweep.
func state(id run.ID, key string) run.State {
	return run.State{
		Run: run.Run{
			ID: id, Pipeline: "digits", Workspace: "default", Phase: run.Running, Submitted: noon,
			Variables: map[string]any{"epochs": 3.0},
			Nodes: []run.Node{
				{ID: "step.train", Kind: pipeline.KindStep, Phase: run.Waiting},
				{ID: "sweep.search", Kind: pipeline.KindSweep, Phase: run.Waiting, Depends: []pipeline.NodeID{"step.train"}},
			},
		},
		Submission: run.Submission{Key: key, Workspace: "default", Filename: "pipeline.hcl", Source: "step {}"},
		Round:      1,
	}
}

func create(t testing.TB, db *DB, s run.State) run.ID {
	t.Helper()
	id, _, err := db.Create(t.Context(), s, []run.Event{{Run: s.ID, Seq: 1, Time: noon, Type: "run", Phase: run.Running}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestRunSurvivesReopening(t *testing.T) {
	path := temp(t)
	db := open(t, path)
	s := state("r1", "")
	create(t, db, s)
	zero, code := 0, 1
	attempt := run.AttemptState{
		Attempt: run.Attempt{Number: 1, Trial: &zero, JobID: "drover-r1-search-0-1", Phase: run.Failed, ExitCode: &code, LogTail: "oops\n"},
		Node:    "sweep.search", Round: 1, Registered: true, TaskEvents: 17,
	}
	trial := run.TrialState{Node: "sweep.search", Trial: run.Trial{Index: 0, Phase: run.Running, Params: map[string]any{"lr": 0.5}}}
	s.Nodes[0].Phase = run.Succeeded
	s.Nodes[0].Outputs = map[string]run.Output{"model": {Digest: "sha256:aa"}}
	s.Phase, s.Error, s.CancelledBy = run.Failed, "step.train failed", "ann"
	change := run.Change{
		ID: "r1", Run: &s, Nodes: s.Nodes[:1], Trials: []run.TrialState{trial}, Attempts: []run.AttemptState{attempt},
		Events:  []run.Event{{Run: "r1", Seq: 2, Time: noon, Type: "trial", Node: "sweep.search", Trial: &zero, Message: "hm"}},
		Metrics: []run.MetricPoint{{Node: "step.train", Metric: "loss", Step: 3, Value: 0.25, Time: noon}},
		Cache:   []run.CacheEntry{{Workspace: "default", Key: "k1", Run: "r1", Node: "step.train", Outputs: s.Nodes[0].Outputs}},
	}
	for range 2 { // twice is as once
		if err := db.Commit(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path)

	got, err := db.Load(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	want := s
	want.Clock = 2
	want.Attempts = []run.AttemptState{attempt}
	want.Nodes[1].Trials = []run.Trial{trial.Trial}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("loaded state (-want +got):\n%s", d)
	}
	r, err := db.Run(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]run.Attempt{attempt.Attempt}, r.Nodes[1].Attempts); d != "" {
		t.Errorf("attempts for readers (-want +got):\n%s", d)
	}
	events, err := db.Events(t.Context(), "r1", 1, 0)
	if err != nil || len(events) != 1 || *events[0].Trial != 0 || !events[0].Time.Equal(noon) {
		t.Errorf("events after 1 = %+v, %v", events, err)
	}
	points, err := db.Metrics(t.Context(), "r1", run.MetricFilter{Metric: "loss"})
	if d := cmp.Diff(change.Metrics, points); d != "" || err != nil {
		t.Errorf("metrics (-want +got):\n%s%v", d, err)
	}
	if e, ok, err := db.Cached(t.Context(), "default", "k1"); err != nil || !ok || e.Run != "r1" {
		t.Errorf("Cached = %+v, %v, %v", e, ok, err)
	}
	if _, ok, err := db.Cached(t.Context(), "other", "k1"); err != nil || ok {
		t.Errorf("another workspace's cache answers: %v, %v", ok, err)
	}
	produced, _, err := db.Origins(t.Context(), "default", "sha256:aa")
	if err != nil || len(produced) != 1 || produced[0].Name != "model" || produced[0].Node != "step.train" {
		t.Errorf("Origins = %+v, %v", produced, err)
	}
}

func TestCreateOncePerKey(t *testing.T) {
	db := open(t, temp(t))
	var wg sync.WaitGroup
	ids := make([]run.ID, 20)
	made := make([]bool, 20)
	for i := range ids {
		wg.Go(func() {
			s := state(run.ID(fmt.Sprintf("r%02d", i)), "nightly")
			var err error
			if ids[i], made[i], err = db.Create(t.Context(), s, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	count := 0
	for i := range ids {
		if made[i] {
			count++
		}
		if ids[i] != ids[0] {
			t.Errorf("submit %d got run %s, submit 0 got %s", i, ids[i], ids[0])
		}
	}
	if count != 1 {
		t.Errorf("%d runs were created, want 1", count)
	}
}

func TestUnknownRunIsNotFound(t *testing.T) {
	db := open(t, temp(t))
	if _, err := db.Run(t.Context(), "nope"); !problem.Is(err, problem.NotFound) {
		t.Errorf("Run = %v, want a problem.NotFound", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := temp(t)
	open(t, path)
	if _, err := Open(t.Context(), path); !errors.Is(err, ErrInUse) {
		t.Errorf("Open = %v, want ErrInUse", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := temp(t)
	db := open(t, path)
	if err := db.writer.do(t.Context(), func(x *tx) error {
		return x.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, err := Open(t.Context(), path)
	if err == nil {
		t.Fatal("a file with schema 9999 was opened")
	}
}

func TestFailedWriteLeavesOthersAlone(t *testing.T) {
	db := open(t, temp(t))
	create(t, db, state("r1", ""))
	wrong := errors.New("wrong")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := db.writer.do(context.Background(), func(x *tx) error {
				p := []run.MetricPoint{{Node: "n", Metric: "m", Step: int64(i), Time: noon}}
				if err := x.metrics("r1", p); err != nil {
					return err
				}
				if i%2 == 1 {
					return wrong
				}
				return nil
			})
			if got, want := errors.Is(err, wrong), i%2 == 1; got != want {
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	points, err := db.Metrics(t.Context(), "r1", run.MetricFilter{})
	if err != nil || len(points) != 25 {
		t.Errorf("%d points, %v; want the 25 of the writes that succeeded", len(points), err)
	}
}

func TestRunsFilterAndPage(t *testing.T) {
	db := open(t, temp(t))
	for i := range 5 {
		s := state(run.ID(fmt.Sprintf("r%d", i)), "")
		if i%2 == 1 {
			s.Pipeline, s.Phase = "other", run.Failed
		}
		create(t, db, s)
	}
	tests := map[string]struct {
		filter run.Filter
		want   []run.ID
	}{
		"all, newest first": {run.Filter{}, []run.ID{"r4", "r3", "r2", "r1", "r0"}},
		"limit":             {run.Filter{Limit: 2}, []run.ID{"r4", "r3"}},
		"next page":         {run.Filter{Limit: 2, Before: "r3"}, []run.ID{"r2", "r1"}},
		"pipeline":          {run.Filter{Pipeline: "other"}, []run.ID{"r3", "r1"}},
		"phase":             {run.Filter{Phase: run.Running}, []run.ID{"r4", "r2", "r0"}},
		"workspace":         {run.Filter{Workspace: "x"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			runs, err := db.Runs(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []run.ID
			for _, r := range runs {
				got = append(got, r.ID)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	active, err := db.Active(t.Context())
	if d := cmp.Diff([]run.ID{"r0", "r2", "r4"}, active); d != "" || err != nil {
		t.Errorf("Active (-want +got):\n%s%v", d, err)
	}
}

func version(model, runID string) registry.Version {
	return registry.Version{Workspace: "default", Model: model, Run: runID, Node: "model.m", Digest: "sha256:" + runID, By: "ann", Created: noon}
}

func TestVersionIsRegisteredOncePerNode(t *testing.T) {
	db := open(t, temp(t))
	for i, want := range []int{1, 1, 2} {
		v, err := db.AddVersion(t.Context(), version("digits", []string{"r1", "r1", "r2"}[i]), "champion")
		if err != nil || v.Number != want {
			t.Errorf("registration %d: version %d, %v; want %d", i, v.Number, err, want)
		}
	}
	moves, err := db.AliasMoves(t.Context(), "default", "digits")
	if err != nil || len(moves) != 2 || moves[0].From != 1 || moves[0].To != 2 || moves[0].By != "ann" || moves[0].Reason == "" {
		t.Errorf("history = %+v, %v", moves, err)
	}
}

// Readers must see exactly one champion while it is moved about.
func TestAliasMovesAreAtomic(t *testing.T) {
	db := open(t, temp(t))
	for _, id := range []string{"r1", "r2", "r3"} {
		if _, err := db.AddVersion(t.Context(), version("digits", id), "champion"); err != nil {
			t.Fatal(err)
		}
	}
	r := registry.New(db)
	ctx, stop := context.WithCancel(t.Context())
	var readers, movers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				versions, err := r.Versions(context.Background(), "default", "digits")
				if err != nil {
					t.Error(err)
					return
				}
				n := 0
				for _, v := range versions {
					n += len(v.Aliases)
				}
				if n != 1 {
					t.Errorf("a reader saw %d champions", n)
					return
				}
			}
		})
	}
	for _, to := range []int{2, 3} {
		movers.Go(func() {
			for range 50 {
				if _, err := r.MoveAlias(t.Context(), registry.AliasMove{Workspace: "default", Model: "digits", Alias: "champion", To: to, By: "bob", Reason: "test"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	movers.Wait()
	stop()
	readers.Wait()
	moves, err := r.AliasMoves(t.Context(), "default", "digits")
	if err != nil || len(moves) != 103 {
		t.Fatalf("%d moves in the history, %v; want 103", len(moves), err)
	}
	for i := 1; i < len(moves); i++ {
		if moves[i-1].From != moves[i].To {
			t.Errorf("move %d starts from %d, the one before led to %d", i-1, moves[i-1].From, moves[i].To)
		}
	}
	if _, err := r.MoveAlias(t.Context(), registry.AliasMove{Workspace: "default", Model: "digits", Alias: "champion", To: 9}); !problem.Is(err, problem.NotFound) {
		t.Errorf("moving to version 9: %v, want a problem.NotFound", err)
	}
	for _, name := range []string{"", ".", "../../x", "a/b", "%2e%2e%2fx", "a\x00", "http://h/a?/../x", string(make([]byte, 300))} {
		if _, err := r.Versions(t.Context(), "default", name); !problem.Is(err, problem.Invalid) {
			t.Errorf("model name %q: %v, want a problem.Invalid", name, err)
		}
	}
}

func TestEndpointRevisions(t *testing.T) {
	db := open(t, temp(t))
	deploy := func(runID string, version int) registry.Deployment {
		t.Helper()
		d, err := db.Deploy(t.Context(), registry.Deployment{Workspace: "default", Endpoint: "digits", Model: "digits", Version: version, JobID: "job", Service: "svc", Run: runID, Node: "endpoint.digits", Attempt: 1})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	check := func(step string, status registry.EndpointStatus, revision, version, pending int) {
		t.Helper()
		e, err := db.Endpoint(t.Context(), "default", "digits")
		if err != nil || e.Status != status || e.Revision != revision || e.Version != version || e.Pending != pending {
			t.Errorf("%s: %+v, %v", step, e, err)
		}
	}
	end := func(d registry.Deployment, reason string) {
		t.Helper()
		if err := db.Deployed(t.Context(), d, reason); err != nil {
			t.Fatal(err)
		}
	}
	d1 := deploy("r1", 1)
	check("first on its way", registry.Deploying, 0, 0, 1)
	end(d1, "")
	check("first live", registry.Live, 1, 1, 0)
	if again := deploy("r1", 1); again.Revision != 1 {
		t.Errorf("the same deployment got revision %d", again.Revision)
	}
	d2 := deploy("r2", 2)
	check("second on its way", registry.Live, 1, 1, 2)
	end(d2, "not ready in 2m")
	check("second failed: the first still serves", registry.Live, 1, 1, 0)
	end(deploy("r3", 3), "")
	check("third live", registry.Live, 3, 3, 0)
}

func TestMetricsKeepTheLaterValueOfAStep(t *testing.T) {
	db := open(t, temp(t))
	create(t, db, state("r1", ""))
	for _, v := range []float64{1, 2} {
		if err := db.Commit(t.Context(), run.Change{ID: "r1", Metrics: []run.MetricPoint{{Node: "step.train", Metric: "loss", Step: 1, Value: v, Time: noon}}}); err != nil {
			t.Fatal(err)
		}
	}
	points, err := db.Metrics(t.Context(), "r1", run.MetricFilter{})
	if err != nil || len(points) != 1 || points[0].Value != 2 {
		t.Errorf("points = %+v, %v", points, err)
	}
}

func points(n int) []run.MetricPoint {
	all := make([]run.MetricPoint, n)
	for i := range all {
		all[i] = run.MetricPoint{Node: "step.train", Metric: "loss", Step: int64(i), Value: float64(i), Time: noon}
	}
	return all
}

// Aim: 1,000 durable points in under a second one by one, under 50 ms at once.
func BenchmarkMetrics(b *testing.B) {
	b.Run("1000 one by one", func(b *testing.B) {
		db := open(b, temp(b))
		create(b, db, state("r1", ""))
		for b.Loop() {
			for _, p := range points(1000) {
				if err := db.Commit(b.Context(), run.Change{ID: "r1", Metrics: []run.MetricPoint{p}}); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("1000 at once", func(b *testing.B) {
		db := open(b, temp(b))
		create(b, db, state("r1", ""))
		for b.Loop() {
			if err := db.Commit(b.Context(), run.Change{ID: "r1", Metrics: points(1000)}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestDurations(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "drover.db"))
	ctx := t.Context()
	at := func(s int) *time.Time { return new(time.Unix(int64(s), 0).UTC()) }
	attempt := func(n int, phase run.Phase, began, ended *time.Time) run.AttemptState {
		return run.AttemptState{Node: "step.a", Attempt: run.Attempt{Number: n, Phase: phase, Started: began, Ended: ended}}
	}
	for i, pipeline := range []string{"p", "p", "other"} {
		s := run.State{Round: 1, Run: run.Run{ID: run.ID(fmt.Sprint("run", i)), Workspace: "w", Pipeline: pipeline, Submitted: *at(0)}}
		s.Nodes = []run.Node{{ID: "step.a"}}
		if _, _, err := db.Create(ctx, s, nil); err != nil {
			t.Fatal(err)
		}
		if err := db.Commit(ctx, run.Change{ID: s.ID, Attempts: []run.AttemptState{
			attempt(1, run.Failed, at(0), at(1000)), attempt(2, run.Succeeded, at(0), at(10*(i+1))), attempt(3, run.Succeeded, nil, nil),
		}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.Durations(ctx, "w", "p", "step.a", 20)
	if want := []time.Duration{20 * time.Second, 10 * time.Second}; err != nil || !slices.Equal(got, want) {
		t.Errorf("durations %v, %v, want %v: the newest first, of what has succeeded", got, err, want)
	}
	if got, err := db.Durations(ctx, "w", "p", "step.a", 1); err != nil || len(got) != 1 {
		t.Errorf("one of them: %v, %v", got, err)
	}
}
