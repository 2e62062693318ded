package scheduler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

func TestWhyAGroupCannotBePlaced(t *testing.T) {
	constraint := func(l, op, r string) func(*api.Job) {
		return func(j *api.Job) {
			j.Constraints = append(j.Constraints, &api.Constraint{LTarget: l, Operand: op, RTarget: r})
		}
	}
	tests := []struct {
		name      string
		node      *api.Node
		job       *api.Job
		filtered  string
		exhausted string
	}{
		{name: "fits", node: node("a"), job: job("j", Batch, 1)},
		{name: "constraint", node: node("a"), job: job("j", Batch, 1, constraint("${attr.kernel.name}", "=", "windows")),
			filtered: "${attr.kernel.name} = windows"},
		{name: "pinned elsewhere", node: node("a"), job: job("j", Batch, 1, constraint("${node.unique.id}", "=", "id-b")),
			filtered: "${node.unique.id} = id-b"},
		{name: "driver", node: node("a", func(n *api.Node) { n.Drivers = nil }), job: job("j", Batch, 1), filtered: "missing drivers"},
		{name: "cpu", node: node("a"), job: job("j", Batch, 1, func(j *api.Job) { *j.TaskGroups[0].Tasks[0].Resources.CPU = 1001 }), exhausted: "cpu"},
		{name: "memory", node: node("a"), job: job("j", Batch, 1, func(j *api.Job) { *j.TaskGroups[0].Tasks[0].Resources.MemoryMB = 1001 }), exhausted: "memory"},
		{name: "no devices", node: node("a"), job: job("j", Batch, 1, askGPUs("nvidia/gpu", 1)), filtered: "missing devices"},
		{name: "more devices than there are", node: node("a", gpus(2, "H100", 80000)), job: job("j", Batch, 1, askGPUs("gpu", 3)), filtered: "missing devices"},
		{name: "device memory too small", node: node("a", gpus(2, "H100", 40000)),
			job: job("j", Batch, 1, askGPUs("gpu", 1, &api.Constraint{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "40 GiB"})), filtered: "missing devices"},
		{name: "device memory large enough", node: node("a", gpus(2, "H100", 40960)),
			job: job("j", Batch, 1, askGPUs("gpu", 1, &api.Constraint{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "40 GiB"}))},
		{name: "unhealthy device", node: node("a", gpus(1, "H100", 1), func(n *api.Node) { n.NodeResources.Devices[0].Instances[0].Healthy = false }),
			job: job("j", Batch, 1, askGPUs("gpu", 1)), filtered: "missing devices"},
		{name: "two asks of one group", node: node("a", gpus(3, "H100", 1)), job: job("j", Batch, 1, askGPUs("gpu", 2), askGPUs("gpu", 2)), filtered: "missing devices"},
		{name: "bridge network", node: node("a"), job: job("j", Batch, 1, func(j *api.Job) {
			j.TaskGroups[0].Networks = []*api.NetworkResource{{Mode: "bridge"}}
		}), filtered: "missing network"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newCluster(tt.node).evaluate(tt.job)
			if tt.filtered == "" && tt.exhausted == "" {
				if len(p.Place) != 1 || len(p.Failed) != 0 {
					t.Fatalf("placed %d, failed %v", len(p.Place), p.Failed)
				}
				return
			}
			m := p.Failed["task"]
			if m == nil || len(p.Place) != 0 || p.Queued["task"] != 1 {
				t.Fatalf("placed %d, failed %v, queued %v", len(p.Place), p.Failed, p.Queued)
			}
			if tt.filtered != "" && m.ConstraintFiltered[tt.filtered] != 1 {
				t.Errorf("filtered %v, want %q", m.ConstraintFiltered, tt.filtered)
			}
			if tt.exhausted != "" && m.DimensionExhausted[tt.exhausted] != 1 {
				t.Errorf("exhausted %v, want %q", m.DimensionExhausted, tt.exhausted)
			}
		})
	}
}

