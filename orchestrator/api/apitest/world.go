// Package apitest is an engine for tests of the API and of what speaks to it.
//
// It keeps its state in memory and runs nothing: a run goes through the stages
// that its pipeline was given, one each time that someone asks for it. So what
// a client sees of a run's life is the same in every test.
package apitest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
)

// World is all that the engine knows. Its fields are set before it is used.
type World struct {
	// Stages of the runs of a pipeline, by its name. Without any, a run has
	// ended well as soon as it is submitted.
	Stages map[string][]run.Run
	// Logs by node.
	LogText map[pipeline.NodeID]string
	Points  []run.MetricPoint
	Origin  run.Lineage
	// Work is the queue, and WhatIfs what it would be like with so many more nodes
	// like one, by "LIKE=COUNT".
	Work    []admission.Entry
	WhatIfs map[string]admission.Comparison
	// Outlooks are what the queue would do with nodes of a plan.
	Outlooks map[pipeline.NodeID][]admission.Entry
	// Fail, if it is set, is what every call fails with.
	Fail error

	mu        sync.Mutex
	runs      []*staged
	keys      map[string]run.ID
	models    []registry.Model
	versions  []registry.Version
	moves     []registry.AliasMove
	endpoints []registry.Endpoint
	incidents []failover.Incident
}

type staged struct {
	stages []run.Run
	at     int
	events []run.Event
}

// Epoch is when everything in a World happens.
var Epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Add puts runs into the world, the oldest first.
func (w *World) Add(runs ...run.Run) *World {
	for _, r := range runs {
		w.runs = append(w.runs, &staged{stages: []run.Run{r}})
	}
	return w
}

// AddModel puts a model with its versions into the world, the newest first.
func (w *World) AddModel(m registry.Model, versions ...registry.Version) *World {
	w.models = append(w.models, m)
	w.versions = append(w.versions, versions...)
	return w
}

// AddEndpoint puts an endpoint into the world.
func (w *World) AddEndpoint(e registry.Endpoint) *World {
	w.endpoints = append(w.endpoints, e)
	return w
}

func (w *World) find(id run.ID) (*staged, error) {
	if w.Fail != nil {
		return nil, w.Fail
	}
	for _, s := range w.runs {
		if s.stages[0].ID == id {
			return s, nil
		}
	}
	return nil, problem.New(problem.NotFound, "there is no run %q", id)
}

// Submit starts a run that goes through its pipeline's stages.
func (w *World) Submit(_ context.Context, sub run.Submission) (run.Run, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Fail != nil {
		return run.Run{}, false, w.Fail
	}
	p, err := parse(sub)
	if err != nil {
		return run.Run{}, false, err
	}
	key := sub.Workspace + "\x00" + sub.Key
	if id, ok := w.keys[key]; ok && sub.Key != "" {
		s, err := w.find(id)
		return s.stages[s.at], false, err
	}
	first := run.Run{
		ID: run.ID(fmt.Sprintf("run%09d", len(w.runs)+1)), Pipeline: p.Name, Workspace: sub.Workspace, By: sub.By,
		Phase: run.Succeeded, Submitted: Epoch, Variables: p.Variables,
	}
	s := &staged{stages: []run.Run{first}}
	for i, stage := range w.Stages[p.Name] {
		stage.ID, stage.Pipeline, stage.Workspace, stage.By, stage.Submitted = first.ID, p.Name, sub.Workspace, sub.By, Epoch
		if i == 0 {
			s.stages = nil
		}
		s.stages = append(s.stages, stage)
		s.events = append(s.events, run.Event{Run: first.ID, Seq: int64(i + 1), Time: Epoch, Type: "run", Phase: stage.Phase})
	}
	w.runs = append(w.runs, s)
	if w.keys == nil {
		w.keys = map[string]run.ID{}
	}
	w.keys[key] = first.ID
	return s.stages[0], true, nil
}

// parse parses a submission as the engine does.
func parse(sub run.Submission) (*pipeline.Pipeline, error) {
	if sub.Source == "" {
		return nil, problem.At("source", "source: the pipeline file is empty")
	}
	p, diags := pipeline.Parse(sub.Filename, []byte(sub.Source), pipeline.Options{
		Vars:    sub.Vars,
		Sources: func(path string) (string, bool) { d, ok := sub.Uploads[path]; return d, ok },
	})
	if diags.HasErrors() {
		e := problem.At("source", "the pipeline file is not valid")
		e.Err = &run.InvalidPipelineError{Filename: sub.Filename, Source: []byte(sub.Source), Diags: diags}
		return nil, e
	}
	return p, nil
}

