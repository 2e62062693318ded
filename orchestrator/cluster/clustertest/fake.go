// Package clustertest stands in for Nomad in tests of what is built on it: a
// cluster that keeps jobs, allocations and deployments in memory and runs Go
// functions as tasks, and a contract that it and the real thing both pass.
package clustertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Task is one start of a job's task, or of that of a member of a gang.
type Task struct {
	Job      *api.Job
	Rank     int // in its gang; 0 without one
	AllocID  string
	NodeName string
	Start    int             // 1 for the first allocation of the job or member, 2 for its replacement ...
	Stopped  <-chan struct{} // closed when the task has to end
	Signals  <-chan string   // what it was sent
	cluster  *Cluster
	alloc    *alloc
}

// Meta is a value of the job's meta.
func (t Task) Meta(key string) string { return t.Job.Meta[key] }

// Say has the driver send a message, as a task event.
func (t Task) Say(message string) {
	t.cluster.mu.Lock()
	defer t.cluster.mu.Unlock()
	t.alloc.Events = append(t.alloc.Events, run.TaskEvent{Time: time.Now(), Message: message})
	t.cluster.publish(t.alloc)
}

// Resumed has the driver tell from which checkpoint the task goes on.
func (t Task) Resumed(step int64) {
	t.cluster.mu.Lock()
	defer t.cluster.mu.Unlock()
	t.alloc.ResumedFrom = &step
	t.cluster.publish(t.alloc)
}

// Write appends to a file of the allocation.
func (t Task) Write(path, text string) {
	t.cluster.mu.Lock()
	defer t.cluster.mu.Unlock()
	t.alloc.files[path] += text
}

// Exit is how a task ends.
type Exit struct {
	Code    int
	Signal  int
	OOM     bool
	Problem string // the driver's, before the task ran
	Error   string // the driver's, in the record
	Outputs map[string]string
	Last    map[string]float64
	// NoRecord leaves no result record.
	NoRecord bool
	Stdout   string
	Stderr   string
}

// Cluster is a pretend Nomad. Its methods may be called from many goroutines.
type Cluster struct {
	artifacts *Artifacts
	behave    func(Task) Exit
	stop      context.CancelFunc
	ctx       context.Context
	wg        sync.WaitGroup

	mu      sync.Mutex
	faults  func(when, call, jobID string) error
	index   uint64
	jobs    map[string]*job // by keyOf
	allocs  map[string]*alloc
	log     []event // of the stream
	changed chan struct{}
	cut     chan struct{}
	full    string         // why nothing can be placed
	starts  map[string]int // by job, of a gang those of rank 0
	// namespaces are those that exist beside the default.
	namespaces map[string]bool
	gpus       []*gpu
	lists      int            // of the nodes
	signals    map[string]int // by job ID
	// nodeIndexes are those of the nodes' last changes, by name.
	nodeIndexes map[string]uint64
}

// keyOf names a job, as others are named like it in other namespaces.
func keyOf(namespace, id string) string {
	if namespace == "" || namespace == api.DefaultNamespace {
		return id
	}
	return namespace + "/" + id
}

func (j *job) key() string { return keyOf(deref(j.spec.Namespace), *j.spec.ID) }

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

type job struct {
	spec        *api.Job
	index       uint64
	version     uint64
	revisions   []*api.Job // specs by version
	stopped     bool
	allocs      []*alloc
	deployments []run.DeploymentState
	waiting     bool // for a place
}

type alloc struct {
	run.Alloc
	files   map[string]string
	done    chan struct{} // closed to have the task end
	signals chan string
}

type event struct {
	index  uint64
	update run.Update
}

var _ run.Cluster = (*Cluster)(nil)

// New returns a cluster whose tasks do what behave does. Result records go to
// artifacts. Close ends it.
func New(artifacts *Artifacts, behave func(Task) Exit) *Cluster {
	ctx, stop := context.WithCancel(context.Background())
	return &Cluster{
		artifacts: artifacts, behave: behave, ctx: ctx, stop: stop, index: 10,
		jobs: map[string]*job{}, allocs: map[string]*alloc{}, starts: map[string]int{},
		changed: make(chan struct{}), cut: make(chan struct{}),
		signals: map[string]int{}, nodeIndexes: map[string]uint64{}, namespaces: map[string]bool{},
	}
}

// Close ends all tasks and waits for them.
func (c *Cluster) Close() {
	c.stop()
	c.mu.Lock()
	for _, a := range c.allocs {
		a.end()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func (a *alloc) end() {
	select {
	case <-a.done:
	default:
		close(a.done)
	}
}

// Starts is how often the task of each job has started, of a gang that of rank 0.
// Jobs are named by ID, those of other namespaces by "namespace/ID".
func (c *Cluster) Starts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]int{}
	for id, n := range c.starts {
		out[id] = n
	}
	return out
}

