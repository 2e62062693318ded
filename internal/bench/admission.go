package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// The scheduler of this benchmark: a full cluster, and a long queue before it.
const (
	admissionNodes   = 1_000
	admissionWaiting = 100_000
	admissionEnds    = 100
)

// crowd are the tasks of a scheduler with a store on disk.
type crowd struct {
	db    *store.DB
	slots *slots

	mu      sync.Mutex
	running []queue.JobID // in the order of their starts
	stored  func(admission.Change)
}

func (c *crowd) LoadQueue(ctx context.Context) ([]admission.Row, admission.Memory, error) {
	return c.db.LoadQueue(ctx)
}

func (c *crowd) SaveQueue(ctx context.Context, change admission.Change) error {
	if err := c.db.SaveQueue(ctx, change); err != nil {
		return err
	}
	c.stored(change)
	return nil
}

func (c *crowd) Granted(id queue.JobID, _ int, g admission.Grant) {
	c.slots.hold(string(id), g)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = append(c.running, id)
}

func (c *crowd) Evict(queue.JobID, int, string) {}
func (c *crowd) Waits(queue.JobID, int, string) {}

// crowded is a task of 1, 2, 4 or 8 GPUs, of one of 20 workspaces, two priorities
// and four run times.
func crowded(i int) admission.Request {
	id := noopID(i)
	return admission.Request{
		ID: id, Attempt: 1, NomadJob: nomadJob(id), Workspace: fmt.Sprintf("team-%02d", i%20), Priority: 40 + 10*(i/20%2), Min: 1, Max: 1,
		Ask:     inventory.Ask{CPUMHz: 100, MemoryMiB: 100, GPU: &pipeline.GPU{Count: 1 << (i / 40 % 4), Device: "nvidia/gpu"}},
		RunTime: time.Hour << (i / 160 % 4), Submitted: time.Now().UTC(),
	}
}

// benchAdmission measures the scheduler around the queue: what it takes until it is
// stored that a task has ended and what starts instead, and a restart.
func benchAdmission(ctx context.Context) (rows []row, err error) {
	dir, err := diskFolder()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	before := liveMiB()
	c := &crowd{slots: &slots{nodes: gpuNodes(admissionNodes), held: map[string]inventory.Alloc{}, changed: make(chan struct{}, 1)}}
	name := fmt.Sprintf("%d waiting, %d nodes of 8 GPUs", admissionWaiting, admissionNodes)
	if rows, err = c.live(ctx, filepath.Join(dir, "drover.db"), func(s *admission.Scheduler) ([]row, error) { return c.endOneByOne(s, name) }); err != nil {
		return rows, err
	}
	var restarts []float64
	var memory float64
	for range 5 {
		c.stored = func(admission.Change) {}
		start := time.Now()
		_, err := c.live(ctx, filepath.Join(dir, "drover.db"), func(s *admission.Scheduler) ([]row, error) {
			restarts = append(restarts, time.Since(start).Seconds())
			memory = liveMiB() - before
			runtime.KeepAlive(s)
			return nil, nil
		})
		if err != nil {
			return rows, err
		}
	}
	return append(rows,
		spread(name, "restart: the store opened, read, and a first decision", "s", restarts),
		row{Case: name, Subject: "memory, the store's included", Unit: "MiB", Value: memory, Min: memory, Max: memory}), nil
}

// live has a scheduler live on a store as long as f, which is called once it has
// decided for the first time.
func (c *crowd) live(ctx context.Context, file string, f func(*admission.Scheduler) ([]row, error)) ([]row, error) {
	db, err := store.Open(ctx, file)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	c.db = db
	spaces, err := workspace.Open(ctx, db, nil)
	if err != nil {
		return nil, err
	}
	s := admission.New(admission.Config{Store: c, Cluster: c.slots, Workspaces: spaces, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	all := map[queue.JobID]bool{}
	for i := range 2*admissionWaiting + 8*admissionNodes {
		all[noopID(i)] = true
	}
	if err := s.Load(ctx, all); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { s.Run(ctx, c) })
	for _, err := s.Using(ctx); err != nil; _, err = s.Using(ctx) { // it does not know the cluster yet
		time.Sleep(time.Millisecond)
	}
	return f(s)
}

// endOneByOne fills the cluster and the queue, and then ends one task after the
// other.
func (c *crowd) endOneByOne(s *admission.Scheduler, name string) ([]row, error) {
	news := make(chan admission.Change, 1000)
	c.stored = func(change admission.Change) { news <- change }
	next := admissionWaiting + 8*admissionNodes/15*4 // 15 GPUs are for four tasks
	start := time.Now()
	for i := range next {
		s.Ask(crowded(i))
	}
	for there := map[queue.JobID]bool{}; len(there) < next; {
		for _, r := range (<-news).Put {
			there[r.ID] = true
		}
	}
	filled := time.Since(start).Seconds()
	var took, bytes []float64
	for range admissionEnds {
		c.mu.Lock()
		id := c.running[0]
		c.running = c.running[1:]
		c.mu.Unlock()
		before := writtenBytes()
		start := time.Now()
		c.slots.release(string(id))
		s.Ended(id, 1, false)
		s.Ask(crowded(next)) // so that as many wait as before
		next++
		for {
			if slices.Contains((<-news).Delete, id) {
				break
			}
		}
		took = append(took, time.Since(start).Seconds()*1e3)
		bytes = append(bytes, (writtenBytes()-before)/1024)
	}
	p := slices.Sorted(slices.Values(took))
	after := spread(name, "one task ends, one comes: until the decision is stored", "ms", took)
	after.Note = fmt.Sprintf("p99 %.1f ms", p[len(p)*99/100])
	return []row{
		{Case: name, Subject: "all asked for at once, until all is stored", Unit: "s", Value: filled, Min: filled, Max: filled},
		after,
		spread(name, "that transaction", "KiB", bytes),
	}, nil
}