func TestTheNamedDevicesAreGiven(t *testing.T) {
	c := newCluster(node("a", gpus(8, "H100", 80000)))
	want := []string{"a-H100-5", "a-H100-2"}
	p := c.evaluate(job("j", Batch, 1, askGPUs("nvidia/gpu/H100", 2,
		&api.Constraint{LTarget: "${device.ids}", Operand: "set_contains", RTarget: "a-H100-5"},
	)))
	if len(p.Place) != 0 {
		t.Fatal("one named device was enough for two")
	}
	j := job("k", Batch, 1, askGPUs("nvidia/gpu/H100", 2,
		&api.Constraint{LTarget: "${device.ids}", Operand: "set_contains", RTarget: strings.Join(want, ",")}))
	p = c.evaluate(j)
	if len(p.Place) != 1 {
		t.Fatalf("not placed: %+v", p.Failed["task"])
	}
	got := p.Place[0].AllocatedResources.Tasks["main"].Devices[0].DeviceIDs
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPlacementFillsTheFullestNodeFirst(t *testing.T) {
	c := newCluster(node("a"), node("b"))
	first := c.evaluate(job("one", Batch, 1)).Place[0].NodeName
	second := c.evaluate(job("two", Batch, 1)).Place[0].NodeName
	if first != second {
		t.Errorf("placed on %s and %s", first, second)
	}
}

func TestAffinityDecidesBetweenNodes(t *testing.T) {
	c := newCluster(node("a"), node("b", func(n *api.Node) { n.Meta = map[string]string{"fast": "yes"} }))
	p := c.evaluate(job("j", Batch, 1, func(j *api.Job) {
		j.Affinities = []*api.Affinity{api.NewAffinity("${meta.fast}", "=", "yes", 100)}
	}))
	if got := p.Place[0].NodeName; got != "b" {
		t.Errorf("placed on %s", got)
	}
}

func TestCountUpAndDown(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Service, 3, func(j *api.Job) { j.Update = &api.UpdateStrategy{MaxParallel: ptr(0)} })
	c.evaluate(j)
	c.run()
	if got := c.live(); got != 3 {
		t.Fatalf("%d live, want 3", got)
	}
	j = newer(j, 1, nil)
	j.TaskGroups[0].Count = ptr(1)
	p := c.evaluate(j)
	if len(p.Stop) != 2 || c.live() != 1 {
		t.Fatalf("stopped %d, %d live", len(p.Stop), c.live())
	}
	for _, a := range p.Stop {
		if a.Name == "j.task[0]" {
			t.Error("the lowest name was stopped")
		}
	}
}

func TestAStoppedJobStopsAll(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Batch, 2)
	c.evaluate(j)
	c.run()
	j.Stop = ptr(true)
	if p := c.evaluate(j); len(p.Stop) != 2 || c.live() != 0 {
		t.Errorf("stopped %d, %d live", len(p.Stop), c.live())
	}
}

func TestAFinishedBatchIsNotRunAgain(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Batch, 1)
	id := c.evaluate(j).Place[0].ID
	c.set(id, func(a *api.Allocation) { a.ClientStatus = api.AllocClientStatusComplete })
	if p := c.evaluate(j); len(p.Place) != 0 {
		t.Error("run again in the same version")
	}
	if p := c.evaluate(newer(j, 1, nil)); len(p.Place) != 1 {
		t.Error("not run in a new version")
	}
}

