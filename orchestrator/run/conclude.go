package run

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Limits of what is read of an attempt that has ended.
const (
	logTailBytes    = 16 << 10
	logTailTimeout  = 5 * time.Second
	maxMetricsLine  = 1 << 20
	maxMetricPoints = 1_000_000
	// pointsPerChange keeps a transaction short.
	pointsPerChange = 20_000
)

// record reads an attempt's result record, nil if there is none.
func (e *Engine) record(ctx context.Context, id jobspec.Identity) (*mltask.Result, error) {
	return e.recordAt(ctx, id.ResultKey())
}

func (e *Engine) recordAt(ctx context.Context, key string) (*mltask.Result, error) {
	var r mltask.Result
	err := e.config.Artifacts.GetRecord(ctx, "results/"+key, &r)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, artifact.ErrNotFound):
		return nil, nil
	case errors.As(err, &syntax), errors.As(err, &kind):
		return &mltask.Result{Error: fmt.Sprintf("its result record cannot be read: %v", err), ExitCode: -1}, nil
	case err != nil:
		return nil, err
	}
	return &r, nil
}

// lookInto finds out how an attempt ended: what its record says, and the last
// lines of its log if it failed.
func (a *actor) lookInto(at *attempt, gone bool) {
	if a.isGang(at) {
		a.lookIntoGang(at, gone)
		return
	}
	at.busy = true
	a.engine.tails.drop(at.JobID)
	alloc, stopping, id := at.alloc, at.Stopping, a.identity(at)
	leaving := at.Move != nil && at.Move.Phase == failover.Leaving
	cancelled, jobs := at.Cancelled, a.jobs(at)
	a.call(at, func(ctx context.Context) (message, error) {
		r, err := a.engine.record(ctx, id)
		if err != nil {
			return nil, err
		}
		o := judge(alloc, r, stopping, cancelled, gone)
		if o.Phase == Failed && alloc != nil {
			o.LogTail = a.engine.logTail(ctx, jobs, alloc.ID)
		}
		o.Points = a.engine.points(ctx, r, id)
		o.Loss, err = a.engine.loss(ctx, o, leaving, alloc, id)
		return concluded{at, o}, err
	})
}

// logTail is the end of a task's stderr, else of its stdout, as far as they
// can be had.
func (e *Engine) logTail(ctx context.Context, jobs Jobs, allocID string) string {
	ctx, cancel := context.WithTimeout(ctx, logTailTimeout)
	defer cancel()
	for _, stream := range []string{"stderr", "stdout"} {
		r, err := jobs.Logs(ctx, allocID, jobspec.TaskName, stream, logTailBytes, false)
		if err != nil {
			e.config.Logger.Info("reading the log of a failed task", "alloc", allocID, "error", err)
			continue
		}
		b, err := io.ReadAll(io.LimitReader(r, logTailBytes))
		r.Close()
		if tail := lastLines(string(b)); tail != "" {
			return tail
		}
		if err != nil {
			e.config.Logger.Info("reading the log of a failed task", "alloc", allocID, "error", err)
		}
	}
	return ""
}

// points reads the metrics file that a task left, as far as it can be read.
func (e *Engine) points(ctx context.Context, r *mltask.Result, id jobspec.Identity) []MetricPoint {
	if r == nil || r.Metrics == "" {
		return nil
	}
	var points []MetricPoint
	f, err := e.config.Artifacts.OpenBlob(ctx, artifact.Digest(r.Metrics))
	if err == nil {
		defer f.Close()
		s := bufio.NewScanner(f)
		s.Buffer(make([]byte, 0, 4<<10), maxMetricsLine)
		for s.Scan() && len(points) < maxMetricPoints {
			// A task may write what it likes; the driver has told it what is wrong.
			if line, err := mltask.ParseMetricsLine(s.Bytes()); err == nil {
				points = appendPoints(points, line, id.Node, id.Trial)
			}
		}
		err = s.Err()
	}
	if err != nil {
		e.config.Logger.Warn("reading a task's metrics file from the artefact store", "run", id.Run, "node", id.Node, "error", err)
	}
	return points
}

