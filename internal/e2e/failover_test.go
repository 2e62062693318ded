package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// trainings are the four tasks of testdata/failover.hcl.
type trainings struct {
	t     *testing.T
	p     *lab.Platform
	c     lab.Cluster
	id    run.ID
	marks string
}

// training is a start of one of them.
type training struct {
	step   string
	from   int
	pid    int
	device string
	node   string
}

func startTrainings(t *testing.T, c lab.Cluster, p *lab.Platform) *trainings {
	t.Helper()
	marks, err := os.MkdirTemp(p.Dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	out, code := p.CLI("run", "-detach", "-json", "-no-cache", "-var", "marks="+marks, "testdata/failover.hcl")
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
	}
	return &trainings{t: t, p: p, c: c, id: r.ID, marks: marks}
}

// starts are those of a step so far.
func (tr *trainings) starts(step string) []training {
	var all []training
	for _, line := range starts(tr.t, tr.marks, step) {
		x := training{step: step}
		for _, field := range strings.Fields(line) {
			switch k, v, _ := strings.Cut(field, "="); k {
			case "from":
				x.from, _ = strconv.Atoi(v)
			case "pid":
				x.pid, _ = strconv.Atoi(v)
			case "device":
				x.device = v
			}
		}
		all = append(all, x)
	}
	return all
}

// seq is the number of the run's newest event, or of one shortly before.
func (tr *trainings) seq() (seq int64) {
	tr.t.Helper()
	for {
		events, err := tr.p.Client.Events(context.Background(), tr.id, seq, time.Second)
		if err != nil {
			tr.t.Fatal(err)
		}
		if len(events) > 0 {
			seq = events[len(events)-1].Seq
		}
		if len(events) < 100 { // no whole page
			return seq
		}
	}
}

// running waits until all have started and have a checkpoint, and returns them
// by device.
func (tr *trainings) running() map[string]training {
	tr.t.Helper()
	all := map[string]training{}
	for _, key := range []string{"a", "b", "c", "d"} {
		step := fmt.Sprintf("step.train[%q]", key)
		lab.Eventually(tr.t, step+" running with a checkpoint", func() string {
			n := tr.p.Node(tr.id, pipeline.NodeID(step))
			if n.Phase != run.Running || n.Progress == nil || n.Progress.Step < 12 {
				return fmt.Sprint(n.Phase, " ", n.Reason)
			}
			x := tr.starts(step)[0]
			x.node = n.Attempts[0].NodeName
			all[x.device] = x
			return ""
		})
	}
	return all
}

// victim is one on the node that has most of them.
func victim(all map[string]training) training {
	count := map[string]int{}
	for _, x := range all {
		count[x.node]++
	}
	devices := slices.Sorted(maps.Keys(all))
	return all[slices.MaxFunc(devices, func(a, b string) int { return count[all[a].node] - count[all[b].node] })]
}

// movedOnly waits until the victim goes on from a checkpoint, on another device,
// and checks that the others are the processes that they were.
func (tr *trainings) movedOnly(all map[string]training, v training) training {
	tr.t.Helper()
	lab.Eventually(tr.t, v.step+" goes on", func() string {
		if n := len(tr.starts(v.step)); n < 2 {
			i, _ := tr.p.CLI("incidents")
			return i
		}
		return ""
	})
	for _, x := range all {
		again := tr.starts(x.step)
		if x.step == v.step {
			continue
		}
		if len(again) != 1 || !processAlive(x.pid) {
			tr.t.Errorf("%s was disturbed: %d starts, process %d alive: %v", x.step, len(again), x.pid, processAlive(x.pid))
		}
	}
	second := tr.starts(v.step)[1]
	if second.device == v.device || second.from == 0 {
		tr.t.Errorf("%s goes on on %s from %d, after %s", v.step, second.device, second.from, v.device)
	}
	if processAlive(v.pid) {
		tr.t.Errorf("%s goes on while its first process, %d, is alive", v.step, v.pid)
	}
	return second
}

// finish lets all end, and returns the one incident that there was.
func (tr *trainings) finish() failover.Incident {
	tr.t.Helper()
	if err := os.WriteFile(filepath.Join(tr.marks, "go"), nil, 0o644); err != nil {
		tr.t.Fatal(err)
	}
	tr.p.Succeeded(tr.id)
	page, err := tr.p.Client.Incidents(context.Background(), client.IncidentFilter{})
	if err != nil || len(page.Incidents) != 1 || len(page.Incidents[0].Affected) != 1 {
		tr.t.Fatalf("incidents %+v, %v; want one, of one task", page, err)
	}
	return page.Incidents[0]
}