func TestFailedAllocations(t *testing.T) {
	policy := func(p api.ReschedulePolicy) func(*api.Job) {
		return func(j *api.Job) { j.TaskGroups[0].ReschedulePolicy = &p }
	}
	none := policy(api.ReschedulePolicy{Attempts: ptr(0), Unlimited: ptr(false)})
	now := policy(api.ReschedulePolicy{Attempts: ptr(1), Interval: ptr(time.Hour), Delay: ptr(time.Duration(0)), DelayFunction: ptr("constant"), MaxDelay: ptr(time.Duration(0)), Unlimited: ptr(false)})
	later := policy(api.ReschedulePolicy{Attempts: ptr(0), Interval: ptr(time.Duration(0)), Delay: ptr(time.Minute), DelayFunction: ptr("exponential"), MaxDelay: ptr(time.Hour), Unlimited: ptr(true)})
	tests := []struct {
		name           string
		policy         func(*api.Job)
		place, follows int
	}{
		{"without reschedule", none, 0, 0},
		{"at once", now, 1, 0},
		{"later", later, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(node("a"), node("b"))
			j := job("j", Batch, 1, tt.policy)
			first := c.evaluate(j).Place[0]
			c.set(first.ID, func(a *api.Allocation) {
				a.ClientStatus = api.AllocClientStatusFailed
				a.TaskStates = map[string]*api.TaskState{"main": {State: "dead", Failed: true, FinishedAt: c.now}}
			})
			p := c.evaluate(j)
			if len(p.Place) != tt.place || len(p.FollowUps) != tt.follows {
				t.Fatalf("placed %d, follow-ups %d", len(p.Place), len(p.FollowUps))
			}
			if tt.place == 1 {
				if p.Place[0].NodeID == first.NodeID {
					t.Error("placed where it failed although another node was free")
				}
				if p.Place[0].PreviousAllocation != first.ID || c.allocs[first.ID].NextAllocation != p.Place[0].ID {
					t.Error("the two allocations do not name each other")
				}
			}
			if tt.follows == 1 {
				if got, want := p.FollowUps[0].WaitUntil, c.now.Add(time.Minute); !got.Equal(want) {
					t.Errorf("follow-up at %v, want %v", got, want)
				}
				c.now = c.now.Add(time.Minute)
				in := c.input(j)
				in.Eval = p.FollowUps[0]
				if p, err := Evaluate(in); err != nil || len(p.Place) != 1 {
					t.Errorf("the follow-up placed %d, %v", len(p.Place), err)
				}
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	tests := []struct {
		function string
		want     []time.Duration
	}{
		{"constant", []time.Duration{10, 10, 10, 10}},
		{"exponential", []time.Duration{10, 20, 40, 50, 50}},
		{"fibonacci", []time.Duration{10, 20, 30, 50, 50}},
	}
	for _, tt := range tests {
		for n, want := range tt.want {
			if got := backoff(tt.function, 10, 50, n); got != want {
				t.Errorf("%s after %d: %d, want %d", tt.function, n, got, want)
			}
		}
	}
}

func TestALostNodesWorkIsReplaced(t *testing.T) {
	c := newCluster(node("a"), node("b"))
	j := job("j", Batch, 1)
	first := c.evaluate(j).Place[0]
	c.run()
	for _, n := range c.nodes {
		if n.ID == first.NodeID {
			n.Status = api.NodeStatusDown
		}
	}
	p := c.evaluate(j)
	if len(p.Place) != 1 || p.Place[0].NodeID == first.NodeID {
		t.Fatalf("placed %+v", p.Place)
	}
	old := c.allocs[first.ID]
	if old.ClientStatus != api.AllocClientStatusLost || old.DesiredStatus != api.AllocDesiredStatusStop || old.NextAllocation != p.Place[0].ID {
		t.Errorf("the lost allocation is %s/%s, next %q", old.DesiredStatus, old.ClientStatus, old.NextAllocation)
	}
	if got := p.Place[0].Name; got != "j.task[0]" {
		t.Errorf("name %s", got)
	}
}

func TestAMigratingAllocationIsReplaced(t *testing.T) {
	c := newCluster(node("a"), node("b"))
	j := job("j", Service, 1)
	first := c.evaluate(j).Place[0]
	c.run()
	for _, n := range c.nodes {
		if n.ID == first.NodeID {
			n.SchedulingEligibility = api.NodeSchedulingIneligible
		}
	}
	c.set(first.ID, func(a *api.Allocation) { a.DesiredTransition.Migrate = ptr(true) })
	p := c.evaluate(j)
	if len(p.Place) != 1 || len(p.Stop) != 1 || p.Place[0].NodeID == first.NodeID {
		t.Errorf("placed %d, stopped %d", len(p.Place), len(p.Stop))
	}
}

// healthy marks the live allocations of the deployment as healthy and counts
// them, as the control server does.
func (c *cluster) healthy() {
	c.run()
	for id, a := range c.allocs {
		if c.deploy == nil || a.DeploymentID != c.deploy.ID || ServerTerminal(a) || healthy(a) {
			continue
		}
		c.set(id, func(a *api.Allocation) {
			a.DeploymentStatus = &api.AllocDeploymentStatus{Healthy: ptr(true), Canary: a.DeploymentStatus != nil && a.DeploymentStatus.Canary}
		})
		d := CloneDeployment(c.deploy)
		d.TaskGroups[a.TaskGroup].HealthyAllocs++
		c.deploy = d
	}
}

func updating(u api.UpdateStrategy) func(*api.Job) {
	return func(j *api.Job) { j.Update = &u }
}

func TestARollingUpdateReplacesOneAfterTheOther(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Service, 3, updating(api.UpdateStrategy{MaxParallel: ptr(1)}))
	c.evaluate(j)
	c.healthy()
	c.deploy.Status = api.DeploymentStatusSuccessful
	j = newer(j, 1, func(t *api.Task) { t.Env = map[string]string{"V": "2"} })
	for step := range 3 {
		p := c.evaluate(j)
		if len(p.Stop) != 1 || len(p.Place) != 1 {
			t.Fatalf("step %d: stopped %d, placed %d", step, len(p.Stop), len(p.Place))
		}
		if again := c.evaluate(j); len(again.Stop)+len(again.Place) != 0 {
			t.Fatalf("step %d: did not wait for health", step)
		}
		c.healthy()
	}
	if p := c.evaluate(j); !p.Empty() {
		t.Errorf("not done: %+v", p)
	}
	if c.live() != 3 {
		t.Errorf("%d live", c.live())
	}
}

func TestCanariesWaitForPromotion(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Service, 2, updating(api.UpdateStrategy{MaxParallel: ptr(2), Canary: ptr(1)}))
	c.evaluate(j)
	c.healthy()
	c.deploy.Status = api.DeploymentStatusSuccessful
	j = newer(j, 1, func(t *api.Task) { t.Env = map[string]string{"V": "2"} })
	p := c.evaluate(j)
	if len(p.Place) != 1 || len(p.Stop) != 0 || !p.Place[0].DeploymentStatus.Canary {
		t.Fatalf("placed %d, stopped %d", len(p.Place), len(p.Stop))
	}
	c.healthy()
	if p := c.evaluate(j); len(p.Place)+len(p.Stop) != 0 {
		t.Fatal("did not wait for promotion")
	}
	d := CloneDeployment(c.deploy)
	d.TaskGroups["task"].Promoted = true
	c.deploy = d
	p = c.evaluate(j)
	c.run()
	if len(p.Stop) != 2 || len(p.Place) != 1 || c.live() != 2 {
		t.Errorf("stopped %d, placed %d, %d live", len(p.Stop), len(p.Place), c.live())
	}
}

func TestAFailedDeploymentDropsItsCanaries(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Service, 1, updating(api.UpdateStrategy{MaxParallel: ptr(1), Canary: ptr(1)}))
	c.evaluate(j)
	c.healthy()
	c.deploy.Status = api.DeploymentStatusSuccessful
	j = newer(j, 1, func(t *api.Task) { t.Env = map[string]string{"V": "2"} })
	canary := c.evaluate(j).Place[0].ID
	d := CloneDeployment(c.deploy)
	d.Status = api.DeploymentStatusFailed
	c.deploy = d
	p := c.evaluate(j)
	if len(p.Stop) != 1 || p.Stop[0].ID != canary || len(p.Place) != 0 {
		t.Errorf("stopped %v, placed %v", p.Stop, p.Place)
	}
}

