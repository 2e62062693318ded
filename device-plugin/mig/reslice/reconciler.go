package reslice

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
)

// Store keeps the tasks of a node. Dir is one.
type Store interface {
	Load() (State, error)
	Update(change func(*State) error) (State, error)
}

// Config is what a Reconciler needs.
type Config struct {
	Controller mig.Controller
	Store      Store
	Limits     Limits
	// Restore is how often boards whose layout was reached are looked at, to
	// make again what a reset took. Default 1 minute.
	Restore time.Duration
	Logger  hclog.Logger // nil discards
}

// Reconciler brings the boards of a node to the layouts that are wanted.
type Reconciler struct {
	Config
	changes chan struct{}

	mu     sync.Mutex
	state  State
	faults map[gpu.ID]gpu.Fault
}

// New makes a Reconciler. The cordons that were in force when the last one
// ended are in force from here on, before Run.
func New(c Config) (*Reconciler, error) {
	c.Limits = c.Limits.withDefaults()
	if c.Restore == 0 {
		c.Restore = time.Minute
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	r := &Reconciler{Config: c, changes: make(chan struct{}, 1)}
	s, err := c.Store.Load()
	if err != nil {
		return nil, err
	}
	r.publish(s)
	return r, nil
}

// Faults are the devices that must not get new work, boards and slices, and
// what becomes of the work that runs there. Safe to call at any time.
func (r *Reconciler) Faults() map[gpu.ID]gpu.Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.faults)
}

// State is what the Reconciler saw last.
func (r *Reconciler) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Boards = maps.Clone(s.Boards)
	return s
}

// Changes delivers a hint that Faults, or the slices of a board, are not what
// they were.
func (r *Reconciler) Changes() <-chan struct{} { return r.changes }

func (r *Reconciler) notify() {
	select {
	case r.changes <- struct{}{}:
	default: // a hint is pending already
	}
}

// Run works on what is wanted until the context ends. One process of a node
// may run it at a time: see Dir.Acquire. It picks up new tasks within
// Limits.Poll.
func (r *Reconciler) Run(ctx context.Context) {
	var restored time.Time // when all boards were looked at
	trouble := ""
	for ctx.Err() == nil {
		wait, err := r.attend(ctx, &restored)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if text := err.Error(); text != trouble {
				trouble = text
				r.Logger.Error("MIG layouts cannot be worked on; trying again", "error", err)
			}
			wait = r.Limits.Backoff
		} else if trouble != "" {
			trouble = ""
			r.Logger.Info("MIG layouts can be worked on again")
		}
		pause(ctx, wait)
	}
}

// attend does what is due, and returns when to look again.
func (r *Reconciler) attend(ctx context.Context, restored *time.Time) (time.Duration, error) {
	s, err := r.Store.Load()
	if err != nil {
		return 0, err
	}
	r.publish(s)
	restore := time.Since(*restored) >= r.Restore
	if s.Settled() && (!restore || len(s.Boards) == 0) {
		return r.Limits.Poll, nil
	}
	wait, err := r.cycle(ctx)
	if err == nil && restore {
		*restored = time.Now()
	}
	return wait, err
}

// RunUntilSettled works until nothing more happens by itself on the boards. An
// error of the controller or the store ends it.
func (r *Reconciler) RunUntilSettled(ctx context.Context, boards ...string) error {
	for {
		wait, err := r.cycle(ctx)
		if err != nil {
			return err
		}
		if r.State().Settled(boards...) {
			return nil
		}
		pause(ctx, wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// cycle reads the boards, brings each task one step further, and returns when
// to do so again. Zero is at once.
func (r *Reconciler) cycle(ctx context.Context) (time.Duration, error) {
	boards, err := r.Controller.Boards(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the MIG state of the boards: %w", err)
	}
	actions := make(map[string]Action)
	s, err := r.Store.Update(func(s *State) error {
		clear(actions)
		now := time.Now()
		for id, t := range s.Boards {
			var b *mig.Board
			if at := slices.IndexFunc(boards, func(b mig.Board) bool { return b.ID == id }); at >= 0 {
				b = &boards[at]
			}
			s.Boards[id], actions[id] = t.Next(b, now, r.Limits)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	r.publish(s)
	wait := r.Limits.Poll
	for _, id := range slices.Sorted(maps.Keys(actions)) {
		a := actions[id]
		if a.Step == nil {
			wait = min(wait, a.Wait)
			continue
		}
		wait = 0
		if err := r.do(ctx, id, s.Boards[id], *a.Step); err != nil {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	return wait, nil
}

// do carries out a step and stores how it went.
func (r *Reconciler) do(ctx context.Context, board string, t Task, step mig.Step) error {
	log := r.Logger.With("board", board, "layout", t.Name, "step", step.String())
	log.Info("changing MIG instances")
	// A step that has begun is not cut short: how it went would not be known.
	err := r.carryOut(context.WithoutCancel(ctx), board, step)
	if err != nil {
		log.Warn("changing MIG instances did not work", "error", err)
	}
	s, updateErr := r.Store.Update(func(s *State) error {
		// The board may be wanted otherwise by now.
		if now, ok := s.Boards[board]; ok && now.ID == t.ID {
			s.Boards[board] = now.StepDone(err, time.Now(), r.Limits)
		}
		return nil
	})
	if updateErr != nil {
		return updateErr
	}
	r.publish(s)
	r.notify() // the slices are not what they were
	return nil
}

func (r *Reconciler) carryOut(ctx context.Context, board string, step mig.Step) error {
	var err error
	switch step.Op {
	case mig.Destroy:
		err = r.Controller.Destroy(ctx, board, step.Instance.GPUInstance)
	case mig.Create:
		err = r.Controller.Create(ctx, board, step.Instance)
	case mig.Enable, mig.Disable:
		// Whether it waits for a reset is in the next reading.
		_, err = r.Controller.SetMode(ctx, board, step.Op == mig.Enable)
	default:
		err = fmt.Errorf("%q is nothing that can be done here", step.Op)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

// publish makes a state the one that others see.
func (r *Reconciler) publish(s State) {
	faults := make(map[gpu.ID]gpu.Fault)
	for board, t := range s.Boards {
		maps.Copy(faults, t.Faults(board))
	}
	r.mu.Lock()
	before := r.state
	changed := !maps.Equal(r.faults, faults)
	r.state, r.faults = s, faults
	r.mu.Unlock()
	for _, board := range slices.Sorted(maps.Keys(s.Boards)) {
		t, old := s.Boards[board], before.Boards[board]
		if t.ID != old.ID || t.Phase != old.Phase || t.Phase == Failed && t.Reason != old.Reason {
			r.Logger.Info("MIG layout of a board", "board", board, "layout", t.Name, "phase", t.Phase, "reason", t.Reason)
		}
	}
	if changed {
		r.notify()
	}
}
