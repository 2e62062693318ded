package devcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

func nodes(names ...string) func(*Config) {
	return func(c *Config) {
		c.HeartbeatTTL = 2 * time.Second // these tests wait for it to pass
		for _, name := range names {
			c.Nodes = append(c.Nodes, NodeConfig{Name: name})
		}
	}
}

func awaitNode(t *testing.T, c *api.Client, name string, done func(*api.NodeListStub) bool) *api.NodeListStub {
	t.Helper()
	q := &api.QueryOptions{WaitTime: 5 * time.Second}
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		list, meta, err := c.Nodes().List(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list {
			if n.Name == name && done(n) {
				return n
			}
		}
		q.WaitIndex = meta.LastIndex
	}
	t.Fatalf("node %s did not get there in time", name)
	return nil
}

// awaitDeath waits until a process is gone, or is only still in the table.
func awaitDeath(t *testing.T, pid string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
	}
	t.Fatalf("process %s is alive", pid)
}

func TestWorkOfANodeWithoutPowerGoesOnElsewhere(t *testing.T) {
	cluster := startCluster(t, nodes("a", "b"))
	c := nomad(t, cluster.Addr())
	mark := t.TempDir()
	register(t, c, scriptJob("j", "batch", fmt.Sprintf(
		`echo $$ >> %[1]s/$NOMAD_ALLOC_ID; while [ ! -e %[1]s/go ]; do sleep 0.02; done`, mark)))
	first := awaitStatus(t, c, "j", "running")
	pid := strings.TrimSpace(awaitFile(t, filepath.Join(mark, first.ID)))
	if err := cluster.KillNode(first.NodeName); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, pid)
	awaitNode(t, c, first.NodeName, func(n *api.NodeListStub) bool { return n.Status == "down" })
	allocs := awaitAllocs(t, c, "j", func(as []*api.AllocationListStub) bool {
		return len(as) == 2 && as[1].ClientStatus == "running"
	})
	if allocs[0].ClientStatus != "lost" || allocs[0].NextAllocation != allocs[1].ID || allocs[1].NodeID == allocs[0].NodeID {
		t.Errorf("allocations %+v and %+v", allocs[0], allocs[1])
	}
	if err := os.WriteFile(filepath.Join(mark, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitAllocs(t, c, "j", func(as []*api.AllocationListStub) bool { return as[len(as)-1].ClientStatus == "complete" })
	if err := cluster.HealNode(testContext(t), first.NodeName); err != nil {
		t.Fatal(err)
	}
	n := awaitNode(t, c, first.NodeName, func(n *api.NodeListStub) bool { return n.Status == "ready" })
	if n.ID != first.NodeID {
		t.Errorf("the node came back as %s, it was %s", n.ID, first.NodeID)
	}
}

func TestAPartitionedNodesWorkIsStoppedWhenItHeals(t *testing.T) {
	cluster := startCluster(t, nodes("a", "b"))
	c := nomad(t, cluster.Addr())
	register(t, c, scriptJob("j", "batch", `trap 'exit 0' TERM; while :; do sleep 0.02; done`))
	first := awaitStatus(t, c, "j", "running")
	if err := cluster.PartitionNode(first.NodeName); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AllocFS().Cat(&api.Allocation{ID: first.ID}, "/alloc/logs/main.stdout.0", nil); err == nil || !strings.Contains(err.Error(), "No path to node") {
		t.Errorf("reading from a partitioned node: %v", err)
	}
	awaitAllocs(t, c, "j", func(as []*api.AllocationListStub) bool {
		return len(as) == 2 && as[0].ClientStatus == "lost" && as[1].ClientStatus == "running"
	})
	if err := cluster.HealNode(testContext(t), first.NodeName); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, c, first.NodeName, func(n *api.NodeListStub) bool { return n.Status == "ready" })
	awaitAllocs(t, c, "j", func(as []*api.AllocationListStub) bool { return as[0].TaskStates["main"].State == "dead" })
}

