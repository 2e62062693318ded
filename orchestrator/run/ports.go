package run

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Store keeps what must not be lost. Each call is one transaction, on disk
// when it returns.
type Store interface {
	// Create stores a new run with its nodes and first events. If the
	// workspace has a run with the submission's key already, that one is
	// returned instead and created is false.
	Create(ctx context.Context, s State, events []Event) (id ID, created bool, err error)
	// Commit stores a transition, all of it or nothing. The same change stored
	// twice is the same as stored once.
	Commit(ctx context.Context, c Change) error
	// Load returns everything that the engine needs to go on with a run.
	Load(ctx context.Context, id ID) (State, error)
	// Active are the runs that have not ended, oldest first.
	Active(ctx context.Context) ([]ID, error)
	// Cached returns the newest result that a workspace has for a cache key.
	Cached(ctx context.Context, workspace, key string) (CacheEntry, bool, error)

	// Durations is how long the newest attempts at a node of a pipeline took that
	// have succeeded: limit at most.
	Durations(ctx context.Context, workspace, pipeline string, node pipeline.NodeID, limit int) ([]time.Duration, error)

	Queries
	registry.Store
	Endpoints
	Incidents
}

// Queries are what the store is asked for on behalf of readers.
type Queries interface {
	Run(ctx context.Context, id ID) (Run, error)
	Runs(ctx context.Context, f Filter) ([]Run, error)
	Events(ctx context.Context, id ID, afterSeq int64, limit int) ([]Event, error)
	Metrics(ctx context.Context, id ID, f MetricFilter) ([]MetricPoint, error)
	Origins(ctx context.Context, workspace, digest string) (produced, consumed []Use, err error)
}

// Endpoints keeps what is deployed.
type Endpoints interface {
	Endpoints(ctx context.Context, workspace string) ([]registry.Endpoint, error)
	Endpoint(ctx context.Context, workspace, name string) (registry.Endpoint, error)
	// Deploy gives d the endpoint's next revision and makes it the pending one.
	// Called again for the same run, node and attempt it returns the same.
	Deploy(ctx context.Context, d registry.Deployment) (registry.Deployment, error)
	// Deployed ends a pending revision: live if reason is "", else failed.
	Deployed(ctx context.Context, d registry.Deployment, reason string) error
	DeleteEndpoint(ctx context.Context, workspace, name string) error
}

// Incidents keeps what happened to devices. What became of the attempts there
// is stored with those, by Commit.
type Incidents interface {
	// OpenIncident stores an incident that begins, unless its device has one
	// that goes on or has ended less than failover.Flapping ago: then that goes
	// on with the new fault, and is returned.
	OpenIncident(ctx context.Context, i failover.Incident) (failover.Incident, error)
	// UpdateIncident changes an incident in one transaction. It may call change
	// more than once.
	UpdateIncident(ctx context.Context, id string, change func(*failover.Incident)) (failover.Incident, error)
	// Unfinished are the incidents that go on, and those with an instance that
	// has not been placed again, without what is affected.
	Unfinished(ctx context.Context) ([]failover.Incident, error)
	Incident(ctx context.Context, id string) (failover.Incident, error)
	// Incidents lists some, the newest first.
	Incidents(ctx context.Context, f failover.Filter) ([]failover.Incident, error)
}

// State is a run with all that the engine must know to go on with it.
type State struct {
	Run
	Submission Submission
	// Round counts the times that the run was started: 1, and one more for
	// each Retry. Failed attempts of earlier rounds do not count.
	Round int
	// CancelledBy is who asked for the end, "" if nobody has.
	CancelledBy string
	// Clock is the last event's number.
	Clock int64
	// Attempts of all nodes and trials; those in Run.Nodes are not set.
	Attempts []AttemptState
}

// AttemptState is an attempt with what only the engine needs of it.
type AttemptState struct {
	Attempt
	Node  pipeline.NodeID
	Round int
	// Registered tells that the cluster has confirmed the job.
	Registered bool
	// NotBefore delays the start of an attempt after a failed one.
	NotBefore time.Time
	// Base is the index that the job had when the attempt was made: 0 for a
	// job that must be new.
	Base uint64
	// TaskEvents is when the newest task event that was recorded happened.
	TaskEvents int64
	// Prepared tells that Base and Deployment are known.
	Prepared bool
	// Timeout is how long the task may run; 0: for ever.
	Timeout time.Duration
	// Stopping says why the attempt is being stopped, "" if it is not.
	Stopping string
	// Cancelled tells that it is being stopped because someone wants that.
	Cancelled bool
	// Orphaned tells that the attempt has ended, but its job must be stopped.
	Orphaned bool
	// Deployment is the revision of an endpoint's attempt.
	Deployment *registry.Deployment
	// Move is how the attempt leaves a device that fails.
	Move *failover.Move
	// Avoid are faults that attempts before this one have ended of and that
	// Nomad did not know of: this one must not get their devices.
	Avoid []failover.Fault
	// Again tells that it is being stopped to be placed anew, at no expense of its
	// retries.
	Again bool
	// Grant is where the queue lets it run; nil while it waits there.
	Grant *admission.Grant
	// Eviction is set once it has to make room.
	Eviction *Eviction
}

