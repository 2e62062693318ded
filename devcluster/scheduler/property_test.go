package scheduler

import (
	"fmt"
	"testing"

	"github.com/hashicorp/nomad/api"
	"pgregory.net/rapid"
)

// TestRandomOperationsNeverOverCommit drives a model cluster with random jobs,
// exits, drains and losses. After every plan no node has more than it has, no
// device and no port has two owners, and no job more live allocations than
// its count.
func TestRandomOperationsNeverOverCommit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*api.Node
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			nodes = append(nodes, node(fmt.Sprintf("n%d", i), gpus(rapid.IntRange(0, 4).Draw(t, "gpus"), "H100", 80000)))
		}
		c := newCluster(nodes...)
		jobs := map[string]*api.Job{}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			id := fmt.Sprintf("j%d", rapid.IntRange(0, 4).Draw(t, "job"))
			switch rapid.IntRange(0, 5).Draw(t, "operation") {
			case 0, 1, 2:
				jobs[id] = randomJob(t, id, jobs[id])
			case 3:
				c.randomExit(t)
			case 4:
				n := nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "node")]
				n.Status = rapid.SampledFrom([]string{api.NodeStatusReady, api.NodeStatusDown}).Draw(t, "status")
			case 5:
				n := nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "node")]
				n.SchedulingEligibility = rapid.SampledFrom([]string{api.NodeSchedulingEligible, api.NodeSchedulingIneligible}).Draw(t, "eligibility")
			}
			for _, j := range jobs {
				c.deploy = nil
				plan := c.evaluate(j)
				c.check(t, j, plan)
				if again := c.evaluate(j); len(again.Place)+len(again.Stop) > 0 {
					t.Fatalf("a second evaluation of %s placed %d and stopped %d", *j.ID, len(again.Place), len(again.Stop))
				}
			}
		}
	})
}

func randomJob(t *rapid.T, id string, old *api.Job) *api.Job {
	count := rapid.IntRange(0, 5).Draw(t, "count")
	cpu := rapid.IntRange(1, 600).Draw(t, "cpu")
	devices := uint64(rapid.IntRange(0, 3).Draw(t, "devices"))
	ports := rapid.IntRange(0, 2).Draw(t, "ports")
	j := job(id, Batch, count, func(j *api.Job) {
		tg := j.TaskGroups[0]
		*tg.Tasks[0].Resources.CPU = cpu
		tg.ReschedulePolicy = &api.ReschedulePolicy{Attempts: ptr(0), Unlimited: ptr(false)}
		if devices > 0 {
			askGPUs("nvidia/gpu", devices)(j)
		}
		if ports > 0 {
			tg.Networks = []*api.NetworkResource{{}}
			for i := range ports {
				tg.Networks[0].DynamicPorts = append(tg.Networks[0].DynamicPorts, api.Port{Label: fmt.Sprint(i)})
			}
		}
	})
	if old != nil {
		j.Version = ptr(*old.Version + 1)
	}
	return j
}

// randomExit has a running allocation end, or one that was stopped.
func (c *cluster) randomExit(t *rapid.T) {
	c.run()
	for i := 1; i <= c.ids; i++ {
		a := c.allocs[fmt.Sprintf("new-%d", i)]
		if a == nil || ClientTerminal(a) || !rapid.Bool().Draw(t, "exits") {
			continue
		}
		status := rapid.SampledFrom([]string{api.AllocClientStatusComplete, api.AllocClientStatusFailed}).Draw(t, "how")
		c.set(a.ID, func(a *api.Allocation) { a.ClientStatus = status })
	}
}

func (c *cluster) check(t *rapid.T, j *api.Job, plan *Plan) {
	byID := map[string]*api.Node{}
	for _, n := range c.nodes {
		byID[n.ID] = n
	}
	for _, a := range plan.Place {
		n := byID[a.NodeID]
		if n.Status != api.NodeStatusReady || n.SchedulingEligibility != api.NodeSchedulingEligible {
			t.Fatalf("%s was placed on %s, which is %s and %s", a.Name, n.Name, n.Status, n.SchedulingEligibility)
		}
	}
	// What the plan stops is given to its successor, which waits for its end.
	taken := map[string]string{}
	cpu := map[string]int64{}
	live := map[string]int{}
	for _, a := range c.allocs {
		if ClientTerminal(a) || ServerTerminal(a) {
			continue
		}
		live[a.JobID]++
		cpu[a.NodeID] += a.AllocatedResources.Tasks["main"].Cpu.CpuShares
		claim := func(what string) {
			if other := taken[what]; other != "" {
				t.Fatalf("%s belongs to %s and %s", what, other, a.ID)
			}
			taken[what] = a.ID
		}
		for _, d := range a.AllocatedResources.Tasks["main"].Devices {
			for _, id := range d.DeviceIDs {
				claim("device " + id)
			}
		}
		for _, p := range a.AllocatedResources.Shared.Ports {
			claim(fmt.Sprintf("port %s:%d", a.NodeID, p.Value))
		}
	}
	for id, used := range cpu {
		if used > byID[id].NodeResources.Cpu.CpuShares {
			t.Fatalf("node %s has %d MHz in use", id, used)
		}
	}
	if want := *j.TaskGroups[0].Count; live[*j.ID] > want {
		t.Fatalf("job %s has %d live allocations, its count is %d", *j.ID, live[*j.ID], want)
	}
}

func TestNodeConstraints(t *testing.T) {
	n := node("a", func(n *api.Node) {
		n.Attributes["cpu.numcores"] = "8"
		n.Attributes["nomad.version"] = "2.0.5"
		n.Meta = map[string]string{"tags": "red, green"}
	})
	tests := []struct {
		l, op, r string
		want     bool
	}{
		{"${attr.cpu.numcores}", ">", "10", false},
		{"${attr.cpu.numcores}", "<", "10", true},
		{"${attr.nomad.version}", "version", ">= 1.10, < 3", true},
		{"${attr.nomad.version}", "semver", ">= 2.1.0", false},
		{"${meta.tags}", "set_contains", "green", true},
		{"${meta.tags}", "set_contains", "green,blue", false},
		{"${meta.tags}", "set_contains_any", "green,blue", true},
		{"${meta.none}", "is_set", "", false},
		{"${meta.none}", "is_not_set", "", true},
		{"${meta.none}", "!=", "x", true},
		{"${node.unique.name}", "regexp", "^[ab]$", true},
		{"${node.unique.name}", "regexp", "[", false},
		{"${node.unique.id}", "=", "id-a", true},
		{"${node.unknown}", "=", "", false},
		{"a", "no such operand", "a", false},
	}
	for _, tt := range tests {
		if got := nodeMeets(n, tt.l, tt.op, tt.r); got != tt.want {
			t.Errorf("%s %s %s: %v", tt.l, tt.op, tt.r, got)
		}
	}
}
