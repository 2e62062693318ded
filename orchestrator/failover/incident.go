package failover

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
)

// Incident is a fault of a device from when it was seen until the device was
// well again, with what became of the tasks there.
type Incident struct {
	ID string `json:"id"`
	Fault
	// Cause is the reason at first; Fault has the present one.
	Cause string    `json:"cause" doc:"What was seen at first; reason is how it is now"`
	Seen  time.Time `json:"seen" doc:"When the fault was first seen"`
	// Ended is when the device was in service again, nil if it is not.
	Ended *time.Time `json:"ended,omitempty" doc:"When the device was in service again"`
	// Times counts how often the device has failed in this incident.
	Times int `json:"times" doc:"How often the device has failed, with less than half an hour of health between"`
	// Instances are the endpoints' instances that had to leave.
	Instances []Move `json:"-"`
	// Affected are all tasks and instances that the fault has touched, the
	// oldest first. The store fills it in.
	Affected []Affected `json:"affected"`
}

// Affected is a task that an incident touched.
type Affected struct {
	Workspace string `json:"workspace"`
	// Run, Step, Trial and Attempt name a task, Endpoint an instance.
	Run      string `json:"run,omitempty"`
	Step     string `json:"step,omitempty"`
	Trial    *int   `json:"trial,omitempty"`
	Attempt  int    `json:"attempt,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Move
}

// Phase is how far a move has come.
type Phase string

// The phases of a move. Each is stored before what it stands for is begun.
const (
	Asked   Phase = "asked"   // for a checkpoint
	Leaving Phase = "leaving" // being stopped
	Left    Phase = "left"    // stopped; waits for another place
	Resumed Phase = "resumed" // goes on elsewhere
	Stayed  Phase = "stayed"  // the device was well again before it was stopped
	Over    Phase = "over"    // it has ended, and does not go on
)

// Move is how a task leaves a device. It is stored with the attempt at the
// task, or with the incident for an endpoint's instance.
type Move struct {
	Incident string `json:"incident" doc:"The incident's ID"`
	Fault
	AllocID   string `json:"alloc_id"`
	Namespace string `json:"namespace,omitempty" doc:"Nomad's, of the job"`
	JobID     string `json:"job_id"`
	// Workspace and Endpoint are those of an instance.
	Workspace string    `json:"workspace,omitempty"`
	Endpoint  string    `json:"endpoint,omitempty"`
	Phase     Phase     `json:"phase" enum:"asked,leaving,left,resumed,stayed,over"`
	Seen      time.Time `json:"seen" doc:"When the orchestrator began to act"`
	// Checkpointed is when the checkpoint that was asked for was sealed.
	Checkpointed *time.Time `json:"checkpointed,omitempty" doc:"When the checkpoint that was asked for was there"`
	Stopped      *time.Time `json:"stopped,omitempty"`
	Resumed      *time.Time `json:"resumed,omitempty" doc:"When it ran elsewhere"`
	To           string     `json:"to,omitempty" doc:"The node where it goes on"`
	// Checkpoint is the step of the newest checkpoint when it had ended.
	Checkpoint  *int64   `json:"checkpoint,omitempty" doc:"Step of the checkpoint that it goes on from"`
	LostSteps   *int64   `json:"lost_steps,omitempty" doc:"Steps after that checkpoint, to be done again"`
	LostSeconds *float64 `json:"lost_seconds,omitempty" doc:"Time since that checkpoint, or since the task's start"`
	// Outcome says in a sentence what came of it.
	Outcome string `json:"outcome,omitempty"`
}

// Open reports whether the task is still where it should not be.
func (m *Move) Open() bool { return m != nil && (m.Phase == Asked || m.Phase == Leaving) }

// Away reports whether the task was moved, or is to be.
func (m *Move) Away() bool {
	return m != nil && (m.Phase == Leaving || m.Phase == Left || m.Phase == Resumed)
}

// Why says why a task was moved.
func (f Fault) Why() string {
	return fmt.Sprintf("moved off %s on node %s: %s", f.Device, f.NodeName, f.Reason)
}

// Remains is what there is when a task has been stopped.
type Remains struct {
	At      time.Time
	Started time.Time // of the task; the zero time if it never did
	// Checkpoint is the step of the newest checkpoint, nil if there is none,
	// and Sealed when it was sealed.
	Checkpoint *int64
	Sealed     time.Time
	// Reached is the step that the task had come to, nil if it has not told.
	Reached *int64
}

// Leave notes that the task has been stopped, and what that has cost.
func (m *Move) Leave(l Remains) {
	m.Phase, m.Stopped, m.Checkpoint = Left, &l.At, l.Checkpoint
	since := l.Started
	if l.Checkpoint != nil {
		since = l.Sealed
		if l.Reached != nil {
			m.LostSteps = new(max(0, *l.Reached-*l.Checkpoint))
		}
	} else if l.Reached != nil {
		m.LostSteps = new(*l.Reached)
	}
	if !since.IsZero() {
		m.LostSeconds = new(max(0, l.At.Sub(since).Seconds()))
	}
}

// TaskFault is the fault that a task's error tells of, as the ml driver words
// it, false if it is another error.
func TaskFault(text, nodeID, nodeName string) (Fault, bool) {
	device, reason, ok := gpustatus.ParseTaskError(text)
	return Fault{NodeID: nodeID, NodeName: nodeName, Device: device, Reason: reason, Action: gpustatus.End}, ok
}

// Filter selects incidents; zero fields select all.
type Filter struct {
	Device string // an ID, or how it begins
	Node   string // name or ID
	Open   bool   // only those that have not ended
	Limit  int    // how many at most; default and maximum 1,000
	Before string // only those older than this one
}
