package run

import (
	"bytes"
	"context"
	"path"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/jobspec"
)

// tailBytes is how much of a metrics file is read at once.
const tailBytes = 1 << 20

// tails are the running tasks whose metrics files are followed, by job ID.
type tails struct {
	mu    sync.Mutex
	byJob map[string]*tail
}

type tail struct {
	actor     *actor
	namespace string
	jobID     string
	allocID   string
	started   time.Time
	due       time.Time
	offset    int64
}

func (s *tails) add(namespace, jobID, allocID string, a *actor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byJob == nil {
		s.byJob = map[string]*tail{}
	}
	at := time.Now()
	s.byJob[jobID] = &tail{actor: a, namespace: namespace, jobID: jobID, allocID: allocID, started: at, due: at.Add(a.engine.config.TailEvery)}
}

func (s *tails) drop(jobID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byJob, jobID)
}

// take returns the tails that are due at a time, each due again later: after
// every, or less often the longer its task has run.
func (s *tails) take(at time.Time, every time.Duration) []*tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []*tail
	for _, t := range s.byJob {
		if t.due.After(at) {
			continue
		}
		age := at.Sub(t.started)
		t.due = at.Add(max(every, min(age/60, 30*time.Second)))
		due = append(due, t)
	}
	return due
}

// tail follows the metrics files of running tasks until ctx ends. What is
// missed here comes with the result record.
func (e *Engine) tail(ctx context.Context) {
	tick := time.NewTicker(max(e.config.TailEvery/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-tick.C:
			var g errgroup.Group
			g.SetLimit(maxTails)
			for _, t := range e.tails.take(at, e.config.TailEvery) {
				g.Go(func() error { e.read(ctx, t); return nil })
			}
			_ = g.Wait() // read reports by itself
		}
	}
}

// read sends what is new in a metrics file, in whole lines.
func (e *Engine) read(ctx context.Context, t *tail) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	file := path.Join(jobspec.TaskName, mltask.Folder, mltask.MetricsFile)
	b, err := e.config.Cluster.In(t.namespace).ReadFile(ctx, t.allocID, file, t.offset, tailBytes)
	if err != nil {
		e.config.Logger.Debug("reading a task's metrics", "job", t.jobID, "error", err)
		return
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	if len(whole) == 0 {
		if len(b) == tailBytes { // no line is that long
			t.offset += int64(len(b))
		}
		return
	}
	t.offset += int64(len(whole))
	m := measured{jobID: t.jobID}
	for line := range bytes.Lines(whole) {
		if l, err := mltask.ParseMetricsLine(line); err == nil {
			m.lines = append(m.lines, l)
		}
	}
	if len(m.lines) > 0 {
		t.actor.send(m)
	}
}

// measured are new lines of a running task's metrics.
type measured struct {
	jobID string
	lines []mltask.MetricsLine
}

func (m measured) apply(a *actor) {
	at := a.open[m.jobID]
	if at == nil || at.Phase != Running {
		return
	}
	var points []MetricPoint
	for _, l := range m.lines {
		points = appendPoints(points, l, at.Node, at.Trial)
	}
	a.storePoints(points)
	last := m.lines[len(m.lines)-1]
	p := &Progress{Step: last.Step, Epoch: last.Epoch, Metrics: finite(last.Metrics), At: now()}
	old := &at.task.node.Progress
	if t := at.task; t.trial != nil {
		old = &t.trial.Progress
	}
	if *old != nil && (*old).Step >= p.Step {
		return // read again after a restart
	}
	*old = p
	if at.task.trial != nil {
		a.change.trials.add(at.task)
	} else {
		a.change.nodes.add(at.task.node)
	}
	a.event(Event{Type: "progress", Node: at.Node, Trial: at.Trial, Phase: Running, Message: p.String()})
}