// Plan says that everything would run.
func (w *World) Plan(_ context.Context, sub run.Submission) (run.Plan, error) {
	if w.Fail != nil {
		return run.Plan{}, w.Fail
	}
	p, err := parse(sub)
	if err != nil {
		return run.Plan{}, err
	}
	plan := run.Plan{Pipeline: p.Name, Variables: p.Variables}
	for _, n := range p.Nodes {
		plan.Nodes = append(plan.Nodes, run.PlannedNode{ID: n.ID, Kind: n.Kind, DependsOn: n.DependsOn, Action: run.ActRun, Queue: w.Outlooks[n.ID]})
	}
	return plan, nil
}

// Get returns a run, and moves it on to its next stage.
func (w *World) Get(_ context.Context, id run.ID) (run.Run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.find(id)
	if err != nil {
		return run.Run{}, err
	}
	r := s.stages[s.at]
	s.at = min(s.at+1, len(s.stages)-1)
	return r, nil
}

// List returns runs, the newest first.
func (w *World) List(_ context.Context, f run.Filter) ([]run.Run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Fail != nil {
		return nil, w.Fail
	}
	var out []run.Run
	older := f.Before == ""
	for _, s := range slices.Backward(w.runs) {
		r := s.stages[s.at]
		if older && r.Workspace == f.Workspace && (f.Pipeline == "" || f.Pipeline == r.Pipeline) &&
			(f.Phase == "" || f.Phase == r.Phase) && len(out) < f.Limit {
			r.Nodes = nil
			out = append(out, r)
		}
		older = older || r.ID == f.Before
	}
	return out, nil
}

// Cancel ends a run.
func (w *World) Cancel(_ context.Context, id run.ID, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.find(id)
	if err != nil {
		return err
	}
	r := s.stages[s.at]
	if r.Phase.Ended() {
		return problem.New(problem.Conflict, "run %s has ended already: %s", id, r.Phase)
	}
	r.Phase = run.Cancelled
	s.stages, s.at = []run.Run{r}, 0
	return nil
}

// Retry makes a run that failed succeed.
func (w *World) Retry(_ context.Context, id run.ID, _ string) (run.Run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.find(id)
	if err != nil {
		return run.Run{}, err
	}
	r := s.stages[s.at]
	if r.Phase == run.Succeeded || !r.Phase.Ended() {
		return run.Run{}, problem.New(problem.Conflict, "run %s is %s; only a run that failed or was cancelled can be retried", id, r.Phase)
	}
	r.Phase, r.Error = run.Succeeded, ""
	s.stages, s.at = []run.Run{r}, 0
	return r, nil
}

// Events returns the events of the stages that a run has been through.
func (w *World) Events(_ context.Context, id run.ID, after int64, limit int) ([]run.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.find(id)
	if err != nil {
		return nil, err
	}
	var out []run.Event
	for _, e := range s.events {
		if e.Seq > after && e.Seq <= int64(s.at)+1 && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, nil
}

// Watch ends when ctx does: nothing happens in a World by itself.
func (w *World) Watch(ctx context.Context, id run.ID, _ int64) (<-chan run.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.find(id)
	if err != nil {
		return nil, err
	}
	events := make(chan run.Event)
	if len(s.events) > 0 { // someone who asks again will see the next stage
		close(events)
		return events, nil
	}
	context.AfterFunc(ctx, func() { close(events) })
	return events, nil
}

// Metrics returns the points that f selects.
func (w *World) Metrics(_ context.Context, id run.ID, f run.MetricFilter) ([]run.MetricPoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.find(id); err != nil {
		return nil, err
	}
	var out []run.MetricPoint
	for _, p := range w.Points {
		if (f.Node == "" || f.Node == p.Node) && (f.Metric == "" || f.Metric == p.Metric) && len(out) < f.Limit {
			out = append(out, p)
		}
	}
	return out, nil
}

// Logs writes a node's text.
func (w *World) Logs(_ context.Context, id run.ID, s run.LogSelector, out io.Writer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.find(id); err != nil {
		return err
	}
	text, ok := w.LogText[s.Node]
	if !ok {
		return problem.New(problem.NotFound, "%s has not started yet, so there is no log", s.Node)
	}
	if s.Stream == "stderr" {
		text = strings.ToUpper(text)
	}
	if s.Rank != nil {
		text = fmt.Sprintf("rank %d: %s", *s.Rank, text)
	}
	_, err := io.WriteString(out, text)
	return err
}

// Lineage returns w.Origin.
func (w *World) Lineage(_ context.Context, _, digest string) (run.Lineage, error) {
	l := w.Origin
	l.Digest = digest
	return l, w.Fail
}