func appendPoints(points []MetricPoint, line mltask.MetricsLine, node pipeline.NodeID, trial *int) []MetricPoint {
	at := now()
	if line.Time > 0 {
		whole, part := math.Modf(line.Time)
		at = time.Unix(int64(whole), int64(part*1e9)).UTC()
	}
	for name, v := range line.Metrics {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			points = append(points, MetricPoint{Node: node, Trial: trial, Metric: name, Step: line.Step, Value: v, Time: at})
		}
	}
	return points
}

// concluded is the news of how an attempt ended.
type concluded struct {
	at *attempt
	outcome
}

func (m concluded) apply(a *actor) {
	m.at.busy = false
	a.conclude(m.at, m.outcome)
}

// conclude ends an attempt, and with it its task unless that is tried again.
func (a *actor) conclude(at *attempt, o outcome) {
	if at.Phase.Ended() {
		return
	}
	if o.Loss != nil {
		a.lose(at, &o)
	}
	if o.Incomplete && o.Phase == Failed && !at.Again { // whoever was missing, all give back what they had
		at.Again = true
		a.declined(at)
	}
	if at.Again && o.Phase == Failed {
		o.Free, at.Moved = true, at.Moved || len(at.Avoid) > 0
	}
	a.checkPermanent(at, &o)
	at.Phase, at.Reason, at.Free = o.Phase, o.Reason, o.Free
	a.endMove(at)
	at.ExitCode, at.Signal, at.OOM, at.LogTail = o.ExitCode, o.Signal, o.OOM, o.LogTail
	at.Ended = new(now())
	if r := o.Record; r != nil {
		at.ResumedFrom, at.AllocID = r.ResumedFrom, r.AllocID
		at.NodeName = cmp.Or(r.NodeName, at.NodeName)
		if at.members == nil { // else it is that of one of them
			at.Devices = r.Devices
		}
		if !r.Started.IsZero() {
			at.Started, at.Ended = new(r.Started.UTC()), new(r.Finished.UTC())
		}
	}
	if at.Started != nil {
		at.task.startedAt(*at.Started)
	}
	a.resumeMove(at)
	delete(a.open, at.JobID)
	a.engine.unsubscribe(at.JobID, a)
	a.engine.tails.drop(at.JobID)
	a.change.attempts.add(at)
	a.storePoints(o.Points)
	a.event(Event{Type: "attempt", Node: at.Node, Trial: at.Trial, Phase: at.Phase, Message: at.Reason})

	t := at.task
	switch {
	case o.Phase == Succeeded:
		a.taskSucceeded(t, at, o.Record)
	case o.Phase == Failed && !o.Final && a.mayRetry(t, at):
		a.vacate(at, true)
		a.retryTask(t, at)
		return
	default:
		a.taskEnded(t, o.Phase, o.Reason)
	}
	a.vacate(at, false)
}

// storePoints adds points to the change; what does not fit goes first, in
// changes of its own. Storing points twice does no harm.
func (a *actor) storePoints(points []MetricPoint) {
	for chunk := range slices.Chunk(points, pointsPerChange) {
		if len(a.change.metrics)+len(chunk) > 2*pointsPerChange {
			early := Change{ID: a.state.ID, Metrics: a.change.metrics}
			a.change.metrics = nil
			if err := a.engine.config.Store.Commit(a.engine.ctx, early); err != nil {
				a.engine.config.Logger.Error("storing metrics", "run", a.state.ID, "error", err)
			}
		}
		a.change.metrics = append(a.change.metrics, chunk...)
	}
}

// checkPermanent makes a failure final whose exit code says that another attempt
// would fail, too. What was stopped or ended by the platform has not said that.
func (a *actor) checkPermanent(at *attempt, o *outcome) {
	if o.Phase != Failed || o.Free || o.ExitCode == nil || at.Stopping != "" {
		return
	}
	if spec, err := a.spec(at.task); err == nil && slices.Contains(spec.Retry.Permanent, *o.ExitCode) {
		o.Final = true
		o.Reason += fmt.Sprintf(" (%d is permanent: it is not tried again)", *o.ExitCode)
	}
}

