package run

import (
	"context"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/gate"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// championAlias is the alias that gates compare with.
const championAlias = "champion"

// advance takes everything as far as it goes without news.
func (a *actor) advance(ctx context.Context) {
	for {
		for len(a.ready) > 0 {
			n := a.ready[0]
			a.ready = a.ready[1:]
			a.proceed(ctx, n)
		}
		if a.left > 0 || !a.exit() {
			break
		}
	}
	if !a.ended {
		a.pump()
	}
}

// exit lets the clean-up nodes go on once the body has ended, and ends the run
// once they have ended too. It reports whether any node became ready.
func (a *actor) exit() bool {
	waits, over := false, true
	for _, n := range a.nodes {
		if n.Phase.Ended() {
			continue
		}
		over = false
		if n.Phase == Waiting && n.unmet == 0 {
			a.ready = append(a.ready, n)
			waits = true
		}
	}
	if over && !a.ended && a.orphans == 0 {
		a.endRun()
	}
	return waits
}

func (a *actor) endRun() {
	a.ended = true
	a.change.run = true
	var first *node
	failures := 0
	for _, n := range a.nodes {
		if n.Phase == Failed {
			failures++
			if first == nil {
				first = n
			}
		}
	}
	s := &a.state
	s.Ended = new(now())
	switch {
	case s.CancelledBy != "":
		s.Phase, s.Error = Cancelled, "cancelled by "+s.CancelledBy
	case first != nil:
		s.Phase = Failed
		s.Error = fmt.Sprintf("%s failed: %s", first.ID, first.Reason)
		if first.Kind == pipeline.KindGate {
			s.Error = fmt.Sprintf("%s refused: %s", first.ID, first.Reason)
		}
		if failures > 1 {
			s.Error += fmt.Sprintf(" (and %d more failed)", failures-1)
		}
	default:
		s.Phase, s.Error = Succeeded, ""
	}
	a.event(Event{Type: "run", Phase: s.Phase, Message: s.Error})
}

// proceed does what a node is ready for.
func (a *actor) proceed(ctx context.Context, n *node) {
	switch {
	case n.Phase.Ended():
	case n.Phase == Waiting:
		if n.unmet == 0 && (a.left == 0 || !n.def.OnExit) {
			a.begin(ctx, n)
		}
	case n.Kind == pipeline.KindSweep:
		a.launch(ctx, n)
	}
}

// begin decides about a node whose dependencies have all ended.
func (a *actor) begin(ctx context.Context, n *node) {
	runs, diags := n.def.When(a.known)
	switch {
	case diags.HasErrors():
		a.end(n, Failed, explain(diags))
		return
	case !runs:
		a.end(n, Skipped, n.def.SkipReason(a.known))
		return
	}
	switch n.Kind {
	case pipeline.KindDataset:
		a.dataset(ctx, n)
	case pipeline.KindStep:
		a.beginStep(ctx, n)
	case pipeline.KindSweep:
		a.beginSweep(ctx, n)
	case pipeline.KindGate:
		a.gate(ctx, n)
	case pipeline.KindModel:
		a.model(ctx, n)
	case pipeline.KindEndpoint:
		a.beginEndpoint(n)
	default:
		a.end(n, Failed, fmt.Sprintf("this server does not know nodes of kind %q", n.Kind))
	}
}

func (n *node) result() pipeline.Result {
	r := pipeline.Result{Status: pipeline.Status(n.Phase), Outputs: digests(n.Outputs), Metrics: n.Metrics, Version: n.Version}
	if n.Phase == Failed {
		r.Error = n.Reason
	}
	if n.Best != nil && *n.Best < len(n.tasks) {
		t := n.tasks[*n.Best].trial
		r.Best = &pipeline.Trial{Index: t.Index, Params: t.Params, Metrics: t.Metrics, Outputs: digests(t.Outputs)}
	}
	return r
}

func digests(outputs map[string]Output) map[string]string {
	d := make(map[string]string, len(outputs))
	for name, o := range outputs {
		d[name] = o.Digest
	}
	return d
}

// end ends a node and makes ready what waited for it.
func (a *actor) end(n *node, phase Phase, reason string) {
	n.Phase, n.Reason, n.Ended = phase, reason, new(now())
	if n.Started == nil && phase == Succeeded {
		n.Started = n.Ended // it took no time
	}
	a.change.nodes.add(n)
	a.known[n.ID] = n.result()
	a.event(Event{Type: "node", Node: n.ID, Phase: phase, Message: reason})
	for _, d := range n.dependents {
		d.unmet--
		if d.unmet == 0 {
			a.ready = append(a.ready, d)
		}
	}
	if !n.def.OnExit {
		a.left--
	}
	for _, t := range n.tasks {
		t.spec = nil
	}
}

// later has a node that could not be decided, as a store did not answer, wait
// and be decided again.
func (a *actor) later(n *node, reason string) {
	a.engine.config.Logger.Error("deciding about a node: trying again", "run", a.state.ID, "node", n.ID, "error", reason)
	if n.Reason != reason {
		n.Reason = reason
		a.change.nodes.add(n)
	}
	a.deferred = append(a.deferred, n)
	a.wake(now().Add(a.engine.config.Backoff * 4))
}

// explain is diagnostics as one sentence.
func explain(diags hcl.Diagnostics) string {
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			s := d.Summary
			if d.Detail != "" {
				s += ": " + d.Detail
			}
			if d.Subject != nil {
				s += fmt.Sprintf(" (%s:%d)", d.Subject.Filename, d.Subject.Start.Line)
			}
			return s
		}
	}
	return ""
}

