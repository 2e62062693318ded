package e2e

import (
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
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// gang submits testdata/gang.hcl and returns its marks.
func gang(t *testing.T, p *lab.Platform, vars ...string) (run.ID, string) {
	t.Helper()
	marks, err := os.MkdirTemp(p.Dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "-detach", "-json", "-no-cache", "-var", "marks=" + marks}
	for _, v := range vars {
		args = append(args, "-var", v)
	}
	out, code := p.CLI(append(args, "testdata/gang.hcl")...)
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
	}
	return r.ID, marks
}

// ranksOf counts the lines of each of three ranks with a text.
func ranksOf(t *testing.T, marks, text string) []int {
	t.Helper()
	counts := make([]int, 3)
	for _, line := range starts(t, marks, "step.train") {
		if !strings.Contains(line, text) {
			continue
		}
		var rank int
		if _, err := fmt.Sscanf(line[strings.Index(line, "rank="):], "rank=%d", &rank); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		counts[rank]++
	}
	return counts
}

// A gang waits while there is room for a part of it only, starts as a whole on
// exact devices, and meets.
func TestGang(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		if _, _, err := c.Client().Jobs().Register(foreignJob("theirs", 8, 1), nil); err != nil {
			t.Fatal(err)
		}
		lab.Eventually(t, "a node is taken", func() string {
			if e := queued(t, p); len(e) != 1 || len(e[0].Devices) != 8 {
				return fmt.Sprint(len(e), " entries")
			}
			return ""
		})
		id, marks := gang(t, p)
		lab.Eventually(t, "the gang waits", func() string {
			if w := queued(t, p, "-waiting"); len(w) != 1 || w[0].Reason == nil {
				return fmt.Sprint(len(w), " wait")
			}
			return ""
		})
		if got := starts(t, marks, "step.train"); len(got) != 0 {
			t.Errorf("members have started on half of the room: %v", got)
		}
		if _, _, err := c.Client().Jobs().Deregister("theirs", false, nil); err != nil {
			t.Fatal(err)
		}
		p.Succeeded(id)
		for what, text := range map[string]string{"start": " of=3 ", "meet": " sum=3"} {
			if got := ranksOf(t, marks, text); !slices.Equal(got, []int{1, 1, 1}) {
				t.Errorf("ranks %s %v times, want once each", what, got)
			}
		}
		n := p.Node(id, "step.train")
		if len(n.Attempts) != 1 || len(n.Attempts[0].Members) != 3 {
			t.Fatalf("attempts %+v, want one of three members", n.Attempts)
		}
		seen := map[string]bool{}
		for rank, m := range n.Attempts[0].Members {
			for _, line := range starts(t, marks, "step.train") {
				_, devices, ok := strings.Cut(line, fmt.Sprintf("rank=%d of=3 devices=", rank))
				if !ok {
					continue
				}
				got := strings.Split(devices, ",")
				if len(got) != 4 || !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(m.Devices))) {
					t.Errorf("rank %d saw %v, and was given %v", rank, got, m.Devices)
				}
				for _, id := range got {
					seen[id] = true
				}
			}
		}
		if len(seen) != 12 {
			t.Errorf("members saw %d GPUs, want 12", len(seen))
		}
		if _, ok := n.Outputs["sum"]; !ok {
			t.Errorf("outputs %v", n.Outputs)
		}
	})
}

// A member that fails ends the attempt of all, and the next one starts all anew.
func TestGangIsStartedAnewTogether(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		id, marks := gang(t, p, "fails=1")
		p.Succeeded(id)
		if got := ranksOf(t, marks, " of=3 "); !slices.Equal(got, []int{2, 2, 2}) {
			t.Errorf("ranks were started %v times, want twice each", got)
		}
		n := p.Node(id, "step.train")
		if len(n.Attempts) != 2 || !strings.Contains(n.Attempts[0].Reason, "rank 1 of 3: it exited with code 3") {
			t.Errorf("attempts %+v", n.Attempts)
		}
	})
}

// A member that fails for good ends the others, who wait for it, and the run.
func TestGangEndsWithItsMember(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		id, marks := gang(t, p, "fails=1", "permanent=[3]")
		if r := p.Ended(id); r.Phase != run.Failed {
			t.Errorf("the run has %s", r.Phase)
		}
		n := p.Node(id, "step.train")
		if len(n.Attempts) != 1 || !strings.Contains(n.Reason, "rank 1 of 3: it exited with code 3 (3 is permanent") {
			t.Fatalf("reason %q, attempts %+v", n.Reason, n.Attempts)
		}
		for _, a := range ended(t, c, n.Attempts[0].JobID, 3) {
			if want := a.TaskGroup == "rank-1"; want != (a.ClientStatus == "failed") {
				t.Errorf("%s is %s:\n%s", a.TaskGroup, a.ClientStatus, taskEvents(a))
			}
		}
		// The others may be stopped before they have said anything.
		if got := ranksOf(t, marks, " of=3 "); got[1] != 1 || max(got[0], got[2]) > 1 {
			t.Errorf("ranks were started %v times, want once at most", got)
		}
		lab.Eventually(t, "nothing is held", func() string {
			if e := queued(t, p); len(e) != 0 {
				return fmt.Sprint(len(e), " entries")
			}
			return ""
		})
	})
}