// mayRetry reports whether a task whose attempt failed is tried again.
func (a *actor) mayRetry(t *task, at *attempt) bool {
	if a.state.CancelledBy != "" && !t.node.def.OnExit {
		return false
	}
	if at.Free {
		return true
	}
	spec, err := a.spec(t)
	if err != nil {
		return false
	}
	failures := 0
	for _, x := range t.attempts {
		if x.Round == a.state.Round && x.Phase == Failed && !x.Free {
			failures++
		}
	}
	return failures <= spec.Retry.Attempts
}

func (a *actor) retryTask(t *task, at *attempt) {
	var notBefore time.Time
	if spec, err := a.spec(t); err == nil && !at.Free && spec.Retry.Delay > 0 {
		notBefore = now().Add(spec.Retry.Delay)
	}
	if at.Moved && at.Started == nil && !at.Again {
		// The driver has refused the device. A Nomad that does not keep the
		// attempt off it would give it out again until it knows.
		notBefore = now().Add(failover.HearsayTimeout / 2)
	}
	reason := fmt.Sprintf("attempt %d failed: %s; trying again", at.Number, at.Reason)
	if at.Moved || at.Again {
		reason = at.Reason
	}
	if t.trial != nil {
		t.trial.Phase = Queued
	} else {
		t.node.Phase = Queued
		a.change.nodes.add(t.node)
	}
	a.explain(at, reason)
	a.try(t, notBefore)
}

func (a *actor) taskSucceeded(t *task, at *attempt, r *mltask.Result) {
	n := t.node
	if n.Kind == pipeline.KindEndpoint {
		if at.Deployment != nil {
			a.event(Event{Type: "endpoint", Node: n.ID, Phase: Succeeded, Message: fmt.Sprintf("revision %d serves version %d of model %q", at.Deployment.Revision, n.Version, n.Model)})
		}
		a.end(n, Succeeded, at.Reason)
		return
	}
	outputs := make(map[string]Output, len(r.Outputs))
	for name, o := range r.Outputs {
		outputs[name] = Output{Digest: o.Digest, Kind: o.Kind, Bytes: o.Bytes, Files: o.Files}
	}
	entry := CacheEntry{Workspace: a.state.Workspace, Run: a.state.ID, Node: n.ID, Trial: at.Trial, Outputs: outputs, Metrics: finite(r.Last)}
	if t.trial != nil {
		entry.Key = t.trial.CacheKey
		a.change.cache = append(a.change.cache, entry)
		t.trial.Outputs, t.trial.Metrics = outputs, entry.Metrics
		a.endTrial(t, Succeeded, "")
		a.ready = append(a.ready, n)
		return
	}
	entry.Key = n.CacheKey
	a.change.cache = append(a.change.cache, entry)
	n.Outputs, n.Metrics = outputs, entry.Metrics
	a.end(n, Succeeded, "")
}

// finite drops what is not a finite number, which JSON cannot hold.
func finite(metrics map[string]float64) map[string]float64 {
	out := make(map[string]float64, len(metrics))
	for name, v := range metrics {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out[name] = v
		}
	}
	return out
}

// taskEnded ends a task without success.
func (a *actor) taskEnded(t *task, phase Phase, reason string) {
	a.abandonMove(t, phase)
	if t.trial != nil {
		a.endTrial(t, phase, reason)
		a.ready = append(a.ready, t.node)
		return
	}
	a.end(t.node, phase, reason)
}