func (a *actor) dataset(ctx context.Context, n *node) {
	digest := a.state.Submission.Uploads[n.def.Dataset.Path]
	has, err := a.engine.config.Artifacts.Has(ctx, artifact.Digest(digest))
	switch {
	case err != nil:
		a.later(n, fmt.Sprintf("looking for %s in the artefact store: %v", n.def.Dataset.Path, err))
	case !has:
		a.end(n, Failed, fmt.Sprintf("%s (%s) is not whole in the artefact store: submit the run again, which uploads it", n.def.Dataset.Path, digest))
	default:
		n.Outputs = map[string]Output{"data": {Digest: digest}}
		a.end(n, Succeeded, "")
	}
}

func (a *actor) beginStep(ctx context.Context, n *node) {
	spec, diags := n.def.Resolve(a.known)
	if diags.HasErrors() {
		a.end(n, Failed, explain(diags))
		return
	}
	n.Params, n.Inputs = spec.Params, spec.Inputs
	t := n.tasks[0]
	t.spec = &spec
	hit, key := a.engine.cached(ctx, a.state.Submission, n.Kind, spec)
	n.CacheKey = key
	switch {
	case hit != nil:
		n.Cached, n.Outputs, n.Metrics = hit.Run, hit.Outputs, hit.Metrics
		a.end(n, Succeeded, fmt.Sprintf("nothing has changed since run %s: its result was taken over", hit.Run))
	default:
		a.queued(n)
		a.try(t, time.Time{})
	}
}

func (a *actor) queued(n *node) {
	n.Phase, n.Reason = Queued, ""
	a.change.nodes.add(n)
	a.event(Event{Type: "node", Node: n.ID, Phase: Queued})
}

// cached looks for a result that spec may take over, nil if there is none, and
// gives its cache key. A result whose outputs are not whole in the artefact
// store any more does not count.
func (e *Engine) cached(ctx context.Context, s Submission, kind pipeline.Kind, spec pipeline.Task) (*CacheEntry, string) {
	key := spec.CacheKey(kind)
	if !spec.Cache || s.NoCache {
		return nil, key
	}
	hit, ok, err := e.config.Store.Cached(ctx, s.Workspace, key)
	if err != nil {
		e.config.Logger.Warn("looking in the cache: running the task", "key", key, "error", err)
	}
	if err != nil || !ok {
		return nil, key
	}
	for name, o := range hit.Outputs {
		has, err := e.config.Artifacts.Has(ctx, artifact.Digest(o.Digest))
		if err != nil || !has {
			e.config.Logger.Info("a cached result is not whole any more: running the task", "key", key, "run", hit.Run, "node", hit.Node, "output", name, "error", err)
			return nil, key
		}
	}
	return &hit, key
}

func (a *actor) beginSweep(ctx context.Context, n *node) {
	specs, diags := n.def.Trials(a.known)
	if diags.HasErrors() {
		a.end(n, Failed, explain(diags))
		return
	}
	n.Phase, n.Reason, n.Started, n.next = Running, "", new(now()), 0
	a.change.nodes.add(n)
	a.event(Event{Type: "node", Node: n.ID, Phase: Running, Message: fmt.Sprintf("%d trials", len(specs))})
	if len(n.tasks) == 0 { // else it is run again, and some trials are there
		for i, spec := range specs {
			t := &task{node: n, trial: &Trial{Index: i, Phase: Waiting, Params: spec.Params}}
			n.tasks = append(n.tasks, t)
			a.change.trials.add(t)
		}
	}
	if len(specs) > 0 {
		n.Inputs = specs[0].Inputs
	}
	for i, t := range n.tasks {
		if i < len(specs) {
			t.spec = &specs[i]
		}
	}
	a.launch(ctx, n)
}