func TestAnInPlaceUpdateKeepsTheAllocation(t *testing.T) {
	c := newCluster(node("a"))
	j := job("j", Service, 1, func(j *api.Job) { j.Update = &api.UpdateStrategy{MaxParallel: ptr(0)} })
	id := c.evaluate(j).Place[0].ID
	c.run()
	j = newer(j, 1, func(t *api.Task) { t.KillTimeout = ptr(time.Minute) })
	p := c.evaluate(j)
	if len(p.Stop)+len(p.Place) != 0 || len(p.Update) != 1 || *c.allocs[id].Job.Version != 1 {
		t.Errorf("stopped %d, placed %d, updated %d", len(p.Stop), len(p.Place), len(p.Update))
	}
}

func TestASystemJobRunsOnEveryNodeThatMayHaveIt(t *testing.T) {
	c := newCluster(node("a"), node("b"), node("c", func(n *api.Node) { n.Drivers = nil }))
	j := job("j", System, 1)
	if p := c.evaluate(j); len(p.Place) != 2 || len(p.Failed) != 0 {
		t.Fatalf("placed %d, failed %v", len(p.Place), p.Failed)
	}
	c.run()
	if p := c.evaluate(j); !p.Empty() {
		t.Error("a second evaluation changed something")
	}
	c.nodes = append(c.nodes, node("d"))
	if p := c.evaluate(j); len(p.Place) != 1 || p.Place[0].NodeName != "d" {
		t.Errorf("placed %v on the new node", p.Place)
	}
}

func TestPorts(t *testing.T) {
	c := newCluster(node("a"))
	static := func(j *api.Job) {
		j.TaskGroups[0].Networks = []*api.NetworkResource{{ReservedPorts: []api.Port{{Label: "http", Value: 8080}}}}
	}
	if p := c.evaluate(job("one", Batch, 1, static)); len(p.Place) != 1 || p.Place[0].AllocatedResources.Shared.Ports[0].Value != 8080 {
		t.Fatalf("placed %v", p.Place)
	}
	if p := c.evaluate(job("two", Batch, 1, static)); len(p.Failed) != 1 || p.Failed["task"].DimensionExhausted["network: reserved port collision http=8080"] != 1 {
		t.Errorf("failed %v", p.Failed["task"])
	}
	seen := map[int]bool{}
	dynamic := job("three", Batch, 5, func(j *api.Job) {
		j.TaskGroups[0].Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "a"}, {Label: "b"}}}}
	})
	for _, a := range c.evaluate(dynamic).Place {
		for _, p := range a.AllocatedResources.Shared.Ports {
			if p.Value < 20000 || p.Value > 20010 || seen[p.Value] {
				t.Errorf("port %d is outside of the range or was given before", p.Value)
			}
			seen[p.Value] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d ports", len(seen))
	}
}