// deployment looks at how an endpoint's new revision does.
func (a *actor) deployment(at *attempt, m inspected) {
	revision, id := strconv.Itoa(at.Deployment.Revision), string(a.state.ID)
	i := slices.IndexFunc(m.job.Deployments, func(d DeploymentState) bool { return d.Revision == revision && d.Run == id })
	switch {
	case !m.there:
		a.settle(at, nil, "its job was removed from the cluster")
		return
	case i < 0 && (m.job.Meta[jobspec.MetaRevision] != revision || m.job.Meta[jobspec.MetaRun] != id):
		a.settle(at, nil, "the endpoint's job was changed meanwhile, by another run or by hand: retry the run to deploy it again")
		return
	case i < 0:
		a.explain(at, a.waits(at, m.job.Waits))
		return
	}
	if at.Phase == Queued {
		at.Phase, at.Started = Running, new(now())
		a.change.attempts.add(at)
		at.task.startedAt(*at.Started)
		n := at.task.node
		n.Phase, n.Reason = Running, ""
		a.change.nodes.add(n)
		a.event(Event{Type: "node", Node: n.ID, Phase: Running, Message: "waiting for revision " + revision + " to become ready"})
	}
	d := m.job.Deployments[i]
	alloc, trouble := lookAtInstances(m.job.Allocs, d.JobVersion)
	switch d.Status {
	case "successful":
		a.settle(at, alloc, "")
	case "failed", "cancelled":
		reason := "it did not become ready"
		if d.Status == "cancelled" {
			reason = "another revision took its place"
		}
		if trouble != "" {
			reason += ": " + trouble
		}
		if d.Reason != "" {
			reason += " (" + d.Reason + ")"
		}
		a.settle(at, alloc, reason)
	default:
		if m.job.Waits != "" {
			trouble = a.waits(at, m.job.Waits)
		}
		a.explain(at, trouble)
	}
}

// lookAtInstances gives the newest allocation of a job's version, one that
// failed first, and what went wrong with it.
func lookAtInstances(allocs []Alloc, version uint64) (newest *Alloc, trouble string) {
	for i := range allocs {
		x := &allocs[i]
		if x.JobVersion != version {
			continue
		}
		failed := x.Client == "failed" || x.Failed
		if newest == nil || failed && trouble == "" || x.Created > newest.Created && failed == (trouble != "") {
			newest = x
			if failed {
				trouble = "an instance ended: it exited with code 0"
				if x.ExitCode == nil || *x.ExitCode != 0 || x.Problem != "" {
					trouble = "an instance ended: " + exitReason(outcome{ExitCode: x.ExitCode, Signal: x.Signal, OOM: x.OOM}, x, nil)
				}
			}
		}
	}
	return newest, trouble
}

// settle records how a revision ended ("": it serves) and ends its attempt. A
// first revision that failed has nothing to go back to: its job is stopped.
func (a *actor) settle(at *attempt, alloc *Alloc, reason string) {
	at.busy = true
	e, d := a.engine, *at.Deployment
	o := outcome{Phase: Succeeded}
	if reason != "" {
		o = outcome{Phase: Failed, Reason: reason}
	}
	if alloc != nil {
		at.AllocID, at.NodeName = alloc.ID, alloc.NodeName
	}
	jobs := a.jobs(at)
	a.call(at, func(ctx context.Context) (message, error) {
		if reason == "" {
			return concluded{at, o}, e.succeed(ctx, d)
		}
		if err := e.config.Store.Deployed(ctx, d, reason); err != nil {
			return nil, err
		}
		if alloc != nil {
			o.LogTail = e.logTail(ctx, jobs, alloc.ID)
		}
		now, err := e.config.Store.Endpoint(ctx, d.Workspace, d.Endpoint)
		if err == nil && (now.Revision == 0 && now.Pending == 0 || now.Namespace != d.Namespace) {
			if err := jobs.Stop(ctx, d.JobID); err != nil {
				return nil, err
			}
		}
		return concluded{at, o}, nil
	})
}

// succeed records that a revision serves. One of a workspace that has got another
// namespace takes the place of the job in the old one, which is stopped.
func (e *Engine) succeed(ctx context.Context, d registry.Deployment) error {
	before, err := e.config.Store.Endpoint(ctx, d.Workspace, d.Endpoint)
	if err != nil {
		return err
	}
	if before.Revision != 0 && before.Revision < d.Revision && before.Namespace != d.Namespace {
		if err := e.config.Cluster.In(before.Namespace).Stop(ctx, before.JobID); err != nil {
			return err
		}
	}
	return e.config.Store.Deployed(ctx, d, "")
}
