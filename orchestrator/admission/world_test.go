package admission_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// world is a scheduler with all that it talks to, in virtual time.
type world struct {
	t *testing.T
	*admission.Scheduler
	store   *memoryStore
	cluster *fakeCluster
	spaces  *fakeWorkspaces
	stop    func()

	mu      sync.Mutex
	granted map[string]admission.Grant // by task and attempt
	order   []queue.JobID              // of grants
	evicted map[string]string
	waits   map[string]string
}

// newWorld has nodes n1, n2 ... with so many GPUs each. It must be called in a
// synctest bubble.
func newWorld(t *testing.T, gpus ...int) *world {
	w := &world{
		t: t, store: &memoryStore{rows: map[queue.JobID]string{}}, cluster: &fakeCluster{changed: make(chan struct{})},
		spaces:  &fakeWorkspaces{changed: make(chan struct{})},
		granted: map[string]admission.Grant{}, evicted: map[string]string{}, waits: map[string]string{},
	}
	for i, n := range gpus {
		w.cluster.nodes = append(w.cluster.nodes, node(fmt.Sprintf("n%d", i+1), n))
	}
	w.start()
	return w
}

func node(name string, gpus int) inventory.Node {
	n := inventory.Node{ID: queue.NodeID(name), Name: name, Pool: "default", Datacenter: "dc1", Eligible: true, CPUMHz: 100_000, Cores: 32, MemoryMiB: 1 << 20}
	g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: "A100", Attributes: map[string]*api.Attribute{}}
	for i := range gpus {
		g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprintf("%s-gpu%d", name, i), Healthy: true})
	}
	if gpus > 0 {
		n.Groups = []inventory.Group{g}
	}
	return n
}

// start starts a scheduler on what is stored; live are the tasks that go on.
func (w *world) start(live ...queue.JobID) {
	w.t.Helper()
	w.Scheduler = admission.New(admission.Config{
		Store: w.store, Cluster: w.cluster, Workspaces: w.spaces, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	alive := map[queue.JobID]bool{}
	for _, id := range live {
		alive[id] = true
	}
	if err := w.Load(w.t.Context(), alive); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx, w) }()
	w.stop = func() { cancel(); <-done }
}

// settle lets everything happen that happens now, and a little later.
func (w *world) settle() {
	synctest.Wait()
	time.Sleep(3 * time.Second) // of virtual time: ticks and collected news
	synctest.Wait()
}

func key(id queue.JobID, attempt int) string { return fmt.Sprintf("%s#%d", id, attempt) }

func (w *world) Granted(id queue.JobID, attempt int, g admission.Grant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, again := w.granted[key(id, attempt)]; !again {
		w.order = append(w.order, id)
	}
	w.granted[key(id, attempt)] = g
	delete(w.waits, key(id, attempt))
}

func (w *world) Evict(id queue.JobID, attempt int, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.evicted[key(id, attempt)] = why
}

func (w *world) Waits(id queue.JobID, attempt int, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits[key(id, attempt)] = why
}

// grant is what an attempt was granted, nil if nothing.
func (w *world) grant(id queue.JobID, attempt int) *admission.Grant {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g, ok := w.granted[key(id, attempt)]; ok {
		return &g
	}
	return nil
}

func (w *world) devices(id queue.JobID, attempt int) []string {
	var all []string
	if g := w.grant(id, attempt); g != nil {
		for _, m := range g.Members {
			all = append(all, m.Devices...)
		}
	}
	slices.Sort(all)
	return all
}

// wants is a request for so many GPUs on one node.
func wants(id queue.JobID, gpus int, change ...func(*admission.Request)) admission.Request {
	r := admission.Request{
		ID: id, Attempt: 1, NomadJob: "drover-" + string(id), Workspace: "default", Min: 1, Max: 1,
		Ask:       inventory.Ask{CPUMHz: 100, MemoryMiB: 100, GPU: &pipeline.GPU{Count: gpus, Device: "nvidia/gpu"}},
		Submitted: time.Now().UTC(), RunTime: time.Hour,
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func attempt(n int) func(*admission.Request)  { return func(r *admission.Request) { r.Attempt = n } }
func priority(n int) func(*admission.Request) { return func(r *admission.Request) { r.Priority = n } }
func preemptible(r *admission.Request)        { r.Preemptible = true }

// memoryStore keeps what is saved as a store does: encoded.
type memoryStore struct {
	mu     sync.Mutex
	rows   map[queue.JobID]string
	memory string
	fail   int // so many saves fail
	saved  int
}

func (m *memoryStore) LoadQueue(context.Context) (rows []admission.Row, memory admission.Memory, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(m.rows)) {
		var r admission.Row
		if err := json.Unmarshal([]byte(m.rows[id]), &r); err != nil {
			return nil, memory, err
		}
		rows = append(rows, r)
	}
	if m.memory != "" {
		err = json.Unmarshal([]byte(m.memory), &memory)
	}
	return rows, memory, err
}

func (m *memoryStore) SaveQueue(_ context.Context, c admission.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail > 0 {
		m.fail--
		return errors.New("the disk is full")
	}
	m.saved++
	for _, r := range c.Put {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		m.rows[r.ID] = string(text)
	}
	for _, id := range c.Delete {
		delete(m.rows, id)
	}
	text, err := json.Marshal(c.Memory)
	m.memory = string(text)
	return err
}

// fakeCluster is what a test says.
type fakeCluster struct {
	mu       sync.Mutex
	nodes    []inventory.Node
	allocs   []inventory.Alloc
	services []admission.Service
	changed  chan struct{}
	// meanwhile happens while the next answer is on its way.
	meanwhile func()
}

func (c *fakeCluster) Inventory(context.Context) ([]inventory.Node, []inventory.Alloc, error) {
	c.mu.Lock()
	nodes, allocs, meanwhile := slices.Clone(c.nodes), slices.Clone(c.allocs), c.meanwhile
	c.meanwhile = nil
	c.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	return nodes, allocs, nil
}

func (c *fakeCluster) Services(context.Context) ([]admission.Service, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.services), nil
}

func (c *fakeCluster) Changes(ctx context.Context, ring func()) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		ring()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (c *fakeCluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// fakeWorkspaces is what a test declares.
type fakeWorkspaces struct {
	mu          sync.Mutex
	definitions workspace.Definitions
	changed     chan struct{}
	charges     []workspace.Charge
}

func (f *fakeWorkspaces) Definitions() workspace.Definitions {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.definitions
}

func (f *fakeWorkspaces) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeWorkspaces) declare(d workspace.Definitions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.definitions = d
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeWorkspaces) AddUsage(_ context.Context, charges []workspace.Charge) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.charges = append(f.charges, charges...)
	return nil
}

func (f *fakeWorkspaces) Used(context.Context, time.Time) ([]workspace.Use, error) { return nil, nil }

// foreign is an allocation of somebody else.
func foreign(id, node string, devices ...string) inventory.Alloc {
	return inventory.Alloc{
		ID: id, JobID: "theirs", Namespace: "default", NodeID: queue.NodeID(node), CPUMHz: 100, MemoryMiB: 100,
		Devices: []inventory.Devices{{Vendor: "nvidia", Type: "gpu", Name: "A100", IDs: devices}},
	}
}