// launch starts as many trials as may run at once, and ends the sweep after
// the last one.
func (a *actor) launch(ctx context.Context, n *node) {
	parallel := n.def.Sweep.Parallel
	for ; n.next < len(n.tasks) && (parallel <= 0 || n.active < parallel); n.next++ {
		t := n.tasks[n.next]
		if t.trial.Phase != Waiting {
			continue
		}
		a.beginTrial(ctx, t)
	}
	if n.active == 0 && n.next == len(n.tasks) {
		a.endSweep(n)
	}
}

func (a *actor) beginTrial(ctx context.Context, t *task) {
	spec, err := a.spec(t)
	if err != nil {
		a.endTrial(t, Failed, err.Error())
		return
	}
	hit, key := a.engine.cached(ctx, a.state.Submission, t.node.Kind, *spec)
	t.trial.CacheKey = key
	switch {
	case hit != nil:
		t.trial.Cached, t.trial.Outputs, t.trial.Metrics = hit.Run, hit.Outputs, hit.Metrics
		a.endTrial(t, Succeeded, fmt.Sprintf("nothing has changed since run %s: its result was taken over", hit.Run))
	default:
		t.node.active++
		t.trial.Phase, t.trial.Reason = Queued, ""
		a.change.trials.add(t)
		a.event(Event{Type: "trial", Node: t.node.ID, Trial: t.index(), Phase: Queued})
		a.try(t, time.Time{})
	}
}

func (a *actor) endTrial(t *task, phase Phase, reason string) {
	if t.trial.Phase == Queued || t.trial.Phase == Running {
		t.node.active--
	}
	t.trial.Phase, t.trial.Reason, t.trial.Ended = phase, reason, new(now())
	if t.trial.Started == nil && phase == Succeeded {
		t.trial.Started = t.trial.Ended
	}
	t.spec = nil
	a.change.trials.add(t)
	a.event(Event{Type: "trial", Node: t.node.ID, Trial: t.index(), Phase: phase, Message: reason})
}

// endSweep chooses the best of the trials that succeeded. Ties go to the
// lowest index; a trial without the metric, or with no finite value, cannot
// win.
func (a *actor) endSweep(n *node) {
	s := n.def.Sweep
	var best *Trial
	counts := map[Phase]int{}
	var reason string
	for _, t := range n.tasks {
		counts[t.trial.Phase]++
		if t.trial.Phase == Failed && reason == "" {
			reason = fmt.Sprintf("trial %d: %s", t.trial.Index, t.trial.Reason)
		}
		if t.trial.Phase == Succeeded && better(t.trial, best, s.Metric, s.Maximize) {
			best = t.trial
		}
	}
	switch {
	case counts[Cancelled] > 0:
		a.end(n, Cancelled, fmt.Sprintf("%d of %d trials had ended", len(n.tasks)-counts[Cancelled], len(n.tasks)))
	case best != nil:
		n.Best, n.Metrics, n.Outputs, n.Params = &best.Index, best.Metrics, best.Outputs, best.Params
		reason = ""
		if counts[Failed] > 0 {
			reason = fmt.Sprintf("%d of %d trials failed", counts[Failed], len(n.tasks))
		}
		a.end(n, Succeeded, reason)
	case counts[Succeeded] > 0:
		a.end(n, Failed, fmt.Sprintf("no trial has logged a finite value of the metric %q", s.Metric))
	case reason == "":
		a.end(n, Failed, "there are no trials")
	default:
		a.end(n, Failed, fmt.Sprintf("all %d trials failed; %s", len(n.tasks), reason))
	}
}

// better reports whether t beats best, nil being worse than any finite value.
func better(t, best *Trial, metric string, maximize bool) bool {
	v, ok := t.Metrics[metric]
	if !ok || math.IsNaN(v) || math.IsInf(v, 0) {
		return false
	}
	if best == nil {
		return true
	}
	if maximize {
		return v > best.Metrics[metric]
	}
	return v < best.Metrics[metric]
}

func (a *actor) gate(ctx context.Context, n *node) {
	g := n.def.Gate
	var champion *gate.Champion
	if g.Model != "" {
		v, ok, err := a.engine.registry.ByAlias(ctx, a.state.Workspace, g.Model, championAlias)
		if err != nil {
			a.later(n, fmt.Sprintf("reading the champion of model %q: %v", g.Model, err))
			return
		}
		if ok {
			champion = &gate.Champion{Version: v.Number, Metrics: v.Metrics}
		}
	}
	verdict := gate.Evaluate(g.Checks, func(id pipeline.NodeID) map[string]float64 {
		if d := a.byID[id]; d != nil {
			return d.Metrics
		}
		return nil
	}, champion)
	n.Gate = &verdict
	for _, c := range verdict.Checks {
		a.event(Event{Type: "gate", Node: n.ID, Message: c.Reason})
	}
	if verdict.Passed {
		a.end(n, Succeeded, "")
	} else {
		a.end(n, Failed, verdict.Refusal())
	}
}

