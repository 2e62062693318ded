package clustertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Subject is a cluster that the contract is checked with.
type Subject struct {
	Cluster run.Cluster
	// Namespace is where the jobs are, "" for the default. It exists.
	Namespace string
	// Job makes a batch job whose task runs a shell script. It may be asked
	// for the scripts that Script knows.
	Job func(id, script string) *api.Job
	// Unplaceable is a job that no node can take.
	Unplaceable func(id string) *api.Job
	// Prefix keeps the jobs of this run of the contract apart from others.
	Prefix string
	// Deadline is how long anything may take.
	Deadline time.Duration
}

// Contract checks what the run engine relies on.
func Contract(t *testing.T, s Subject) {
	tests := map[string]func(*contract, *testing.T){
		"a new job runs to its end":                (*contract).runs,
		"a job registered twice runs once":         (*contract).twice,
		"a failed task has its exit code":          (*contract).fails,
		"a stopped task ends":                      (*contract).stops,
		"a job that is not there is ErrNoJob":      (*contract).missing,
		"logs and files can be read":               (*contract).files,
		"why a job waits is told":                  (*contract).waits,
		"a watch that is resumed misses nothing":   (*contract).resumes,
		"a signal reaches the task":                (*contract).signals,
		"a stopped allocation is placed again":     (*contract).replaces,
		"what is in another namespace is not here": (*contract).apart,
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) {
			c := &contract{t: t, s: s, jobs: s.Cluster.In(s.Namespace), seen: map[string][]run.Update{}, changed: make(chan struct{}, 1)}
			ctx, cancel := context.WithTimeout(t.Context(), s.Deadline)
			defer cancel()
			c.ctx = ctx
			stop := c.watch(0)
			defer stop()
			f(c, t)
		})
	}
}

// The scripts that the contract runs; the fake knows no others.
const (
	scriptSucceed = "echo hello; echo world; echo oops >&2; echo 0123456789 > $NOMAD_TASK_DIR/file"
	scriptFail    = "exit 3"
	scriptSleep   = "sleep 600"
	scriptSignal  = "trap 'echo asked; exit 0' HUP; while true; do sleep 0.05; done"
	scriptFile    = jobspec.TaskName + "/local/file"
)

// Script is a fake's task that does what one of the contract's scripts does.
func Script(t Task, script string) Exit {
	switch script {
	case scriptFail:
		return Exit{Code: 3}
	case scriptSleep:
		<-t.Stopped
		return Exit{Signal: 15}
	case scriptSignal:
		<-t.Signals
		return Exit{Stdout: "asked\n"}
	default:
		t.Write(scriptFile, "0123456789\n")
		return Exit{Stdout: "hello\nworld\n", Stderr: "oops\n"}
	}
}

type contract struct {
	t    *testing.T
	s    Subject
	jobs run.Jobs
	ctx  context.Context

	mu      sync.Mutex
	seen    map[string][]run.Update
	index   uint64
	changed chan struct{}
}

// watch follows the cluster in the background, and returns once it does.
func (c *contract) watch(from uint64) (stop func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	connected := make(chan struct{}, 1)
	go func() {
		defer close(done)
		index, err := c.s.Cluster.Watch(ctx, from, func() { connected <- struct{}{} }, func(u run.Update) {
			c.mu.Lock()
			c.seen[u.JobID] = append(c.seen[u.JobID], u)
			c.mu.Unlock()
			select {
			case c.changed <- struct{}{}:
			default:
			}
		})
		c.mu.Lock()
		c.index = index
		c.mu.Unlock()
		if ctx.Err() == nil {
			c.t.Errorf("the watch ended: %v", err)
		}
	}()
	select {
	case <-connected:
	case <-c.ctx.Done():
		c.t.Fatal("the watch never connected")
	}
	return func() { cancel(); <-done }
}

func (c *contract) id(name string) string { return "drover-" + c.s.Prefix + "-" + name }

// here puts a job into the namespace.
func (c *contract) here(job *api.Job) *api.Job {
	job.Namespace = new(cmp.Or(c.s.Namespace, api.DefaultNamespace))
	return job
}

func (c *contract) register(job *api.Job) string {
	c.t.Helper()
	job = c.here(job)
	if err := c.jobs.Register(c.ctx, job, 0); err != nil {
		c.t.Fatalf("registering %s: %v", *job.ID, err)
	}
	return *job.ID
}

// until waits for an update of a job that has ok.
func (c *contract) until(id, what string, ok func(run.Update) bool) run.Update {
	c.t.Helper()
	for {
		c.mu.Lock()
		for _, u := range c.seen[id] {
			if ok(u) {
				c.mu.Unlock()
				return u
			}
		}
		c.mu.Unlock()
		select {
		case <-c.changed:
		case <-c.ctx.Done():
			c.t.Fatalf("%s: never saw %s in %s", id, what, c.describe(id))
		}
	}
}