// Queue decides when attempts start, and where. Its answers come to the engine
// as an admission.Listener. What is told must not block, and may be told twice.
type Queue interface {
	// Load takes up what is stored; live are the tasks that go on. Run decides until
	// ctx ends.
	Load(ctx context.Context, live map[queue.JobID]bool) error
	Run(ctx context.Context, l admission.Listener)
	// Check is the reason for which a task could never start; nil if it could.
	Check(ctx context.Context, r admission.Request) error
	// Outlook is what would become of requests, were they made now; it makes none.
	Outlook(ctx context.Context, requests []admission.Request) ([]admission.Entry, error)
	Ask(r admission.Request)
	Ended(id queue.JobID, attempt int, again bool)
	Declined(id queue.JobID, attempt int)
	Checkpointed(id queue.JobID, attempt int, at time.Time)
}

// Change is one transition of a run. Nil and empty fields leave what is there.
type Change struct {
	Run      *State // the run's own fields; nodes and attempts in it are ignored
	ID       ID
	Nodes    []Node // their own fields; trials and attempts in them are ignored
	Trials   []TrialState
	Attempts []AttemptState
	Events   []Event
	Metrics  []MetricPoint
	Cache    []CacheEntry
}

// TrialState is a trial of a node.
type TrialState struct {
	Node pipeline.NodeID
	Trial
}

// CacheEntry is a result that may be taken over.
type CacheEntry struct {
	Workspace string
	Key       string
	Run       ID
	Node      pipeline.NodeID
	Trial     *int
	Outputs   map[string]Output
	Metrics   map[string]float64
}

// Filter selects runs; zero fields select all.
type Filter struct {
	Workspace string
	Pipeline  string
	Phase     Phase
	// Limit is how many at most; default and maximum 1,000.
	Limit int
	// Before continues a listing: only runs older than this one.
	Before ID
}

// MetricFilter selects points; zero fields select all.
type MetricFilter struct {
	Node   pipeline.NodeID
	Trial  *int
	Metric string
	// AfterStep selects points of later steps only.
	AfterStep *int64
	Limit     int // default and maximum 100,000
}

// Use is an artefact's part in a node of a run.
type Use struct {
	Run      ID                 `json:"run"`
	Pipeline string             `json:"pipeline"`
	Node     pipeline.NodeID    `json:"node"`
	Trial    *int               `json:"trial,omitempty"`
	Name     string             `json:"name"` // of the input or output
	Cached   ID                 `json:"cached_from,omitempty"`
	Params   map[string]any     `json:"params,omitempty"`
	Metrics  map[string]float64 `json:"metrics,omitempty"`
	Inputs   map[string]string  `json:"inputs,omitempty"`
	Kind     pipeline.Kind      `json:"kind"`
	Ended    *time.Time         `json:"ended,omitempty"`
}

// Artifacts is what the engine needs of the artefact store.
type Artifacts interface {
	Has(ctx context.Context, d artifact.Digest) (bool, error)
	Manifest(ctx context.Context, d artifact.Digest) (artifact.Manifest, error)
	// GetRecord decodes a record into v; artifact.ErrNotFound if there is none.
	GetRecord(ctx context.Context, key string, v any) error
	// ListRecords gives the keys of the records below a folder, sorted.
	ListRecords(ctx context.Context, folder string) ([]string, error)
	OpenBlob(ctx context.Context, d artifact.Digest) (io.ReadCloser, error)
}

// Cluster is what the engine needs of Nomad.
type Cluster interface {
	// In are the jobs of a namespace; "" is the one of whoever asks for none.
	In(namespace string) Jobs
	// Watch reports changes in all namespaces after index until ctx ends or the
	// connection breaks, and returns where it got to. connected is called once
	// changes flow; what happened before that may have been missed.
	Watch(ctx context.Context, index uint64, connected func(), report func(Update)) (uint64, error)
	// Nodes are all nodes that have devices.
	Nodes(ctx context.Context) ([]failover.Node, error)
	// Instances are the allocations of endpoints on a node that have not ended, in
	// all namespaces.
	Instances(ctx context.Context, nodeID string) ([]Instance, error)
}

