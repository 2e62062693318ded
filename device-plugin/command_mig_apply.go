package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/device-plugin/mig/reslice"
)

// migApply is how to apply a layout.
type migApply struct {
	wait, evict bool
	timeout     time.Duration
}

// busyPatience is for processes that come between the check that nobody is in
// the way and the cordon.
const busyPatience = time.Minute

const (
	// followPause is how often a command looks how far the boards are.
	followPause = 200 * time.Millisecond
	// beginPatience is above the pause after which a plugin tries again what
	// did not work.
	beginPatience = 30 * time.Second
)

// run stores what is wanted, and follows it to its end. Where a plugin runs on
// the node it does the work, since it keeps new work away from the boards;
// otherwise this process does. The state is nil if nothing was stored.
func (a migApply) run(ctx context.Context, m *migMachine, progress io.Writer) (*reslice.State, error) {
	if err := a.refuseBusy(m); err != nil {
		return nil, err
	}
	dir, stored, err := a.store(m)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w (run this as the user of the Nomad agent, or choose -state-dir)", err)
	}
	if err != nil {
		return nil, err
	}
	f := follower{stateDir: m.stateDir, progress: progress, said: make(map[string]string)}
	for _, b := range m.boards {
		f.boards = append(f.boards, b.Board.ID)
		f.indexes = append(f.indexes, b.Board.Index)
	}
	// Without a plugin nobody places work here, so a cordon needs no time.
	limits := reslice.Limits{Settle: time.Millisecond}
	ended, err := f.follow(ctx, dir, stored, reslice.Config{Controller: m.controller, Store: dir, Limits: limits})
	if err == nil {
		err = failures(ended, m.boards)
	}
	return &ended, err
}

// store writes down what is wanted, of all boards or of none.
func (a migApply) store(m *migMachine) (*reslice.Dir, reslice.State, error) {
	dir, err := reslice.OpenDir(m.stateDir)
	if err != nil {
		return nil, reslice.State{}, err
	}
	stored, err := dir.Update(func(s *reslice.State) error {
		now := time.Now()
		for _, b := range m.boards {
			r := reslice.Request{Name: m.name, Layout: b.Layout, Evict: a.evict, Timeout: a.timeout, Reached: len(b.plan.Steps) == 0}
			if !a.wait && !a.evict {
				r.Timeout = busyPatience
			}
			s.Want(b.Board.ID, r, now)
			if r.Reached {
				s.Boards[b.Board.ID], _ = s.Boards[b.Board.ID].Next(&b.Board, now, reslice.Limits{})
			}
		}
		return nil
	})
	return dir, stored, err
}

// refuseBusy tells which boards are in use, if nobody wants to wait for them.
func (a migApply) refuseBusy(m *migMachine) error {
	if a.wait || a.evict {
		return nil
	}
	var busy []string
	for _, b := range m.boards {
		if pids := b.plan.InTheWay(b.Board); len(pids) > 0 {
			busy = append(busy, fmt.Sprintf("board %d by %s", b.Board.Index, describeProcesses(pids)))
		}
	}
	if len(busy) == 0 {
		return nil
	}
	return fmt.Errorf("in use: %s; nothing was changed (-wait waits for them, -evict asks them to leave)", strings.Join(busy, ", "))
}

func failures(s reslice.State, boards []migBoard) error {
	var failed []error
	for _, b := range boards {
		if t := s.Boards[b.Board.ID]; t.Phase == reslice.Failed {
			failed = append(failed, fmt.Errorf("board %d: %s", b.Board.Index, t.Reason))
		}
	}
	return errors.Join(failed...)
}

// follower tells how far boards are, until nothing more happens.
type follower struct {
	stateDir string
	boards   []string // their IDs
	indexes  []int
	progress io.Writer
	said     map[string]string
}

func (f *follower) follow(ctx context.Context, dir *reslice.Dir, s reslice.State, c reslice.Config) (reslice.State, error) {
	ticker := time.NewTicker(followPause)
	defer ticker.Stop()
	start := time.Now()
	var w worker
	defer w.end()
	for {
		f.tell(s)
		if s.Settled(f.boards...) {
			return s, nil
		}
		// A plugin does the work, since it keeps tasks away from the boards.
		// It may end in the middle of it.
		if pluginRuns(f.stateDir) {
			if time.Since(start) > beginPatience && f.notBegun(s) {
				return s, fmt.Errorf("the plugin of this node has not begun within %s; the log of its Nomad agent may say why", beginPatience)
			}
		} else if err := w.begin(ctx, dir, c, f.boards); err != nil && !errors.Is(err, reslice.ErrHeld) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, errors.New("interrupted; the layout is still wanted: the plugin goes on with it, or the same command again")
		case err := <-w.failed:
			return s, fmt.Errorf("%w; the layout is still wanted: the plugin goes on with it, or the same command again", err)
		case <-ticker.C:
		}
		var err error
		if s, err = dir.Load(); err != nil {
			return s, err
		}
	}
}

// notBegun reports whether nobody has looked at one of the boards yet.
func (f *follower) notBegun(s reslice.State) bool {
	return slices.ContainsFunc(f.boards, func(id string) bool { return s.Boards[id].Phase == reslice.Desired })
}

// worker reconciles in this process, where no other does.
type worker struct {
	stop    context.CancelFunc // nil: it has not begun
	release func() error
	ended   chan struct{}
	failed  chan error
}

// begin does nothing if it has begun already.
func (w *worker) begin(ctx context.Context, dir *reslice.Dir, c reslice.Config, boards []string) error {
	if w.stop != nil {
		return nil
	}
	release, err := dir.Acquire()
	if err != nil {
		return err
	}
	r, err := reslice.New(c)
	if err != nil {
		return errors.Join(err, release())
	}
	ctx, stop := context.WithCancel(ctx)
	w.stop, w.release = stop, release
	w.ended, w.failed = make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(w.ended)
		if err := r.RunUntilSettled(ctx, boards...); err != nil {
			w.failed <- err
		}
	}()
	return nil
}

// end waits for a step that is being done, and lets others go on.
func (w *worker) end() {
	if w.stop == nil {
		return
	}
	w.stop()
	<-w.ended
	_ = w.release() // the lock ends with the process at the latest
}

// tell prints what changed since it was called last.
func (f *follower) tell(s reslice.State) {
	for i, id := range f.boards {
		t := s.Boards[id]
		line := string(t.Phase)
		if t.Reason != "" {
			line += ": " + t.Reason
		}
		if f.said[id] != line {
			f.said[id] = line
			fmt.Fprintf(f.progress, "board %d: %s\n", f.indexes[i], line)
		}
	}
}
