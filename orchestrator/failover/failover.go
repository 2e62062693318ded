// Package failover decides what becomes of the work on a GPU that fails.
//
// Nomad places nothing new on a device that is unhealthy, and leaves alone what
// runs there. This package says which of Drover's tasks have to leave, when a
// task that was asked for a checkpoint has waited long enough, and when it has
// been moved often enough. It is pure: the run engine and its store act on what
// it says, one stored step at a time.
package failover

import (
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
)

const (
	// CheckpointTimeout is how long a task that was asked for a checkpoint may
	// take for it. The ml driver ends a task that stays for two minutes.
	CheckpointTimeout = 90 * time.Second
	// MaxMoves is how often a task is moved, at the platform's expense, in one
	// round of its run; and an endpoint's instances within one incident. After
	// that a failure counts as the task's own.
	MaxMoves = 5
	// Flapping is how soon after its end an incident goes on, if its device
	// fails again, instead of there being another.
	Flapping = 30 * time.Minute
	// Gone is how long a device may be missing from its node until its incident
	// ends: slices are when a GPU is cut anew, all devices for a moment when a
	// plugin starts.
	Gone = 10 * time.Minute
	// HearsayTimeout is how long a driver's word on a GPU counts while Nomad
	// says nothing of it. Its clients collect what has changed for 5 to 10 s.
	HearsayTimeout = 20 * time.Second
)

// Node is a node's devices as Nomad knows them.
type Node struct {
	ID, Name string
	// Index is Nomad's: of two states of a node the higher one is newer.
	Index   uint64
	Devices []Device
}

// Device is a GPU, or a part of one, that can be reserved.
type Device struct {
	ID          string
	Board       string // the product's name, as "NVIDIA A100-SXM4-80GB"
	Healthy     bool
	Description string // of the health
}

// Fault is what is wrong with a device. It is stored as JSON with incidents.
type Fault struct {
	NodeID   string `json:"node_id"`
	NodeName string `json:"node_name"`
	Device   string `json:"device"`
	Board    string `json:"board,omitempty"`
	Reason   string `json:"reason"`
	// Index is Nomad's, of the node's state that has told of it.
	Index  uint64           `json:"-"`
	Action gpustatus.Action `json:"action" enum:"keep,move,end" doc:"What becomes of the work on the device: keep, it may finish; move, it should go elsewhere; end, it cannot go on"`
}

// Faults are those of a node's devices. A device that is not there any more has
// none: a plugin that starts anew reports nothing for a moment.
func (n Node) Faults() []Fault {
	var faults []Fault
	for _, d := range n.Devices {
		if d.Healthy {
			continue
		}
		reason, action := gpustatus.ParseDescription(d.Description)
		if reason == "" {
			reason = "unhealthy"
		}
		faults = append(faults, Fault{NodeID: n.ID, NodeName: n.Name, Device: d.ID, Board: d.Board, Reason: reason, Action: action, Index: n.Index})
	}
	return faults
}

// Worse reports whether f asks for more than g.
func (f Fault) Worse(g Fault) bool { return severity[f.Action] > severity[g.Action] }

// Same reports whether two faults are the same, whenever they were told.
func (f Fault) Same(g Fault) bool {
	f.Index, g.Index = 0, 0
	return f == g
}

// severity orders actions.
var severity = map[gpustatus.Action]int{gpustatus.Keep: 1, gpustatus.Move: 2, gpustatus.End: 3}

// Worst is the worst fault of the devices that a task on a node has; among
// equals, the first. False: they are all well. placed is Nomad's index of the
// allocation: a fault from before that is over, or the device would not have
// been given out.
func Worst(faults []Fault, nodeID string, devices []string, placed uint64) (worst Fault, ok bool) {
	held := make(map[string]bool, len(devices))
	for _, id := range devices {
		held[id] = true
	}
	for _, f := range faults {
		if f.NodeID == nodeID && f.Index >= placed && held[f.Device] && severity[f.Action] > severity[worst.Action] {
			worst, ok = f, true
		}
	}
	return worst, ok
}

// Step is what to do next about a task.
type Step string

// The steps.
const (
	Nothing Step = "nothing"
	Ask     Step = "ask"   // for a checkpoint, and then wait
	Wait    Step = "wait"  // for the checkpoint
	Stay    Step = "stay"  // it need not leave any more
	Leave   Step = "leave" // now
)

// Situation is what is known of a task that runs.
type Situation struct {
	// Fault is the worst of its devices' faults, nil if they are well.
	Fault *Fault
	// Move is what is under way for it, nil if nothing is.
	Move *Move
	// Moves is how often its task was moved before.
	Moves int
	// Checkpoints tells that the task makes some.
	Checkpoints bool
	// Sealed is when its newest checkpoint was, the zero time if it has none.
	Sealed time.Time
	Now    time.Time
}

// Next says what to do about a task. A task is asked only once to leave; one
// that is leaving does not come back.
func Next(s Situation) Step {
	asked := s.Move != nil && s.Move.Phase == Asked
	switch {
	case s.Move != nil && s.Move.Phase == Leaving:
		return Leave
	case s.Fault == nil || s.Fault.Action == gpustatus.Keep:
		if asked {
			return Stay
		}
		return Nothing
	case s.Moves >= MaxMoves:
		return Nothing
	case s.Fault.Action == gpustatus.End || !s.Checkpoints:
		return Leave
	case !asked:
		return Ask
	case s.Sealed.After(s.Move.Seen) || !s.Now.Before(s.Move.Seen.Add(CheckpointTimeout)):
		return Leave
	}
	return Wait
}
