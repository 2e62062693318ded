package simulated

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// play replaces the script. Blocks that were there before keep their clocks,
// and so do those that the state file knows.
func (s *Source) play(script Script) {
	now := time.Now()
	origins := make(map[string]time.Time, len(script.steps))
	kept, err := s.store.view()
	if err != nil {
		s.log.Error("the script begins anew", "error", err)
	}
	s.mu.Lock()
	old := s.timeline
	s.mu.Unlock()
	for _, st := range old.steps {
		origins[st.key] = st.origin
	}
	for key, at := range kept.Script {
		if _, ok := origins[key]; !ok && !at.After(now) {
			origins[key] = at
		}
	}
	next := timeline{booted: s.booted}
	for _, st := range script.steps {
		origin, ok := origins[st.key]
		if !ok {
			origin = now
		}
		next.steps = append(next.steps, placedStep{st, origin})
	}
	s.warnUnmatched(script)

	s.mu.Lock()
	passed := make(map[string]progress, len(next.steps))
	for _, st := range next.steps {
		p, told := s.passed[st.key]
		if !told && st.origin.Before(now) { // of an earlier process, which told
			p = st.progress(now)
		}
		passed[st.key] = p
	}
	s.passed, s.timeline = passed, next
	maps.DeleteFunc(s.migCalls, func(key string, _ int) bool { _, there := passed[key]; return !there })
	s.mu.Unlock()
	s.keepOrigins()
	wake(s.reset)
}

// keepOrigins stores when the blocks of the fault file were first read, unless
// it did already, or there is no folder to store it in: a command for people
// leaves none behind.
func (s *Source) keepOrigins() {
	if s.faultFile == "" || s.store.path == "" || !isFolder(filepath.Dir(s.store.path)) {
		return
	}
	s.mu.Lock()
	t := s.timeline
	s.mu.Unlock()
	kept, err := s.store.view()
	if err != nil {
		return // was told
	}
	origins := make(map[string]time.Time, len(t.steps))
	for _, st := range t.steps {
		origins[st.key] = st.origin
	}
	if maps.EqualFunc(origins, kept.Script, time.Time.Equal) {
		return
	}
	err = s.store.update(func(v *stored) error {
		v.Script = origins
		return nil
	})
	if err != nil {
		s.log.Warn("the script will begin anew when the plugin is started again", "error", err)
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (s *Source) warnUnmatched(script Script) {
	if len(script.steps) == 0 {
		return
	}
	views, err := s.boards(timeline{}, time.Now())
	if err != nil {
		return // was told
	}
	var inv gpu.Inventory
	for _, v := range views {
		inv.Boards = append(inv.Boards, v.Board)
	}
	if unmatched := script.Unmatched(inv); len(unmatched) > 0 {
		s.log.Warn("fault file names GPUs that are not there", "unmatched", unmatched)
	}
}

// wake leaves a token in a channel for one, unless there is one already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// clock tells what begins and ends, when it does.
func (s *Source) clock() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		replaced := false
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		case <-s.reset:
			replaced = true
		}
		changed, next, ok := s.tell(time.Now())
		if changed || replaced {
			wake(s.changes)
		}
		if ok {
			timer.Reset(time.Until(next))
		}
	}
}

// mostEvents limits how many events of one step are told at once, after the
// host slept for long.
const mostEvents = 100

// tell delivers what began or ended by now, reports whether that shows, and
// returns when the next does.
func (s *Source) tell(now time.Time) (changed bool, next time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.moved)
	s.moved = make(chan struct{})
	for _, st := range s.timeline.steps {
		was, is := s.passed[st.key], st.progress(now)
		s.passed[st.key] = is
		for i := max(was.started, is.started-mostEvents); i < is.started; i++ {
			for _, e := range s.events(st, st.origin.Add(st.start(i))) {
				s.emit(e)
			}
		}
		changed = changed || was != is && st.shows()
	}
	next, ok = s.timeline.next(now)
	return changed, next, ok
}

// progress is how far a step is.
type progress struct {
	started int
	active  bool
}

