package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/run"
)

// work submits testdata/queue.hcl, and returns its task and marks.
func work(t *testing.T, p *lab.Platform, workspace string, vars ...string) (id run.ID, task queue.JobID, marks string) {
	t.Helper()
	marks, err := os.MkdirTemp(p.Dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "-detach", "-json", "-no-cache", "-workspace", workspace, "-var", "marks=" + marks}
	for _, v := range vars {
		args = append(args, "-var", v)
	}
	out, code := p.CLI(append(args, "testdata/queue.hcl")...)
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
	}
	return r.ID, run.TaskID(r.ID, "step.work", nil), marks
}

func letGo(t *testing.T, marks string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(marks, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// queued is the queue as the CLI tells it.
func queued(t *testing.T, p *lab.Platform, args ...string) []admission.Entry {
	t.Helper()
	var out string
	code := 1
	lab.Eventually(t, "the queue knows the cluster", func() string {
		if out, code = p.CLI(append([]string{"queue", "-all", "-json"}, args...)...); code != 0 {
			return fmt.Sprint("exit code ", code)
		}
		return ""
	})
	var v admission.View
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 {
		t.Fatalf("drover queue: exit code %d, %v: %s", code, err, out)
	}
	return v.Entries
}

// holding waits until tasks run.
func holding(t *testing.T, p *lab.Platform, ids ...run.ID) {
	t.Helper()
	for _, id := range ids {
		lab.Eventually(t, "run "+string(id)+" holds its GPUs", func() string {
			n := p.Node(id, "step.work")
			if n.Phase != run.Running || n.Progress == nil {
				return fmt.Sprint(n.Phase, " ", n.Reason)
			}
			return ""
		})
	}
}

// admitted is when a run's task was, and where.
func admitted(t *testing.T, p *lab.Platform, id run.ID) (at time.Time, text string) {
	t.Helper()
	events, err := p.Client.Events(context.Background(), id, 0, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Type == "queue" && strings.HasPrefix(e.Message, "admitted") {
			return e.Time, e.Message
		}
	}
	t.Fatalf("run %s was never admitted", id)
	return at, ""
}

// Twenty tasks of three workspaces start in the order that the queue said.
func TestQueueOrder(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		// One node is somebody else's, so that one task runs after the other.
		if _, _, err := c.Client().Jobs().Register(foreignJob("theirs", 8, 1), nil); err != nil {
			t.Fatal(err)
		}
		lab.Eventually(t, "a node is taken", func() string {
			if e := queued(t, p); len(e) != 1 || len(e[0].Devices) != 8 {
				return fmt.Sprint(len(e), " entries")
			}
			return ""
		})
		first, _, firstMarks := work(t, p, "vision", "long=true", "priority=100")
		holding(t, p, first)

		runs := map[queue.JobID]run.ID{}
		for i := range 20 {
			workspace := []string{"vision", "speech", "search"}[i%3]
			id, task, _ := work(t, p, workspace, fmt.Sprintf("priority=%d", 50+10*(i%4)))
			runs[task] = id
		}
		var said []queue.JobID
		lab.Eventually(t, "twenty wait", func() string {
			said = nil
			for _, e := range queued(t, p, "-waiting") {
				if e.Reason == nil || e.Reason.Code == "" || e.Position != len(said)+1 {
					t.Fatalf("%s waits at position %d of %d for the reason %+v", e.Task, e.Position, len(said)+1, e.Reason)
				}
				said = append(said, e.Task)
			}
			if len(said) != 20 {
				return fmt.Sprint(len(said), " do")
			}
			return ""
		})

		letGo(t, firstMarks)
		began := map[queue.JobID]time.Time{}
		for task, id := range runs {
			p.Succeeded(id)
			began[task], _ = admitted(t, p, id)
		}
		did := slices.Clone(said)
		slices.SortFunc(did, func(a, b queue.JobID) int { return cmp.Compare(began[a].UnixNano(), began[b].UnixNano()) })
		if !slices.Equal(said, did) {
			t.Errorf("the queue said %v\nand it was %v", said, did)
		}
		p.Succeeded(first)
		if left := queued(t, p); len(left) != 1 || left[0].State != "foreign" {
			t.Errorf("the queue still has %+v", left)
		}
	})
}

