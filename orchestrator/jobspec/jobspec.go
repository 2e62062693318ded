package jobspec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// Cluster says where jobs go. Empty fields are left to Nomad.
type Cluster struct {
	StoreURL    string // of the artefact store
	Region      string
	Namespace   string
	Datacenters []string
	NodePool    string
	// Pools are the node pools that what has no place may run in; none: NodePool.
	Pools []string
}

// confine has a job run in some of a cluster's node pools.
func confine(job *api.Job, pools []string) {
	switch len(pools) {
	case 0:
	case 1:
		job.NodePool = new(pools[0])
	default:
		job.NodePool = new(anyPool)
		job.Constraints = append(job.Constraints, &api.Constraint{
			LTarget: "${node.pool}", Operand: "set_contains_any", RTarget: strings.Join(pools, ","),
		})
	}
}

// Grace periods between SIGTERM and SIGKILL. Nomad's clients allow no more
// than 30 s unless told otherwise.
const (
	killTimeout           = 10 * time.Second
	checkpointKillTimeout = 30 * time.Second
)

// Task compiles one attempt at a step or trial to a batch job. Nomad neither
// restarts nor reschedules a task that failed: that is a new attempt, and so a
// new job. It does replace one whose node was lost.
//
// A gang is one job with a group for each member. It has as many members as
// id.Ranks names places for, or as the task allows at most. Nomad takes up what
// it places of such a job together, but it places what it can: if it finds no
// place for a member, the others wait for it in vain, and give up.
func Task(id Identity, t pipeline.Task, c Cluster) (*api.Job, error) {
	job, err := task(id, t, c)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", id.Node, err)
	}
	return job, nil
}

func task(id Identity, t pipeline.Task, c Cluster) (*api.Job, error) {
	if err := id.check(); err != nil {
		return nil, err
	}
	config, err := taskConfig(t, c)
	if err != nil {
		return nil, err
	}
	config["run"] = id.Run
	config["step"] = string(id.Node)
	config["attempt"] = id.Attempt
	config["result_key"] = id.ResultKey()
	if t.Checkpoint != nil {
		config["checkpoint"] = []map[string]any{{"key": id.CheckpointKey(), "keep": t.Checkpoint.Keep}}
	}
	size, err := gangSize(id, t)
	if err != nil {
		return nil, err
	}

	job := newJob(JobID(id.Run, id.Node, id.Trial, id.Attempt), api.JobTypeBatch, t.Priority, c)
	job.Meta = map[string]string{
		MetaRun:       id.Run,
		MetaStep:      string(id.Node),
		MetaAttempt:   strconv.Itoa(id.Attempt),
		MetaWorkspace: id.Workspace,
		MetaPipeline:  id.Pipeline,
	}
	if id.Trial != nil {
		job.Meta[MetaTrial] = strconv.Itoa(*id.Trial)
	}
	places := id.Ranks
	if size == 0 {
		group, err := newGroup(GroupName, t, config, id.Place, id.Avoid)
		if err != nil {
			return nil, err
		}
		job.TaskGroups = []*api.TaskGroup{group}
		if id.Place != nil {
			places = []Place{*id.Place}
		}
	}
	for r := range size {
		group, err := newMember(id, t, config, r, size)
		if err != nil {
			return nil, err
		}
		job.TaskGroups = append(job.TaskGroups, group)
		job.AllAtOnce = new(true)
	}
	if pool := poolOf(places...); pool != "" {
		job.NodePool = &pool
	} else {
		confine(job, c.Pools)
	}
	return job, nil
}

