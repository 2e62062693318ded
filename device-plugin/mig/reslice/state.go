package reslice

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// State is the content of mig.json: a task for each board of which a layout
// was ever wanted, by the board's UUID.
//
//	{"version":1,"boards":{"GPU-…":{"id":"…","name":"all-balanced","layout":{…},"phase":"done",…}}}
type State struct {
	Version int             `json:"version"`
	Boards  map[string]Task `json:"boards"`
}

const stateVersion = 1

// Request is what somebody wants of a board.
type Request struct {
	Name   string
	Layout mig.Layout
	Evict  bool
	// Timeout is how long to wait for processes; 0 is for ever.
	Timeout time.Duration
	// Reached says that the board is like that at present.
	Reached bool
}

// Want replaces what is wanted of a board, whatever it is up to; where it is
// cordoned it stays so. To want again what is on its way, or reached, changes
// nothing.
func (s *State) Want(board string, r Request, now time.Time) {
	old, ok := s.Boards[board]
	same := ok && old.Name == r.Name && reflect.DeepEqual(old.Layout, r.Layout)
	onTheWay := !old.Phase.Settled() && old.Evict == r.Evict && old.Deadline.IsZero() && r.Timeout == 0
	if same && (onTheWay || old.Phase == Done && r.Reached) {
		return
	}
	t := Task{
		ID: uuid.NewString(), Name: r.Name, Layout: r.Layout, Evict: r.Evict, Asked: now, Phase: Desired, Since: now,
		Cordon: old.Cordon, CordonedSince: old.CordonedSince, Touched: old.Touched,
	}
	if r.Timeout > 0 {
		t.Deadline = now.Add(r.Timeout)
	}
	if s.Boards == nil {
		s.Boards = make(map[string]Task)
	}
	s.Boards[board] = t
}

// Settled reports whether nothing more happens by itself on any of the boards;
// none means all.
func (s State) Settled(boards ...string) bool {
	for id, t := range s.Boards {
		if !t.Phase.Settled() && (len(boards) == 0 || slices.Contains(boards, id)) {
			return false
		}
	}
	return true
}

var phases = []Phase{Desired, Cordoned, Waiting, Moving, Slicing, Verifying, Done, Failed}

// decode reads a stored state.
func decode(content []byte) (State, error) {
	var s State
	if err := json.Unmarshal(content, &s); err != nil {
		return State{}, err
	}
	if s.Version != stateVersion {
		return State{}, fmt.Errorf("version %d is not %d: another release wrote it", s.Version, stateVersion)
	}
	for board, t := range s.Boards {
		switch {
		case board == "" || t.ID == "":
			return State{}, errors.New("a task has no board or no ID")
		case !slices.Contains(phases, t.Phase):
			return State{}, fmt.Errorf("board %s is in phase %q; phases are %q", board, t.Phase, phases)
		}
	}
	return s, nil
}

func (s State) encode() ([]byte, error) {
	s.Version = stateVersion
	if s.Boards == nil {
		s.Boards = map[string]Task{}
	}
	content, err := json.MarshalIndent(s, "", "  ")
	return append(content, '\n'), err
}