// A task of high priority makes one of low priority leave, which goes on from its
// checkpoint afterwards; the orchestrator is killed in between.
func TestEviction(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		low, _, lowMarks := work(t, p, "default", "long=true", "priority=40")
		other, _, otherMarks := work(t, p, "default", "long=true", "priority=90")
		holding(t, p, low, other)
		lab.Eventually(t, "low has come some way", func() string {
			if n := p.Node(low, "step.work"); n.Progress == nil || n.Progress.Step < 12 {
				return fmt.Sprint(n.Phase)
			}
			return ""
		})
		p.Server.Kill()
		p.Start()
		high, task, highMarks := work(t, p, "default", "long=true", "priority=80")
		holding(t, p, high)
		out, code := p.CLI("queue", "explain", string(run.TaskID(low, "step.work", nil)))
		if code != 0 || !strings.Contains(out, "waiting") {
			t.Errorf("explaining what makes room: exit code %d\n%s", code, out)
		}
		p.Server.Kill()
		p.Start()
		if n := p.Node(low, "step.work"); n.Phase != run.Queued || len(n.Attempts) != 2 || !strings.Contains(n.Attempts[0].Reason, string(task)) {
			t.Errorf("low is %s with attempts %+v, want it queued again because of %s", n.Phase, n.Attempts, task)
		}
		letGo(t, highMarks)
		p.Succeeded(high)
		lab.Eventually(t, "low goes on", func() string {
			if len(starts(t, lowMarks, "step.work")) < 2 {
				return "it has not: " + p.Node(low, "step.work").Reason
			}
			return ""
		})
		if line := starts(t, lowMarks, "step.work")[1]; strings.Contains(line, "from=0 ") {
			t.Errorf("low begins anew: %s", line)
		}
		if n := len(starts(t, otherMarks, "step.work")); n != 1 {
			t.Errorf("the task of the highest priority was started %d times", n)
		}
		letGo(t, lowMarks)
		letGo(t, otherMarks)
		p.Succeeded(low)
		p.Succeeded(other)
		if n := len(starts(t, lowMarks, "step.work")); n != 2 {
			t.Errorf("low was started %d times, want twice", n)
		}
	})
}

// A gang of high priority makes a trainer leave, and nobody more than it needs; the
// trainer goes on from its checkpoint when the gang has ended.
func TestGangEvictsATrainer(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		low, task, lowMarks := work(t, p, "default", "long=true", "gpus=8", "priority=40")
		other, _, otherMarks := work(t, p, "default", "long=true", "gpus=4", "priority=45")
		holding(t, p, low, other)
		lab.Eventually(t, "low has come some way", func() string {
			if n := p.Node(low, "step.work"); n.Progress == nil || n.Progress.Step < 12 {
				return fmt.Sprint(n.Phase)
			}
			return ""
		})
		id, marks := gang(t, p, "priority=80")
		p.Succeeded(id)
		if got := ranksOf(t, marks, " sum=3"); !slices.Equal(got, []int{1, 1, 1}) {
			t.Errorf("ranks met %v times, want once each", got)
		}
		lab.Eventually(t, "low goes on", func() string {
			if len(starts(t, lowMarks, "step.work")) < 2 {
				return "it has not: " + p.Node(low, "step.work").Reason
			}
			return ""
		})
		if line := starts(t, lowMarks, "step.work")[1]; strings.Contains(line, "from=0 ") {
			t.Errorf("low begins anew: %s", line)
		}
		if a := p.Node(low, "step.work").Attempts[0]; !a.Evicted || !strings.Contains(a.Reason, string(id)) {
			t.Errorf("%s left as %+v", task, a)
		}
		letGo(t, lowMarks)
		letGo(t, otherMarks)
		p.Succeeded(low)
		p.Succeeded(other)
		if n := len(starts(t, otherMarks, "step.work")); n != 1 {
			t.Errorf("the other trainer was started %d times, want once", n)
		}
	})
}

// Somebody takes, behind the queue's back, the GPUs that a task was sent to: it goes
// back, and starts once they are free. GPUs that others hold are not given out.
func TestGPUsTakenByOthers(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		job := foreignJob("theirs", 8, 2)
		if _, _, err := c.Client().Jobs().Register(job, nil); err != nil {
			t.Fatal(err)
		}
		// At once: the orchestrator may not have heard of them yet.
		id, task, marks := work(t, p, "default", "gpus=1")
		lab.Eventually(t, "the queue tells that others hold all", func() string {
			foreign := 0
			for _, e := range queued(t, p) {
				if e.State == "foreign" && len(e.Devices) == 8 {
					foreign++
				}
			}
			n := p.Node(id, "step.work")
			if foreign != 2 || n.Phase == run.Succeeded {
				return fmt.Sprint(foreign, " are, and the task is ", n.Phase)
			}
			return ""
		})
		if out, code := p.CLI("queue", "explain", string(task)); code != 0 || !strings.Contains(out, "Reason") {
			t.Errorf("explaining why it waits: exit code %d\n%s", code, out)
		}
		if _, _, err := c.Client().Jobs().Deregister("theirs", false, nil); err != nil {
			t.Fatal(err)
		}
		p.Succeeded(id)
		if n := len(starts(t, marks, "step.work")); n != 1 {
			t.Errorf("it was started %d times", n)
		}
	})
}