func (c *contract) describe(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, u := range c.seen[id] {
		if u.Alloc != nil {
			fmt.Fprintf(&b, "[alloc %s %s/%s] ", u.Alloc.ID, u.Alloc.Client, u.Alloc.Desired)
		}
		if u.Waits != nil {
			fmt.Fprintf(&b, "[waits %q] ", *u.Waits)
		}
	}
	return b.String()
}

func client(status string) func(run.Update) bool {
	return func(u run.Update) bool { return u.Alloc != nil && u.Alloc.Client == status }
}

func (c *contract) job(id string) run.JobState {
	c.t.Helper()
	s, err := c.jobs.Job(c.ctx, id)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *contract) runs(t *testing.T) {
	id := c.register(c.s.Job(c.id("runs"), scriptSucceed))
	a := c.until(id, "a complete allocation", client("complete")).Alloc
	if a.JobID != id || a.NodeName == "" || a.Started.IsZero() || a.Desired != "run" || a.ExitCode == nil || *a.ExitCode != 0 || a.Failed {
		t.Errorf("allocation = %+v", a)
	}
	s := c.job(id)
	if len(s.Allocs) != 1 || s.Allocs[0].ID != a.ID || s.Stopped || s.Index == 0 {
		t.Errorf("job = %+v", s)
	}
}

func (c *contract) twice(t *testing.T) {
	job := c.s.Job(c.id("twice"), scriptSucceed)
	id := c.register(job)
	if err := c.jobs.Register(c.ctx, job, 0); !errors.Is(err, run.ErrConflict) {
		t.Errorf("registering it again: %v, want ErrConflict", err)
	}
	c.until(id, "a complete allocation", client("complete"))
	if s := c.job(id); len(s.Allocs) != 1 {
		t.Errorf("%d allocations, want 1", len(s.Allocs))
	}
}

func (c *contract) fails(t *testing.T) {
	id := c.register(c.s.Job(c.id("fails"), scriptFail))
	a := c.until(id, "a failed allocation", client("failed")).Alloc
	if a.ExitCode == nil || *a.ExitCode != 3 || !a.Ended() || a.Desired != "run" {
		t.Errorf("allocation = %+v", a)
	}
	if s := c.job(id); len(s.Allocs) != 1 {
		t.Errorf("%d allocations, want 1", len(s.Allocs))
	}
}

func (c *contract) stops(t *testing.T) {
	id := c.register(c.s.Job(c.id("stops"), scriptSleep))
	c.until(id, "a running allocation", client("running"))
	if err := c.jobs.Stop(c.ctx, id); err != nil {
		t.Fatal(err)
	}
	a := c.until(id, "an allocation that has ended", func(u run.Update) bool { return u.Alloc != nil && u.Alloc.Ended() }).Alloc
	if a.Desired != "stop" {
		t.Errorf("allocation = %+v", a)
	}
	if s := c.job(id); !s.Stopped {
		t.Errorf("job = %+v", s)
	}
	if err := c.jobs.Stop(c.ctx, c.id("nothing")); err != nil {
		t.Errorf("stopping what is not there: %v", err)
	}
}

func (c *contract) missing(t *testing.T) {
	if _, err := c.jobs.Job(c.ctx, c.id("nothing")); !errors.Is(err, run.ErrNoJob) {
		t.Errorf("Job = %v, want ErrNoJob", err)
	}
	if err := c.jobs.Register(c.ctx, c.here(c.s.Job(c.id("absent"), scriptSucceed)), 7); !errors.Is(err, run.ErrConflict) {
		t.Errorf("registering a new job at index 7: %v, want ErrConflict", err)
	}
}

