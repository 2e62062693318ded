// Package driver is Nomad's task driver protocol, both sides: implement Plugin
// and call Serve in a plugin; use host.Launch to drive one.
package driver

import (
	"context"
	"io"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Plugin is a Nomad task driver.
//
// The SDK guards what can bring an agent down or make it spin: nil results
// are filled, streams stay open until the agent ends them, StopTask and
// DestroyTask of an unknown task succeed, panics become errors, and SIGPIPE is
// ignored so that a driver survives its agent.
type Plugin interface {
	base.Plugin

	TaskSchema() *schema.Spec
	Capabilities() Capabilities

	// Fingerprint calls publish at once and on every change until ctx ends.
	Fingerprint(ctx context.Context, publish func(Fingerprint) error) error

	// StartTask returns when the task runs. Errors end the task for good
	// unless they are wrapped with Recoverable. The same call may come twice
	// if the plugin died in between.
	StartTask(ctx context.Context, t *TaskConfig) (*Handle, *NetworkOverride, error)
	// RecoverTask takes up a task by its handle. It is idempotent, quick, and
	// also called for tasks that have ended. h.Config.DriverConfig is empty
	// after an agent restart: keep what is needed in h.DriverState.
	RecoverTask(ctx context.Context, h *Handle) error
	// WaitTask blocks until the task ends or ctx does. An error counts as the
	// task's death.
	WaitTask(ctx context.Context, id string) (*ExitResult, error)
	// StopTask signals, waits up to timeout, kills, and returns.
	StopTask(ctx context.Context, id string, timeout time.Duration, signal string) error
	DestroyTask(ctx context.Context, id string, force bool) error
	InspectTask(ctx context.Context, id string) (*TaskStatus, error)
	TaskStats(ctx context.Context, id string, interval time.Duration, publish func(TaskStats) error) error
	// TaskEvents publishes events of any task until ctx ends.
	TaskEvents(ctx context.Context, publish func(TaskEvent) error) error
	SignalTask(ctx context.Context, id string, signal string) error
	// ExecTask runs a command beside the task; timeout 0 means no limit.
	ExecTask(ctx context.Context, id string, command []string, timeout time.Duration) (*ExecResult, error)
	// ExecTaskStreaming runs a command with streams, until it ends.
	ExecTaskStreaming(ctx context.Context, id string, x ExecStreams) (*ExitResult, error)
}

// Initializer is implemented by drivers that want to know that this launch is
// the real one, not one of the agent's checks. Agents call Init since Nomad
// 2.0.4, after SetConfig, and again when they take up a driver that outlived
// an agent.
type Initializer interface {
	Init(ctx context.Context) error
}

// Shutdowner is implemented by drivers that have something to put away before
// the agent ends them, within two seconds. Tasks must keep running. Agents call
// it since Nomad 2.0.4; do not rely on it.
type Shutdowner interface {
	Shutdown(ctx context.Context) error
}

// NetworkManager is implemented by drivers that create networks themselves.
type NetworkManager interface {
	CreateNetwork(ctx context.Context, allocID, hostname string) (spec *NetworkIsolation, created bool, err error)
	DestroyNetwork(ctx context.Context, allocID string, spec *NetworkIsolation) error
}

// FSIsolation is how a driver isolates a task's view of the file system.
type FSIsolation int

// The file system isolation modes of the wire.
const (
	FSIsolationNone FSIsolation = iota
	FSIsolationChroot
	FSIsolationImage
	FSIsolationUnveil
)

// NetworkMode is a network isolation mode of the wire.
type NetworkMode int

// The network isolation modes of the wire.
const (
	NetworkHost NetworkMode = iota
	NetworkGroup
	NetworkTask
	NetworkNone
)

// Capabilities says what a driver can do.
type Capabilities struct {
	SendSignals          bool
	Exec                 bool
	FSIsolation          FSIsolation
	NetworkModes         []NetworkMode
	MustCreateNetwork    bool
	NoMounts             bool // tasks with volumes fail
	DisableLogCollection bool
	DynamicWorkloadUsers bool
}

// Health is a driver's health.
type Health int

// The health states of the wire.
const (
	HealthUndetected Health = iota
	HealthUnhealthy
	HealthHealthy
)

// Fingerprint is a driver's state. Attributes become node attributes; name
// them driver.<name>.<key>.
type Fingerprint struct {
	Attributes  map[string]base.Attribute
	Health      Health
	Description string
}

// TaskConfig is a task to start. ID is new for every start and contains
// slashes: <allocation>/<task>/<8 hex digits>.
type TaskConfig struct {
	ID           string
	Name         string
	DriverConfig []byte // cty MessagePack of the job's config block
	Env          map[string]string
	DeviceEnv    map[string]string
	Resources    Resources
	Mounts       []Mount
	Devices      []Device
	User         string
	AllocDir     string // host path; the task's folder is AllocDir/Name
	StdoutPath   string // a FIFO, or /dev/null
	StderrPath   string
	Group        string
	JobName      string
	JobID        string
	AllocID      string
	Namespace    string
	NodeName     string
	NodeID       string
	Network      *NetworkIsolation // nil for the host's
	DNS          *DNS
}

// Decode fills the struct that v points to from the job's config block, by
// `codec:"name"` tags.
func (t *TaskConfig) Decode(v any) error { return schema.Decode(t.DriverConfig, v) }

// Resources is what a task was allocated.
type Resources struct {
	CPUShares   int64 // MHz
	MemoryMB    int64
	MemoryMaxMB int64
	Ports       []Port
	MemoryLimit int64   // bytes, the larger of memory and memory_max
	CPUSet      string  // reserved cores, "0,1"; "" for shared
	CPUFraction float64 // share of the node's usable MHz
	CgroupPath  string  // the client's cgroup for the task; "" if it makes none
	LinuxShares int64
	CPUPeriod   int64
	CPUQuota    int64
	OOMScoreAdj int64
}

// Port is a port mapping. To is 0 without mapping.
type Port struct {
	Label  string
	Value  int32
	To     int32
	HostIP string
}

// Mount is a host path to show to a task.
type Mount struct {
	TaskPath, HostPath string
	ReadOnly           bool
	Propagation        string
	SELinuxLabel       string
	RequestName        string
}

// Device is a device file to give to a task.
type Device struct {
	TaskPath, HostPath, Permissions string
}

// NetworkIsolation names a network namespace.
type NetworkIsolation struct {
	Mode   NetworkMode
	Path   string
	Labels map[string]string
	Hosts  *Hosts
}

// Hosts is the name and address of an allocation's own network.
type Hosts struct{ Hostname, Address string }

// DNS is a task's resolver configuration.
type DNS struct{ Servers, Searches, Options []string }

// NetworkOverride is what a driver tells about a task's own network.
type NetworkOverride struct {
	Ports         map[string]int32
	Addr          string
	AutoAdvertise bool
}

// State is a task's state.
type State int

// The task states of the wire.
const (
	StateUnknown State = iota
	StateRunning
	StateExited
)

// Handle is what an agent stores of a running task. Config must be the
// config that StartTask got, and Version at least 1.
type Handle struct {
	Version     int32
	Config      *TaskConfig
	State       State
	DriverState []byte
}

// ExitResult says how a task ended. Err non-nil counts as failure.
type ExitResult struct {
	ExitCode  int
	Signal    int
	OOMKilled bool
	Err       error
}

// TaskStatus is a task's state, as far as the driver knows it.
type TaskStatus struct {
	ID, Name    string
	State       State
	StartedAt   time.Time
	CompletedAt time.Time
	Exit        *ExitResult
	Attributes  map[string]string
	Network     *NetworkOverride
}

// TaskStats is one reading of a task's use.
type TaskStats struct {
	ID        string
	Time      time.Time
	Total     Usage
	Processes map[string]Usage // by PID; nil if not measured
}

// Usage is CPU and memory use; a nil value was not measured.
type Usage struct {
	CPU    CPUUsage
	Memory MemoryUsage
}

// CPUUsage is a reading of CPU use over the interval. Percentages are of one
// core; TotalTicks is in MHz, ThrottledTime in nanoseconds.
type CPUUsage struct {
	SystemMode, UserMode, TotalTicks, Percent *float64
	ThrottledPeriods, ThrottledTime           *uint64
}

// MemoryUsage is a reading of memory use, in bytes.
type MemoryUsage struct {
	RSS, Cache, MaxUsage, KernelUsage, KernelMaxUsage, Usage, Swap *uint64
}

// TaskEvent is shown among a task's events. AllocID and Task select it.
type TaskEvent struct {
	TaskID, AllocID, Task string
	Time                  time.Time
	Message               string
	Annotations           map[string]string
}

// ExecResult is the outcome of a command beside a task.
type ExecResult struct {
	Stdout, Stderr []byte
	Exit           ExitResult
}

// ExecStreams are the streams of a command beside a task.
type ExecStreams struct {
	Command []string
	TTY     bool
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan TerminalSize
}

// TerminalSize is a terminal's size in cells.
type TerminalSize struct{ Height, Width int32 }
