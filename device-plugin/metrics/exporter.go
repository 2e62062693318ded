package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/sysfs"
)

// ProcessLister is a source that can list the processes on its GPUs. On real
// boards that is far dearer than a Sample, so it should be asked less often.
type ProcessLister interface {
	Processes(ctx context.Context) ([]gpu.Process, error)
}

// Config is how an Exporter works.
type Config struct {
	// Node is the label Hostname; "" is the host's name.
	Node string
	// Ages are how old readings may be and still be shown. Three times the
	// period of each is right.
	Ages Ages
	// Tasks finds the tasks of processes, as attribution.Finder's does; nil
	// finds none. It is called once at a time.
	Tasks func(pids []int) map[int]attribution.Task
	Now   func() time.Time // nil is time.Now
}

// minAge keeps what is read very often from having gaps when a reading takes
// long.
const minAge = 10 * time.Second

// Ages are how old readings of each kind may be. None may be less than 10
// seconds.
type Ages struct {
	Inventory time.Duration // 0 is 3 minutes
	Samples   time.Duration // 0 is 15 seconds
	Vitals    time.Duration // 0 is 2 minutes
	Processes time.Duration // 0 is 1 minute
	Network   time.Duration // 0 is 1 minute
}

// Exporter is an HTTP handler that answers with the last readings in
// Prometheus's text format. Its owner hands it every reading as it is made,
// with the error if it failed: then the last one is shown until it is stale.
// All methods may be called at the same time. What is handed over must not be
// changed afterwards.
type Exporter struct {
	config Config
	// finding is held while tasks are looked up.
	finding sync.Mutex

	mu          sync.Mutex
	collections map[string]collection
	snapshot    snapshot
}

// snapshot is everything that is shown. Its parts are replaced, never changed.
type snapshot struct {
	units   []unit
	turns   map[gpu.ID]turns
	samples map[gpu.ID]gpu.Sample
	vitals  map[gpu.ID]gpu.Vitals
	nvlink  map[gpu.ID]float64 // MB/s
	use     map[gpu.ID]use
	// processes are those behind use.
	processes []gpu.Process
	untold    int            // tasks beyond maxTasks
	health    *health.Report // nil before the first
	phases    map[gpu.ID]string
	network   []sysfs.Interface
	rdma      []sysfs.RDMADevice
}