func TestDrainMovesServicesAndLetsBatchFinish(t *testing.T) {
	cluster := startCluster(t, nodes("a", "b"))
	c := nomad(t, cluster.Addr())
	mark := t.TempDir()
	batch := scriptJob("batch", "batch", fmt.Sprintf(`while [ ! -e %s/go ]; do sleep 0.02; done`, mark))
	register(t, c, batch)
	b := awaitStatus(t, c, "batch", "running")
	service := scriptJob("service", "service", `trap 'exit 0' TERM; while :; do sleep 0.02; done`)
	service.Affinities = []*api.Affinity{api.NewAffinity("${node.unique.id}", "=", b.NodeID, 100)}
	service.TaskGroups[0].Migrate = &api.MigrateStrategy{MaxParallel: ptr(1), MinHealthyTime: ptr(time.Duration(0)), HealthyDeadline: ptr(time.Minute), HealthCheck: ptr("task_states")}
	register(t, c, service)
	s := awaitStatus(t, c, "service", "running")
	if s.NodeID != b.NodeID {
		t.Fatalf("the service runs on %s, its affinity is to %s", s.NodeName, b.NodeName)
	}
	if _, err := c.Nodes().UpdateDrain(b.NodeID, &api.DrainSpec{Deadline: time.Hour}, false, nil); err != nil {
		t.Fatal(err)
	}
	awaitAllocs(t, c, "service", func(as []*api.AllocationListStub) bool {
		return len(as) == 2 && as[0].ClientStatus == "complete" && as[1].ClientStatus == "running" && as[1].NodeID != s.NodeID
	})
	if a := awaitStatus(t, c, "batch", "running"); a.DesiredStatus != "run" {
		t.Errorf("the batch allocation is to %s", a.DesiredStatus)
	}
	if err := os.WriteFile(filepath.Join(mark, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := awaitNode(t, c, b.NodeName, func(n *api.NodeListStub) bool { return !n.Drain && n.LastDrain != nil })
	if n.SchedulingEligibility != "ineligible" || n.LastDrain.Status != api.DrainStatusComplete {
		t.Errorf("after the drain the node is %s, the drain %s", n.SchedulingEligibility, n.LastDrain.Status)
	}
}

func TestBlockedJobsAreUnblockedByPriority(t *testing.T) {
	cluster := startCluster(t, func(c *Config) { c.Nodes = []NodeConfig{{Name: "small", CPUMHz: 100}} })
	c := nomad(t, cluster.Addr())
	mark := t.TempDir()
	script := fmt.Sprintf(`echo $NOMAD_JOB_ID >> %[1]s/order; while [ ! -e %[1]s/$NOMAD_JOB_ID ]; do sleep 0.02; done`, mark)
	register(t, c, scriptJob("first", "batch", script))
	awaitStatus(t, c, "first", "running")
	for id, priority := range map[string]int{"low": 20, "high": 80} {
		j := scriptJob(id, "batch", script)
		j.Priority = &priority
		resp := register(t, c, j)
		awaitEval(t, c, resp.EvalID, func(e *api.Evaluation) bool {
			return e.BlockedEval != "" && e.FailedTGAllocs["task"].DimensionExhausted["cpu"] == 1
		})
	}
	for _, id := range []string{"first", "high", "low"} {
		awaitStatus(t, c, id, "running")
		if err := os.WriteFile(filepath.Join(mark, id), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		awaitStatus(t, c, id, "complete")
	}
	if got := awaitFile(t, filepath.Join(mark, "order")); got != "first\nhigh\nlow\n" {
		t.Errorf("order %q", got)
	}
}

func awaitEval(t *testing.T, c *api.Client, id string, done func(*api.Evaluation) bool) {
	t.Helper()
	q := &api.QueryOptions{WaitTime: 2 * time.Second}
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		e, meta, err := c.Evaluations().Info(id, q)
		if err != nil {
			t.Fatal(err)
		}
		if done(e) {
			return
		}
		q.WaitIndex = meta.LastIndex
	}
	t.Fatalf("evaluation %s did not get there in time", id)
}

func TestRestartKeepsTasksRunning(t *testing.T) {
	cluster := startCluster(t)
	c := nomad(t, cluster.Addr())
	mark := t.TempDir()
	register(t, c, scriptJob("j", "batch", fmt.Sprintf(`echo x >> %[1]s/starts; while [ ! -e %[1]s/go ]; do sleep 0.02; done`, mark)))
	awaitStatus(t, c, "j", "running")
	if err := cluster.Restart(testContext(t)); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, c, "j", "running")
	if err := os.WriteFile(filepath.Join(mark, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, c, "j", "complete")
	if got := awaitFile(t, filepath.Join(mark, "starts")); got != "x\n" {
		t.Errorf("starts %q", got)
	}
}

func TestStopLeavesTasksForTheNextStart(t *testing.T) {
	dir, mark := t.TempDir(), t.TempDir()
	cfg := Config{DataDir: dir, PluginDir: pluginDir(t)}
	cluster, err := Start(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := nomad(t, cluster.Addr())
	register(t, c, scriptJob("j", "batch", fmt.Sprintf(`echo x >> %[1]s/starts; while [ ! -e %[1]s/go ]; do sleep 0.02; done`, mark)))
	awaitStatus(t, c, "j", "running")
	if _, err := Start(testContext(t), cfg); err == nil || !strings.Contains(err.Error(), "another devcluster") {
		t.Errorf("a second cluster on the same folder: %v", err)
	}
	for range 2 {
		if err := cluster.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(mark, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if cluster, err = Start(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	awaitStatus(t, nomad(t, cluster.Addr()), "j", "complete")
	if got := awaitFile(t, filepath.Join(mark, "starts")); got != "x\n" {
		t.Errorf("starts %q", got)
	}
}
