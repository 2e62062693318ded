// Package jobspec compiles tasks of a pipeline to Nomad jobs.
//
// It is pure: the same task and identity always give the same job, with the
// same ID, so that registering one twice changes nothing.
package jobspec

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// Names inside every job.
const (
	GroupName = "task"
	TaskName  = "main"
)

// Keys of a job's meta, for people and for finding jobs again.
const (
	MetaRun       = "drover.run"
	MetaStep      = "drover.step" // the node's ID
	MetaTrial     = "drover.trial"
	MetaAttempt   = "drover.attempt"
	MetaWorkspace = "drover.workspace"
	MetaPipeline  = "drover.pipeline"
	MetaEndpoint  = "drover.endpoint"
	MetaRevision  = "drover.revision"
	MetaModel     = "drover.model"
	MetaVersion   = "drover.version"
	// MetaSpec is a hash of what an endpoint's job runs, the same for
	// revisions that differ in nothing else.
	MetaSpec = "drover.spec"
)

// Identity says which attempt at which task a job is.
type Identity struct {
	Run       string
	Node      pipeline.NodeID
	Trial     *int // nil for a step
	Attempt   int  // from 1
	Workspace string
	Pipeline  string
	// Avoid are the IDs of devices that the attempt must not get.
	Avoid []string
	// Place is where the task must run; nil leaves that to Nomad.
	Place *Place
	// Ranks are where the members of a gang must run, by rank; nil leaves that
	// to Nomad.
	Ranks []Place
}

// JobID is the ID of the job that runs an attempt, from 1, of a step or (with
// trial) of one trial of a sweep: "drover-<run>-<node slug>[-t<trial>]-<attempt>".
// Different nodes never share an ID, however alike their names are.
func JobID(run string, node pipeline.NodeID, trial *int, attempt int) string {
	t := ""
	if trial != nil {
		t = "-t" + strconv.Itoa(*trial)
	}
	return fmt.Sprintf("drover-%s-%s%s-%d", run, Slug(node), t, attempt)
}

// EndpointJobID is the ID of the job that serves an endpoint,
// "drover-endpoint-<workspace>-<name>". All its revisions are versions of that
// one job. No two endpoints share it.
func EndpointJobID(workspace, name string) string {
	return endpointID("drover-endpoint-", workspace, name)
}

// ServiceName is the name of the Nomad service of an endpoint's instances,
// "drover-<workspace>-<name>". No two endpoints share it.
func ServiceName(workspace, name string) string {
	return endpointID("drover-", workspace, name)
}

// maxServiceName is Nomad's limit: a service's name is a DNS label.
const maxServiceName = 63

// hashed is how an endpoint's ID ends that has a hash.
var hashed = regexp.MustCompile(`-x[a-z2-7]{10}$`)

// endpointID makes an ID of a workspace and an endpoint's name. Where it would
// not say which of its dashes is between the two, be too long, or look like one
// with a hash, it ends in a hash of both.
func endpointID(prefix, workspace, name string) string {
	id := prefix + workspace + "-" + name
	if !strings.Contains(workspace, "-") && len(id) <= maxServiceName && !hashed.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(workspace + "/" + name)) // neither has a slash
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:7]))[:10]
	id = id[:min(len(id), maxServiceName-len("-x")-len(hash))]
	return strings.TrimRight(id, "-") + "-x" + hash
}

// ResultKey is the key of the result record of an attempt, below "results/" in
// the artefact store.
func (id Identity) ResultKey() string {
	return id.taskKey() + "/" + strconv.Itoa(id.Attempt)
}

// CheckpointKey is the key of a task's checkpoints, below "checkpoints/" in
// the artefact store. All attempts share it, so that one goes on where the
// last one ended.
func (id Identity) CheckpointKey() string { return id.taskKey() }

func (id Identity) taskKey() string {
	key := id.Run + "/" + Slug(id.Node)
	if id.Trial != nil {
		key += "/trial-" + strconv.Itoa(*id.Trial)
	}
	return key
}

// segment is what may stand for a run or workspace in IDs, names and keys.
var segment = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

func (id Identity) check() error {
	switch {
	case !segment.MatchString(id.Run):
		return fmt.Errorf("run ID %q is not letters, digits and dashes", id.Run)
	case !segment.MatchString(id.Workspace):
		return fmt.Errorf("workspace %q is not letters, digits and dashes", id.Workspace)
	case id.Node == "":
		return fmt.Errorf("the node has no ID")
	case id.Attempt < 1:
		return fmt.Errorf("attempt %d: attempts count from 1", id.Attempt)
	case id.Trial != nil && *id.Trial < 0:
		return fmt.Errorf("trial %d is negative", *id.Trial)
	}
	return nil
}

// maxSlug keeps job IDs readable in Nomad's lists.
const maxSlug = 40

// Slug is a short name of a node for IDs and keys: lower-case letters, digits
// and dashes, ending in a hash of the whole ID that keeps apart what cleaning
// and cutting made equal.
func Slug(node pipeline.NodeID) string {
	name := string(node)
	if _, rest, ok := strings.Cut(name, "."); ok {
		name = rest // the kind is still in the hash
	}
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		if b.Len() >= maxSlug {
			break
		}
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	slug := strings.TrimRight(b.String(), "-")
	if slug == "" {
		slug = "node"
	}
	sum := sha256.Sum256([]byte(node))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
	return slug + "-" + hash
}