// CutStreams breaks all event streams, as a lost connection does.
func (c *Cluster) CutStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.cut)
	c.cut = make(chan struct{})
}

// Forget drops the past of the event stream, so that those who resume it have
// a gap.
func (c *Cluster) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = nil
}

// Full has no job placed any more, for a reason; "" places those that wait.
func (c *Cluster) Full(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = reason
	c.placeWaiting()
}

// LoseNode has all running tasks of a job lost with their node; Nomad's
// replacements run on another.
func (c *Cluster) LoseNode(jobID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.jobs[jobID]
	if j == nil {
		return
	}
	for _, a := range slices.Clone(j.allocs) {
		if a.Ended() {
			continue
		}
		a.Client, a.Desired, a.Description = "lost", "stop", "alloc is lost since its node is down"
		a.end()
		c.place(j) // like Nomad, which tells of the replacement first
		c.publish(a)
	}
}

// Purge removes a job without a trace, as `nomad job stop -purge` and the
// garbage collection do.
func (c *Cluster) Purge(jobID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j := c.jobs[jobID]; j != nil {
		for _, a := range j.allocs {
			a.end()
			delete(c.allocs, a.ID)
		}
		delete(c.jobs, jobID)
		c.announce(j.news())
	}
}

// Fault has f asked "before" and "after" every call; its error is what the
// caller gets. After "after" the call has had its effect. Nil: no faults.
func (c *Cluster) Fault(f func(when, call, jobID string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
}

func (c *Cluster) fault(when, call, jobID string) error {
	c.mu.Lock()
	f := c.faults
	c.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(when, call, jobID)
}

// call runs f between the faults.
func (c *Cluster) call(ctx context.Context, name, jobID string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.fault("before", name, jobID); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return c.fault("after", name, jobID)
}

// Register submits a job.
func (n namespace) Register(ctx context.Context, spec *api.Job, base uint64) error {
	c, key := n.Cluster, keyOf(n.name, *spec.ID)
	return c.call(ctx, "Register", *spec.ID, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !n.exists() {
			return &run.RefusedError{Reason: fmt.Sprintf("job %q is in nonexistent namespace %q", *spec.ID, n.name)}
		}
		if keyOf(deref(spec.Namespace), *spec.ID) != key {
			return fmt.Errorf("mismatched request namespace %q and %q", n.name, deref(spec.Namespace))
		}
		j := c.jobs[key]
		if j == nil && base != 0 || j != nil && j.index != base {
			return run.ErrConflict
		}
		if reason := spec.Meta["refuse"]; reason != "" {
			return &run.RefusedError{Reason: reason}
		}
		if j == nil {
			j = &job{}
			c.jobs[key] = j
		} else {
			j.version++
		}
		c.index++
		j.spec, j.index, j.stopped = spec, c.index, false
		j.revisions = append(j.revisions, spec)
		if *spec.Type == api.JobTypeService {
			j.deployments = append(j.deployments, run.DeploymentState{JobVersion: j.version, Revision: spec.Meta[jobspec.MetaRevision], Run: spec.Meta[jobspec.MetaRun], Status: "running"})
			c.announce(j.news())
		}
		c.place(j)
		return nil
	})
}

// missing are the ranks of a job that have no allocation of its version, or one
// that Nomad has given up.
func (j *job) missing() []int {
	var ranks []int
	for rank := range j.spec.TaskGroups {
		if !slices.ContainsFunc(j.allocs, func(a *alloc) bool {
			return a.Rank == rank && a.JobVersion == j.version && a.Desired == "run"
		}) {
			ranks = append(ranks, rank)
		}
	}
	return ranks
}

// place starts what a job lacks, as far as there is room. c.mu is held.
func (c *Cluster) place(j *job) {
	j.waiting = false
	for _, rank := range j.missing() {
		if waits := c.waits(j, rank); waits != "" {
			j.waiting = true
			u := j.news()
			u.Waits = &waits
			c.announce(u)
			continue
		}
		c.start(j, rank)
	}
}

