// Package workspace is who may use how much of a cluster: workspaces with their
// quotas and budgets, in a tree of cohorts.
//
// Definitions are written in a file ([Parse]), checked as a whole
// ([Definitions.Check]), and become the queues and cohorts of
// orchestrator/queue at a moment ([Definitions.Effective]). All of that is pure;
// a [Service] keeps the definitions and what was used, in a store.
//
// A workspace that nobody declares has queues without limits, so that a cluster
// without definitions works.
package workspace

import (
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Flavors that are always there, beside those of devices.
const (
	CPU    queue.Flavor = "cpu"    // a unit is 1,000 MHz
	Memory queue.Flavor = "memory" // a unit is 1 GiB
)

// plain are the flavors of what is no device.
var plain = []queue.Flavor{CPU, Memory}

// Definitions are all that is declared. The zero value declares nothing.
type Definitions struct {
	Policy          Policy          `json:"policy,omitzero"`
	Flavors         []Flavor        `json:"flavors,omitempty" maxItems:"1000" doc:"Names for kinds of devices. cpu and memory need none"`
	PriorityClasses []PriorityClass `json:"priority_classes,omitempty" maxItems:"1000"`
	Cohorts         []Cohort        `json:"cohorts,omitempty" maxItems:"10000" doc:"Groups of workspaces and cohorts that lend quota to each other"`
	Workspaces      []Workspace     `json:"workspaces,omitempty" maxItems:"10000"`
}

// Policy is what holds for all workspaces. A zero field is the queue's default.
type Policy struct {
	RunTime         Duration `json:"run_time,omitempty" doc:"Assumed of work that declares no run time; default 24h"`
	HalfLife        Duration `json:"half_life,omitempty" doc:"How fast past use is forgotten by fair share; default: at once"`
	Aging           Duration `json:"aging,omitempty" doc:"How long work waits for one more point of priority; default: for ever"`
	Patience        Duration `json:"patience,omitempty" doc:"How long work waits until it goes before all others; default 168h"`
	MinRunTime      Duration `json:"min_run_time,omitempty" doc:"How long work runs before it may be evicted"`
	PreemptionDelay Duration `json:"preemption_delay,omitempty" doc:"How long work waits before it may evict others"`
	// HoldUndeclared keeps work of workspaces that nobody declared from starting.
	HoldUndeclared bool `json:"hold_undeclared,omitempty" doc:"Whether work of workspaces that nobody declared waits until somebody does"`
	MaxEvictions   int  `json:"max_evictions,omitempty" minimum:"0" maximum:"1000" doc:"How often work is evicted at most; default 5"`
}

// Flavor names a kind of device: groups of devices that it matches are charged
// to it. A group is of the first flavor, by name, that matches. Groups that none
// matches have a flavor each, of which no workspace has a quota.
type Flavor struct {
	Name string `json:"name"`
	// Model is a pattern of the model's name, of slices that of their board, in which
	// * and ? stand for others, regardless of case; "": any.
	Model string `json:"model,omitempty" doc:"Pattern of the model's name, of slices that of their board; * and ? stand for others"`
	// Vendor and Type are as Nomad has them; "": any.
	Vendor string `json:"vendor,omitempty" doc:"As Nomad has it, such as nvidia"`
	Type   string `json:"type,omitempty" doc:"As Nomad has it, such as gpu"`
	// Bounds of a device's memory, both included; zero: none.
	MemoryMinMiB int64 `json:"memory_min_mib,omitempty" minimum:"0"`
	MemoryMaxMiB int64 `json:"memory_max_mib,omitempty" minimum:"0"`
}

// PriorityClass names a priority. Whether work may be evicted is apart from it.
type PriorityClass struct {
	Name        string `json:"name"`
	Value       int    `json:"value" minimum:"-1000000" maximum:"1000000" doc:"Higher ones come first, and may evict lower ones"`
	Default     bool   `json:"default,omitempty" doc:"The class of work that names none; one class at most"`
	Description string `json:"description,omitempty" maxLength:"1000"`
}

// Quota is what a workspace or cohort has of a flavor.
type Quota struct {
	Nominal Amount `json:"nominal" doc:"What it can always have"`
	// Borrow is how much more it may use of what others in its cohort leave
	// unused, Lend how much of Nominal others may use; nil: all.
	Borrow *Amount `json:"borrow,omitempty" doc:"How much more it may use of what others leave unused; without it, all"`
	Lend   *Amount `json:"lend,omitempty" doc:"How much of it others may use; without it, all"`
}

// Serving is the part of a workspace's quota of a flavor that is for endpoints.
type Serving struct {
	Floor    Amount `json:"floor,omitempty" doc:"What nothing but endpoints ever takes"`
	Headroom Amount `json:"headroom,omitempty" doc:"What others may use until endpoints need it"`
}

// Quotas are quotas by flavor.
type Quotas map[queue.Flavor]Quota

// Cohort is a group of workspaces and cohorts. Its own quotas are for all of
// them, beside what they lend each other.
type Cohort struct {
	Name      string     `json:"name"`
	Parent    string     `json:"parent,omitempty" doc:"The cohort that it is in"`
	Weight    int        `json:"weight,omitempty" minimum:"0" maximum:"1000000" doc:"Of its fair share; default 1"`
	Quotas    Quotas     `json:"quotas,omitempty"`
	Schedules []Schedule `json:"schedules,omitempty" maxItems:"100"`
}

// Workspace is a tenant.
type Workspace struct {
	Name string `json:"name"`
	// Namespace and NodePools are where in Nomad its work goes; without, where the
	// server sends all.
	Namespace string   `json:"namespace,omitempty" doc:"Nomad's namespace of its work; other work there is counted as the workspace's"`
	NodePools []string `json:"node_pools,omitempty" maxItems:"100" doc:"Nomad's node pools that its work may use"`
	Cohort    string   `json:"cohort,omitempty" doc:"Without, it neither borrows nor lends"`
	Weight    int      `json:"weight,omitempty" minimum:"0" maximum:"1000000" doc:"Of its fair share; default 1"`
	Strict    bool     `json:"strict,omitempty" doc:"Nothing overtakes the first that waits"`
	// PriorityClasses are those that its work may name, the first being that of
	// work that names none; without, all.
	PriorityClasses []string `json:"priority_classes,omitempty" maxItems:"1000"`
	// Preemptible is whether its work may be evicted, unless that says no itself;
	// nil: true.
	Preemptible *bool                    `json:"preemptible,omitempty" doc:"Whether its work may be evicted, unless that says no itself; default true"`
	Quotas      Quotas                   `json:"quotas,omitempty"`
	Serving     map[queue.Flavor]Serving `json:"serving,omitempty"`
	Budget      *Budget                  `json:"budget,omitempty"`
	Schedules   []Schedule               `json:"schedules,omitempty" maxItems:"100" doc:"Quotas at certain times; of those that hold, the last one counts"`
}

// Budget is how long GPUs may be used in a period. Once it is used up nothing
// starts until the next period; what runs goes on.
type Budget struct {
	GPUHours Amount `json:"gpu_hours"`
	Per      Period `json:"per" enum:"day,week,month,quarter,year" doc:"Periods begin at midnight UTC"`
}

// find is a workspace by name. In canonical order it is found fast.
func (d Definitions) find(name string) (Workspace, bool) {
	i, found := slices.BinarySearchFunc(d.Workspaces, name, func(w Workspace, name string) int { return strings.Compare(w.Name, name) })
	if found {
		return d.Workspaces[i], true
	}
	i = slices.IndexFunc(d.Workspaces, func(w Workspace) bool { return w.Name == name })
	if i < 0 {
		return Workspace{}, false
	}
	return d.Workspaces[i], true
}

// Workspace is a declared workspace.
func (d Definitions) Workspace(name string) (Workspace, error) {
	w, ok := d.find(name)
	if !ok {
		return w, problem.New(problem.NotFound, "no workspace %q is declared", name)
	}
	return w, nil
}

// QueueFor is the queue of a workspace's work, declared or not: that of its
// endpoints, or of all else.
func (d Definitions) QueueFor(workspace string, serving bool) queue.QueueID {
	return queueOf(workspace, serving)
}

func queueOf(workspace string, serving bool) queue.QueueID {
	if serving {
		return queue.QueueID(workspace + "/serving")
	}
	return queue.QueueID(workspace)
}

// NamespaceOf is Nomad's namespace of a workspace's work, "" for the server's own.
func (d Definitions) NamespaceOf(workspace string) string {
	w, _ := d.find(workspace)
	return w.Namespace
}

// PoolsOf are Nomad's node pools that a workspace's work may use, nil for the
// server's own choice.
func (d Definitions) PoolsOf(workspace string) []string {
	w, _ := d.find(workspace)
	return w.NodePools
}

// ByNamespace is the workspace that work in a namespace of Nomad's is counted
// as; false if there is none.
func (d Definitions) ByNamespace(namespace string) (workspace string, ok bool) {
	i := slices.IndexFunc(d.Workspaces, func(w Workspace) bool { return w.Namespace == namespace && namespace != "" })
	if i < 0 {
		return "", false
	}
	return d.Workspaces[i].Name, true
}

// Preemptible is whether a workspace's work may be evicted, unless that says no
// itself.
func (d Definitions) Preemptible(workspace string) bool {
	w, _ := d.find(workspace)
	return w.Preemptible == nil || *w.Preemptible
}

// HasDefaultClass is whether a workspace's work that names no priority class has
// one all the same.
func (d Definitions) HasDefaultClass(workspace string) bool {
	w, _ := d.find(workspace)
	return len(w.PriorityClasses) > 0 || slices.ContainsFunc(d.PriorityClasses, func(c PriorityClass) bool { return c.Default })
}

// Priority is the priority of a workspace's work that names a class, or none
// (""). Classes that are not there or not allowed are problem.Invalid.
func (d Definitions) Priority(workspace, class string) (int, error) {
	w, _ := d.find(workspace)
	if class == "" && len(w.PriorityClasses) > 0 {
		class = w.PriorityClasses[0]
	}
	if class != "" && len(w.PriorityClasses) > 0 && !slices.Contains(w.PriorityClasses, class) {
		return 0, problem.New(problem.Invalid, "workspace %q may not use the priority class %q.%s", workspace, class, pipeline.Suggest(class, w.PriorityClasses))
	}
	i := slices.IndexFunc(d.PriorityClasses, func(c PriorityClass) bool { return c.Name == class || class == "" && c.Default })
	switch {
	case i >= 0:
		return d.PriorityClasses[i].Value, nil
	case class == "":
		return 0, nil
	}
	names := make([]string, len(d.PriorityClasses))
	for i, c := range d.PriorityClasses {
		names[i] = c.Name
	}
	return 0, problem.New(problem.Invalid, "there is no priority class %q.%s", class, pipeline.Suggest(class, names))
}
