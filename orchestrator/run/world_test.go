package run_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is an engine with everything around it that survives its death.
type world struct {
	t         fataler
	artifacts *clustertest.Artifacts
	cluster   *clustertest.Cluster
	path      string
	db        *store.DB
	engine    *run.Engine
	room      *room // of the queue; nil: there is none
	// namespace is the workspace's, "" for the default.
	namespace atomic.Pointer[string]

	mu     sync.Mutex
	tasks  map[string]func(clustertest.Task) clustertest.Exit // by node, or node and trial as "sweep.s/1"
	before []string                                           // what has started, in order
}

// deadline is how long a test waits for what should take milliseconds.
const deadline = 20 * time.Second

func newWorld(t *testing.T) *world {
	w := makeWorld(t, t.TempDir())
	t.Cleanup(w.close)
	return w
}

func makeWorld(t fataler, dir string) *world {
	w := &world{t: t, artifacts: clustertest.NewArtifacts(), path: filepath.Join(dir, "drover.db"), tasks: map[string]func(clustertest.Task) clustertest.Exit{}}
	w.namespace.Store(new(""))
	w.cluster = clustertest.New(w.artifacts, w.behave)
	return w
}

func (w *world) close() {
	if w.engine != nil {
		w.engine.Stop()
	}
	if w.db != nil {
		w.db.Close()
	}
	w.cluster.Close()
}

// open opens the store and starts an engine, through whatever wrap puts
// between it and the store.
func (w *world) open(wrap func(run.Store) run.Store) {
	w.t.Helper()
	db, err := store.Open(context.Background(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.db = db
	var s run.Store = db
	if wrap != nil {
		s = wrap(db)
	}
	w.engine = run.New(run.Config{
		Store: s, Cluster: w.cluster, Artifacts: w.artifacts,
		Queue: w.queue(s), Logger: quiet(), Workspaces: w,
		ResyncEvery: 200 * time.Millisecond, TailEvery: 5 * time.Millisecond, Backoff: time.Millisecond,
	})
	if err := w.engine.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// Definitions are those of the one workspace.
func (w *world) Definitions() workspace.Definitions {
	return workspace.Definitions{Workspaces: []workspace.Workspace{{Name: "default", Namespace: *w.namespace.Load()}}}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// shut ends the engine and closes the store, as the end of the process would.
func (w *world) shut() {
	w.engine.Stop()
	w.db.Close()
}

// task sets what a node's task does.
func (w *world) task(node string, f func(clustertest.Task) clustertest.Exit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks[node] = f
}

// behave does what the test has set, else writes outputs that follow from the
// node, its inputs and parameters.
func (w *world) behave(t clustertest.Task) clustertest.Exit {
	name := t.Meta(jobspec.MetaStep)
	if name == "" {
		name = "endpoint." + t.Meta(jobspec.MetaEndpoint)
	}
	if trial := t.Meta(jobspec.MetaTrial); trial != "" {
		name += "/" + trial
	}
	w.mu.Lock()
	f := w.tasks[name]
	w.before = append(w.before, name)
	w.mu.Unlock()
	if f != nil {
		return f(t)
	}
	return usual(t)
}

func usual(t clustertest.Task) clustertest.Exit {
	config := t.Job.TaskGroups[0].Tasks[0].Config
	x := clustertest.Exit{Outputs: map[string]string{}, Last: map[string]float64{}}
	inputs, _ := json.Marshal([]any{config["input"], config["params"], config["command"]})
	outputs, _ := config["output"].([]map[string]any)
	for _, o := range outputs {
		x.Outputs[o["name"].(string)] = fmt.Sprintf("%s of %s from %s", o["name"], t.Meta(jobspec.MetaStep), inputs)
	}
	return x
}

func exits(code int) func(clustertest.Task) clustertest.Exit {
	return func(clustertest.Task) clustertest.Exit {
		return clustertest.Exit{Code: code, Stderr: "first line\nsomething went wrong\n"}
	}
}

func measures(metrics map[string]float64) func(clustertest.Task) clustertest.Exit {
	return func(t clustertest.Task) clustertest.Exit {
		x := usual(t)
		x.Last = metrics
		return x
	}
}

// submission uploads a text for each path that it is given.
func (w *world) submission(source string, paths ...string) run.Submission {
	s := run.Submission{Workspace: "default", Filename: "pipeline.hcl", Source: source, Uploads: map[string]string{}, By: "ann"}
	for _, p := range paths {
		s.Uploads[p] = string(w.artifacts.Put("content of " + p))
	}
	return s
}

func (w *world) submit(source string, paths ...string) run.ID {
	w.t.Helper()
	r, created, err := w.engine.Submit(context.Background(), w.submission(source, paths...))
	if err != nil {
		w.t.Fatal(err)
	}
	if !created {
		w.t.Fatal("the run is not new")
	}
	return r.ID
}

// wait waits for a run's end.
func (w *world) wait(id run.ID) run.Run {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	events, err := w.engine.Watch(ctx, id, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var log []string
	for e := range events {
		log = append(log, fmt.Sprintf("%d %s %s %s %s", e.Seq, e.Type, e.Node, e.Phase, e.Message))
	}
	r := w.get(id)
	if !r.Phase.Ended() {
		w.t.Fatalf("run %s has not ended: %s\n%s", id, describe(r), strings.Join(log, "\n"))
	}
	return r
}

// until waits for an event that has ok.
func (w *world) until(id run.ID, what string, ok func(run.Event) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	events, err := w.engine.Watch(ctx, id, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for e := range events {
		if ok(e) {
			return
		}
	}
	w.t.Fatalf("run %s: never saw %s: %s", id, what, describe(w.get(id)))
}

func reaches(node pipeline.NodeID, phase run.Phase) func(run.Event) bool {
	return func(e run.Event) bool { return e.Node == node && e.Phase == phase && e.Type == "node" }
}

func (w *world) get(id run.ID) run.Run {
	w.t.Helper()
	r, err := w.engine.Get(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func describe(r run.Run) string {
	s := fmt.Sprintf("run %s: %s %q", r.ID, r.Phase, r.Error)
	for _, n := range r.Nodes {
		s += fmt.Sprintf("\n  %s: %s %q", n.ID, n.Phase, n.Reason)
		for _, a := range n.Attempts {
			s += fmt.Sprintf("\n    attempt %d %s %q", a.Number, a.Phase, a.Reason)
		}
	}
	return s
}

func node(r run.Run, id pipeline.NodeID) run.Node {
	i := slices.IndexFunc(r.Nodes, func(n run.Node) bool { return n.ID == id })
	if i < 0 {
		return run.Node{}
	}
	return r.Nodes[i]
}

// phases are those of all nodes.
func phases(r run.Run) map[pipeline.NodeID]run.Phase {
	m := map[pipeline.NodeID]run.Phase{}
	for _, n := range r.Nodes {
		m[n.ID] = n.Phase
	}
	return m
}
