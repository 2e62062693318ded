package admission

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Config is what a Scheduler is made of. Store, Cluster and Workspaces are
// required.
type Config struct {
	Store      Store
	Cluster    Cluster
	Workspaces Workspaces
	Logger     *slog.Logger // default: slog.Default()
	// RefreshEvery is how often the cluster is asked for all that it has, though
	// nothing was heard. Default 30 s.
	RefreshEvery time.Duration
	// Settle is how long news of the cluster are collected. Default 100 ms.
	Settle time.Duration
	// Backoff is the first pause after a call that did not get through; the pauses
	// double up to 64 times that. Default 250 ms.
	Backoff time.Duration
}

const (
	maxBackoffs = 6
	// tick is how often time alone is a reason to decide.
	tick = time.Second
	// maxRounds bounds the plans of one pass; what is left is done in the next.
	maxRounds = 16
	// reopenEvery is after how long the state is made anew by a change of what the
	// cluster has, so that new work is expected to be like that which is there now.
	reopenEvery = time.Minute
	// avoidFirst is how long a node is avoided that did not take a task; it doubles
	// each time, up to avoidMost.
	avoidFirst = 2 * time.Second
	avoidMost  = 10 * time.Minute
	// maxLooking is how many forecasts are made at once.
	maxLooking = 2
)

// Scheduler decides about requests. Its methods may be called from many
// goroutines.
type Scheduler struct {
	config   Config
	listener Listener
	bell     chan struct{}
	stale    chan struct{} // the cluster is to be asked
	looking  chan struct{} // full while as many look ahead as may at once

	mu      sync.Mutex
	letters []func()

	// What follows is only used by the goroutine of Run.
	rows    map[queue.JobID]*Row
	memory  Memory
	changes map[queue.JobID]bool // to be stored
	outbox  []func()             // to be told once that is stored
	charges []workspace.Charge   // to be counted
	charged time.Time            // when all were last
	// others are what holds something and is of no row, as of the last opening.
	others []other
	// gone are Nomad jobs of ours that hold nothing any more, whatever was heard of
	// the cluster before.
	gone map[string]time.Time
	// opened is when the state was made.
	opened time.Time
	// consolidated is when it was last looked whether others could move.
	consolidated time.Time
	waits        map[queue.JobID]told
	// explains is when reasons are looked at again, at the earliest.
	explains time.Time
	parked   map[queue.JobID]string // why a waiting row is not in the state
	state    *queue.State
	// definitions are those that the state was made with.
	definitions workspace.Definitions
	cluster     *cluster // nil until it was asked once
	reopen      bool     // the state is to be made anew
	next        time.Time
}

// told is what was said of why a job waits.
type told struct {
	code queue.Code
	text string
}

// New returns a scheduler that tells l. It does nothing before Run.
func New(c Config) *Scheduler {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.RefreshEvery = cmp.Or(c.RefreshEvery, 30*time.Second)
	c.Settle = cmp.Or(c.Settle, 100*time.Millisecond)
	c.Backoff = cmp.Or(c.Backoff, 250*time.Millisecond)
	return &Scheduler{
		config: c, bell: make(chan struct{}, 1), stale: make(chan struct{}, 1), looking: make(chan struct{}, maxLooking),
		rows: map[queue.JobID]*Row{}, changes: map[queue.JobID]bool{},
		waits: map[queue.JobID]told{}, parked: map[queue.JobID]string{}, gone: map[string]time.Time{},
	}
}

// Load takes up what is stored. live are the tasks that go on, whatever their
// attempts: what others held is given back.
func (s *Scheduler) Load(ctx context.Context, live map[queue.JobID]bool) error {
	rows, memory, err := s.config.Store.LoadQueue(ctx)
	if err != nil {
		return err
	}
	s.memory = memory
	for _, r := range rows {
		s.rows[r.ID] = &r
		if !live[r.ID] {
			s.forget(&r)
		}
	}
	return nil
}

// Run decides until ctx ends. What it is told before is kept.
func (s *Scheduler) Run(ctx context.Context, l Listener) {
	s.listener = l
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.follow(ctx) })
	wg.Go(func() { s.refresh(ctx) })
	ring(s.stale)
	changed := s.config.Workspaces.Changed()
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.bell:
		case <-changed:
			changed = s.config.Workspaces.Changed()
			s.reopen = true
		case <-timer.C:
			if !s.timeMatters() {
				continue
			}
		}
		if !s.pass(ctx) {
			return
		}
	}
}