// Jobs is what the engine needs of the jobs in a namespace, and of what runs for
// them.
type Jobs interface {
	// Exist reports whether the namespace does.
	Exist(ctx context.Context) (bool, error)
	// Register submits a job whose modify index must be base (0: it must be
	// new). ErrConflict means that it is not: someone has registered it since.
	// A *RefusedError means that trying again will not help.
	Register(ctx context.Context, job *api.Job, base uint64) error
	// Job says how a job stands, ErrNoJob if there is none.
	Job(ctx context.Context, id string) (JobState, error)
	// Stop ends a job's tasks. A job that is not there is no error.
	Stop(ctx context.Context, id string) error
	// ReadFile reads at most limit bytes of an allocation's file from offset.
	// A file that is not there reads as empty.
	ReadFile(ctx context.Context, allocID, path string, offset, limit int64) ([]byte, error)
	// Logs reads a task's stdout or stderr: its last tail bytes, or all of it
	// if tail is 0. With follow it goes on until the task ends. ErrNoLog means
	// that there is none any more.
	Logs(ctx context.Context, allocID, task, stream string, tail int64, follow bool) (io.ReadCloser, error)
	// Signal sends a signal such as SIGUSR1 to an allocation's task. ErrNoTask
	// means that the task does not run.
	Signal(ctx context.Context, allocID, signal string) error
	// StopAlloc ends an allocation, which Nomad places again. One that is
	// ended already, or not there, is no error.
	StopAlloc(ctx context.Context, allocID string) error
}

// Instance is an allocation of an endpoint.
type Instance struct {
	Alloc
	Workspace, Endpoint string
}

// Errors of a Cluster.
var (
	ErrNoJob    = errors.New("no such job")
	ErrConflict = errors.New("the job has changed meanwhile")
	ErrNoLog    = errors.New("no such log")
	ErrNoTask   = errors.New("the task does not run")
)

// RefusedError is a job that the cluster will never take.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "Nomad refuses the job: " + e.Reason }

// Update is news about a node or one job: an allocation, why it cannot be
// placed, or (none set) that it is worth asking for.
type Update struct {
	Node      *failover.Node
	Namespace string // of the job
	JobID     string
	Alloc     *Alloc
	// Waits says why nothing can be placed now, as a sentence; nil: no news.
	Waits *string
}

// JobState is how a job stands.
type JobState struct {
	Index   uint64 // its modify index, for Register
	Version uint64
	Meta    map[string]string
	Stopped bool // someone asked for its end
	Dead    bool // nothing of it runs or will run
	Allocs  []Alloc
	Waits   string // why nothing can be placed, "" if nothing waits
	// Deployments are a service's, the oldest first.
	Deployments []DeploymentState
}

// DeploymentState is how a deployment of a service stands.
type DeploymentState struct {
	JobVersion uint64
	Revision   string // meta drover.revision of the job's version, "" if unknown
	Run        string // its meta drover.run: other servers count revisions, too
	Status     string // Nomad's: running, successful, failed, cancelled ...
	Reason     string
}

// Alloc is an allocation of a job with the one task that Drover's jobs have.
type Alloc struct {
	ID        string
	Namespace string
	JobID     string
	NodeID    string
	NodeName  string
	Rank      int // in its gang; 0 without one
	// Created and Modified are Nomad's indexes; a higher Created is the
	// successor, a lower Modified is old news.
	Created, Modified uint64
	JobVersion        uint64 // only in a JobState
	Client            string // client status: pending running complete failed lost unknown
	Desired           string // desired status: run stop evict
	Description       string // of the client status, else of the desired one
	Preempted         bool
	Started, Finished time.Time // of the task; zero if it has not
	Failed            bool
	ExitCode          *int
	Signal            int
	OOM               bool
	// Unhealthy tells that an endpoint's instance did not become ready.
	Unhealthy bool
	// Problem is what the driver or the client says went wrong.
	Problem string
	Events  []TaskEvent
	Devices []string
	// ResumedFrom is the step of the checkpoint that the task went on from.
	ResumedFrom *int64
}

// Ended reports whether the allocation's task is over or gone.
func (a *Alloc) Ended() bool {
	switch a.Client {
	case "complete", "failed", "lost":
		return true
	}
	return false
}

// TaskEvent is a message of the task driver.
type TaskEvent struct {
	Time    time.Time
	Message string
	// Fault is that of the task's device that the driver tells of, nil for
	// another message.
	Fault *failover.Fault
	// Sealed tells that the task has sealed a checkpoint.
	Sealed bool
}
