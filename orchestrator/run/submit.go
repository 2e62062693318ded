package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Limits of a submission.
const (
	maxSource  = 8 << 20
	maxVars    = 1000
	maxUploads = 10_000
	maxKey     = 256
)

// InvalidPipelineError is what is wrong with a submission's pipeline file: the
// cause of a problem.Invalid, for errors.As. Diags are all of its problems.
type InvalidPipelineError struct {
	Filename string
	Source   []byte
	Diags    hcl.Diagnostics
}

func (e *InvalidPipelineError) Error() string { return e.Diags.Error() }

func invalidPipeline(s Submission, diags hcl.Diagnostics) error {
	cause := &InvalidPipelineError{Filename: s.Filename, Source: []byte(s.Source), Diags: diags}
	e := problem.At("source", "the pipeline file is not valid: %s", explain(diags))
	e.Err = cause
	return e
}

// parse parses a submission's pipeline file as it was when it was submitted.
func parse(s Submission) (*pipeline.Pipeline, hcl.Diagnostics) {
	return pipeline.Parse(s.Filename, []byte(s.Source), pipeline.Options{
		Vars:    s.Vars,
		Sources: func(path string) (string, bool) { d, ok := s.Uploads[path]; return d, ok },
	})
}

// inspect parses a new submission and checks everything that it says by itself.
func inspect(s *Submission) (*pipeline.Pipeline, error) {
	if s.Workspace == "" {
		s.Workspace = "default"
	}
	if s.Filename == "" {
		s.Filename = "pipeline.hcl"
	}
	switch {
	case registry.CheckWorkspace(s.Workspace) != nil:
		return nil, registry.CheckWorkspace(s.Workspace)
	case s.Source == "":
		return nil, problem.At("source", "source: the pipeline file is empty")
	case len(s.Source) > maxSource:
		return nil, problem.At("source", "source: the pipeline file has %d bytes, more than %d", len(s.Source), maxSource)
	case len(s.Vars) > maxVars:
		return nil, problem.At("vars", "vars: %d variables, more than %d", len(s.Vars), maxVars)
	case len(s.Uploads) > maxUploads:
		return nil, problem.At("uploads", "uploads: %d paths, more than %d", len(s.Uploads), maxUploads)
	case len(s.Key) > maxKey:
		return nil, problem.At("key", "key: longer than %d bytes", maxKey)
	}
	p, diags := parse(*s)
	if diags.HasErrors() {
		return nil, invalidPipeline(*s, diags)
	}
	for _, path := range p.Paths {
		if _, err := artifact.ParseDigest(s.Uploads[path.Path]); err != nil {
			return nil, problem.At("uploads."+path.Path, "%s:%d names %q, which was not uploaded", path.Range.Filename, path.Range.Start.Line, path.Path)
		}
	}
	return p, nil
}

// check inspects a new submission and checks that everything it names is there.
func (e *Engine) check(ctx context.Context, s *Submission) (*pipeline.Pipeline, error) {
	p, err := inspect(s)
	if err != nil {
		return nil, err
	}
	for _, path := range p.Paths {
		digest := artifact.Digest(s.Uploads[path.Path])
		has, err := e.config.Artifacts.Has(ctx, digest)
		if err != nil {
			return nil, problem.New(problem.Unavailable, "looking for %s in the artefact store: %w", path.Path, err)
		}
		if !has {
			return nil, problem.At("uploads."+path.Path, "%s: artefact %s is not whole in the artefact store: upload it again", path.Path, digest)
		}
		if !path.Folder {
			continue
		}
		m, err := e.config.Artifacts.Manifest(ctx, digest)
		if err != nil {
			return nil, problem.New(problem.Unavailable, "reading what %s is: %w", path.Path, err)
		}
		if m.Kind != artifact.KindDir {
			return nil, problem.At("uploads."+path.Path, "%s:%d: %s is a file; the code is the folder that the command starts in: name the folder that has the file", path.Code.Filename, path.Code.Start.Line, path.Path)
		}
	}
	return p, nil
}