// New makes an Exporter, which shows nothing yet but itself.
func New(c Config) *Exporter {
	if c.Node == "" {
		c.Node, _ = os.Hostname() // without a name the label is left out
	}
	least := func(age, otherwise time.Duration) time.Duration { return max(cmp.Or(age, otherwise), minAge) }
	c.Ages = Ages{
		Inventory: least(c.Ages.Inventory, 3*time.Minute), Samples: least(c.Ages.Samples, 15*time.Second),
		Vitals: least(c.Ages.Vitals, 2*time.Minute), Processes: least(c.Ages.Processes, time.Minute),
		Network: least(c.Ages.Network, time.Minute),
	}
	if c.Tasks == nil {
		c.Tasks = func([]int) map[int]attribution.Task { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Exporter{config: c, collections: make(map[string]collection)}
}

// Looked tells that the machine was looked at for what devices it has.
func (e *Exporter) Looked(started time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.collected("inventory", started, err)
}

// Devices are all known ones with their faults, replicas or the hardware
// behind them alike, and the boards of the last good look. The boards are
// needed for those in MIG mode, which are no devices.
func (e *Exporter) Devices(driver string, devices []gpu.Device, boards []gpu.Board) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.snapshot.units
	e.snapshot.units = unitsOf(e.config.Node, driver, devices, boards)
	e.snapshot.turns = countTurns(e.snapshot.turns, before, e.snapshot.units)
	e.attribute()
}

// Samples are those of boards, those in MIG mode included, and slices.
func (e *Exporter) Samples(started time.Time, samples map[gpu.ID]gpu.Sample, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.collected("samples", started, err) {
		e.snapshot.samples = samples
	}
}

// Vitals are those of the boards that were asked for, as far as they answered.
// What is known of others stays.
func (e *Exporter) Vitals(started time.Time, asked []gpu.ID, vitals map[gpu.ID]gpu.Vitals, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.collected("vitals", started, err) {
		return
	}
	before := e.snapshot.vitals
	after, rates := make(map[gpu.ID]gpu.Vitals), make(map[gpu.ID]float64)
	for _, u := range e.snapshot.units {
		if v, ok := before[u.id]; ok && !slices.Contains(asked, u.id) {
			after[u.id] = v
			if rate, ok := e.snapshot.nvlink[u.id]; ok {
				rates[u.id] = rate
			}
		}
	}
	for id, v := range vitals {
		after[id] = v
		if rate, ok := nvlinkRate(before[id], v); ok {
			rates[id] = rate
		}
	}
	e.snapshot.vitals, e.snapshot.nvlink = after, rates
}

// Reader is r, whose readings the exporter shows as they are made, so that
// nobody has to read vitals for it.
func (e *Exporter) Reader(r health.VitalsReader) health.VitalsReader { return reader{r, e} }

type reader struct {
	health.VitalsReader
	exporter *Exporter
}

func (r reader) Vitals(ctx context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	started := r.exporter.config.Now()
	vitals, err := r.VitalsReader.Vitals(ctx, boards)
	r.exporter.Vitals(started, boards, vitals, err)
	return vitals, err
}

// Processes are those on all GPUs. It looks up their tasks, which reads files
// of each of them.
func (e *Exporter) Processes(started time.Time, processes []gpu.Process, err error) {
	var tasks map[int]attribution.Task
	if err == nil {
		pids := make([]int, 0, len(processes))
		for _, p := range processes {
			pids = append(pids, p.PID)
		}
		slices.Sort(pids)
		e.finding.Lock()
		tasks = e.config.Tasks(slices.Compact(pids))
		e.finding.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.collected("processes", started, err) {
		return
	}
	e.snapshot.use, e.snapshot.untold = usesOf(processes, tasks)
	e.snapshot.processes = merged(processes)
	e.attribute()
}

// Health is the latest word of the health rules.
func (e *Exporter) Health(r health.Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.snapshot.health = &r
}

// MIG is how far the change of each board's layout is, in one of a few words.
func (e *Exporter) MIG(phases map[gpu.ID]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.snapshot.phases = phases
}

// Network is how the node's network cards are doing.
func (e *Exporter) Network(started time.Time, interfaces []sysfs.Interface, rdma []sysfs.RDMADevice, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.collected("network", started, err) {
		e.snapshot.network, e.snapshot.rdma = interfaces, rdma
	}
}

// Latest are the readings that are not too old to be shown.
func (e *Exporter) Latest() gpu.Readings {
	p := e.page()
	r := gpu.Readings{Samples: make(map[gpu.ID]gpu.Sample), Vitals: make(map[gpu.ID]gpu.Vitals), Processes: p.processes}
	for _, row := range p.rows() {
		if row.sample != nil {
			r.Samples[row.id] = *row.sample
		}
		if row.vitals != nil {
			r.Vitals[row.id] = *row.vitals
		}
	}
	return r
}

// Serve answers requests for /metrics at an address ("127.0.0.1:9445") until
// ctx ends.
func (e *Exporter) Serve(ctx context.Context, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return e.ServeOn(ctx, listener)
}

// ServeOn is Serve on a listener, which it closes.
func (e *Exporter) ServeOn(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", e)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

// contentType is that of Prometheus's text format.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// ServeHTTP answers with the metrics, whatever the path.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", contentType)
	p := e.page()
	t := newText(w)
	defer t.release()
	p.writeDevices(t)
	p.writeTasks(t)
	p.writeHealth(t)
	p.writeNetwork(t)
	p.writeCollections(t)
	writeSelf(t)
	t.flush() // a scraper that went away misses nothing
}