// model registers a version. Doing it again for the same node, as after a
// crash, gives the same version.
func (a *actor) model(ctx context.Context, n *node) {
	m := n.def.Model
	if err := registry.CheckName("model", m.Registered); err != nil {
		a.end(n, Failed, err.Error())
		return
	}
	source := a.byID[m.Source]
	output, ok := source.Outputs[m.Output]
	if !ok {
		a.end(n, Failed, fmt.Sprintf("%s has left no output %q", m.Source, m.Output))
		return
	}
	metrics := map[string]float64{}
	maps.Copy(metrics, source.Metrics)
	for _, id := range m.Metrics {
		if d := a.byID[id]; d != nil {
			maps.Copy(metrics, d.Metrics)
		}
	}
	v, err := a.engine.config.Store.AddVersion(ctx, registry.Version{
		Workspace: a.state.Workspace, Model: m.Registered, Digest: output.Digest,
		Metrics: metrics, Params: source.Params, Inputs: source.Inputs,
		Run: string(a.state.ID), Node: string(n.ID), Source: string(source.ID),
		Pipeline: a.state.Pipeline, By: a.state.By, Created: now(),
	}, m.Alias)
	if err != nil {
		a.later(n, err.Error())
		return
	}
	n.Model, n.Version, n.Metrics = m.Registered, v.Number, metrics
	n.Outputs = map[string]Output{"model": output}
	if v.Run != string(a.state.ID) {
		a.end(n, Succeeded, fmt.Sprintf("unchanged: version %d is the same, registered by run %s", v.Number, v.Run))
		return
	}
	a.event(Event{Type: "model", Node: n.ID, Message: fmt.Sprintf("registered as version %d of model %q", v.Number, m.Registered)})
	a.end(n, Succeeded, "")
}

func (a *actor) beginEndpoint(n *node) {
	spec, diags := n.def.Resolve(a.known)
	if diags.HasErrors() {
		a.end(n, Failed, explain(diags))
		return
	}
	n.Params, n.Inputs, n.Endpoint = spec.Params, spec.Inputs, n.def.Name
	if m := a.byID[n.def.Endpoint.Model]; m != nil {
		n.Model, n.Version = m.Model, m.Version
	}
	n.tasks[0].spec = &spec
	a.queued(n)
	a.try(n.tasks[0], time.Time{})
}

// spec is what a task runs, resolved again if it is not known any more.
func (a *actor) spec(t *task) (*pipeline.Task, error) {
	if t.spec != nil {
		return t.spec, nil
	}
	n := t.node
	if t.trial == nil {
		spec, diags := n.def.Resolve(a.known)
		if diags.HasErrors() {
			return nil, diags
		}
		t.spec = &spec
		return t.spec, nil
	}
	specs, diags := n.def.Trials(a.known)
	if diags.HasErrors() {
		return nil, diags
	}
	for i, x := range n.tasks {
		if i < len(specs) && !x.trial.Phase.Ended() {
			x.spec = &specs[i]
		}
	}
	if t.spec == nil {
		return nil, fmt.Errorf("the sweep has no trial %d any more", t.trial.Index)
	}
	return t.spec, nil
}

// job makes the job of an attempt.
func (a *actor) job(at *attempt) (*api.Job, error) {
	spec, err := a.spec(at.task)
	if err != nil {
		return nil, err
	}
	n := at.task.node
	if n.Kind == pipeline.KindEndpoint {
		return a.revision(at, *at.Deployment)
	}
	id := a.identity(at)
	for _, f := range at.Avoid {
		id.Avoid = append(id.Avoid, f.Device)
	}
	at.pin(&id, spec.Gang != nil)
	return jobspec.Task(id, *spec, a.jobCluster(at))
}

// revision makes the job of an endpoint's revision.
func (a *actor) revision(at *attempt, d registry.Deployment) (*api.Job, error) {
	spec, err := a.spec(at.task)
	if err != nil {
		return nil, err
	}
	n := at.task.node
	return jobspec.Endpoint(jobspec.EndpointIdentity{
		Name: n.def.Name, Revision: d.Revision, Workspace: a.state.Workspace,
		Model: d.Model, Version: d.Version, Pipeline: a.state.Pipeline, Run: string(a.state.ID),
	}, *spec, *n.def.Endpoint, a.jobCluster(at))
}

// jobCluster is where an attempt's job goes.
func (a *actor) jobCluster(at *attempt) jobspec.Cluster {
	c := a.engine.jobCluster(a.state.Workspace)
	c.Namespace = at.Namespace
	return c
}
