package supervisor

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/stage"
)

// work is what goes on beside the command.
type work struct {
	metrics *metrics
	stalled chan struct{} // closed when the task has stalled
	faults  chan gpustatus.Device
	// forgotten is closed when the state folder is gone.
	forgotten chan struct{}
	broken    chan string // why another member of the gang has failed
	keeper    *keeper     // nil without checkpoints
	stop      context.CancelFunc
	done      sync.WaitGroup
}

// startWork starts to follow the metrics and the checkpoints.
func (s *supervisor) startWork(ctx context.Context) *work {
	ctx, stop := context.WithCancel(ctx)
	w := &work{
		metrics: newMetrics(s.spec.Folder),
		stalled: make(chan struct{}),
		faults:  make(chan gpustatus.Device),

		forgotten: make(chan struct{}),
		broken:    make(chan string),
		stop:      stop,
	}
	w.done.Go(func() { s.followMetrics(ctx, w) })
	w.done.Go(func() { s.watchMemory(ctx) })
	w.done.Go(func() { s.watchGPUs(ctx, w.faults) })
	w.done.Go(func() { s.watchState(ctx, w.forgotten) })
	w.done.Go(func() { s.watchGang(ctx, w.broken) })
	if s.spec.Checkpoint != nil {
		k, err := newKeeper(s)
		if err != nil {
			s.log.Error("watching checkpoints", "error", err)
			s.event("checkpoints-off", "Checkpoints are not kept: "+err.Error(), nil)
		} else {
			w.keeper = k
			w.done.Go(func() { k.sealAsTheyCome(ctx) })
			w.done.Go(func() { k.copyAsTheyCome(ctx) })
		}
	}
	return w
}

// end stops what goes on beside the command and waits for it.
func (w *work) end() {
	w.stop()
	w.done.Wait()
}

// watchInterval is how often the metrics, the memory and the state folder are
// looked at.
const watchInterval = time.Second

// followMetrics reads the metrics file as it grows, which also is the task's
// heartbeat.
func (s *supervisor) followMetrics(ctx context.Context, w *work) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	grown := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.readMetrics(w.metrics, false) {
			grown = time.Now()
		}
		if s.spec.StallTimeout > 0 && time.Since(grown) > s.spec.StallTimeout {
			close(w.stalled)
			return
		}
	}
}

// readMetrics reports whether the file has grown.
func (s *supervisor) readMetrics(m *metrics, final bool) bool {
	grown, err := m.read(final)
	if err != nil {
		s.event("metrics-unreadable", "The metrics file can't be read: "+err.Error(), nil)
	}
	if m.malformed != nil {
		s.event("metrics-malformed", "The metrics file has a line that is ignored: "+m.malformed.Error(), nil)
	}
	return grown
}

// watchMemory tells of a kill by the kernel while the task still runs.
func (s *supervisor) watchMemory(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.spec.Group.OOMKills() > 0 {
			s.event("oom", oomMessage, nil)
			return
		}
	}
}

// watchState closes gone when the task's state folder is: whoever removed it
// has not stopped the task, and nobody else can find it.
func (s *supervisor) watchState(ctx context.Context, gone chan<- struct{}) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for s.dir.Exists() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	close(gone)
}

const oomMessage = "Out of memory: the kernel killed a process of the task"

// openStore opens the artefact store, or returns nil if the task has none.
func (s *supervisor) openStore() (*artifact.Store, error) {
	if s.spec.Store == "" {
		return nil, nil
	}
	return stage.OpenStore(s.spec.Store, true)
}

// inFolder is a path among the task's files.
func (s *supervisor) inFolder(elem ...string) string {
	return filepath.Join(append([]string{s.spec.Folder}, elem...)...)
}

// result is the task's record, without what finishing adds.
func (s *supervisor) result(end *ending, w *work) mltask.Result {
	r := mltask.Result{
		Version: 1, AllocID: s.spec.AllocID, TaskID: s.spec.TaskID, NodeID: s.spec.NodeID, NodeName: s.spec.NodeName,
		ExitCode: end.code, Signal: end.signal, OOM: end.oom, Error: end.err,
		Last: w.metrics.last, ResumedFrom: s.spec.ResumedFrom,
		Started: s.started, Finished: time.Now().UTC(), Devices: s.spec.Devices,
	}
	if w.keeper != nil {
		r.LastSealed = w.keeper.lastSealed()
	}
	return r
}
