package jobspec_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

var update = flag.Bool("update", false, "rewrite golden files")

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var cluster = jobspec.Cluster{StoreURL: "file:///var/lib/drover/store"}

func identity() jobspec.Identity {
	return jobspec.Identity{
		Run: "01j3k5m7n9pq", Node: "step.train", Attempt: 1, Workspace: "default", Pipeline: "digits",
	}
}

func minimal() pipeline.Task {
	return pipeline.Task{
		Command: []string{"true"}, Resources: pipeline.Resources{CPUMHz: 500, MemoryMiB: 256}, Priority: 50,
	}
}

func training() pipeline.Task {
	return pipeline.Task{
		Command: []string{"python3", "-u", "train.py"},
		Env:     map[string]string{"MODE": "fast"},
		Code:    digest,
		Inputs:  map[string]string{"features": digest, "drover": digest},
		Outputs: []pipeline.Output{{Name: "model"}, {Name: "log", Optional: true}},
		Params:  map[string]any{"lr": 0.02, "epochs": int64(12)},
		Resources: pipeline.Resources{Cores: 4, MemoryMiB: 2048, GPU: &pipeline.GPU{
			Count: 2, Device: "nvidia/gpu", MemoryMin: "80 GB",
			Constraints: []pipeline.Constraint{{Attribute: "${device.model}", Operator: "is_set"}},
		}},
		Checkpoint: &pipeline.Checkpoint{Keep: 3},
		Retry:      pipeline.Retry{Attempts: 2, Delay: time.Second},
		Priority:   70,
		Seed:       42,
	}
}

func endpointIdentity() jobspec.EndpointIdentity {
	return jobspec.EndpointIdentity{
		Name: "digits", Revision: 3, Workspace: "default", Model: "digits", Version: 7, Pipeline: "digits", Run: "01j3k5m7n9pq",
	}
}

func serving() (pipeline.Task, pipeline.Endpoint) {
	task := pipeline.Task{
		Command: []string{"python3", "serve.py"}, Code: digest, Inputs: map[string]string{"model": digest},
		Resources: pipeline.Resources{CPUMHz: 500, MemoryMiB: 256}, Priority: 60,
	}
	return task, pipeline.Endpoint{
		Model: "model.digits", Count: 2, Port: "http", ReadyPath: "/v2/health/ready", ReadyTimeout: 2 * time.Minute,
	}
}

// compiled are the jobs that have golden files.
func compiled(t *testing.T) map[string]*api.Job {
	t.Helper()
	jobs := map[string]*api.Job{}
	add := func(name string, job *api.Job, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		jobs[name] = job
	}
	job, err := jobspec.Task(identity(), minimal(), jobspec.Cluster{})
	add("minimal", job, err)

	placed := cluster
	placed.Region, placed.Namespace, placed.NodePool, placed.Datacenters = "eu", "ml", "gpu", []string{"dc1", "dc2"}
	job, err = jobspec.Task(identity(), training(), placed)
	add("training", job, err)

	trial := identity()
	trial.Node, trial.Trial, trial.Attempt = `sweep.search["a b"]`, new(12), 2
	job, err = jobspec.Task(trial, minimal(), cluster)
	add("trial", job, err)

	gang := training()
	gang.Gang = &pipeline.Gang{Min: 2, Max: 2, Timeout: 5 * time.Minute}
	job, err = jobspec.Task(identity(), gang, cluster)
	add("gang", job, err)

	gang.Gang.Max = 8
	pinned := identity()
	pinned.Avoid = []string{"GPU-z"}
	pinned.Ranks = []jobspec.Place{
		{NodeID: "node-a", NodeName: "a", Pool: "gpu", Device: "nvidia/gpu/H100", Devices: []string{"GPU-a", "GPU-b"}},
		{NodeID: "node-b", NodeName: "b", Pool: "gpu", Device: "nvidia/gpu/H100", Devices: []string{"GPU-c", "GPU-d"}},
		{NodeID: "node-b", NodeName: "b", Pool: "gpu", Device: "nvidia/gpu/H100", Devices: []string{"GPU-e", "GPU-f"}},
	}
	job, err = jobspec.Task(pinned, gang, cluster)
	add("gang-pinned", job, err)

	task, endpoint := serving()
	job, err = jobspec.Endpoint(endpointIdentity(), task, endpoint, cluster)
	add("endpoint", job, err)
	return jobs
}

func encode(t *testing.T, job *api.Job) []byte {
	t.Helper()
	text, err := json.MarshalIndent(job, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

// slim leaves out what is null or empty, which is most of a job.
func slim(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if value = slim(value); value == nil || value == "" || value == false {
				delete(v, key)
			} else {
				v[key] = value
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = slim(v[i])
		}
	}
	return v
}

func TestJobs(t *testing.T) {
	for name, job := range compiled(t) {
		t.Run(name, func(t *testing.T) {
			var parsed any
			if err := json.Unmarshal(encode(t, job), &parsed); err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(slim(parsed), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (run with -update to write it)", err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s differs (-want +got):\n%s", path, diff)
			}
		})
	}
}

