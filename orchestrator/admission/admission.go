// Package admission is the shell around the queue: it decides, with
// orchestrator/queue on what the cluster has, which tasks may start where, and
// which have to make room.
//
// One goroutine owns the state. It collects what it is told, decides, stores
// the decisions in one transaction, and only then tells them. So it may die at
// any moment: whoever waits asks again, and gets what was promised before.
package admission

import (
	"context"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Request is a task that wants its place.
type Request struct {
	// ID is the same for all attempts at a task.
	ID      queue.JobID `json:"id"`
	Attempt int         `json:"attempt"`
	// NomadJob is the job that the attempt is going to have.
	NomadJob  string        `json:"nomad_job"`
	Workspace string        `json:"workspace"`
	Serving   bool          `json:"serving,omitempty"` // an endpoint's instances
	Ask       inventory.Ask `json:"ask"`               // of a member
	// Class is a priority class of the workspaces' definitions, "" for none;
	// Priority is what counts without one.
	Class       string `json:"class,omitempty"`
	Priority    int    `json:"priority"`
	Preemptible bool   `json:"preemptible,omitempty"`
	// Min and Max are how many members it starts with.
	Min int `json:"min"`
	Max int `json:"max"`
	// RunTime is how long it runs at most, as far as is known; 0: it is not.
	RunTime   time.Duration `json:"run_time,omitempty"`
	Submitted time.Time     `json:"submitted"`
}

// Grant is the answer to a Request: where each member runs.
type Grant struct {
	Members []jobspec.Place `json:"members"`
	At      time.Time       `json:"at"`
}

// Listener is told what was decided, from the goroutine of the scheduler: it
// must not block. The same may be told more than once.
type Listener interface {
	Granted(id queue.JobID, attempt int, g Grant)
	// Evict asks for an attempt's end, after a checkpoint if it can have one. Its
	// task asks again, and goes on from there.
	Evict(id queue.JobID, attempt int, why string)
	// Waits says why a task waits.
	Waits(id queue.JobID, attempt int, why string)
}

// Cluster is what there is to give out.
type Cluster interface {
	// Inventory is all nodes, and all allocations that hold something, of all
	// namespaces that can be read.
	Inventory(ctx context.Context) ([]inventory.Node, []inventory.Alloc, error)
	// Services are the endpoints that are deployed, whose instances Nomad places.
	Services(ctx context.Context) ([]Service, error)
	// Changes calls ring when what Inventory tells may have changed, until ctx ends
	// or the connection breaks.
	Changes(ctx context.Context, ring func()) error
}

// Service is an endpoint that is deployed.
type Service struct {
	JobID     string
	Workspace string
	Count     int // instances that it should have
	Priority  int
	Ask       inventory.Ask // of an instance
}

// Phase is how far a request has come.
type Phase string

// The phases of a request. An idle one waits for its next attempt, or for news
// of the cluster.
const (
	Idle     Phase = "idle"
	Waiting  Phase = "waiting"
	Admitted Phase = "admitted"
	Leaving  Phase = "leaving"
	// Observed endpoints are up to Nomad: their instances count as they are found.
	Observed Phase = "observed"
)

// Row is a request as it is stored.
type Row struct {
	Request
	Phase Phase `json:"phase"`
	// Job is what it is to the queue; set once it was looked at, and stored once it
	// was admitted.
	Job queue.Job `json:"job,omitzero"`
	// Queued is when it last began to wait.
	Queued time.Time  `json:"queued"`
	Run    *queue.Run `json:"run,omitempty"`
	Grant  *Grant     `json:"grant,omitempty"`
	// For is the job that it makes room for.
	For       queue.JobID `json:"for,omitempty"`
	Evictions int         `json:"evictions,omitempty"`
	// Refusals is how often in a row Nomad did not take it where it was sent, and
	// Avoid until when which nodes are not tried again.
	Refusals int                  `json:"refusals,omitempty"`
	Avoid    map[string]time.Time `json:"avoid,omitempty"`
}

// Memory is what the queue remembers beside its jobs.
type Memory struct {
	Claims   []queue.JobID  `json:"claims,omitempty"`
	Promises []queue.JobID  `json:"promises,omitempty"`
	Served   []queue.Served `json:"served,omitempty"`
}

// Change is what one decision changes; it is stored as a whole.
type Change struct {
	Put    []Row
	Delete []queue.JobID
	Memory Memory
}

// Workspaces are who may use how much. *workspace.Service has them.
type Workspaces interface {
	Definitions() workspace.Definitions
	// Changed is closed when the definitions change. Get it before them.
	Changed() <-chan struct{}
	// AddUsage counts what was used, what was counted before once.
	AddUsage(ctx context.Context, charges []workspace.Charge) error
	// Used is what was used since a time.
	Used(ctx context.Context, since time.Time) ([]workspace.Use, error)
}

// Store keeps the rows.
type Store interface {
	LoadQueue(ctx context.Context) ([]Row, Memory, error)
	SaveQueue(ctx context.Context, c Change) error
}