// start starts an allocation of a job. c.mu is held.
func (c *Cluster) start(j *job, rank int) {
	start, name := 1, j.key()
	if rank == 0 {
		c.starts[name]++
		start = c.starts[name]
	} else {
		name += "/rank-" + strconv.Itoa(rank)
		for _, a := range j.allocs {
			if a.Rank == rank {
				start++
			}
		}
	}
	c.index++
	a := &alloc{files: map[string]string{}, done: make(chan struct{}), signals: make(chan string, 16), Alloc: run.Alloc{
		ID:        fmt.Sprintf("%s/%d", name, start),
		Namespace: deref(j.spec.Namespace), JobID: *j.spec.ID, NodeID: "n" + strconv.Itoa(start+rank), NodeName: "node-" + strconv.Itoa(start+rank), Rank: rank,
		Created: c.index, JobVersion: j.version, Client: "pending", Desired: "run",
	}}
	if n := asked(j.spec, rank); n > 0 {
		for _, g := range c.free(j.spec, rank) {
			g.holder = a
			a.NodeID, a.NodeName, a.Devices = g.node, g.node, append(a.Devices, g.device.ID)
		}
	}
	j.allocs = append(j.allocs, a)
	c.allocs[a.ID] = a
	c.publish(a)
	t := Task{
		Job: j.spec, Rank: rank, AllocID: a.ID, NodeName: a.NodeName, Start: start,
		Stopped: a.done, Signals: a.signals, cluster: c, alloc: a,
	}
	c.wg.Go(func() { c.live(j, a, t) })
}

// waits says why a task of a job cannot be placed: the cluster is full, or the job
// has a constraint, as no pretend node has attributes.
func (c *Cluster) waits(j *job, rank int) string {
	if len(j.spec.Constraints) > 0 {
		return "1 node filtered by " + j.spec.Constraints[0].LTarget
	}
	if n := asked(j.spec, rank); c.full == "" && n > 0 && c.free(j.spec, rank) == nil {
		return "1 node exhausted on devices"
	}
	return c.full
}

// waitsAt says why the first of a job's tasks waits that cannot be placed, "" if
// one could be now.
func (c *Cluster) waitsAt(j *job) (why string) {
	for _, rank := range j.missing() {
		now := c.waits(j, rank)
		if now == "" {
			return ""
		}
		why = cmp.Or(why, now)
	}
	return why
}

// live is an allocation's life.
func (c *Cluster) live(j *job, a *alloc, t Task) {
	c.mu.Lock()
	if !a.Ended() {
		a.Client, a.Started = "running", time.Now()
		c.publish(a)
	}
	c.mu.Unlock()
	x := c.behave(t)
	if *t.Job.Type == api.JobTypeService {
		c.serve(j, a, t, x)
		return
	}
	c.mu.Lock()
	lost := a.Client == "lost"
	a.files["stdout"], a.files["stderr"] = x.Stdout, x.Stderr
	c.mu.Unlock()
	if c.ctx.Err() != nil || lost {
		return
	}
	if x.Problem == "" && !x.NoRecord {
		c.record(t, x)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.Ended() {
		return
	}
	a.Finished, a.Problem = time.Now(), x.Problem
	a.Client = "complete"
	if x.Problem != "" || x.Code != 0 || x.Signal != 0 {
		a.Client, a.Failed = "failed", true
	}
	if x.Problem == "" {
		a.ExitCode, a.Signal, a.OOM = &x.Code, x.Signal, x.OOM
	}
	c.publish(a)
}

// record stores what a task leaves.
func (c *Cluster) record(t Task, x Exit) {
	config := t.Job.TaskGroups[t.Rank].Tasks[0].Config
	key, _ := config["result_key"].(string)
	if key == "" {
		return
	}
	r := mltask.Result{
		Version: 1, AllocID: t.AllocID, NodeName: t.NodeName, ExitCode: x.Code, Signal: x.Signal, OOM: x.OOM,
		Error: x.Error, Devices: t.alloc.Devices, ResumedFrom: t.alloc.ResumedFrom, Last: x.Last, Outputs: map[string]mltask.StoredOutput{}, Started: t.alloc.Started, Finished: time.Now(),
	}
	if x.Code == 0 && x.Signal == 0 {
		for name, content := range x.Outputs {
			r.Outputs[name] = mltask.StoredOutput{Digest: string(c.artifacts.Put(content)), Kind: "file", Bytes: int64(len(content)), Files: 1}
		}
	}
	c.artifacts.PutRecord("results/"+key, r)
}

// serve takes an endpoint's instance to ready, or its deployment to failed and
// back to the revision before.
func (c *Cluster) serve(j *job, a *alloc, t Task, x Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.Ended() || c.ctx.Err() != nil {
		return
	}
	i := slices.IndexFunc(j.deployments, func(d run.DeploymentState) bool { return d.JobVersion == a.JobVersion })
	if i < 0 {
		return
	}
	d := &j.deployments[i]
	a.files["stderr"] = x.Stderr
	if x.Code == 0 && x.Problem == "" {
		d.Status = "successful"
		for _, old := range j.allocs {
			if old != a && !old.Ended() {
				old.Client, old.Desired = "complete", "stop"
				old.end()
			}
		}
		c.publish(a)
		return
	}
	d.Status, d.Reason = "failed", "Failed due to progress deadline"
	a.Client, a.Failed, a.ExitCode, a.Problem = "failed", true, &x.Code, x.Problem
	if len(j.revisions) > 1 {
		d.Reason += " - rolling back to job version " + strconv.Itoa(len(j.revisions)-2)
		c.index++
		j.version++
		j.spec = j.revisions[len(j.revisions)-2]
		j.revisions = append(j.revisions, j.spec)
		j.index = c.index
		j.deployments = append(j.deployments, run.DeploymentState{JobVersion: j.version, Revision: j.spec.Meta[jobspec.MetaRevision], Run: j.spec.Meta[jobspec.MetaRun], Status: "successful"})
	}
	c.publish(a)
}

// publish puts an allocation's state into the event stream. c.mu is held.
func (c *Cluster) publish(a *alloc) {
	c.index++
	a.Modified = c.index
	snapshot := a.Alloc
	snapshot.Events = slices.Clone(a.Events)
	c.announce(run.Update{Namespace: a.Namespace, JobID: a.JobID, Alloc: &snapshot})
	if a.Ended() {
		c.placeWaiting()
	}
}

// news is that something is new about a job.
func (j *job) news() run.Update {
	return run.Update{Namespace: deref(j.spec.Namespace), JobID: *j.spec.ID}
}

func (c *Cluster) announce(u run.Update) {
	c.index++
	c.log = append(c.log, event{c.index, u})
	close(c.changed)
	c.changed = make(chan struct{})
}

// Job says how a job stands.
func (n namespace) Job(ctx context.Context, id string) (s run.JobState, err error) {
	c := n.Cluster
	err = c.call(ctx, "Job", id, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		j := c.jobs[keyOf(n.name, id)]
		if j == nil {
			return run.ErrNoJob
		}
		s = run.JobState{Index: j.index, Version: j.version, Meta: j.spec.Meta, Stopped: j.stopped, Dead: true, Deployments: slices.Clone(j.deployments)}
		for _, a := range j.allocs {
			snapshot := a.Alloc
			snapshot.Events = slices.Clone(a.Events)
			s.Allocs = append(s.Allocs, snapshot)
			s.Dead = s.Dead && a.Ended()
		}
		if j.waiting && !j.stopped {
			s.Dead, s.Waits = false, c.waitsAt(j)
		}
		return nil
	})
	return s, err
}