func (c *contract) files(t *testing.T) {
	id := c.register(c.s.Job(c.id("files"), scriptSucceed))
	a := c.until(id, "a complete allocation", client("complete")).Alloc
	read := func(stream string, tail int64) string {
		r, err := c.jobs.Logs(c.ctx, a.ID, jobspec.TaskName, stream, tail, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := read("stdout", 0); got != "hello\nworld\n" {
		t.Errorf("stdout = %q", got)
	}
	if got := read("stdout", 6); got != "world\n" {
		t.Errorf("the end of stdout = %q", got)
	}
	if got := read("stderr", 0); got != "oops\n" {
		t.Errorf("stderr = %q", got)
	}
	if b, err := c.jobs.ReadFile(c.ctx, a.ID, scriptFile, 3, 4); err != nil || string(b) != "3456" {
		t.Errorf("a piece of a file = %q, %v", b, err)
	}
	if b, err := c.jobs.ReadFile(c.ctx, a.ID, scriptFile, 100, 4); err != nil || len(b) != 0 {
		t.Errorf("a piece after a file's end = %q, %v", b, err)
	}
	if b, err := c.jobs.ReadFile(c.ctx, a.ID, jobspec.TaskName+"/local/not-there", 0, 100); err != nil || len(b) != 0 {
		t.Errorf("a file that is not there = %q, %v; want nothing", b, err)
	}
	if _, err := c.jobs.Logs(c.ctx, "00000000-0000-0000-0000-000000000000", jobspec.TaskName, "stdout", 0, false); !errors.Is(err, run.ErrNoLog) {
		t.Errorf("the log of an unknown allocation: %v, want ErrNoLog", err)
	}
}

func (c *contract) waits(t *testing.T) {
	id := c.register(c.s.Unplaceable(c.id("waits")))
	u := c.until(id, "why it waits", func(u run.Update) bool { return u.Waits != nil && *u.Waits != "" })
	if s := c.job(id); s.Waits != *u.Waits || s.Dead || len(s.Allocs) != 0 {
		t.Errorf("job = %+v, want it to wait because %q", s, *u.Waits)
	}
	if err := c.jobs.Stop(c.ctx, id); err != nil {
		t.Error(err)
	}
}

func (c *contract) resumes(t *testing.T) {
	stop := c.watch(0)
	stop()
	c.mu.Lock()
	index := c.index
	c.seen = map[string][]run.Update{}
	c.mu.Unlock()
	id := c.register(c.s.Job(c.id("resumes"), scriptSucceed))
	stop = c.watch(index)
	defer stop()
	c.until(id, "a complete allocation", client("complete"))
}

func (c *contract) signals(t *testing.T) {
	id := c.register(c.s.Job(c.id("signals"), scriptSignal))
	a := c.until(id, "a running allocation", client("running")).Alloc
	if err := c.jobs.Signal(c.ctx, a.ID, "SIGHUP"); err != nil {
		t.Fatal(err)
	}
	// A shell that has not set its trap yet dies of it: it got the signal, too.
	c.until(id, "its end", func(u run.Update) bool { return u.Alloc != nil && u.Alloc.Ended() })
	if err := c.jobs.Signal(c.ctx, a.ID, "SIGHUP"); !errors.Is(err, run.ErrNoTask) {
		t.Errorf("a signal to an allocation that has ended: %v, want ErrNoTask", err)
	}
	if err := c.jobs.Signal(c.ctx, "00000000-0000-0000-0000-000000000000", "SIGHUP"); !errors.Is(err, run.ErrNoTask) {
		t.Errorf("a signal to an allocation that is not there: %v, want ErrNoTask", err)
	}
}

func (c *contract) replaces(t *testing.T) {
	id := c.register(c.s.Job(c.id("replaces"), scriptSleep))
	first := c.until(id, "a running allocation", client("running")).Alloc
	for range 2 { // the second time changes nothing
		if err := c.jobs.StopAlloc(c.ctx, first.ID); err != nil {
			t.Fatal(err)
		}
		c.until(id, "another running allocation", func(u run.Update) bool {
			return u.Alloc != nil && u.Alloc.ID != first.ID && u.Alloc.Client == "running" && u.Alloc.Created > first.Created
		})
	}
	if s := c.job(id); len(s.Allocs) != 2 || s.Stopped {
		t.Errorf("job = %+v", s)
	}
	if err := c.jobs.StopAlloc(c.ctx, "00000000-0000-0000-0000-000000000000"); err != nil {
		t.Errorf("stopping what is not there: %v", err)
	}
	if err := c.jobs.Stop(c.ctx, id); err != nil {
		t.Error(err)
	}
}

func (c *contract) apart(t *testing.T) {
	id := c.register(c.s.Job(c.id("apart"), scriptSucceed))
	u := c.until(id, "a complete allocation", client("complete"))
	if want := cmp.Or(c.s.Namespace, api.DefaultNamespace); cmp.Or(u.Namespace, api.DefaultNamespace) != want || u.Alloc.Namespace != u.Namespace {
		t.Errorf("told of namespace %q and %q, want %q", u.Namespace, u.Alloc.Namespace, want)
	}
	elsewhere := c.s.Cluster.In("drover-nowhere")
	if there, err := elsewhere.Exist(c.ctx); err != nil || there {
		t.Errorf("a namespace that is not there: %v, %v", there, err)
	}
	if there, err := c.jobs.Exist(c.ctx); err != nil || !there {
		t.Errorf("a namespace that is there: %v, %v", there, err)
	}
	if _, err := elsewhere.Job(c.ctx, id); !errors.Is(err, run.ErrNoJob) {
		t.Errorf("the job of another namespace: %v, want ErrNoJob", err)
	}
	job := c.s.Job(c.id("lost"), scriptSucceed)
	job.Namespace = new("drover-nowhere")
	var refused *run.RefusedError
	if err := elsewhere.Register(c.ctx, job, 0); !errors.As(err, &refused) || !strings.Contains(err.Error(), "drover-nowhere") {
		t.Errorf("registering a job in a namespace that is not there: %v, want a RefusedError", err)
	}
}
