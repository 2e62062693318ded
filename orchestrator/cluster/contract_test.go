package cluster_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/cluster"
	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/jobspec"
)

// shellJob is a batch job that runs a script with a driver's way of naming a
// command.
func shellJob(id, driver, script string) *api.Job {
	task := &api.Task{
		Name: jobspec.TaskName, Driver: driver,
		Config:    map[string]any{"command": "/bin/sh", "args": []string{"-c", script}},
		Resources: &api.Resources{CPU: new(50), MemoryMB: new(64)},
	}
	kind := api.JobTypeBatch
	return &api.Job{
		ID: &id, Name: &id, Type: &kind,
		TaskGroups: []*api.TaskGroup{{
			Name:             new(jobspec.GroupName),
			RestartPolicy:    &api.RestartPolicy{Attempts: new(0), Mode: new("fail")},
			ReschedulePolicy: &api.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)},
			Tasks:            []*api.Task{task},
		}},
	}
}

func TestFakeKeepsTheContract(t *testing.T) {
	fake := clustertest.New(clustertest.NewArtifacts(), func(x clustertest.Task) clustertest.Exit {
		script, _ := x.Job.TaskGroups[0].Tasks[0].Config["args"].([]string)
		return clustertest.Script(x, script[1])
	})
	defer fake.Close()
	fake.AddNamespace("vision")
	for _, namespace := range []string{"", "vision"} {
		t.Run("namespace "+namespace, func(t *testing.T) {
			clustertest.Contract(t, clustertest.Subject{
				Cluster: fake, Namespace: namespace, Prefix: "fake", Deadline: 10 * time.Second,
				Job:         func(id, script string) *api.Job { return shellJob(id, "ml", script) },
				Unplaceable: func(id string) *api.Job { return unplaceable(id, "ml") },
			})
		})
	}
}

// TestNomadKeepsTheContract runs where NOMAD_ADDR points at a cluster with the
// driver named by DROVER_TEST_DRIVER (default "ml").
func TestNomadKeepsTheContract(t *testing.T) {
	if os.Getenv("NOMAD_ADDR") == "" {
		t.Skip("NOMAD_ADDR is not set: the contract is checked with the fake only")
	}
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	driver := os.Getenv("DROVER_TEST_DRIVER")
	if driver == "" {
		driver = "ml"
	}
	if _, err := client.Namespaces().Register(&api.Namespace{Name: "contract"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{"", "contract"} {
		t.Run("namespace "+namespace, func(t *testing.T) {
			clustertest.Contract(t, clustertest.Subject{
				Cluster: cluster.New(client), Namespace: namespace,
				Prefix: fmt.Sprintf("contract-%d", time.Now().UnixNano()), Deadline: 20 * time.Second,
				Job:         func(id, script string) *api.Job { return shellJob(id, driver, script) },
				Unplaceable: func(id string) *api.Job { return unplaceable(id, driver) },
			})
		})
	}
}

// unplaceable is a job that no node takes.
func unplaceable(id, driver string) *api.Job {
	job := shellJob(id, driver, "")
	job.Constraints = []*api.Constraint{{LTarget: "${node.unique.id}", RTarget: "nowhere", Operand: "="}}
	return job
}
