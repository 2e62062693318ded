package state

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Key joins the parts of a composite key.
func Key(parts ...string) string { return strings.Join(parts, "\x00") }

// Reader reads the store, inside View, Await or Update. Lists come sorted by
// creation, then ID.
type Reader struct{ s *Store }

// Index is the index of the last transaction, at least 1.
func (r Reader) Index() uint64 { return max(1, r.s.index) }

// TableIndex is the index of the last change to any of the tables, at least 1.
func (r Reader) TableIndex(tables ...string) uint64 {
	index := uint64(1)
	for _, name := range tables {
		index = max(index, r.s.tables[name].lastChange())
	}
	return index
}

// Job returns a job, or nil.
func (r Reader) Job(namespace, id string) *api.Job { return r.s.jobs.rows[Key(namespace, id)] }

// Jobs returns all jobs.
func (r Reader) Jobs() []*api.Job {
	return sorted(r.s.jobs.rows, func(j *api.Job) (uint64, string) { return *j.CreateIndex, *j.ID })
}

// JobVersions returns the versions of a job that are still known, newest
// first. createIndex 0 means those of the job as it is now.
func (r Reader) JobVersions(namespace, id string, createIndex uint64) []*api.Job {
	if job := r.Job(namespace, id); createIndex == 0 && job != nil {
		createIndex = *job.CreateIndex
	}
	var versions []*api.Job
	for _, v := range r.s.versionsOf.rows[Key(namespace, id)] {
		if *v.CreateIndex == createIndex {
			versions = append(versions, v)
		}
	}
	slices.SortFunc(versions, func(a, b *api.Job) int { return cmp.Compare(*b.Version, *a.Version) })
	return versions
}

// AllJobVersions returns every stored version of every job, purged ones that
// allocations still refer to included.
func (r Reader) AllJobVersions() []*api.Job {
	return sorted(r.s.versions.rows, func(j *api.Job) (uint64, string) { return *j.CreateIndex, *j.ID })
}

// Alloc returns an allocation, or nil.
func (r Reader) Alloc(id string) *api.Allocation { return r.s.allocs.rows[id] }

// Allocs returns all allocations.
func (r Reader) Allocs() []*api.Allocation { return sortedAllocs(r.s.allocs.rows) }

// AllocsOfJob returns the allocations of a job, of any age.
func (r Reader) AllocsOfJob(namespace, id string) []*api.Allocation {
	return sortedAllocs(r.s.allocsOfJob.rows[Key(namespace, id)])
}

// LiveAllocsOn returns the allocations that hold resources of a node, by ID.
func (r Reader) LiveAllocsOn(nodeID string) map[string]*api.Allocation {
	return r.s.liveOn.rows[nodeID]
}

// Eval returns an evaluation, or nil.
func (r Reader) Eval(id string) *api.Evaluation { return r.s.evals.rows[id] }

// Evals returns all evaluations.
func (r Reader) Evals() []*api.Evaluation { return sortedEvals(r.s.evals.rows) }

// EvalsOfJob returns the evaluations of a job.
func (r Reader) EvalsOfJob(namespace, id string) []*api.Evaluation {
	return sortedEvals(r.s.evalsOfJob.rows[Key(namespace, id)])
}

// EvalsWithStatus returns the evaluations with a status.
func (r Reader) EvalsWithStatus(status string) []*api.Evaluation {
	return sortedEvals(r.s.evalsByStat.rows[status])
}

// Deployment returns a deployment, or nil.
func (r Reader) Deployment(id string) *api.Deployment { return r.s.deployments.rows[id] }

// Deployments returns all deployments.
func (r Reader) Deployments() []*api.Deployment { return sortedDeployments(r.s.deployments.rows) }

// DeploymentsOfJob returns the deployments of a job.
func (r Reader) DeploymentsOfJob(namespace, id string) []*api.Deployment {
	return sortedDeployments(r.s.deploysOf.rows[Key(namespace, id)])
}

// LatestDeployment returns a job's newest deployment, or nil.
func (r Reader) LatestDeployment(namespace, id string) *api.Deployment {
	all := r.DeploymentsOfJob(namespace, id)
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// Node returns a node, or nil.
func (r Reader) Node(id string) *api.Node { return r.s.nodes.rows[id] }

// Nodes returns all nodes.
func (r Reader) Nodes() []*api.Node {
	return sorted(r.s.nodes.rows, func(n *api.Node) (uint64, string) { return n.CreateIndex, n.ID })
}

// NodePool returns a node pool, or nil.
func (r Reader) NodePool(name string) *api.NodePool { return r.s.pools.rows[name] }

// NodePools returns all node pools by name.
func (r Reader) NodePools() []*api.NodePool {
	return sorted(r.s.pools.rows, func(p *api.NodePool) (uint64, string) { return 0, p.Name })
}

// Namespace returns a namespace, or nil.
func (r Reader) Namespace(name string) *api.Namespace { return r.s.namespaces.rows[name] }

// Namespaces returns all namespaces by name.
func (r Reader) Namespaces() []*api.Namespace {
	return sorted(r.s.namespaces.rows, func(n *api.Namespace) (uint64, string) { return 0, n.Name })
}

// Variable returns a variable, or nil.
func (r Reader) Variable(namespace, path string) *api.Variable {
	return r.s.variables.rows[Key(namespace, path)]
}

// Variables returns all variables by namespace and path.
func (r Reader) Variables() []*api.Variable {
	return sorted(r.s.variables.rows, func(v *api.Variable) (uint64, string) { return 0, Key(v.Namespace, v.Path) })
}

// Service returns a service registration, or nil.
func (r Reader) Service(id string) *api.ServiceRegistration { return r.s.services.rows[id] }

// Services returns all service registrations by ID.
func (r Reader) Services() []*api.ServiceRegistration {
	return sorted(r.s.services.rows, func(s *api.ServiceRegistration) (uint64, string) { return 0, s.ID })
}

// ServicesOfAlloc returns the service registrations of an allocation.
func (r Reader) ServicesOfAlloc(id string) []*api.ServiceRegistration {
	return sorted(r.s.servicesOf.rows[id], func(s *api.ServiceRegistration) (uint64, string) { return 0, s.ID })
}

// History returns a job's history, never nil.
func (r Reader) History(namespace, id string) *JobHistory {
	if h := r.s.histories.rows[Key(namespace, id)]; h != nil {
		return h
	}
	return &JobHistory{Namespace: namespace, JobID: id}
}

func sortedAllocs(rows map[string]*api.Allocation) []*api.Allocation {
	return sorted(rows, func(a *api.Allocation) (uint64, string) { return a.CreateIndex, a.ID })
}

func sortedEvals(rows map[string]*api.Evaluation) []*api.Evaluation {
	return sorted(rows, func(e *api.Evaluation) (uint64, string) { return e.CreateIndex, e.ID })
}

func sortedDeployments(rows map[string]*api.Deployment) []*api.Deployment {
	return sorted(rows, func(d *api.Deployment) (uint64, string) { return d.CreateIndex, d.ID })
}

func sorted[T any](rows map[string]*T, by func(*T) (uint64, string)) []*T {
	list := make([]*T, 0, len(rows))
	for _, row := range rows {
		list = append(list, row)
	}
	slices.SortFunc(list, func(a, b *T) int {
		ai, as := by(a)
		bi, bs := by(b)
		return cmp.Or(cmp.Compare(ai, bi), cmp.Compare(as, bs))
	})
	return list
}
