package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// flow is no-op jobs that go through the queue: asked for, stored, admitted,
// ended, deleted.
type flow struct {
	Jobs, Slots int
	// Wide is how many are asked for at a time, the next as one ends; 0: all.
	Wide   int
	rounds int
}

func (f flow) name() string {
	if f.Wide > 0 {
		return fmt.Sprintf("%d jobs, %d at a time, on %d GPUs", f.Jobs, f.Wide, f.Slots)
	}
	return fmt.Sprintf("%d jobs at once, on %d GPUs", f.Jobs, f.Slots)
}

var flows = []flow{
	{5_000, 64, 0, 5},
	{5_000, 64, 64, 5},
	{5_000, 5_000, 0, 5},
	{100_000, 64, 0, 1},
	{100_000, 5_000, 0, 1},
}

// passed is what a process saw of a flow.
type passed struct {
	Seconds  float64
	P50, P99 float64 // from ask to grant, ms
	// Commits are the queue's transactions, Rows what they wrote or deleted, and
	// Written the bytes that the process wrote.
	Commits, Rows int
	Written       float64
	Peak          float64 // memory, MiB
}

// benchThroughput takes no-op jobs through the scheduler with a store on disk,
// each flow in a process of its own, and through the peers.
func benchThroughput(ctx context.Context) ([]row, error) {
	var rows []row
	for _, f := range flows {
		var rate, p50, p99, cpu, peak, commits, rowsEach, kibEach []float64
		for range f.rounds {
			p, state, err := passInChild(ctx, f)
			if err != nil {
				return rows, err
			}
			n := float64(f.Jobs)
			rate, p50, p99 = append(rate, n/p.Seconds), append(p50, p.P50), append(p99, p.P99)
			cpu = append(cpu, (state.UserTime()+state.SystemTime()).Seconds()/n*1e6)
			peak = append(peak, p.Peak)
			commits = append(commits, float64(p.Commits))
			rowsEach = append(rowsEach, float64(p.Rows)/float64(p.Commits))
			kibEach = append(kibEach, p.Written/1024/float64(p.Commits))
		}
		rows = append(rows,
			spread(f.name(), "drover, until all are done", "jobs/s", rate),
			spread(f.name(), "drover, from ask to grant, p50", "ms", p50),
			spread(f.name(), "drover, from ask to grant, p99", "ms", p99),
			spread(f.name(), "drover, processor time a job", "µs", cpu),
			spread(f.name(), "drover, peak memory", "MiB", peak),
			spread(f.name(), "drover, transactions", "of them", commits),
			spread(f.name(), "drover, written a transaction", "rows", rowsEach),
			spread(f.name(), "drover, written a transaction", "KiB", kibEach))
	}
	for _, peer := range []func(context.Context) ([]row, error){slurmThroughput, nomadThroughput} {
		more, err := peer(ctx)
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// passInChild has another process of this program take a flow through the queue.
func passInChild(ctx context.Context, f flow) (passed, *os.ProcessState, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return passed{}, nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "pass-flow", string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return passed{}, nil, fmt.Errorf("%s: %w", f.name(), err)
	}
	var p passed
	if err := json.Unmarshal(out, &p); err != nil {
		return passed{}, nil, fmt.Errorf("%s: reading what the process tells: %w", f.name(), err)
	}
	return p, cmd.ProcessState, nil
}

// passFlow is the process of passInChild.
func passFlow(text string) error {
	var f flow
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return err
	}
	dir, err := diskFolder()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := pass(context.Background(), filepath.Join(dir, "drover.db"), f)
	if err != nil {
		return err
	}
	if p.Peak, err = peakMiB(os.Getpid()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(p)
}

func pass(ctx context.Context, file string, f flow) (passed, error) {
	db, err := store.Open(ctx, file)
	if err != nil {
		return passed{}, err
	}
	defer db.Close()
	spaces, err := workspace.Open(ctx, db, nil)
	if err != nil {
		return passed{}, err
	}
	c := &slots{nodes: gpuNodes(f.Slots / 8), held: map[string]inventory.Alloc{}, changed: make(chan struct{}, 1)}
	counted := &countedStore{DB: db, want: f.Jobs, done: make(chan struct{})}
	s := admission.New(admission.Config{Store: counted, Cluster: c, Workspaces: spaces, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	l := &noops{s: s, slots: c, jobs: f.Jobs, started: make(chan queue.JobID, f.Jobs), asked: make([]time.Time, f.Jobs), granted: make([]time.Duration, f.Jobs)}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { s.Run(ctx, l) })
	wg.Go(func() { l.end(ctx) })
	for _, err := s.Queue(ctx, admission.Filter{}); err != nil; _, err = s.Queue(ctx, admission.Filter{}) { // it does not know the cluster yet
		time.Sleep(time.Millisecond)
	}
	start, before := time.Now(), writtenBytes()
	wide := f.Wide
	if wide == 0 {
		wide = f.Jobs
	}
	for range wide {
		l.ask()
	}
	select {
	case <-counted.done:
	case <-time.After(10 * time.Minute):
		return passed{}, fmt.Errorf("%s: not done after 10 minutes: %d are", f.name(), counted.deleted)
	}
	p := passed{Seconds: time.Since(start).Seconds(), Commits: counted.commits, Rows: counted.rows, Written: writtenBytes() - before}
	slices.Sort(l.granted)
	p.P50, p.P99 = l.granted[f.Jobs/2].Seconds()*1e3, l.granted[f.Jobs*99/100].Seconds()*1e3
	return p, nil
}

// writtenBytes is what this process has written so far, to files and elsewhere.
func writtenBytes() (n float64) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "wchar: %g", &n); err == nil {
			return n
		}
	}
	return 0
}

