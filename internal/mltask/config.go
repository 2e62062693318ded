// Package mltask is what the ml task driver and those who write jobs for it
// agree on: a task's configuration, where its files are, and the record that
// it leaves behind.
package mltask

import "time"

// DriverName is the driver's name in job files.
const DriverName = "ml"

// Folder is where the driver keeps a task's files, below the task's folder
// (an allocation path such as "main/local/drover").
const Folder = "local/drover"

// Names inside Folder.
const (
	InputsDir      = "inputs"
	OutputsDir     = "outputs"
	CheckpointsDir = "checkpoints"
	CodeDir        = "code"
	MetricsFile    = "metrics.jsonl"
	ParamsFile     = "params.json"
)

// Config is the `config` block of a task with driver = "ml".
type Config struct {
	// Command and Args are the process to run: no shell is put between.
	Command string   `codec:"command" json:"command"`
	Args    []string `codec:"args" json:"args,omitempty"`
	// WorkDir is the working directory, absolute or below the task's folder.
	// Default: the staged code if there is any, else the task's local folder.
	WorkDir string `codec:"work_dir" json:"work_dir,omitempty"`
	// Store is the artefact store's URL. Default: the driver's own setting.
	Store string `codec:"store" json:"store,omitempty"`
	// Code is a folder to run in: an artefact digest, or a path in the task's folder.
	Code string `codec:"code" json:"code,omitempty"`
	// Inputs and Outputs of the task, told apart by Name.
	Inputs  []Input  `codec:"input" json:"input,omitempty"`
	Outputs []Output `codec:"output" json:"output,omitempty"`
	// Params is a JSON object, given to the task as a file and as
	// DROVER_PARAM_<NAME> variables.
	Params     string       `codec:"params" json:"params,omitempty"`
	Checkpoint []Checkpoint `codec:"checkpoint" json:"checkpoint,omitempty"` // one at most
	Gang       []Gang       `codec:"gang" json:"gang,omitempty"`             // one at most
	// Run, Step, Attempt and Seed become DROVER_RUN and so on.
	Run     string `codec:"run" json:"run,omitempty"`
	Step    string `codec:"step" json:"step,omitempty"`
	Attempt int    `codec:"attempt" json:"attempt,omitempty"`
	Seed    int64  `codec:"seed" json:"seed,omitempty"`
	// ResultKey is where the result record goes: "results/<ResultKey>.json" in
	// the store. Empty means that no record is written.
	ResultKey string `codec:"result_key" json:"result_key,omitempty"`
	// StallTimeout ends a task whose metrics file has not grown for so long,
	// e.g. "30m". Default: never.
	StallTimeout string `codec:"stall_timeout" json:"stall_timeout,omitempty"`
}

// Input is something that a task reads.
type Input struct {
	Name string `codec:"name" json:"name"`
	// Source is an artefact digest (sha256:…), or a file or folder: file:///…
	// or a path in the task's folder (as an artifact block left it).
	Source string `codec:"source" json:"source"`
	// SHA256 pins the content of a Source that is not a digest: the artefact
	// digest it must have.
	SHA256 string `codec:"sha256" json:"sha256,omitempty"`
}

// Output is something that a task leaves at DROVER_OUTPUT_DIR/<name>.
type Output struct {
	Name string `codec:"name" json:"name"`
	// Optional outputs may be missing when the task succeeds.
	Optional bool `codec:"optional" json:"optional,omitempty"`
}

// Checkpoint turns checkpoints on. In a gang, all members resume from those of
// rank 0, and what other ranks write is not kept.
type Checkpoint struct {
	// Key names the training across restarts and nodes. Default: namespace,
	// job, group, task and allocation index.
	Key string `codec:"key" json:"key,omitempty"`
	// Keep is how many sealed checkpoints stay. Default 3.
	Keep int `codec:"keep" json:"keep,omitempty"`
}

// Result is the record of a task that ended, in the store under
// "results/<ResultKey>.json". It is written and synced before Nomad can see
// the task's exit, and for a success it is the only proof of it. Each member of
// a gang has its own, see RankKey.
type Result struct {
	Version  int    `json:"version"` // 1
	AllocID  string `json:"alloc_id"`
	TaskID   string `json:"task_id"`
	NodeID   string `json:"node_id"`
	NodeName string `json:"node_name"`
	ExitCode int    `json:"exit_code"`
	Signal   int    `json:"signal,omitempty"`
	OOM      bool   `json:"oom,omitempty"`
	// Error says what else went wrong, such as a declared output that is missing.
	Error   string                  `json:"error,omitempty"`
	Outputs map[string]StoredOutput `json:"outputs,omitempty"` // only of a success
	// Metrics is the digest of the blob with the whole metrics file, "" if
	// the task wrote none. Last has the last value of every metric.
	Metrics string             `json:"metrics,omitempty"`
	Last    map[string]float64 `json:"last,omitempty"`
	// ResumedFrom is the step of the checkpoint that this start resumed from,
	// nil for a start from the beginning.
	ResumedFrom *int64 `json:"resumed_from,omitempty"`
	LastSealed  *int64 `json:"last_sealed,omitempty"`
	// Started is when the command did, zero if it never did.
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	// Devices are the IDs reserved for the task.
	Devices []string `json:"devices,omitempty"`
}

// Succeeded reports whether the task did all that it had to. A missing record
// is no success.
func (r *Result) Succeeded() bool {
	return r != nil && r.ExitCode == 0 && r.Signal == 0 && r.Error == ""
}

// StoredOutput is an output in the artefact store.
type StoredOutput struct {
	Digest string `json:"digest"`
	Kind   string `json:"kind"` // file or dir
	Bytes  int64  `json:"bytes"`
	Files  int    `json:"files"`
}

// MetricsLine is one line of the metrics file.
type MetricsLine struct {
	Step    int64              `json:"step"`
	Epoch   float64            `json:"epoch,omitempty"`
	Time    float64            `json:"time,omitempty"` // Unix seconds
	Metrics map[string]float64 `json:"metrics"`
}

// CheckpointRecord is what the store knows of a sealed checkpoint, under
// "checkpoints/<key>/step-<n>.json".
type CheckpointRecord struct {
	Step     int64     `json:"step"`
	Digest   string    `json:"digest"`
	Bytes    int64     `json:"bytes"`
	SealedAt time.Time `json:"sealed_at"`
	AllocID  string    `json:"alloc_id"`
}

// CheckpointMetrics is the metrics file as it was when a checkpoint was last
// copied to the store, see CheckpointMetricsKey.
type CheckpointMetrics struct {
	Digest string `json:"digest"` // of the blob
}

// CheckpointMetricsKey is where the record with a training's metrics is.
func CheckpointMetricsKey(key string) string { return "checkpoints/" + key + "/metrics" }