func (tr *trainings) checkIncident(i failover.Incident, v, second training) {
	tr.t.Helper()
	x := i.Affected[0]
	if i.Device != v.device || i.NodeName != v.node || x.Run != string(tr.id) || x.Step != v.step || x.Attempt != 1 || x.Phase != failover.Resumed ||
		x.Stopped == nil || x.Resumed == nil || x.LostSteps == nil || x.LostSeconds == nil {
		tr.t.Errorf("incident = %+v", i)
	}
	if x.Checkpoint == nil || int(*x.Checkpoint) != second.from {
		tr.t.Errorf("the incident tells of checkpoint %v, the task went on from %d", x.Checkpoint, second.from)
	}
}

// A GPU is to be left: just its task makes a checkpoint, moves and goes on.
func TestFailoverByCheckpoint(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		tr := startTrainings(t, c, p)
		all := tr.running()
		v := victim(all)
		began := time.Now()
		c.ScriptGPUs(v.node, fmt.Sprintf("fault %q {\n  xid = 48\n}\n", v.device))
		gpuNode{t, c, v.node}.unhealthy(v.device, "Xid 48")
		known := time.Since(began)
		second := tr.movedOnly(all, v)
		t.Logf("unhealthy in Nomad after %v, training goes on after %v", known, time.Since(began))
		i := tr.finish()
		tr.checkIncident(i, v, second)
		if x := i.Affected[0]; x.Checkpointed == nil || *x.LostSteps > 5 {
			t.Errorf("it was asked for a checkpoint: %+v", x)
		}
		out, code := p.CLI("status", string(tr.id), v.step)
		if want := "moved off " + v.device + " on node " + v.node + ": Xid 48"; code != 0 || !strings.Contains(out, want) {
			t.Errorf("status has no %q:\n%s", want, out)
		}
	})
}

// A GPU is gone: the driver ends its task, and the orchestrator, which is killed
// all the time, has it go on elsewhere.
func TestFailoverWhileTheOrchestratorIsKilled(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		tr := startTrainings(t, c, p)
		all := tr.running()
		v := victim(all)
		seq := tr.seq()
		c.ScriptGPUs(v.node, fmt.Sprintf("fault %q {\n  xid = 79\n}\n", v.device))
		kills := 0
		lab.Eventually(t, v.step+" goes on", func() string {
			if len(tr.starts(v.step)) > 1 {
				return ""
			}
			events, err := p.Client.Events(context.Background(), tr.id, seq, 5*time.Second)
			if err != nil {
				return err.Error()
			}
			if len(events) > 0 {
				seq = events[len(events)-1].Seq
			}
			for _, e := range events {
				if e.Type != "progress" {
					p.Server.Kill()
					kills++
					p.Start()
					break
				}
			}
			return fmt.Sprint("killed ", kills, " times")
		})
		t.Logf("killed %d times", kills)
		second := tr.movedOnly(all, v)
		tr.checkIncident(tr.finish(), v, second)
		if n := len(tr.starts(v.step)); n != 2 {
			t.Errorf("%s was started %d times", v.step, n)
		}
	})
}

// An endpoint's only instance leaves a GPU that is to be left: Nomad places
// another elsewhere, which serves.
func TestFailoverOfAnInstance(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		out, code := p.CLI("run", "-detach", "-json", "testdata/failover-serve.hcl")
		var r run.Run
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
			t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
		}
		r = p.Succeeded(r.ID)
		job := p.Node(r.ID, "endpoint.oracle").Attempts[0].JobID
		first := running(t, c, job)
		device := first.AllocatedResources.Tasks["main"].Devices[0].DeviceIDs[0]
		var pid int
		lab.Eventually(t, "the endpoint serves", func() string {
			var err error
			if _, pid, err = oracle(p); err != nil {
				return err.Error()
			}
			return ""
		})
		c.ScriptGPUs(first.NodeName, fmt.Sprintf("fault %q {\n  xid = 48\n}\n", device))
		var i failover.Incident
		lab.Eventually(t, "the instance was replaced", func() string {
			page, err := p.Client.Incidents(context.Background(), client.IncidentFilter{Device: device, Open: true})
			if err != nil {
				return err.Error()
			}
			if len(page.Incidents) != 1 || len(page.Incidents[0].Affected) != 1 || page.Incidents[0].Affected[0].Phase != failover.Resumed {
				return fmt.Sprintf("%+v", page.Incidents)
			}
			i = page.Incidents[0]
			return ""
		})
		second := running(t, c, job)
		if d := second.AllocatedResources.Tasks["main"].Devices[0].DeviceIDs[0]; second.ID == first.ID || d == device {
			t.Errorf("allocation %s on %s came after %s on %s", second.ID, d, first.ID, device)
		}
		if x := i.Affected[0]; x.Endpoint != "oracle" || x.AllocID != first.ID || x.To != second.NodeName || x.Stopped == nil {
			t.Errorf("affected = %+v", x)
		}
		lab.Eventually(t, "the other instance serves", func() string {
			answer, now, err := oracle(p)
			if err != nil || now == pid || answer != "here" {
				return fmt.Sprint(answer, " of process ", now, ", ", err)
			}
			return ""
		})
	})
}
