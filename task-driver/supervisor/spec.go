package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/task"
)

// Spec is a supervisor's order. The driver writes it to the supervisor's
// standard input, so that the secrets of the environment are never in a file.
type Spec struct {
	TaskID, AllocID, NodeID, NodeName string

	Argv    []string
	Env     []string
	WorkDir string
	User    *task.Credential
	Group   cgroup.Group
	// NetNS is the network namespace to run in, "" for the host's.
	NetNS string
	// Stdout and Stderr are where the inherited files lead.
	Stdout, Stderr string

	// Folder holds the task's files, see mltask.Folder.
	Folder string
	// Store is the artefact store's URL, "" for none: then nothing is copied
	// and no record is written.
	Store        string
	Outputs      []mltask.Output
	Checkpoint   *Checkpoint
	ResultKey    string
	StallTimeout time.Duration // 0 is never
	Devices      []string
	GPUStatus    string // see gpustatus.Variable; "" if nobody tells
	ResumedFrom  *int64
	Gang         *Gang // nil for a task of its own
}

// Gang says which gang a task is a member of.
type Gang struct {
	Key        string
	Rank, Size int
	Timeout    time.Duration
	// Address and Port are where the member can be reached; "" lets the
	// supervisor choose both.
	Address string
	Port    int
}

// Checkpoint says what becomes of a task's checkpoints.
type Checkpoint struct {
	Key  string
	Keep int
	// Forget says that the copies in the store are of no use once the task has
	// succeeded, because the next task of this key is a new training.
	Forget bool
}

// Files that a supervisor inherits, beside its own standard ones.
const (
	readyFD = 3 + iota // where it says that the command has started
	stdoutFD
	stderrFD
	lockFD // the task's lock, held for as long as the supervisor lives
	endFD
)

// maxSpec bounds a Spec, whose largest part is the environment.
const maxSpec = 64 << 20

func readSpec(r io.Reader) (Spec, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSpec))
	if err != nil {
		return Spec{}, err
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("reading the order, which the driver writes: %w", err)
	}
	if len(s.Argv) == 0 {
		return Spec{}, errors.New("reading the order: no command in it")
	}
	return s, nil
}

// ready is what a supervisor answers: a start, or why there was none.
type ready struct {
	Error string `json:"error,omitempty"`
	// Retry says that another attempt may fare better.
	Retry bool `json:"retry,omitempty"`
}