// timeMatters reports whether a decision may be another one just because time
// has passed.
func (s *Scheduler) timeMatters() bool {
	if !s.next.IsZero() && !time.Now().Before(s.next) {
		s.reopen = true
		return true
	}
	for _, r := range s.rows {
		if r.Phase == Waiting || r.Run != nil && time.Since(s.charged) > chargeEvery {
			return true
		}
	}
	return false
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tell has f run by the scheduler's goroutine.
func (s *Scheduler) tell(f func()) {
	s.mu.Lock()
	s.letters = append(s.letters, f)
	s.mu.Unlock()
	ring(s.bell)
}

// Ask asks for a place. The listener hears the answer. To ask again changes
// nothing, and gets the same answer.
func (s *Scheduler) Ask(r Request) { s.tell(func() { s.ask(r) }) }

// Ended tells that an attempt holds nothing any more. With again, its task asks
// once more.
func (s *Scheduler) Ended(id queue.JobID, attempt int, again bool) {
	s.tell(func() { s.ended(id, attempt, again) })
}

// Declined tells that Nomad did not take an attempt where it was sent: somebody
// else has what was free, or Nomad sees it another way. Ended follows.
func (s *Scheduler) Declined(id queue.JobID, attempt int) {
	s.tell(func() { s.declined(id, attempt) })
}

// Checkpointed tells when an attempt has sealed a checkpoint.
func (s *Scheduler) Checkpointed(id queue.JobID, attempt int, at time.Time) {
	s.tell(func() {
		r := s.rows[id]
		if r == nil || r.Attempt != attempt || r.Run == nil || !at.After(r.Run.Checkpoint) {
			return
		}
		r.Run.Checkpoint = at
		s.change(r)
		if s.state != nil {
			s.must(s.state.Checkpointed(id, at))
		}
	})
}

func (s *Scheduler) change(r *Row) { s.changes[r.ID] = true }

// must logs what cannot happen, as the state and the rows go together. The state
// is made anew from the rows then.
func (s *Scheduler) must(err error) {
	if err != nil {
		s.config.Logger.Error("the queue's state differs from what is stored: making it anew", "error", err)
		s.reopen = true
	}
}

func (s *Scheduler) ask(req Request) {
	r := s.rows[req.ID]
	switch {
	case r == nil && req.Serving && s.cluster != nil && s.cluster.has(req.NomadJob):
		// A new revision takes the places of the one before, one after the other.
		s.outbox = append(s.outbox, func() { s.listener.Granted(req.ID, req.Attempt, Grant{At: time.Now().UTC()}) })
		return
	case r == nil:
		r = &Row{Request: req, Phase: Waiting, Queued: time.Now().UTC()}
		s.rows[req.ID] = r
	case req.Attempt < r.Attempt:
		return // old news
	case req.Attempt == r.Attempt && (r.Phase == Admitted || r.Phase == Leaving):
		if r.NomadJob != req.NomadJob { // granted before it asked
			r.NomadJob = req.NomadJob
			s.change(r)
		}
		s.answer(r)
		return
	case req.Attempt == r.Attempt && r.Phase == Waiting && req.Ask.Shape() == r.Ask.Shape():
		if r.NomadJob != req.NomadJob {
			r.NomadJob = req.NomadJob
			s.change(r)
		}
		delete(s.waits, r.ID) // whoever asks again wants to hear it again
		return
	default:
		if r.Run != nil { // its end was not told, as by an engine that died
			s.charge(r, time.Now().UTC())
			s.release(r)
		}
		if s.state != nil && s.state.Has(r.ID) {
			s.must(s.state.End(r.ID, time.Now()))
		}
		delete(s.parked, r.ID)
		req.Submitted = r.Submitted
		r.Request, r.Phase, r.Queued = req, Waiting, time.Now().UTC()
	}
	s.change(r)
	s.submit(r)
}

// answer tells again what was decided.
func (s *Scheduler) answer(r *Row) {
	id, attempt, g := r.ID, r.Attempt, *r.Grant
	s.outbox = append(s.outbox, func() { s.listener.Granted(id, attempt, g) })
	if r.Phase == Leaving {
		why := r.leaves()
		s.outbox = append(s.outbox, func() { s.listener.Evict(id, attempt, why) })
	}
}

// leaves is why a row has to make room.
func (r *Row) leaves() string {
	if r.Run != nil && r.Run.Moving {
		return fmt.Sprintf("it moves elsewhere, so that there is room for %s", r.For)
	}
	return fmt.Sprintf("it makes room for %s", r.For)
}

func (s *Scheduler) ended(id queue.JobID, attempt int, again bool) {
	r := s.rows[id]
	if r == nil || attempt < r.Attempt {
		return
	}
	if r.NomadJob != "" && !r.Serving {
		s.gone[r.NomadJob] = time.Now()
	}
	s.charge(r, time.Now().UTC())
	if again && r.Phase == Leaving && attempt == r.Attempt && s.requeue(r) {
		return
	}
	if !r.declined(time.Now()) {
		r.Refusals, r.Avoid = 0, nil
	}
	if r.Serving && r.Run != nil && !again {
		// Its instances are counted as they are found, once the cluster was asked.
		r.Phase, r.Queued = Observed, time.Now().UTC()
		s.change(r)
		ring(s.stale)
		return
	}
	s.release(r)
	if !again {
		s.forget(r)
		return
	}
	r.Phase = Idle
	s.change(r)
}

func (s *Scheduler) declined(id queue.JobID, attempt int) {
	r := s.rows[id]
	if r == nil || r.Attempt != attempt || r.Grant == nil {
		return
	}
	at := time.Now().UTC()
	pause := min(avoidFirst<<min(r.Refusals, 10), avoidMost)
	r.Refusals++
	if r.Avoid == nil {
		r.Avoid = map[string]time.Time{}
	}
	for _, m := range r.Grant.Members {
		r.Avoid[m.NodeID] = at.Add(pause)
	}
	s.change(r)
	ring(s.stale)
}

// requeue lets a row that has made room wait again, as its next attempt. The queue
// may have kept room for it.
func (s *Scheduler) requeue(r *Row) bool {
	if s.state == nil || !s.state.Has(r.ID) {
		return false
	}
	now := time.Now().UTC()
	if err := s.state.Requeue(r.ID, now); err != nil {
		s.must(err)
		return false
	}
	r.Attempt++
	r.Evictions++
	r.Phase, r.Queued, r.Run, r.Grant, r.For = Waiting, now, nil, nil, ""
	r.Job.Queued, r.Job.Evictions = now, r.Evictions
	s.change(r)
	return true
}

// declined reports whether Nomad did not take it where it was sent.
func (r *Row) declined(now time.Time) bool {
	return r.Grant != nil && slices.ContainsFunc(r.Grant.Members, func(m jobspec.Place) bool { return now.Before(r.Avoid[m.NodeID]) })
}

// release gives back what a row holds, or takes it out of those that wait.
func (s *Scheduler) release(r *Row) {
	if s.state != nil && s.state.Has(r.ID) {
		s.must(s.state.End(r.ID, time.Now()))
	}
	if r.Phase == Leaving {
		r.Evictions++
	}
	delete(s.parked, r.ID)
	r.Run, r.Grant, r.For = nil, nil, ""
}

func (s *Scheduler) forget(r *Row) {
	delete(s.rows, r.ID)
	delete(s.waits, r.ID)
	s.changes[r.ID] = true
}

// pass decides, stores that and tells it. It is false if ctx ended first: then
// nothing was told.
func (s *Scheduler) pass(ctx context.Context) bool {
	s.mu.Lock()
	letters := s.letters
	s.letters = nil
	s.mu.Unlock()
	for _, f := range letters {
		f()
	}
	now := time.Now().UTC()
	s.chargeAll(now)
	// Before anything is decided: a budget may be used up by it.
	if len(s.charges) > 0 && !s.insist(ctx, "counting what was used", func() error { return s.config.Workspaces.AddUsage(ctx, s.charges) }) {
		return false
	}
	s.charges = nil
	if s.reopen && s.cluster != nil {
		if err := s.open(ctx, now); err != nil {
			s.config.Logger.Error("making the queue's state: the one before stays", "error", err)
		}
	}
	if s.state != nil {
		s.decide(now)
	}
	if !s.store(ctx) {
		return false
	}
	for _, f := range s.outbox {
		f()
	}
	s.outbox = nil
	s.explain()
	return true
}

// consolidateEvery is how often it is looked whether others could move.
const consolidateEvery = 5 * time.Second

// decide plans and applies until there is nothing more to do.
func (s *Scheduler) decide(now time.Time) {
	for range maxRounds {
		p := s.state.Plan(now)
		if !s.apply(p, now) {
			return
		}
		if !p.Empty() {
			continue
		}
		if now.Before(s.consolidated.Add(consolidateEvery)) {
			return
		}
		s.consolidated = now
		if p = s.state.Consolidate(now); p.Empty() {
			return
		}
		s.apply(p, now)
		return
	}
	ring(s.bell)
}

// apply does what a plan says; false: it is not of this state.
func (s *Scheduler) apply(p queue.Plan, now time.Time) bool {
	if err := s.state.Apply(p, now); err != nil {
		s.must(err)
		return false
	}
	for _, st := range p.Start {
		s.grant(st, now)
	}
	for _, e := range p.Evict {
		r := s.rows[e.Job]
		if r == nil || r.Phase != Admitted {
			continue
		}
		r.Phase, r.For, r.Run.Leaving, r.Run.Moving = Leaving, e.For, true, e.Moves
		s.change(r)
		id, attempt, why := r.ID, r.Attempt, r.leaves()
		s.outbox = append(s.outbox, func() { s.listener.Evict(id, attempt, why) })
		s.config.Logger.Info("a task makes room", "task", r.ID, "for", e.For, "moves", e.Moves, "lost_gpu_seconds", e.LostSeconds)
	}
	return true
}

func (s *Scheduler) grant(st queue.Start, now time.Time) {
	r := s.rows[st.Job]
	if r == nil {
		s.must(fmt.Errorf("job %s was started, and nobody asked for it", st.Job))
		return
	}
	r.Phase = Admitted
	r.Run = &queue.Run{Started: now, Members: st.Members, Option: st.Option, Place: st.Place}
	r.Grant = &Grant{Members: s.cluster.members(st), At: now}
	delete(s.waits, r.ID)
	s.change(r)
	id, attempt, g := r.ID, r.Attempt, *r.Grant
	s.outbox = append(s.outbox, func() { s.listener.Granted(id, attempt, g) })
}

// store stores what has changed, however often it takes.
func (s *Scheduler) store(ctx context.Context) bool {
	memory := s.memory
	if s.state != nil {
		memory.Claims, memory.Promises, memory.Served = s.state.Memory()
	}
	if len(s.changes) == 0 && slices.Equal(memory.Claims, s.memory.Claims) && slices.Equal(memory.Promises, s.memory.Promises) {
		return true
	}
	c := Change{Memory: memory}
	for _, id := range slices.Sorted(maps.Keys(s.changes)) { // neighbours are stored together
		if r := s.rows[id]; r != nil {
			c.Put = append(c.Put, r.stored())
		} else {
			c.Delete = append(c.Delete, id)
		}
	}
	if !s.insist(ctx, "storing a decision", func() error { return s.config.Store.SaveQueue(ctx, c) }) {
		return false
	}
	s.memory = memory
	clear(s.changes)
	return true
}

// stored is a row without what is made anew whenever it is looked at.
func (r *Row) stored() Row {
	row := *r
	if r.Phase == Waiting || r.Phase == Idle {
		row.Job = queue.Job{}
	}
	return row
}

// insist does f until it succeeds; false if ctx ended first.
func (s *Scheduler) insist(ctx context.Context, what string, f func() error) bool {
	for failures := 0; ; failures++ {
		err := f()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.config.Logger.Error(what+": trying again", "error", err)
		if !s.pause(ctx, failures) {
			return false
		}
	}
}

// maxExplained is for how many jobs the reasons are looked at after each pass;
// with more waiting, most are not near their start.
const maxExplained = 5000

// explainPart is the part of its time that the scheduler spends on reasons at most:
// one of so many.
const explainPart = 10

// explain tells why tasks wait, where the kind of reason has changed.
func (s *Scheduler) explain() {
	start := time.Now()
	if start.Before(s.explains) {
		return // a later pass does: there is one each tick while anything waits
	}
	defer func() { s.explains = start.Add(explainPart * time.Since(start)) }()
	n := 0
	for id, r := range s.rows {
		if r.Phase != Waiting {
			continue
		}
		if n++; n > maxExplained {
			return
		}
		now, why := s.reason(r)
		if before, ok := s.waits[id]; ok && before.code == now.code && (now.code != "" || before.text == now.text) {
			continue
		}
		if now.code != "" {
			now.text = why.String()
		}
		s.waits[id] = now
		s.listener.Waits(id, r.Attempt, now.text)
	}
}

// reason is why a row waits: in words, or as a code and the queue's reason.
func (s *Scheduler) reason(r *Row) (told, queue.Reason) {
	if why, ok := s.parked[r.ID]; ok {
		return told{text: why}, queue.Reason{}
	}
	if s.state == nil {
		return told{text: "waiting to hear which nodes the cluster has"}, queue.Reason{}
	}
	if !s.state.Has(r.ID) {
		return told{text: "about to be looked at"}, queue.Reason{}
	}
	why, err := s.state.Why(r.ID)
	if err != nil {
		return told{text: err.Error()}, queue.Reason{}
	}
	return told{code: why.Code}, why
}

func (s *Scheduler) pause(ctx context.Context, failures int) bool {
	t := time.NewTimer(s.config.Backoff << min(failures, maxBackoffs))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