// A node is drained behind the orchestrator's back: its task goes on elsewhere from
// its checkpoint, and nothing is sent to the node while it takes no work.
func TestDrainedNode(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		id, _, marks := work(t, p, "default", "long=true", "gpus=2")
		holding(t, p, id)
		lab.Eventually(t, "it has come some way", func() string {
			if n := p.Node(id, "step.work"); n.Progress == nil || n.Progress.Step < 12 {
				return fmt.Sprint(n.Phase)
			}
			return ""
		})
		alloc, _, err := c.Client().Allocations().Info(p.Node(id, "step.work").Attempts[0].AllocID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client().Nodes().UpdateDrain(alloc.NodeID, &api.DrainSpec{Deadline: 2 * time.Second}, false, nil); err != nil {
			t.Fatal(err)
		}
		lab.Eventually(t, "it goes on", func() string {
			n := p.Node(id, "step.work")
			if last := n.Attempts[len(n.Attempts)-1]; n.Phase != run.Running || last.ResumedFrom == nil {
				return fmt.Sprint(n.Phase, " ", n.Reason)
			}
			return ""
		})
		n := p.Node(id, "step.work")
		if last := n.Attempts[len(n.Attempts)-1]; last.NodeName == alloc.NodeName || *last.ResumedFrom == 0 {
			t.Errorf("it goes on on %s from step %d, after %s was drained", last.NodeName, *last.ResumedFrom, alloc.NodeName)
		}
		all, _, fullMarks := work(t, p, "default", "long=true", "gpus=8")
		lab.Eventually(t, "what needs a whole node waits", func() string {
			if n := p.Node(all, "step.work"); n.Reason == "" {
				return fmt.Sprint(n.Phase)
			}
			return ""
		})
		if _, err := c.Client().Nodes().UpdateDrain(alloc.NodeID, nil, true, nil); err != nil {
			t.Fatal(err)
		}
		holding(t, p, all)
		letGo(t, marks)
		letGo(t, fullMarks)
		p.Succeeded(id)
		p.Succeeded(all)
		if n := len(starts(t, marks, "step.work")); n != 2 {
			t.Errorf("it was started %d times, want twice", n)
		}
	})
}

// The node of an endpoint is lost while training has every other GPU: training makes
// room, and the endpoint serves again.
func TestEndpointOutlivesItsNode(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		declare(t, p, `
flavor "a100" { model = "*A100*" }
cohort "all" {}
workspace "prod" {
  cohort = "all"
  quota "a100" { nominal = 1 }
  serving "a100" { floor = 1 }
}
workspace "vision" {
  cohort = "all"
  quota "a100" { nominal = 15 }
}
`)
		out, code := p.CLI("run", "-detach", "-json", "-workspace", "prod", "testdata/failover-serve.hcl")
		var r run.Run
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
			t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
		}
		p.Succeeded(r.ID)
		serving := func() []*api.AllocationListStub {
			all, _, err := c.Client().Jobs().Allocations("drover-endpoint-prod-oracle", false, nil)
			if err != nil {
				t.Fatal(err)
			}
			return slices.DeleteFunc(all, func(a *api.AllocationListStub) bool { return a.ClientStatus != "running" })
		}
		first := serving()
		if len(first) != 1 {
			t.Fatalf("%d instances serve", len(first))
		}
		beside, _, besideMarks := work(t, p, "vision", "long=true", "gpus=7")
		whole, _, _ := work(t, p, "vision", "long=true", "gpus=8")
		holding(t, p, beside, whole)
		c.KillNode(first[0].NodeName)
		lab.Eventually(t, "the endpoint serves again", func() string {
			if now := serving(); len(now) != 1 || now[0].ID == first[0].ID {
				out, _ := p.CLI("queue", "-all")
				return out
			}
			return ""
		})
		if a := p.Node(whole, "step.work").Attempts; !slices.ContainsFunc(a, func(a run.Attempt) bool { return a.Evicted }) {
			t.Errorf("the endpoint serves again, and training ended as %+v", a)
		}
		lab.Eventually(t, "what fits beside it goes on", func() string {
			n := p.Node(beside, "step.work")
			if last := n.Attempts[len(n.Attempts)-1]; n.Phase != run.Running || last.Number == 1 {
				return fmt.Sprint(n.Phase, " ", n.Reason)
			}
			return ""
		})
		if _, code := p.CLI("cancel", string(whole)); code != 0 {
			t.Errorf("cancelling what has no room any more: exit code %d", code)
		}
		letGo(t, besideMarks)
		p.Succeeded(beside)
	})
}

// foreignJob holds GPUs on so many nodes.
func foreignJob(id string, gpus uint64, count int) *api.Job {
	task := api.NewTask("hold", "ml")
	task.Config = map[string]any{"command": "sleep", "args": []string{"3600"}}
	task.Resources = &api.Resources{CPU: new(100), MemoryMB: new(64), Devices: []*api.RequestedDevice{{Name: "nvidia/gpu", Count: new(gpus)}}}
	group := api.NewTaskGroup("hold", count)
	group.AddTask(task)
	job := api.NewBatchJob(id, id, "global", 50)
	job.AddTaskGroup(group)
	return job
}

// What can never run is refused when it is submitted.
func TestTooLargeForTheCluster(t *testing.T) {
	c := lab.NewDevcluster(t, bin)
	p := lab.NewPlatform(t, c, bin, c.Addr())
	lab.Eventually(t, "the queue knows the cluster", func() string {
		if _, code := p.CLI("queue"); code != 0 {
			return "not yet"
		}
		return ""
	})
	out, code := p.CLI("run", "-detach", "-var", "marks=/tmp", "-var", "gpus=9", "testdata/queue.hcl")
	if code != 1 {
		t.Errorf("a task of nine GPUs on nodes of eight: exit code %d\n%s", code, out)
	}
}