// newGroup is a group of one task, at a place if there is one.
func newGroup(name string, t pipeline.Task, config map[string]any, place *Place, avoid []string) (*api.TaskGroup, error) {
	if err := checkConfig(config); err != nil {
		return nil, err
	}
	grace := killTimeout
	if t.Checkpoint != nil {
		grace = checkpointKillTimeout
	}
	group := &api.TaskGroup{
		Name:  &name,
		Count: new(1),
		RestartPolicy: &api.RestartPolicy{
			Attempts: new(0),
			Interval: new(time.Minute),
			Delay:    new(time.Second),
			Mode:     new(api.RestartPolicyModeFail),
		},
		ReschedulePolicy: &api.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)},
		Tasks:            []*api.Task{newTask(t, config, grace)},
	}
	if place != nil {
		pin(group, *place)
	}
	for _, d := range group.Tasks[0].Resources.Devices {
		for _, id := range avoid {
			// Of a group that has others, Nomad keeps to those.
			d.Constraints = append(d.Constraints, &api.Constraint{LTarget: "${device.ids}", Operand: "!=", RTarget: id})
		}
	}
	return group, nil
}

func newJob(id, kind string, priority int, c Cluster) *api.Job {
	return &api.Job{
		ID:          &id,
		Name:        &id,
		Type:        &kind,
		Priority:    &priority,
		Region:      optional(c.Region),
		Namespace:   optional(c.Namespace),
		NodePool:    optional(c.NodePool),
		Datacenters: slices.Clone(c.Datacenters),
	}
}

func newTask(t pipeline.Task, config map[string]any, grace time.Duration) *api.Task {
	return &api.Task{
		Name:        TaskName,
		Driver:      mltask.DriverName,
		Config:      config,
		Env:         maps.Clone(t.Env),
		Resources:   resources(t.Resources),
		KillTimeout: &grace,
	}
}

// taskConfig is the part of the driver's configuration that tasks and
// endpoints have in common, as mltask.Config describes it.
func taskConfig(t pipeline.Task, c Cluster) (map[string]any, error) {
	if len(t.Command) == 0 {
		return nil, fmt.Errorf("the command is empty")
	}
	config := map[string]any{"command": t.Command[0]}
	if args := t.Command[1:]; len(args) > 0 {
		config["args"] = slices.Clone(args)
	}
	if c.StoreURL != "" {
		config["store"] = c.StoreURL
	}
	if t.Code != "" {
		config["code"] = t.Code
	}
	if t.Seed != 0 {
		config["seed"] = t.Seed
	}
	if len(t.Params) > 0 {
		params, err := json.Marshal(t.Params)
		if err != nil {
			return nil, fmt.Errorf("encoding the parameters: %w", err)
		}
		config["params"] = string(params)
	}
	var inputs, outputs []map[string]any
	for _, name := range slices.Sorted(maps.Keys(t.Inputs)) {
		inputs = append(inputs, map[string]any{"name": name, "source": t.Inputs[name]})
	}
	for _, o := range t.Outputs {
		output := map[string]any{"name": o.Name}
		if o.Optional {
			output["optional"] = true
		}
		outputs = append(outputs, output)
	}
	if inputs != nil {
		config["input"] = inputs
	}
	if outputs != nil {
		config["output"] = outputs
	}
	return config, nil
}

// checkConfig tells now what the driver would refuse on a node.
func checkConfig(config map[string]any) error {
	text, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encoding the driver's configuration: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var c mltask.Config
	if err := decoder.Decode(&c); err != nil {
		return fmt.Errorf("checking the driver's configuration: %w", err)
	}
	return c.Validate()
}

func resources(r pipeline.Resources) *api.Resources {
	res := &api.Resources{MemoryMB: &r.MemoryMiB}
	if r.Cores > 0 {
		res.Cores = &r.Cores
	} else {
		res.CPU = &r.CPUMHz
	}
	if g := r.GPU; g != nil {
		device := &api.RequestedDevice{Name: g.Device, Count: new(uint64(g.Count))}
		if g.MemoryMin != "" {
			device.Constraints = append(device.Constraints, &api.Constraint{
				LTarget: "${device.attr.memory}", Operand: ">=", RTarget: g.MemoryMin,
			})
		}
		for _, c := range g.Constraints {
			device.Constraints = append(device.Constraints, &api.Constraint{
				LTarget: c.Attribute, Operand: c.Operator, RTarget: c.Value,
			})
		}
		res.Devices = []*api.RequestedDevice{device}
	}
	return res
}

// optional is nil for "", which leaves a field to Nomad.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