// Stop ends a job's tasks.
func (n namespace) Stop(ctx context.Context, id string) error {
	c := n.Cluster
	return c.call(ctx, "Stop", id, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		j := c.jobs[keyOf(n.name, id)]
		if j == nil {
			return nil
		}
		c.index++
		j.stopped, j.index = true, c.index
		for _, a := range j.allocs {
			if a.Ended() {
				continue
			}
			a.Desired = "stop"
			a.end()
			if *j.spec.Type == api.JobTypeService {
				a.Client = "complete"
			}
			c.publish(a)
		}
		c.announce(j.news())
		return nil
	})
}

// Watch follows the changes.
func (c *Cluster) Watch(ctx context.Context, index uint64, connected func(), report func(run.Update)) (uint64, error) {
	if err := c.call(ctx, "Watch", "", func() error { return nil }); err != nil {
		return index, err
	}
	c.mu.Lock()
	if index == 0 {
		index = c.index
	}
	cut := c.cut
	c.mu.Unlock()
	connected()
	for {
		c.mu.Lock()
		i, _ := slices.BinarySearchFunc(c.log, index+1, func(e event, at uint64) int { return int(int64(e.index) - int64(at)) })
		news, changed := slices.Clone(c.log[i:]), c.changed
		c.mu.Unlock()
		for _, e := range news {
			report(e.update)
			index = e.index
		}
		select {
		case <-ctx.Done():
			return index, ctx.Err()
		case <-cut:
			return index, errors.New("connection reset by peer")
		case <-changed:
		}
	}
}

// ReadFile reads a piece of a file.
func (n namespace) ReadFile(ctx context.Context, allocID, path string, offset, limit int64) (b []byte, err error) {
	c := n.Cluster
	err = c.call(ctx, "ReadFile", allocID, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if a := n.alloc(allocID); a != nil {
			text := a.files[path]
			text = text[min(offset, int64(len(text))):]
			b = []byte(text[:min(limit, int64(len(text)))])
		}
		return nil
	})
	return b, err
}

// Logs reads what an ended task has said.
func (n namespace) Logs(ctx context.Context, allocID, task, stream string, tail int64, follow bool) (r io.ReadCloser, err error) {
	c := n.Cluster
	err = c.call(ctx, "Logs", allocID, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		a := n.alloc(allocID)
		if a == nil {
			return run.ErrNoLog
		}
		text := a.files[stream]
		if tail > 0 {
			text = text[max(0, int64(len(text))-tail):]
		}
		r = io.NopCloser(strings.NewReader(text))
		return nil
	})
	return r, err
}