func (s placedStep) progress(now time.Time) progress {
	_, active := s.active(now)
	return progress{s.started(s.elapsed(now)), active}
}

// shows reports whether a step shows in the inventory, or in what is read on a
// hint that it changed.
func (s step) shows() bool {
	return s.fault != nil && s.fault.lasting() || s.driver != nil || s.reset
}

// events are those of a step that begins.
func (s *Source) events(st placedStep, at time.Time) []gpu.Event {
	if !st.reset && (st.fault == nil || st.fault.XID == 0) {
		return nil
	}
	e := gpu.Event{Time: at, Reset: st.reset}
	if st.fault != nil {
		e.XID, e.Text, e.PID = st.fault.XID, st.fault.Text, st.fault.PID
	}
	var events []gpu.Event
	kept, _ := s.store.view() // without it, of boards only
	for i, b := range s.subjects {
		e.Board = b.id
		if st.isBoard(b.id, b.index) {
			events = append(events, e)
			continue
		}
		state := kept.stateOf(b.id, s.machine.boards[i], time.Time{})
		for _, slice := range s.machine.boards[i].slices(b.id, state.Instances) {
			if string(slice.ID) == st.target {
				e.GPUInstance, e.ComputeInstance = slice.GPUInstance, slice.ComputeInstance
				events = append(events, e)
			}
		}
	}
	return events
}

// mostWaiting limits the events that wait for somebody to watch, or for a slow
// watcher. The oldest are dropped, as the driver does.
const mostWaiting = 1000

// watcher is somebody who waits for events.
type watcher struct {
	waiting []gpu.Event
	ready   chan struct{}
}

// emit hands an event out. s.mu is held.
func (s *Source) emit(e gpu.Event) {
	if len(s.watchers) == 0 {
		s.early = append(s.early, e)
		s.early = s.early[max(0, len(s.early)-mostWaiting):]
		return
	}
	for w := range s.watchers {
		w.waiting = append(w.waiting, e)
		w.waiting = w.waiting[max(0, len(w.waiting)-mostWaiting):]
		wake(w.ready)
	}
}

// Watch calls emit for every event until ctx ends. Events from before anybody
// watched are kept for the first who does. While the driver is not there, it
// returns the driver's error.
func (s *Source) Watch(ctx context.Context, emit func(gpu.Event)) error {
	w := &watcher{ready: make(chan struct{}, 1)}
	s.mu.Lock()
	w.waiting, s.early = s.early, nil
	s.watchers[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}()
	for {
		s.mu.Lock()
		events, moved, t := w.waiting, s.moved, s.timeline
		w.waiting = nil
		s.mu.Unlock()
		for _, e := range events {
			emit(e)
		}
		if d := t.driver(time.Now()); d.err != "" {
			return errors.New(d.err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return errClosed
		case <-w.ready:
		case <-moved:
		}
	}
}

// watchFiles reads the fault file, and reads it again and hints at a change
// when it or the state file is another.
func (s *Source) watchFiles() {
	w := fileWatch{log: s.log, paths: slices.DeleteFunc([]string{s.faultFile, s.store.path}, func(p string) bool { return p == "" })}
	w.start()
	// Looked at before they are read, so that no change in between is missed.
	last := stats(w.paths)
	if s.reload() {
		<-s.reset // nobody has looked yet, so there is nothing to hint at
	}
	s.background.Go(func() {
		defer w.stop()
		for w.wait(s.ctx) {
			now := stats(w.paths)
			if !sameFile(last[s.faultFile], now[s.faultFile]) {
				s.reload()
			}
			if state := now[s.store.path]; !sameFile(last[s.store.path], state) && !s.store.wrote(state) {
				wake(s.changes)
			}
			last = now
			s.keepOrigins() // the folder may be there only now
		}
	})
}

// reload reads the fault file. A malformed one changes nothing: it may be half
// written.
func (s *Source) reload() bool {
	if s.faultFile == "" {
		return false
	}
	script, err := ReadScript(s.faultFile)
	if err != nil {
		s.log.Error("fault file is not usable, so the faults stay as they were", "file", s.faultFile, "error", err)
		return false
	}
	s.play(script)
	return true
}
