package scheduler

import (
	"cmp"
	"math"
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/devicematch"
)

// ask is one allocation to place.
type ask struct {
	tg    *api.TaskGroup
	name  string
	prev  *api.Allocation // the allocation that this one replaces, or nil
	avoid map[string]bool // nodes to avoid, where it failed before
	// reschedule marks a replacement that counts against the reschedule policy.
	reschedule bool
	canary     bool
	node       *api.Node // the only node to try, or nil
}

// option is a node that can take an allocation.
type option struct {
	node      *api.Node
	resources *api.AllocatedResources
	score     *api.NodeScoreMeta
}

// place plans one allocation, or records why it cannot. It reports whether it
// was placed.
func (e *evaluation) place(a ask, deployment string) (*api.Allocation, bool) {
	group := *a.tg.Name
	if failed := e.plan.Failed[group]; failed != nil && a.node == nil {
		// The same question has the same answer.
		failed.CoalescedFailures++
		e.plan.Queued[group]++
		return nil, false
	}
	metrics := e.newMetrics()
	best := e.choose(a, metrics)
	if best == nil {
		e.plan.Queued[group]++
		if old := e.plan.Failed[group]; old != nil {
			old.CoalescedFailures++
		} else {
			e.plan.Failed[group] = metrics
		}
		return nil, false
	}
	alloc := e.newAlloc(a, best, metrics)
	alloc.DeploymentID = deployment
	if a.canary {
		alloc.DeploymentStatus = &api.AllocDeploymentStatus{Canary: true}
	}
	e.usage(best.node).add(alloc)
	e.plan.Place = append(e.plan.Place, alloc)
	return alloc, true
}

func (e *evaluation) newMetrics() *api.AllocationMetric {
	m := &api.AllocationMetric{NodesInPool: e.pool, NodePool: *e.Job.NodePool, NodesAvailable: map[string]int{}}
	for _, n := range e.ready {
		m.NodesAvailable[n.Datacenter]++
	}
	return m
}

func (e *evaluation) newAlloc(a ask, o *option, metrics *api.AllocationMetric) *api.Allocation {
	alloc := &api.Allocation{
		ID:                 e.NewID(),
		Namespace:          *e.Job.Namespace,
		EvalID:             e.Eval.ID,
		Name:               a.name,
		NodeID:             o.node.ID,
		NodeName:           o.node.Name,
		JobID:              *e.Job.ID,
		Job:                e.Job,
		TaskGroup:          *a.tg.Name,
		AllocatedResources: o.resources,
		Metrics:            metrics,
		DesiredStatus:      api.AllocDesiredStatusRun,
		ClientStatus:       api.AllocClientStatusPending,
		CreateTime:         e.Now.UnixNano(),
		ModifyTime:         e.Now.UnixNano(),
	}
	if a.prev == nil {
		return alloc
	}
	alloc.PreviousAllocation = a.prev.ID
	alloc.RescheduleTracker = a.prev.RescheduleTracker
	if a.reschedule {
		t := &api.RescheduleTracker{LastReschedule: "ok"}
		if a.prev.RescheduleTracker != nil {
			t.Events = slices.Clone(a.prev.RescheduleTracker.Events)
		}
		t.Events = append(t.Events, &api.RescheduleEvent{
			RescheduleTime: e.Now.UnixNano(), PrevAllocID: a.prev.ID, PrevNodeID: a.prev.NodeID})
		alloc.RescheduleTracker = t
	}
	return alloc
}

// choose ranks the nodes and returns the best that can take the allocation.
func (e *evaluation) choose(a ask, metrics *api.AllocationMetric) *option {
	nodes := e.ready
	if a.node != nil {
		nodes = []*api.Node{a.node}
	}
	var options []*option
	for _, n := range nodes {
		metrics.NodesEvaluated++
		if reason := e.infeasible(n, a); reason != "" {
			metrics.NodesFiltered++
			count(&metrics.ConstraintFiltered, reason)
			if n.NodeClass != "" {
				count(&metrics.ClassFiltered, n.NodeClass)
			}
			continue
		}
		o, short := e.fit(n, a)
		if short != "" {
			metrics.NodesExhausted++
			count(&metrics.DimensionExhausted, short)
			if n.NodeClass != "" {
				count(&metrics.ClassExhausted, n.NodeClass)
			}
			continue
		}
		e.score(o, a)
		options = append(options, o)
	}
	slices.SortStableFunc(options, func(x, y *option) int {
		return cmp.Or(cmp.Compare(y.score.NormScore, x.score.NormScore), cmp.Compare(x.node.Name, y.node.Name))
	})
	const kept = 5
	for i, o := range options {
		if i < kept {
			metrics.ScoreMetaData = append(metrics.ScoreMetaData, o.score)
		}
	}
	if len(options) == 0 {
		return nil
	}
	return options[0]
}

