package run_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/cluster"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/store"
)

const shell = `
pipeline "shell" {}
dataset "raw" { path = "raw.txt" }
step "prepare" {
  command = ["/bin/sh", "-c", "wc -c < $DROVER_INPUT_DIR/data > $DROVER_OUTPUT_DIR/size"]
  input "data" { from = dataset.raw }
  output "size" {}
  resources {
    cpu    = 50
    memory = "64 MiB"
  }
}
sweep "search" {
  command = ["/bin/sh", "-c", "echo '{\"step\":1,\"metrics\":{\"score\":'$DROVER_PARAM_X'}}' >> $DROVER_METRICS_FILE; cp $DROVER_INPUT_DIR/size $DROVER_OUTPUT_DIR/model"]
  method  = "grid"
  metric "score" { goal = "maximize" }
  parameter "x" { values = [1, 3, 2] }
  input "size" { from = step.prepare.output.size }
  output "model" {}
  resources {
    cpu    = 50
    memory = "64 MiB"
  }
}
step "fails" {
  command    = ["/bin/sh", "-c", "echo going down >&2; exit 3"]
  depends_on = [step.prepare]
  resources {
    cpu    = 50
    memory = "64 MiB"
  }
}
model "m" {
  from  = sweep.search.best.output.model
  alias = "champion"
}
`

// nomadWorld is an engine on the cluster at NOMAD_ADDR, which must be on this
// machine and have the ml driver.
func nomadWorld(ctx context.Context, t *testing.T) (e *run.Engine, uploads map[string]string) {
	t.Helper()
	if os.Getenv("NOMAD_ADDR") == "" {
		t.Skip("NOMAD_ADDR is not set: the engine is tested with a pretend cluster only")
	}
	dir := t.TempDir()
	url := "file://" + filepath.Join(dir, "artifacts")
	artifacts, err := artifact.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(dir, "raw.txt")
	if err := os.WriteFile(raw, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, _, err := artifacts.Put(ctx, raw)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, filepath.Join(dir, "drover.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	var log io.Writer = io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	e = run.New(run.Config{
		Store: db, Cluster: cluster.New(client), Artifacts: artifacts, JobCluster: jobspec.Cluster{StoreURL: url},
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e, map[string]string{"raw.txt": string(digest)}
}

// follow submits a pipeline and waits for its end.
func follow(ctx context.Context, t *testing.T, e *run.Engine, s run.Submission) run.Run {
	t.Helper()
	s.Filename = "pipeline.hcl"
	r, _, err := e.Submit(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	events, err := e.Watch(ctx, r.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	for ev := range events {
		trial := ""
		if ev.Trial != nil {
			trial = fmt.Sprint(" trial ", *ev.Trial)
		}
		t.Log(ev.Time.Format("05.000"), ev.Type, ev.Node, trial, ev.Phase, ev.Message)
	}
	if r, err = e.Get(ctx, r.ID); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOnNomad(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	e, uploads := nomadWorld(ctx, t)
	r := follow(ctx, t, e, run.Submission{Source: shell, Uploads: uploads})
	if r.Phase != run.Failed || r.Error != "step.fails failed: it exited with code 3" {
		t.Error(describe(r))
	}
	if s := node(r, "sweep.search"); s.Best == nil || *s.Best != 1 || node(r, "model.m").Version != 1 {
		t.Error(describe(r))
	}
	if f := node(r, "step.fails"); len(f.Attempts) != 1 || f.Attempts[0].LogTail != "going down\n" {
		t.Errorf("step.fails = %+v", f)
	}
	points, err := e.Metrics(ctx, r.ID, run.MetricFilter{Metric: "score"})
	if err != nil || len(points) != 3 {
		t.Errorf("points = %+v, %v", points, err)
	}
}

const shellEndpoint = `
pipeline "serve" {}
variable "serve" {
  type = string
}
step "train" {
  command = ["/bin/sh", "-c", "echo model > $DROVER_OUTPUT_DIR/model"]
  output "model" {}
}
model "served" {
  from = step.train.output.model
}
endpoint "WORKSPACE" {
  model         = model.served
  command       = ["/bin/sh", "-c", var.serve]
  ready_path    = "/"
  ready_timeout = "8s"
}
`

func TestEndpointOnNomad(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	e, _ := nomadWorld(ctx, t)
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to serve with")
	}
	name := fmt.Sprintf("e%d", time.Now().UnixNano()%1e9)
	good := python + " -m http.server --bind $NOMAD_IP_http $NOMAD_PORT_http"
	for i, tt := range []struct {
		what, serve       string
		phase             run.Phase
		revision, version int
	}{
		{"the first", good, run.Succeeded, 1, 1},
		{"one that dies", "echo cannot serve >&2; exit 4", run.Failed, 1, 1},
		{"a better one, of the same model", good + " # again", run.Succeeded, 3, 1},
	} {
		r := follow(ctx, t, e, run.Submission{Source: strings.Replace(shellEndpoint, "WORKSPACE", name, 1), Vars: map[string]string{"serve": tt.serve}})
		ep, err := e.Endpoint(ctx, "default", name)
		if r.Phase != tt.phase || err != nil || ep.Revision != tt.revision || ep.Version != tt.version || ep.Pending != 0 {
			t.Errorf("%d, %s: endpoint = %+v, %v\n%s", i, tt.what, ep, err, describe(r))
		}
	}
	if err := e.DeleteEndpoint(ctx, "default", name, "test"); err != nil {
		t.Error(err)
	}
}
