package nomadtest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

type allocation struct {
	ID         string
	TaskStates map[string]struct {
		State  string
		Failed bool
		Events []struct {
			Type     string
			ExitCode int
		}
	}
}

// The agent shows the devices, runs a task on them, and finds it again after
// it was killed: with its driver, which outlived the agent, and its exit
// status.
func TestSamplePluginsInNomad(t *testing.T) {
	a := newAgent(t)
	a.start(t)

	var node struct {
		Drivers       map[string]struct{ Healthy bool }
		NodeResources struct {
			Devices []struct {
				Vendor, Type, Name string
				Attributes         map[string]struct {
					Int  *int64
					Unit string
				}
				Instances []struct {
					ID      string
					Healthy bool
				}
			}
		}
	}
	var nodes []struct{ ID string }
	a.eventually(t, "the node", "/v1/nodes", &nodes, func() bool { return len(nodes) == 1 })
	a.eventually(t, "the plugins", "/v1/node/"+nodes[0].ID, &node, func() bool {
		return node.Drivers["sample-driver"].Healthy && len(node.NodeResources.Devices) == 1
	})
	g := node.NodeResources.Devices[0]
	if g.Vendor != "drover" || g.Type != "gpu" || g.Name != "Sample 1000" || len(g.Instances) != 3 || !g.Instances[0].Healthy {
		t.Errorf("got device group %+v", g)
	}
	if m := g.Attributes["memory"]; m.Int == nil || *m.Int != 16384 || m.Unit != "MiB" {
		t.Errorf("got memory %+v", m)
	}

	goOn := filepath.Join(a.dir, "go-on")
	a.register(t, `echo devices $SAMPLE_VISIBLE_DEVICES; while [ ! -e `+goOn+` ]; do sleep 0.1; done; exit 42`)
	var allocs []allocation
	a.eventually(t, "a running task", "/v1/job/sample/allocations", &allocs, func() bool {
		return len(allocs) == 1 && allocs[0].TaskStates["main"].State == "running"
	})
	var log string
	a.eventually(t, "the task's output", "/v1/client/fs/logs/"+allocs[0].ID+"?task=main&type=stdout&plain=true", &log,
		func() bool {
			return log == "devices sample-00,sample-01\n" || log == "devices sample-00,sample-02\n" || log == "devices sample-01,sample-02\n"
		})

	a.signal(syscall.SIGKILL)
	a.start(t)
	a.eventually(t, "the task after the agent's crash", "/v1/job/sample/allocations", &allocs, func() bool {
		return len(allocs) == 1 && allocs[0].TaskStates["main"].State == "running"
	})
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.eventually(t, "the task's end", "/v1/job/sample/allocations", &allocs, func() bool {
		return allocs[0].TaskStates["main"].State == "dead"
	})
	started, exit := 0, -1
	for _, e := range allocs[0].TaskStates["main"].Events {
		switch e.Type {
		case "Started":
			started++
		case "Terminated":
			exit = e.ExitCode
		}
	}
	if started != 1 || exit != 42 {
		t.Errorf("the task started %d times and exited with %d, want once and 42; events: %+v", started, exit, allocs[0].TaskStates["main"].Events)
	}
}