// placeable checks that each task could start one day, as far as can be said.
func (e *Engine) placeable(ctx context.Context, s Submission, p *pipeline.Pipeline) error {
	q := e.config.Queue
	if q == nil {
		return nil
	}
	for _, n := range p.Nodes {
		t, ok := n.Early()
		if !ok {
			continue
		}
		r := requestOf(s.Workspace, n, t)
		var never *admission.NeverError
		switch err := q.Check(ctx, r); {
		case errors.As(err, &never):
			return problem.At("source", "%s:%d: %s can never start: %w", n.Range.Filename, n.Range.Start.Line, n.ID, err)
		case err != nil:
			return err
		}
	}
	return nil
}

// namespaceTimeout bounds how long a submission waits for Nomad.
const namespaceTimeout = 5 * time.Second

// checkNamespace checks that a workspace's namespace is there. If Nomad does not
// say, that shows when the first job is registered.
func (e *Engine) checkNamespace(ctx context.Context, workspace string) error {
	namespace := e.namespaceOf(workspace)
	if namespace == e.config.JobCluster.Namespace {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, namespaceTimeout)
	defer cancel()
	switch there, err := e.config.Cluster.In(namespace).Exist(ctx); {
	case err != nil:
		e.config.Logger.Warn("asking whether a workspace's namespace exists: taking the run as it is", "workspace", workspace, "namespace", namespace, "error", err)
	case !there:
		return problem.At("workspace", "workspace %q has its jobs in Nomad's namespace %q, which does not exist: create it (nomad namespace apply %s), or change the workspace's definition", workspace, namespace, namespace)
	}
	return nil
}

// Submit stores a new run and starts it. If the workspace has a run with the
// submission's key, that run is returned and created is false. A pipeline file
// that is wrong is a problem.Invalid with an *InvalidPipelineError.
func (e *Engine) Submit(ctx context.Context, s Submission) (r Run, created bool, err error) {
	if _, err := e.running(); err != nil {
		return Run{}, false, err
	}
	p, err := e.check(ctx, &s)
	if err != nil {
		return Run{}, false, err
	}
	if err := e.placeable(ctx, s, p); err != nil {
		return Run{}, false, err
	}
	if err := e.checkNamespace(ctx, s.Workspace); err != nil {
		return Run{}, false, err
	}
	at := now()
	state := State{Round: 1, Submission: s, Run: Run{
		ID: e.ids.next(at), Pipeline: p.Name, Workspace: s.Workspace, Phase: Running, By: s.By,
		Variables: p.Variables, Submitted: at, Started: &at,
	}}
	for _, n := range p.Nodes {
		state.Nodes = append(state.Nodes, Node{ID: n.ID, Kind: n.Kind, Phase: Waiting, Depends: n.DependsOn})
	}
	state.Clock = 1
	first := Event{Run: state.ID, Seq: 1, Time: at, Type: "run", Phase: Running, Message: "submitted by " + cmp.Or(s.By, "someone")}
	id, created, err := e.config.Store.Create(ctx, state, []Event{first})
	if err != nil {
		return Run{}, false, err
	}
	if created {
		r = state.Run
		r.Nodes = slices.Clone(state.Nodes)
		e.adopt(state, p)
		return r, true, nil
	}
	r, err = e.Get(ctx, id)
	return r, false, err
}

// Cancel ends a run: its tasks are stopped and its other nodes cancelled; an
// endpoint that is being deployed is waited for. Then its clean-up steps run;
// cancelling it again ends those too. It returns once the wish is stored. A
// run that has ended is a problem.Conflict.
func (e *Engine) Cancel(ctx context.Context, id ID, by string) error {
	if _, err := e.running(); err != nil {
		return err
	}
	if a := e.actor(id); a != nil {
		reply := make(chan error, 1)
		a.send(cancel{cmp.Or(by, "someone"), reply})
		select {
		case err := <-reply:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-a.done: // it has ended meanwhile, or the engine stops
			select {
			case err := <-reply:
				return err
			default:
			}
		}
	}
	r, err := e.config.Store.Run(ctx, id)
	if err != nil {
		return err
	}
	if r.Phase.Ended() {
		return problem.New(problem.Conflict, "run %s has ended already: %s", id, r.Phase)
	}
	return problem.New(problem.Unavailable, "run %s could not be told: try again", id)
}

type cancel struct {
	by    string
	reply chan<- error
}

