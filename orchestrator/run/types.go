// Package run is the durable engine: it takes a submitted pipeline through its
// life, one stored transition at a time, so that a crash at any moment loses
// nothing and does nothing twice.
package run

import (
	"time"

	"github.com/drover-ml/drover/orchestrator/gate"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// ID is a run's identifier: 12 lower-case base32 characters, sortable by time.
type ID string

// Phase is where a run or a node is in its life.
type Phase string

// The phases. Waiting nodes wait for other nodes; Queued ones wait for the
// cluster. The last four are ends.
const (
	Waiting   Phase = "waiting"
	Queued    Phase = "queued"
	Running   Phase = "running"
	Succeeded Phase = "succeeded"
	Failed    Phase = "failed"
	Skipped   Phase = "skipped"
	Cancelled Phase = "cancelled"
)

// Ended reports whether p is an end.
func (p Phase) Ended() bool {
	switch p {
	case Succeeded, Failed, Skipped, Cancelled:
		return true
	default:
		return false
	}
}

// Submission is what a run is made from. It is stored with the run, whole.
type Submission struct {
	// Key makes submission idempotent: a second one with the same key and
	// workspace is the same run. "" gives every submission its own run.
	Key       string            `json:"key,omitempty"`
	Workspace string            `json:"workspace"`
	Filename  string            `json:"filename"`
	Source    string            `json:"source"` // the pipeline file
	Vars      map[string]string `json:"vars,omitempty"`
	// Uploads are the artefact digests of the paths that the file names.
	Uploads map[string]string `json:"uploads"`
	// NoCache makes every step run.
	NoCache bool   `json:"no_cache,omitempty"`
	By      string `json:"by,omitempty"`
}

// Run is a run as it stands.
type Run struct {
	ID        ID             `json:"id"`
	Pipeline  string         `json:"pipeline"`
	Workspace string         `json:"workspace"`
	Phase     Phase          `json:"phase"`
	Error     string         `json:"error,omitempty"`
	By        string         `json:"by,omitempty"`
	Variables map[string]any `json:"variables,omitempty"`
	Submitted time.Time      `json:"submitted"`
	Started   *time.Time     `json:"started,omitempty"`
	Ended     *time.Time     `json:"ended,omitempty"`
	Nodes     []Node         `json:"nodes"`
}

// Node is a node of a run as it stands.
type Node struct {
	ID    pipeline.NodeID `json:"id"`
	Kind  pipeline.Kind   `json:"kind"`
	Phase Phase           `json:"phase"`
	// Reason says in a sentence why the node waits, was skipped or failed.
	Reason string `json:"reason,omitempty"`
	// Cached names the run whose result was taken over; "" if it ran.
	Cached   ID                `json:"cached_from,omitempty"`
	CacheKey string            `json:"cache_key,omitempty"`
	Depends  []pipeline.NodeID `json:"depends_on,omitempty"`
	// Started is when its first task started; nil if none ever did.
	Started  *time.Time         `json:"started,omitempty"`
	Ended    *time.Time         `json:"ended,omitempty"`
	Params   map[string]any     `json:"params,omitempty"`
	Metrics  map[string]float64 `json:"metrics,omitempty"`
	Outputs  map[string]Output  `json:"outputs,omitempty"`
	Inputs   map[string]string  `json:"inputs,omitempty"` // digests
	Progress *Progress          `json:"progress,omitempty"`
	// Attempts of a step; of a sweep, those of all trials.
	Attempts []Attempt `json:"attempts,omitempty"`
	Trials   []Trial   `json:"trials,omitempty"`
	Best     *int      `json:"best_trial,omitempty"`
	Gate     *Verdict  `json:"gate,omitempty"`
	Model    string    `json:"model,omitempty"`
	Version  int       `json:"version,omitempty"`
	Endpoint string    `json:"endpoint,omitempty"`
}

// Output is a stored output.
type Output struct {
	Digest string `json:"digest"`
	Kind   string `json:"kind,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	Files  int    `json:"files,omitempty"`
}

// Progress is the newest line of a running task's metrics.
type Progress struct {
	Step    int64              `json:"step"`
	Epoch   float64            `json:"epoch,omitempty"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
	At      time.Time          `json:"at"`
}

// Attempt is one Nomad job of a step or trial.
type Attempt struct {
	Number int  `json:"number"`
	Trial  *int `json:"trial,omitempty"`
	// Namespace is Nomad's namespace of the job, that of the workspace when the
	// job was made; "" for the server's own.
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id"`
	AllocID   string `json:"alloc_id,omitempty"`
	NodeName  string `json:"node_name,omitempty"`
	Phase     Phase  `json:"phase"`
	Reason    string `json:"reason,omitempty"`
	ExitCode  *int   `json:"exit_code,omitempty"`
	Signal    int    `json:"signal,omitempty"`
	OOM       bool   `json:"oom,omitempty"`
	// Free failures are the platform's: they take nothing from the retry budget.
	Free bool `json:"free,omitempty"`
	// ResumedFrom is the checkpoint's step that the task resumed from.
	ResumedFrom *int64 `json:"resumed_from,omitempty"`
	// LogTail is the end of a failed attempt's stderr (else stdout).
	LogTail string   `json:"log_tail,omitempty"`
	Devices []string `json:"devices,omitempty"`
	// Members are those of a gang, by rank; what else is said is of rank 0, or of
	// the member that has failed.
	Members []Member `json:"members,omitempty"`
	// Evicted tells that it has made room for another task.
	Evicted bool `json:"evicted,omitempty"`
	// Incident is that of the attempt's device, "" if that was well. Moved
	// tells that the attempt ended because of it, and that its task went on.
	Incident string     `json:"incident,omitempty"`
	Moved    bool       `json:"moved,omitempty"`
	Started  *time.Time `json:"started,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
}

// Member is an attempt's part in a gang.
type Member struct {
	AllocID  string   `json:"alloc_id,omitempty"`
	NodeName string   `json:"node_name,omitempty"`
	Devices  []string `json:"devices,omitempty"`
}

// Trial is one trial of a sweep.
type Trial struct {
	Index    int                `json:"index"`
	Phase    Phase              `json:"phase"`
	Params   map[string]any     `json:"params"`
	Metrics  map[string]float64 `json:"metrics,omitempty"`
	Outputs  map[string]Output  `json:"outputs,omitempty"`
	Cached   ID                 `json:"cached_from,omitempty"`
	CacheKey string             `json:"cache_key,omitempty"`
	Reason   string             `json:"reason,omitempty"`
	Progress *Progress          `json:"progress,omitempty"`
	Started  *time.Time         `json:"started,omitempty"`
	Ended    *time.Time         `json:"ended,omitempty"`
}

// Verdict is what a gate decided, and why.
type Verdict = gate.Verdict

// Event is one stored change of a run, numbered from 1 within it.
type Event struct {
	Run   ID              `json:"run"`
	Seq   int64           `json:"seq"`
	Time  time.Time       `json:"time"`
	Node  pipeline.NodeID `json:"node,omitempty"`
	Trial *int            `json:"trial,omitempty"`
	// Type is one of: run, node, attempt, trial, task (a driver's task event),
	// progress, gate, model, endpoint, failover.
	Type    string `json:"type"`
	Phase   Phase  `json:"phase,omitempty"`
	Message string `json:"message,omitempty"`
}

// MetricPoint is one value of a metric's history.
type MetricPoint struct {
	Node   pipeline.NodeID `json:"node"`
	Trial  *int            `json:"trial,omitempty"`
	Metric string          `json:"metric"`
	Step   int64           `json:"step"`
	Value  float64         `json:"value"`
	Time   time.Time       `json:"time"`
}
