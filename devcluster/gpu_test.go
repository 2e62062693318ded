package devcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// withGPUPlugin adds the real device plugin to the plugin folder.
func withGPUPlugin(t *testing.T) func(*Config) {
	return func(c *Config) {
		t.Helper()
		out, err := exec.Command("go", "build", "-o", filepath.Join(c.PluginDir, gpuPlugin), "../device-plugin").CombinedOutput()
		if err != nil {
			t.Skipf("the device plugin cannot be built here: %v\n%s", err, out)
		}
	}
}

func gpuJob(id, script string, count uint64, constraints ...*api.Constraint) *api.Job {
	j := scriptJob(id, "batch", script)
	j.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "nvidia/gpu", Count: &count, Constraints: constraints}}
	return j
}

func TestSimulatedGPUs(t *testing.T) {
	mark := t.TempDir()
	cluster := startCluster(t, withGPUPlugin(t), func(c *Config) { c.GPUs = []string{"dgx-h100:2"} })
	c := nomad(t, cluster.Addr())
	seen := map[string]bool{}
	list, _, err := c.Nodes().List(&api.QueryOptions{Params: map[string]string{"resources": "true"}})
	if err != nil || len(list) != 2 {
		t.Fatalf("nodes %+v, %v", list, err)
	}
	for _, n := range list {
		groups := n.NodeResources.Devices
		if len(groups) != 1 || groups[0].Vendor != "nvidia" || groups[0].Type != "gpu" || len(groups[0].Instances) != 8 {
			t.Fatalf("node %s has devices %+v", n.Name, groups)
		}
		for _, d := range groups[0].Instances {
			if seen[d.ID] {
				t.Errorf("two nodes have device %s", d.ID)
			}
			seen[d.ID] = true
		}
	}

	hold := fmt.Sprintf(`echo "$NVIDIA_VISIBLE_DEVICES"; while [ ! -e %s/go ]; do sleep 0.02; done`, mark)
	named := list[0].NodeResources.Devices[0].Instances[5].ID
	pinned := gpuJob("pinned", hold, 1, &api.Constraint{LTarget: "${device.ids}", Operand: "set_contains", RTarget: named})
	register(t, c, pinned)
	a := awaitStatus(t, c, "pinned", "running")
	awaitLog(t, c, a.ID, named+"\n")
	awaitDeviceStats(t, c, a.ID)

	failed := list[0].NodeResources.Devices[0].Instances[0].ID
	if err := cluster.FailGPU(list[0].Name, failed, "it fell off the bus"); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, c, list[0].ID, failed, false)
	resp := register(t, c, gpuJob("wants-the-failed", "true", 1, &api.Constraint{LTarget: "${device.ids}", Operand: "set_contains", RTarget: failed}))
	awaitEval(t, c, resp.EvalID, func(e *api.Evaluation) bool {
		return e.BlockedEval != "" && e.FailedTGAllocs["task"].ConstraintFiltered["missing devices"] == 2
	})
	if err := cluster.FailGPU(list[0].Name, "", ""); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, c, "wants-the-failed", "complete")
	if err := os.WriteFile(filepath.Join(mark, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, c, "pinned", "complete")
}

func awaitLog(t *testing.T, c *api.Client, alloc, want string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	got := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if got = readLog(t, c, alloc, "stdout"); strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("log %q has no %q", got, want)
}

func awaitDeviceStats(t *testing.T, c *api.Client, alloc string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		stats, err := c.Allocations().Stats(&api.Allocation{ID: alloc}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if task := stats.Tasks["main"]; task != nil && len(task.ResourceUsage.DeviceStats) == 1 {
			return
		}
	}
	t.Fatal("no statistics of the allocation's device")
}

func awaitHealth(t *testing.T, c *api.Client, node, device string, healthy bool) {
	t.Helper()
	q := &api.QueryOptions{WaitTime: 2 * time.Second}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, meta, err := c.Nodes().Info(node, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range n.NodeResources.Devices {
			if slices.ContainsFunc(g.Instances, func(d *api.NodeDevice) bool { return d.ID == device && d.Healthy == healthy }) {
				return
			}
		}
		q.WaitIndex = meta.LastIndex
	}
	t.Fatalf("device %s did not become healthy=%v", device, healthy)
}

// A script of faults goes through the plugin like real ones, and a change of a
// device's health is an event of its node.
func TestScriptOfGPUFaults(t *testing.T) {
	cluster := startCluster(t, withGPUPlugin(t), func(c *Config) { c.GPUs = []string{"dgx-h100:1"} })
	c := nomad(t, cluster.Addr())
	list, _, err := c.Nodes().List(&api.QueryOptions{Params: map[string]string{"resources": "true"}})
	if err != nil || len(list) != 1 {
		t.Fatalf("nodes %+v, %v", list, err)
	}
	node, device := list[0], list[0].NodeResources.Devices[0].Instances[3].ID
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events, err := c.EventStream().Stream(ctx, map[api.Topic][]string{api.TopicNode: {"*"}}, node.ModifyIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("fault %q {\n  at  = \"200ms\"\n  xid = 79\n}\n", device)
	body, err := json.Marshal(map[string]string{"node": node.Name, "script": script})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(cluster.Addr()+"/v1/devcluster/script-gpus", "application/json", bytes.NewReader(body))
	if err != nil || res.StatusCode != http.StatusNoContent {
		t.Fatalf("script-gpus: %v, %v", res, err)
	}
	res.Body.Close()
	said := func() string {
		for batch := range events {
			if batch.Err != nil {
				t.Fatal(batch.Err)
			}
			for _, e := range batch.Events {
				n, err := e.Node()
				if err != nil {
					t.Fatal(err)
				}
				for _, g := range n.NodeResources.Devices {
					for _, d := range g.Instances {
						if d.ID == device && !d.Healthy {
							return d.HealthDescription
						}
					}
				}
			}
		}
		return "nothing"
	}()
	if !strings.HasPrefix(said, "Xid 79: ") || !strings.HasSuffix(said, "; running work is ended") {
		t.Errorf("the event says of the device: %s", said)
	}
	if err := cluster.ScriptGPUs("nowhere", ""); !errors.Is(err, ErrNoNode) {
		t.Errorf("a node that is not there: %v", err)
	}
	if err := cluster.ScriptGPUs(node.Name, strings.Repeat("#", maxScript+1)); err == nil {
		t.Error("a script of any size is taken")
	}
	// A GPU that fell off the bus needs a reset; an empty script only ends what
	// goes on.
	if err := cluster.ScriptGPUs(node.Name, fmt.Sprintf("reset %q {}\n", device)); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, c, node.ID, device, true)
}