func count(m *map[string]int, key string) {
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[key]++
}

// infeasible says why a node can never take the group as the node is now, or "".
func (e *evaluation) infeasible(n *api.Node, a ask) string {
	for _, c := range e.Job.Constraints {
		if !nodeMeets(n, c.LTarget, c.Operand, c.RTarget) {
			return constraintText(c)
		}
	}
	for _, task := range a.tg.Tasks {
		if d := n.Drivers[task.Driver]; d == nil || !d.Detected || !d.Healthy {
			return "missing drivers"
		}
	}
	constraints := slices.Clone(a.tg.Constraints)
	for _, task := range a.tg.Tasks {
		constraints = append(constraints, task.Constraints...)
	}
	for _, c := range constraints {
		if !nodeMeets(n, c.LTarget, c.Operand, c.RTarget) {
			return constraintText(c)
		}
	}
	if !nodeHasDevices(n, a.tg) {
		return "missing devices"
	}
	for _, v := range a.tg.Volumes {
		if vol := n.HostVolumes[v.Source]; v.Type != "host" || vol == nil || vol.ReadOnly && !v.ReadOnly {
			return "missing compatible host volumes"
		}
	}
	for _, nw := range a.tg.Networks {
		if nw.Mode != "" && nw.Mode != "host" && nw.Mode != "none" {
			return "missing network"
		}
	}
	return e.notDistinct(n, a)
}

// notDistinct checks the constraints that compare a job's allocations.
func (e *evaluation) notDistinct(n *api.Node, a ask) string {
	check := func(c *api.Constraint, group string) bool {
		switch c.Operand {
		case opDistinctHosts:
			if c.RTarget == "false" {
				return true
			}
			return e.countWhere(group, func(on *api.Node) bool { return on.ID == n.ID }) == 0
		case opDistinctProperty:
			mine, ok := nodeTarget(c.LTarget, n)
			if !ok {
				return false
			}
			limit := 1
			if n, ok := devicematch.ParseValue(c.RTarget).Integer(); ok {
				limit = int(n)
			}
			return e.countWhere(group, func(on *api.Node) bool {
				v, ok := nodeTarget(c.LTarget, on)
				return ok && v == mine
			}) < limit
		}
		return true
	}
	for _, c := range e.Job.Constraints {
		if !check(c, "") {
			return c.Operand
		}
	}
	for _, c := range a.tg.Constraints {
		if !check(c, *a.tg.Name) {
			return c.Operand
		}
	}
	return ""
}

// countWhere counts the job's live allocations, of one group or of all
// (group ""), on nodes for which match is true.
func (e *evaluation) countWhere(group string, match func(*api.Node) bool) int {
	total := 0
	each := func(a *api.Allocation) {
		if n := e.nodes[a.NodeID]; n != nil && (group == "" || a.TaskGroup == group) && match(n) {
			total++
		}
	}
	for _, a := range e.Allocs {
		if !ServerTerminal(a) && !ClientTerminal(a) && e.stopped[a.ID] == nil {
			each(a)
		}
	}
	for _, a := range e.plan.Place {
		each(a)
	}
	return total
}

// fit assigns resources of a node, or says which is short.
func (e *evaluation) fit(n *api.Node, a ask) (*option, string) {
	u := e.usage(n)
	networks, ports, err := u.offerPorts(a.tg.Networks)
	if err != nil {
		return nil, "network: " + err.Error()
	}
	r := &api.AllocatedResources{
		Tasks:  map[string]*api.AllocatedTaskResources{},
		Shared: api.AllocatedSharedResources{DiskMB: int64(*a.tg.EphemeralDisk.SizeMB), Networks: networks, Ports: ports},
	}
	o := &option{node: n, resources: r, score: &api.NodeScoreMeta{NodeID: n.ID, Scores: map[string]float64{}}}
	var given []string // devices of this allocation's earlier asks
	defer func() {
		for _, key := range given {
			delete(u.devices, key)
		}
	}()
	var weight float64
	for _, task := range a.tg.Tasks {
		tr := taskResources(task)
		for _, want := range task.Resources.Devices {
			offer, w := u.offerDevices(want)
			if offer == nil {
				return nil, "devices: no devices match request"
			}
			weight += w
			tr.Devices = append(tr.Devices, offer)
			for _, id := range offer.DeviceIDs {
				key := deviceKey(offer.Vendor, offer.Type, offer.Name, id)
				u.devices[key] = true
				given = append(given, key)
			}
		}
		r.Tasks[task.Name] = tr
	}
	if weight != 0 {
		o.score.Scores["devices"] = weight / deviceWeights(a.tg)
	}
	if short := u.fits(r); short != "" {
		return nil, short
	}
	return o, ""
}