// gangJob is a gang that the queue knows nothing of, pinned to nodes. Each member
// adds its rank to a file.
func gangJob(t *testing.T, c lab.Cluster, attempt int, file string, timeout time.Duration, nodes ...string) *api.Job {
	t.Helper()
	id := jobspec.Identity{Run: "gangs", Node: "step.train", Attempt: attempt, Workspace: "default", Pipeline: "gang"}
	for _, node := range nodes {
		id.Ranks = append(id.Ranks, jobspec.Place{NodeID: node})
	}
	job, err := jobspec.Task(id, pipeline.Task{
		Command: []string{"sh", "-c", `echo "$RANK" >> "$0"`, file}, Priority: 50,
		Resources:  pipeline.Resources{CPUMHz: 100, MemoryMiB: 64},
		Scheduling: pipeline.Scheduling{Gang: &pipeline.Gang{Min: 1, Max: 16, Timeout: timeout}},
	}, jobspec.Cluster{StoreURL: c.Store()})
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// nodeIDs are the IDs of a cluster's nodes.
func nodeIDs(t *testing.T, c lab.Cluster) []string {
	t.Helper()
	nodes, _, err := c.Client().Nodes().List(nil)
	if err != nil || len(nodes) != 2 {
		t.Fatalf("%d nodes, %v", len(nodes), err)
	}
	return []string{nodes[0].ID, nodes[1].ID}
}

// ended waits until a job has so many allocations, all of which have ended.
func ended(t *testing.T, c lab.Cluster, job string, n int) []*api.Allocation {
	t.Helper()
	var allocs []*api.Allocation
	lab.Eventually(t, "the end of "+job, func() string {
		stubs, _, err := c.Client().Jobs().Allocations(job, true, nil)
		if err != nil || len(stubs) != n {
			return fmt.Sprint(len(stubs), " allocations, ", err)
		}
		allocs = nil
		for _, s := range stubs {
			a, _, err := c.Client().Allocations().Info(s.ID, nil)
			if err != nil || !a.ClientTerminalStatus() {
				return "allocation " + s.ID + " has not ended"
			}
			allocs = append(allocs, a)
		}
		return ""
	})
	return allocs
}

// Members whose gang does not come together start nothing, and end in time.
func TestGangJobs(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		nodes := nodeIDs(t, c)
		t.Run("complete", func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ranks")
			job := gangJob(t, c, 1, file, time.Minute, nodes[0], nodes[0], nodes[1], nodes[1])
			register(t, c, job)
			for _, a := range ended(t, c, *job.ID, 4) {
				rank, ok := jobspec.RankOf(a.TaskGroup)
				if !ok || a.ClientStatus != "complete" || a.NodeID != nodes[rank/2] {
					t.Errorf("%s on node %s is %s:\n%s", a.TaskGroup, a.NodeID, a.ClientStatus, taskEvents(a))
				}
			}
			b, err := os.ReadFile(file)
			if ranks := strings.Fields(string(b)); len(ranks) != 4 || len(slices.Compact(slices.Sorted(slices.Values(ranks)))) != 4 {
				t.Errorf("the ranks %v have run, %v", ranks, err)
			}
		})
		t.Run("one has no place", func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ranks")
			job := gangJob(t, c, 2, file, 3*time.Second, nodes[0], nodes[0], "00000000-0000-0000-0000-000000000000", nodes[1])
			register(t, c, job)
			for _, a := range ended(t, c, *job.ID, 3) {
				text := taskEvents(a)
				if a.ClientStatus != "failed" || !mltask.IsGangIncomplete(text) || !strings.Contains(text, "3 of 4 members were there within 3s: rank 2 was missing") {
					t.Errorf("%s is %s:\n%s", a.TaskGroup, a.ClientStatus, text)
				}
			}
			if b, err := os.ReadFile(file); !os.IsNotExist(err) {
				t.Errorf("the ranks %q have run, %v", b, err)
			}
		})
	})
}

func register(t *testing.T, c lab.Cluster, job *api.Job) {
	t.Helper()
	if _, _, err := c.Client().Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
}

// taskEvents are the events of an allocation's task, a line each.
func taskEvents(a *api.Allocation) string {
	var text strings.Builder
	if s := a.TaskStates[jobspec.TaskName]; s != nil {
		for _, e := range s.Events {
			fmt.Fprintf(&text, "%s: %s\n", e.Type, e.DisplayMessage)
		}
	}
	return text.String()
}