// Nomad keeps an attempt from the devices that it must avoid, and an attempt
// without devices has nothing to avoid.
func TestAvoidedDevices(t *testing.T) {
	id := identity()
	id.Avoid = []string{"GPU-a", "GPU-b"}
	for name, task := range map[string]pipeline.Task{"without devices": minimal(), "with devices": training()} {
		job, err := jobspec.Task(id, task, cluster)
		if err != nil {
			t.Fatal(err)
		}
		var avoided []string
		for _, d := range job.TaskGroups[0].Tasks[0].Resources.Devices {
			for _, c := range d.Constraints {
				if c.LTarget == "${device.ids}" && c.Operand == "!=" {
					avoided = append(avoided, c.RTarget)
				}
			}
		}
		want := id.Avoid
		if task.Resources.GPU == nil {
			want = nil
		}
		if !slices.Equal(avoided, want) {
			t.Errorf("%s: avoids %v, want %v", name, avoided, want)
		}
	}
}

// What the driver would refuse on a node is refused here.
func TestConfigIsCheckedAsTheDriverDoes(t *testing.T) {
	tests := []struct {
		name   string
		change func(*pipeline.Task)
		want   string
	}{
		{"input that leaves its folder", func(task *pipeline.Task) { task.Inputs = map[string]string{"../x": digest} }, "../x"},
		{"source outside of the store", func(task *pipeline.Task) { task.Inputs = map[string]string{"x": "/etc/passwd"} }, "source"},
		{"output that leaves its folder", func(task *pipeline.Task) { task.Outputs = []pipeline.Output{{Name: "a/b"}} }, "a/b"},
		{"parameters that are too large", func(task *pipeline.Task) {
			task.Params = map[string]any{"x": strings.Repeat("x", 1<<20)}
		}, "params"},
		{"NUL in the command", func(task *pipeline.Task) { task.Command = []string{"a\x00"} }, "NUL"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			task := minimal()
			test.change(&task)
			if _, err := jobspec.Task(identity(), task, cluster); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Compiling again, here or elsewhere, gives the same bytes.
func TestCompilingAgainGivesTheSameJob(t *testing.T) {
	again := compiled(t)
	for name, job := range compiled(t) {
		if diff := cmp.Diff(string(encode(t, job)), string(encode(t, again[name]))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRevisionsAreVersionsOfOneJob(t *testing.T) {
	task, endpoint := serving()
	first, err := jobspec.Endpoint(endpointIdentity(), task, endpoint, cluster)
	if err != nil {
		t.Fatal(err)
	}
	next := endpointIdentity()
	next.Revision++
	second, err := jobspec.Endpoint(next, task, endpoint, cluster)
	if err != nil {
		t.Fatal(err)
	}
	if *first.ID != *second.ID {
		t.Errorf("revisions have the IDs %s and %s", *first.ID, *second.ID)
	}
	if cmp.Equal(first, second) {
		t.Error("a new revision with the same model is no new version of the job: nothing would be deployed")
	}
}

func TestCompilingLeavesTheTaskAlone(t *testing.T) {
	task, endpoint := serving()
	task.Env = map[string]string{"A": "1"}
	job, err := jobspec.Endpoint(endpointIdentity(), task, endpoint, cluster)
	if err != nil {
		t.Fatal(err)
	}
	job.TaskGroups[0].Tasks[0].Env["B"] = "2"
	if diff := cmp.Diff(map[string]string{"A": "1"}, task.Env); diff != "" {
		t.Error(diff)
	}
}

func TestInvalidIdentitiesAreRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*jobspec.Identity, *pipeline.Task)
		want   string
	}{
		{"run that leaves the store", func(id *jobspec.Identity, _ *pipeline.Task) { id.Run = "../x" }, `run ID "../x"`},
		{"run with a slash", func(id *jobspec.Identity, _ *pipeline.Task) { id.Run = "a/b" }, `run ID "a/b"`},
		{"no run", func(id *jobspec.Identity, _ *pipeline.Task) { id.Run = "" }, `run ID ""`},
		{"workspace", func(id *jobspec.Identity, _ *pipeline.Task) { id.Workspace = "a.b" }, `workspace "a.b"`},
		{"no node", func(id *jobspec.Identity, _ *pipeline.Task) { id.Node = "" }, "no ID"},
		{"attempt", func(id *jobspec.Identity, _ *pipeline.Task) { id.Attempt = 0 }, "count from 1"},
		{"trial", func(id *jobspec.Identity, _ *pipeline.Task) { id.Trial = new(-1) }, "negative"},
		{"command", func(_ *jobspec.Identity, task *pipeline.Task) { task.Command = nil }, "command is empty"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id, task := identity(), minimal()
			test.change(&id, &task)
			if _, err := jobspec.Task(id, task, cluster); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestInvalidEndpointsAreRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*jobspec.EndpointIdentity)
		want   string
	}{
		{"name", func(id *jobspec.EndpointIdentity) { id.Name = "Digits" }, "lower-case"},
		{"traversal", func(id *jobspec.EndpointIdentity) { id.Name = "../x" }, "lower-case"},
		{"revision", func(id *jobspec.EndpointIdentity) { id.Revision = 0 }, "count from 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id := endpointIdentity()
			test.change(&id)
			task, endpoint := serving()
			if _, err := jobspec.Endpoint(id, task, endpoint, cluster); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