// countedStore counts what the queue stores.
type countedStore struct {
	*store.DB
	commits, rows, deleted, want int
	done                         chan struct{}
}

func (c *countedStore) SaveQueue(ctx context.Context, change admission.Change) error {
	if err := c.DB.SaveQueue(ctx, change); err != nil {
		return err
	}
	c.commits++
	c.rows += len(change.Put) + len(change.Delete)
	c.deleted += len(change.Delete)
	if c.deleted == c.want {
		close(c.done)
	}
	return nil
}

// noops are jobs that end as soon as they are admitted.
type noops struct {
	s     *admission.Scheduler
	slots *slots
	jobs  int

	started chan queue.JobID
	mu      sync.Mutex
	next    int
	asked   []time.Time
	granted []time.Duration
}

func noopID(i int) queue.JobID { return queue.JobID(fmt.Sprintf("01j9v5d0000000000000%06d/train", i)) }

func nomadJob(id queue.JobID) string { return "drover-" + strings.ReplaceAll(string(id), "/", "-") }

// ask asks for the next job.
func (l *noops) ask() {
	l.mu.Lock()
	i := l.next
	if i == l.jobs {
		l.mu.Unlock()
		return
	}
	l.next++
	l.asked[i] = time.Now()
	l.mu.Unlock()
	l.s.Ask(admission.Request{
		ID: noopID(i), Attempt: 1, NomadJob: nomadJob(noopID(i)), Workspace: "default", Priority: 50, Preemptible: true, Min: 1, Max: 1,
		Ask:     inventory.Ask{CPUMHz: 100, MemoryMiB: 100, GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu"}},
		RunTime: time.Hour, Submitted: time.Now().UTC(),
	})
}

func (l *noops) Granted(id queue.JobID, _ int, g admission.Grant) {
	var i int
	if _, err := fmt.Sscanf(string(id), "01j9v5d0000000000000%06d/train", &i); err != nil {
		panic(err)
	}
	l.mu.Lock()
	l.granted[i] = time.Since(l.asked[i])
	l.mu.Unlock()
	l.slots.hold(string(id), g)
	l.started <- id
}

// end ends what has started, until ctx ends.
func (l *noops) end(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-l.started:
			l.slots.release(string(id))
			l.s.Ended(id, 1, false)
			l.ask()
		}
	}
}

func (l *noops) Evict(queue.JobID, int, string) {}
func (l *noops) Waits(queue.JobID, int, string) {}

// slots is a cluster in memory that tells of every allocation, as Nomad does.
type slots struct {
	nodes   []inventory.Node
	changed chan struct{}

	mu   sync.Mutex
	held map[string]inventory.Alloc // by task
}

func gpuNodes(n int) []inventory.Node {
	nodes := make([]inventory.Node, n)
	for i := range nodes {
		g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: "h100"}
		for k := range 8 {
			g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprintf("GPU-%05d-%d", i, k), Healthy: true})
		}
		name := fmt.Sprintf("node-%05d", i)
		nodes[i] = inventory.Node{ID: queue.NodeID(name), Name: name, Pool: "default", Datacenter: "dc1", Eligible: true,
			CPUMHz: 256_000, MemoryMiB: 2 << 20, Groups: []inventory.Group{g}}
	}
	return nodes
}

// hold has a task's job hold what it was granted, until it is released.
func (c *slots) hold(task string, g admission.Grant) {
	job := nomadJob(queue.JobID(task))
	a := inventory.Alloc{ID: job, JobID: job, Namespace: "default", CPUMHz: 100, MemoryMiB: 100}
	for _, m := range g.Members {
		a.NodeID = queue.NodeID(m.NodeID)
		a.Devices = append(a.Devices, inventory.Devices{Vendor: "nvidia", Type: "gpu", Name: "h100", IDs: m.Devices})
	}
	c.mu.Lock()
	c.held[task] = a
	c.mu.Unlock()
	c.tell()
}

func (c *slots) release(task string) {
	c.mu.Lock()
	delete(c.held, task)
	c.mu.Unlock()
	c.tell()
}

func (c *slots) tell() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *slots) Inventory(context.Context) ([]inventory.Node, []inventory.Alloc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var allocs []inventory.Alloc
	for _, a := range c.held {
		allocs = append(allocs, a)
	}
	return c.nodes, allocs, nil
}

func (c *slots) Services(context.Context) ([]admission.Service, error) { return nil, nil }

func (c *slots) Changes(ctx context.Context, ring func()) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.changed:
			ring()
		}
	}
}