func deviceWeights(tg *api.TaskGroup) float64 {
	var total float64
	for _, task := range tg.Tasks {
		for _, d := range task.Resources.Devices {
			for _, a := range d.Affinities {
				total += math.Abs(affinityWeight(a))
			}
		}
	}
	return max(1, total)
}

func taskResources(task *api.Task) *api.AllocatedTaskResources {
	r := &api.AllocatedTaskResources{
		Cpu:    api.AllocatedCpuResources{CpuShares: int64(*task.Resources.CPU)},
		Memory: api.AllocatedMemoryResources{MemoryMB: int64(*task.Resources.MemoryMB)},
	}
	if task.Resources.MemoryMaxMB != nil {
		r.Memory.MemoryMaxMB = int64(*task.Resources.MemoryMaxMB)
	}
	return r
}

// score ranks an option: the mean of the scores that apply, each -1 to 1.
func (e *evaluation) score(o *option, a ask) {
	scores := o.score.Scores
	scores["binpack"] = e.usage(o.node).fitness(o.resources)
	if same := e.countWhere(*a.tg.Name, func(n *api.Node) bool { return n.ID == o.node.ID }); same > 0 {
		scores["job-anti-affinity"] = -float64(same+1) / float64(max(1, *a.tg.Count))
	}
	if a.avoid[o.node.ID] {
		scores["node-reschedule-penalty"] = -1
	}
	if a.prev != nil && a.tg.EphemeralDisk.Sticky != nil && *a.tg.EphemeralDisk.Sticky && a.prev.NodeID == o.node.ID && !a.avoid[o.node.ID] {
		scores["sticky-disk"] = 1
	}
	if s, ok := e.affinity(o.node, a.tg); ok {
		scores["node-affinity"] = s
	}
	if s, ok := e.spread(o.node, a.tg); ok {
		scores["allocation-spread"] = s
	}
	var sum float64
	for _, s := range scores {
		sum += s
	}
	o.score.NormScore = sum / float64(len(scores))
}

func (e *evaluation) affinity(n *api.Node, tg *api.TaskGroup) (float64, bool) {
	affinities := slices.Concat(e.Job.Affinities, tg.Affinities)
	for _, task := range tg.Tasks {
		affinities = append(affinities, task.Affinities...)
	}
	var met, total float64
	for _, a := range affinities {
		w := affinityWeight(a)
		total += math.Abs(w)
		if nodeMeets(n, a.LTarget, a.Operand, a.RTarget) {
			met += w
		}
	}
	if total == 0 || met == 0 {
		return 0, false
	}
	return met / total, true
}

// spread scores a node by how far its value of each spread attribute is below
// its share: the stated one, or an even one.
func (e *evaluation) spread(n *api.Node, tg *api.TaskGroup) (float64, bool) {
	var score, total float64
	for _, s := range slices.Concat(e.Job.Spreads, tg.Spreads) {
		weight := 50.0
		if s.Weight != nil {
			weight = float64(*s.Weight)
		}
		total += weight
		mine, ok := nodeTarget(s.Attribute, n)
		if !ok {
			score -= weight
			continue
		}
		used := float64(e.countWhere(*tg.Name, func(on *api.Node) bool {
			v, ok := nodeTarget(s.Attribute, on)
			return ok && v == mine
		}))
		share := e.share(s, mine, float64(*tg.Count))
		if share <= 0 {
			score -= weight
			continue
		}
		score += weight * max(-1, (share-used)/share)
	}
	if total == 0 {
		return 0, false
	}
	return score / total, true
}

// share is how many of count allocations should have a spread value.
func (e *evaluation) share(s *api.Spread, mine string, count float64) float64 {
	rest := 100.0
	for _, t := range s.SpreadTarget {
		if t.Value == mine {
			return float64(t.Percent) / 100 * count
		}
		rest -= float64(t.Percent)
	}
	others := map[string]bool{}
	for _, n := range e.ready {
		if v, ok := nodeTarget(s.Attribute, n); ok && !slices.ContainsFunc(s.SpreadTarget, func(t *api.SpreadTarget) bool { return t.Value == v }) {
			others[v] = true
		}
	}
	return rest / 100 * count / float64(max(1, len(others)))
}
