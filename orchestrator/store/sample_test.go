package store

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
)

var update = flag.Bool("update", false, "write testdata/schema-<newest>.db anew")

// Every schema that was released has a file in testdata that it wrote. All of
// them must open, and hold what they held.
func TestSampleFilesOpen(t *testing.T) {
	if *update {
		writeSample(t, filepath.Join("testdata", "schema-2.db"))
	}
	files, err := filepath.Glob("testdata/schema-*.db")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no sample files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			path := temp(t)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			checkSample(t, open(t, path), filepath.Base(file))
		})
	}
}

func checkSample(t *testing.T, db *DB, file string) {
	ctx := t.Context()
	s, err := db.Load(ctx, "d227t0000000")
	if err != nil {
		t.Fatal(err)
	}
	if s.Phase != run.Succeeded || s.Clock != 2 || s.Submission.Key != "nightly" || len(s.Nodes) != 2 || len(s.Attempts) != 1 || len(s.Nodes[1].Trials) != 1 {
		t.Errorf("run = %+v", s)
	}
	points, err := db.Metrics(ctx, s.ID, run.MetricFilter{})
	if err != nil || len(points) != 1 || points[0].Value != 0.25 {
		t.Errorf("metrics = %+v, %v", points, err)
	}
	versions, err := db.Versions(ctx, "default", "digits")
	if err != nil || len(versions) != 1 || versions[0].Aliases[0] != "champion" {
		t.Errorf("versions = %+v, %v", versions, err)
	}
	e, err := db.Endpoint(ctx, "default", "digits")
	if err != nil || e.Status != registry.Live || e.Revision != 1 {
		t.Errorf("endpoint = %+v, %v", e, err)
	}
	if _, ok, err := db.Cached(ctx, "default", "key"); !ok || err != nil {
		t.Errorf("cached = %v, %v", ok, err)
	}
	if produced, _, err := db.Origins(ctx, "default", "sha256:aa"); len(produced) != 1 || err != nil {
		t.Errorf("origins = %+v, %v", produced, err)
	}
	incidents, err := db.Incidents(ctx, failover.Filter{})
	want := 1
	if file == "schema-1.db" {
		want = 0 // it knew of none
	}
	if err != nil || len(incidents) != want || want > 0 && len(incidents[0].Affected) != 2 {
		t.Errorf("incidents = %+v, %v; want %d", incidents, err, want)
	}
}

func writeSample(t *testing.T, path string) {
	t.Helper()
	ctx := t.Context()
	temporary := temp(t)
	db := open(t, temporary)
	s := state("d227t0000000", "nightly")
	create(t, db, s)
	zero := 0
	s.Phase, s.Nodes[0].Phase = run.Succeeded, run.Succeeded
	s.Nodes[0].Outputs = map[string]run.Output{"model": {Digest: "sha256:aa"}}
	d := registry.Deployment{Workspace: "default", Endpoint: "digits", Model: "digits", Version: 1, JobID: "job", Service: "svc", Run: string(s.ID), Node: "endpoint.digits", Attempt: 1}
	err := db.Commit(ctx, run.Change{
		ID: s.ID, Run: &s, Nodes: s.Nodes[:1],
		Trials: []run.TrialState{{Node: "sweep.search", Trial: run.Trial{Phase: run.Succeeded}}},
		Attempts: []run.AttemptState{{Node: "sweep.search", Round: 1, Attempt: run.Attempt{Number: 1, Trial: &zero, JobID: "job", Phase: run.Succeeded},
			Move: &failover.Move{Incident: "inc1", Phase: failover.Resumed}}},
		Events:  []run.Event{{Run: s.ID, Seq: 2, Time: noon, Type: "run", Phase: run.Succeeded}},
		Metrics: []run.MetricPoint{{Node: "step.train", Metric: "loss", Step: 1, Value: 0.25, Time: noon}},
		Cache:   []run.CacheEntry{{Workspace: "default", Key: "key", Run: s.ID, Node: pipeline.NodeID("step.train")}},
	})
	if err == nil {
		_, err = db.AddVersion(ctx, version("digits", string(s.ID)), "champion")
	}
	if err == nil {
		d, err = db.Deploy(ctx, d)
	}
	if err == nil {
		_, err = db.OpenIncident(ctx, failover.Incident{ID: "inc1", Seen: noon, Times: 1, Instances: []failover.Move{{Incident: "inc1", Endpoint: "digits"}}})
	}
	if err == nil {
		err = db.Deployed(ctx, d, "")
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(temporary)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
