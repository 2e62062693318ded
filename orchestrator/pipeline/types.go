// Package pipeline turns a pipeline file (HCL2) into a typed graph, and the
// graph's nodes into concrete tasks once what they refer to is known.
//
// It is pure: it reads no files (sources are passed in), has no clock, and the
// same source, variables and digests always give the same graph. Problems come
// as hcl.Diagnostics, all at once, each with its place in the source.
package pipeline

import (
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Kind is what a node of the graph is.
type Kind string

// The kinds of nodes, named as their blocks in a pipeline file.
const (
	KindDataset  Kind = "dataset"
	KindStep     Kind = "step"
	KindSweep    Kind = "sweep"
	KindGate     Kind = "gate"
	KindModel    Kind = "model"
	KindEndpoint Kind = "endpoint"
)

// NodeID names a node as a pipeline file refers to it: `step.train`,
// `step.train["a"]`, `sweep.search`, `gate.accuracy`.
type NodeID string

// Pipeline is a parsed file.
type Pipeline struct {
	Name        string
	Description string
	// Variables are the values that the file's variables have, JSON-like.
	Variables map[string]any
	// Nodes are in an order in which each comes after what it depends on;
	// among equals, in the order of the file.
	Nodes []*Node
	// Paths are the files and folders of datasets and code, as written, that
	// the submitter turns into artefacts.
	Paths []Path
}

// Path is a file or folder that the pipeline takes in, relative to the
// pipeline file's folder.
type Path struct {
	Path  string
	Range hcl.Range // where it is named first
	// Folder tells that it must be a folder, as Code, where it is named so,
	// wants it.
	Folder bool
	Code   hcl.Range
}

// Node is a node of the graph. Just one of the pointers is set, by Kind.
type Node struct {
	ID   NodeID
	Kind Kind
	Name string // the block's label
	Key  string // of for_each; "" without
	// DependsOn are the nodes that must have ended before this one starts,
	// sorted.
	DependsOn []NodeID
	// OnExit nodes run after all others have ended, whatever came of them.
	OnExit bool
	Range  hcl.Range

	Dataset  *Dataset
	Step     *Step
	Sweep    *Sweep
	Gate     *Gate
	Model    *Model
	Endpoint *Endpoint

	deferred *deferred
}

// Dataset is data from outside. Its one output is named "data".
type Dataset struct {
	Path   string // as written, relative to the pipeline file
	SHA256 string // pinned artefact digest; "" if not pinned
}

// Step is the part of a step that is known before anything has run.
type Step struct {
	Code      string // folder as written; "" for none
	Command   []string
	Env       map[string]string
	Inputs    []string // names
	Outputs   []Output
	Resources Resources
	// Checkpoint is nil if the step writes none.
	Checkpoint *Checkpoint
	Retry      Retry
	Timeout    time.Duration // 0: none
	Cache      bool          // default true
	Priority   int           // Nomad's 1..100; default 50
	Scheduling
}

// Scheduling is what the queue goes by, besides resources.
type Scheduling struct {
	PriorityClass string // "" for the workspace's default
	// Preemptible tells that it may be stopped to make room, and goes on later.
	// Default: whether it writes checkpoints.
	Preemptible bool
	// RunTime is how long an attempt runs at most; default Timeout, 0: unknown.
	RunTime time.Duration
	Gang    *Gang // nil: one process
}

// Gang is a task of several members that run at the same time, each with the
// step's command and resources.
type Gang struct {
	// Min and Max are how many members it starts with, equal if just one size
	// will do.
	Min, Max int
	// Within is the domain that holds all of them, "" for any.
	Within Level
	// Required makes it wait for such a domain. Else Within is a wish.
	Required bool
	// Timeout is how long the members that are there wait for the others.
	Timeout time.Duration
}

// Level is a kind of domain of the cluster's topology.
type Level string

// The levels, from the closest. Of GPUs, an island is joined by NVLink.
const (
	Island Level = "island"
	Host   Level = "host"
	Rack   Level = "rack"
	Block  Level = "block"
)

// Output is a declared output of a step.
type Output struct {
	Name     string
	Optional bool
}

// Resources is what a task asks for.
type Resources struct {
	CPUMHz    int // default 500
	Cores     int // 0: share CPUMHz instead
	MemoryMiB int // default 256
	GPU       *GPU
	// Or are what will do instead of GPU, by preference.
	Or []GPU
}

// Alternatives are how many asks r stands for.
func (r Resources) Alternatives() int { return 1 + len(r.Or) }

// Alternative is r with just one ask for GPUs: 0 is GPU, i is Or[i-1].
func (r Resources) Alternative(i int) Resources {
	if i > 0 {
		r.GPU = &r.Or[i-1]
	}
	r.Or = nil
	return r
}

// GPU is an ask for devices of one group.
type GPU struct {
	Count int
	// Device is Nomad's device name: "nvidia/gpu" (default), or with a model.
	Device string
	// MemoryMin is a lower bound such as "40 GB", "" for none. Units are
	// Nomad's: GB is 10^9 bytes, GiB 2^30.
	MemoryMin string
	// Constraints on device attributes, as in Nomad.
	Constraints []Constraint
	// Topology is how close the GPUs must be to each other; nil: on one host.
	Topology *Topology `json:",omitempty"`
}

// Topology is a domain that what belongs together should be in.
type Topology struct {
	Level Level
	// Required makes it wait for such a domain. Else Level is a wish.
	Required bool
}

// Constraint is a Nomad constraint.
type Constraint struct{ Attribute, Operator, Value string }

// Checkpoint is how a step's checkpoints are kept.
type Checkpoint struct {
	Keep int // default 3
}

// Retry says how often a step that failed is tried again, as a new attempt.
// Lost nodes and preemptions do not count.
type Retry struct {
	Attempts int           // further attempts; default 0
	Delay    time.Duration // default 0
	// Permanent are exit codes that no further attempt follows.
	Permanent []int `json:",omitempty"`
}

// Sweep is a search over parameters; each trial is a task.
type Sweep struct {
	Step            // of every trial
	Method   string // "grid" or "random"
	Trials   int    // of random; of grid a cap, 0: all
	Parallel int    // 0: all at once
	Seed     int64
	Metric   string
	Maximize bool
	Params   []SearchParam // in the order of the file
}

// SearchParam is one dimension of a sweep: a list of values, or a range.
type SearchParam struct {
	Name     string
	Values   []any
	Min, Max float64
	Scale    string // "linear" or "log"
	Integer  bool
}

// Gate decides whether a model may go on.
type Gate struct {
	Checks []Check
	// Model names the registry's model whose champion is compared with; "" if
	// no check compares.
	Model string
}

// Check is one condition of a gate. Metrics come from the node Source.
type Check struct {
	Metric string
	Source NodeID
	Min    *float64 // absolute bounds, inclusive
	Max    *float64
	// AgainstChampion compares with the champion's metric of the same name:
	// the value must be at least champion + MinDelta (or, where lower is
	// better, at most champion - MinDelta). With no champion it passes.
	AgainstChampion bool
	MinDelta        float64
	LowerIsBetter   bool
	Range           hcl.Range
}

// Model registers a version in the model registry.
type Model struct {
	Registered string // the model's name in the registry
	Alias      string // given to the new version when it is registered; "" for none
	// Gate is the gate that must have passed, "" for none.
	Gate NodeID
	// Source and Output are where the model's files come from.
	Source NodeID
	Output string
	// Metrics are the nodes whose metrics are recorded with the version.
	Metrics []NodeID
}

// Endpoint serves a model.
type Endpoint struct {
	Model     NodeID // the model node it serves
	Step             // command, code, env, resources of an instance
	Count     int    // instances; default 1
	Port      string // port label; default "http"
	ReadyPath string // default "/v2/health/ready"
	// ReadyTimeout is how long a new revision may take until it is ready;
	// default 2 minutes.
	ReadyTimeout time.Duration
}

// Results is what is known of nodes that have ended.
type Results map[NodeID]Result

// Status is how a node ended.
type Status string

// The ends of a node. Skipped is not succeeded: a node whose dependency was
// skipped is skipped too, unless it says otherwise with `when`.
const (
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Skipped   Status = "skipped"
	Cancelled Status = "cancelled"
)

// Result is what later nodes may refer to.
type Result struct {
	Status  Status
	Outputs map[string]string  // artefact digests by output name
	Metrics map[string]float64 // last values
	// Best is the best trial of a sweep.
	Best *Trial
	// Version is the version that a model node registered.
	Version int
	// Error says why a node failed.
	Error string
}

// Trial is one trial of a sweep.
type Trial struct {
	Index   int
	Params  map[string]any
	Metrics map[string]float64
	Outputs map[string]string
}

// Task is a step, trial or endpoint instance with nothing left to resolve.
type Task struct {
	Command    []string
	Env        map[string]string
	Code       string            // artefact digest; "" for none
	Inputs     map[string]string // artefact digests by name
	Outputs    []Output
	Params     map[string]any // JSON values
	Resources  Resources
	Checkpoint *Checkpoint
	Retry      Retry
	Timeout    time.Duration
	Cache      bool
	Priority   int
	Scheduling
	Seed int64
}