func (m cancel) apply(a *actor) {
	a.replies = append(a.replies, m.reply)
	if a.ended {
		return
	}
	again := a.state.CancelledBy != ""
	if !again {
		a.state.CancelledBy = m.by
		a.change.run = true
		a.event(Event{Type: "run", Phase: Running, Message: "cancelled by " + m.by})
	}
	reason := "cancelled by " + m.by
	for _, n := range a.nodes {
		if n.Phase.Ended() || n.def.OnExit && !again {
			continue
		}
		if n.Phase == Waiting {
			a.end(n, Cancelled, reason)
			continue
		}
		for _, t := range n.tasks {
			if t.trial != nil && t.trial.Phase == Waiting {
				a.endTrial(t, Cancelled, reason)
			}
		}
		a.ready = append(a.ready, n) // a sweep may have ended with its last trial
	}
	for _, at := range a.open {
		n := at.task.node
		if n.Kind != pipeline.KindEndpoint && (!n.def.OnExit || again) {
			if at.Move.Open() && at.Stopping != "" { // being moved: now it is not
				at.Stopping = ""
			}
			at.Cancelled = at.Cancelled || at.Stopping == ""
			a.halt(at, reason)
		}
	}
}

// Retry runs those nodes of an ended run again that did not succeed, and its
// clean-up steps. What succeeded stays. A run that succeeded or goes on is a
// problem.Conflict.
func (e *Engine) Retry(ctx context.Context, id ID, by string) (Run, error) {
	if _, err := e.running(); err != nil {
		return Run{}, err
	}
	e.retrying.Lock()
	defer e.retrying.Unlock()
	if a := e.actor(id); a != nil && a.finished(ctx) != nil {
		return Run{}, problem.New(problem.Conflict, "run %s goes on: cancel it first, or wait for its end", id)
	}
	s, err := e.config.Store.Load(ctx, id)
	if err != nil {
		return Run{}, err
	}
	switch {
	case !s.Phase.Ended():
		return Run{}, problem.New(problem.Conflict, "run %s goes on: cancel it first, or wait for its end", id)
	case s.Phase == Succeeded:
		return Run{}, problem.New(problem.Conflict, "run %s has succeeded: submit it again to run it again", id)
	}
	p, diags := parse(s.Submission)
	if diags.HasErrors() {
		return Run{}, problem.New(problem.Conflict, "run %s cannot go on: %s", id, explain(diags))
	}
	onExit := map[pipeline.NodeID]bool{}
	for _, n := range p.Nodes {
		onExit[n.ID] = n.OnExit
	}
	c := s.rewind(onExit)
	s.Clock++
	c.Events = []Event{{Run: id, Seq: s.Clock, Time: now(), Type: "run", Phase: Running, Message: "tried again by " + cmp.Or(by, "someone")}}
	if err := e.config.Store.Commit(ctx, c); err != nil {
		return Run{}, err
	}
	e.bells.ring(id)
	e.adopt(s, p)
	return e.Get(ctx, id)
}

// rewind makes ready what did not succeed, and returns that as a change.
func (s *State) rewind(onExit map[pipeline.NodeID]bool) Change {
	s.Round++
	s.Phase, s.Error, s.Ended, s.CancelledBy = Running, "", nil, ""
	c := Change{ID: s.ID, Run: s}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Phase == Succeeded && !onExit[n.ID] {
			continue
		}
		for j := range n.Trials {
			if t := &n.Trials[j]; t.Phase != Succeeded {
				*t = Trial{Index: t.Index, Params: t.Params, Phase: Waiting}
				c.Trials = append(c.Trials, TrialState{Node: n.ID, Trial: *t})
			}
		}
		*n = Node{ID: n.ID, Kind: n.Kind, Depends: n.Depends, Phase: Waiting, Trials: n.Trials}
		c.Nodes = append(c.Nodes, *n)
	}
	return c
}

// finished waits for an actor that has ended its run to be gone, and is an
// error if it goes on.
func (a *actor) finished(ctx context.Context) error {
	r, err := a.engine.config.Store.Run(ctx, a.state.ID)
	if err != nil {
		return err
	}
	if !r.Phase.Ended() {
		return errors.New("it goes on")
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// String is progress as one line.
func (p *Progress) String() string {
	s := fmt.Sprintf("step %d", p.Step)
	if p.Epoch != 0 {
		s += fmt.Sprintf(", epoch %.4g", p.Epoch)
	}
	names := make([]string, 0, len(p.Metrics))
	for name := range p.Metrics {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s += fmt.Sprintf(", %s %.5g", name, p.Metrics[name])
	}
	return s
}
