package jobspec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// EndpointIdentity says which revision of which endpoint a job is.
type EndpointIdentity struct {
	Name      string
	Revision  int // from 1
	Workspace string
	Model     string // name in the registry
	Version   int    // of the model
	Pipeline  string // that deployed it; "" if none did
	Run       string // that deployed it; "" if none did
}

// How an endpoint's instances are checked and replaced.
const (
	checkInterval   = 2 * time.Second
	checkTimeout    = 2 * time.Second
	minHealthyTime  = time.Second
	restartAttempts = 3
	restartInterval = 2 * time.Minute
	restartDelay    = 2 * time.Second
	rescheduleDelay = 5 * time.Second
	rescheduleMax   = 2 * time.Minute
	// an instance that ends leaves discovery first, and goes on serving until
	// gateways have noticed
	shutdownDelay = 2 * time.Second
)

// Endpoint compiles a revision of an endpoint to a service job. Every revision
// is a new version of the same job: Nomad starts one instance beside the old
// ones, replaces them one at a time once it is ready, and goes back to the
// revision before if one does not get ready in time.
func Endpoint(id EndpointIdentity, t pipeline.Task, e pipeline.Endpoint, c Cluster) (*api.Job, error) {
	job, err := endpointJob(id, t, e, c)
	if err != nil {
		return nil, err
	}
	id.Revision, id.Run, id.Pipeline = 1, "", ""
	c.Namespace = "" // its job is another one there
	bare, err := endpointJob(id, t, e, c)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(bare)
	if err != nil {
		return nil, fmt.Errorf("compiling endpoint %q: %w", id.Name, err)
	}
	sum := sha256.Sum256(text)
	job.Meta[MetaSpec] = hex.EncodeToString(sum[:16])
	return job, nil
}

func endpointJob(id EndpointIdentity, t pipeline.Task, e pipeline.Endpoint, c Cluster) (*api.Job, error) {
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("compiling endpoint %q: %w", id.Name, err)
	}
	config, err := taskConfig(t, c)
	if err != nil {
		return nil, fmt.Errorf("compiling endpoint %q: %w", id.Name, err)
	}
	config["step"] = "endpoint." + id.Name
	if id.Run != "" {
		config["run"] = id.Run
	}
	if err := checkConfig(config); err != nil {
		return nil, fmt.Errorf("compiling endpoint %q: %w", id.Name, err)
	}
	job := newJob(EndpointJobID(id.Workspace, id.Name), api.JobTypeService, t.Priority, c)
	confine(job, c.Pools)
	job.Meta = map[string]string{
		MetaEndpoint:  id.Name,
		MetaRevision:  strconv.Itoa(id.Revision),
		MetaWorkspace: id.Workspace,
		MetaModel:     id.Model,
		MetaVersion:   strconv.Itoa(id.Version),
	}
	// Nomad's services have tags but no meta: the gateway reads these.
	tags := []string{"drover.ready=" + e.ReadyPath}
	for key, value := range job.Meta {
		tags = append(tags, key+"="+value)
	}
	slices.Sort(tags)
	if id.Pipeline != "" {
		job.Meta[MetaPipeline] = id.Pipeline
	}
	if id.Run != "" {
		job.Meta[MetaRun] = id.Run
	}
	task := newTask(t, config, killTimeout)
	task.Env = withModel(task.Env, id)
	job.Update = &api.UpdateStrategy{
		MaxParallel:     new(1),
		HealthCheck:     new("checks"),
		MinHealthyTime:  new(minHealthyTime),
		HealthyDeadline: &e.ReadyTimeout,
		// No deadline for progress: the first instance that fails or is late
		// ends the deployment, instead of being placed again until then.
		ProgressDeadline: new(time.Duration(0)),
		// The first new instance comes beside the old ones, so that an endpoint
		// of one instance is served throughout. It needs room for one more.
		Canary:      new(1),
		AutoPromote: new(true),
		AutoRevert:  new(true),
	}
	job.TaskGroups = []*api.TaskGroup{{
		Name:          new(GroupName),
		Count:         &e.Count,
		ShutdownDelay: new(shutdownDelay),
		Networks:      []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: e.Port}}}},
		Services: []*api.Service{{
			Name:      ServiceName(id.Workspace, id.Name),
			Provider:  "nomad",
			PortLabel: e.Port,
			Tags:      tags,
			Checks: []api.ServiceCheck{{
				Name:      "ready",
				Type:      "http",
				Path:      e.ReadyPath,
				PortLabel: e.Port,
				Interval:  checkInterval,
				Timeout:   checkTimeout,
			}},
		}},
		RestartPolicy: &api.RestartPolicy{
			Attempts: new(restartAttempts),
			Interval: new(restartInterval),
			Delay:    new(restartDelay),
			Mode:     new(api.RestartPolicyModeFail),
		},
		ReschedulePolicy: &api.ReschedulePolicy{
			Unlimited:     new(true),
			Delay:         new(rescheduleDelay),
			DelayFunction: new("exponential"),
			MaxDelay:      new(rescheduleMax),
		},
		Tasks: []*api.Task{task},
	}}
	return job, nil
}

// withModel adds what an instance calls itself in the inference protocol.
func withModel(env map[string]string, id EndpointIdentity) map[string]string {
	env = maps.Clone(env)
	if env == nil {
		env = map[string]string{}
	}
	env["DROVER_MODEL_NAME"] = id.Name
	env["DROVER_MODEL_VERSION"] = strconv.Itoa(id.Version)
	return env
}

func (id EndpointIdentity) check() error {
	switch {
	case !segment.MatchString(id.Workspace):
		return fmt.Errorf("workspace %q is not letters, digits and dashes", id.Workspace)
	case !pipeline.ValidEndpointName(id.Name):
		return fmt.Errorf("the name is not lower-case letters, digits and dashes")
	case id.Revision < 1:
		return fmt.Errorf("revision %d: revisions count from 1", id.Revision)
	}
	return nil
}
