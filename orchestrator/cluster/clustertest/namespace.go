package clustertest

import (
	"context"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/run"
)

// namespace is a cluster as it is seen from one of its namespaces.
type namespace struct {
	*Cluster
	name string // "" for the default
}

// In are the jobs of a namespace.
func (c *Cluster) In(name string) run.Jobs {
	if name == api.DefaultNamespace {
		name = ""
	}
	return namespace{c, name}
}

// AddNamespace creates a namespace.
func (c *Cluster) AddNamespace(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.namespaces[name] = true
}

// exists reports whether n does. c.mu is held.
func (n namespace) exists() bool { return n.name == "" || n.namespaces[n.name] }

// alloc is an allocation of the namespace, nil if there is none. c.mu is held.
func (n namespace) alloc(id string) *alloc {
	if a := n.allocs[id]; a != nil && keyOf(a.Namespace, a.JobID) == keyOf(n.name, a.JobID) {
		return a
	}
	return nil
}

// Exist reports whether the namespace does.
func (n namespace) Exist(ctx context.Context) (there bool, err error) {
	err = n.call(ctx, "Exist", n.name, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		there = n.exists()
		return nil
	})
	return there, err
}

// Job says how a job of the default namespace stands.
func (c *Cluster) Job(ctx context.Context, id string) (run.JobState, error) {
	return c.In("").Job(ctx, id)
}

// Stop ends the tasks of a job of the default namespace.
func (c *Cluster) Stop(ctx context.Context, id string) error { return c.In("").Stop(ctx, id) }

// StopAlloc ends an allocation of the default namespace; another takes its place.
func (c *Cluster) StopAlloc(ctx context.Context, id string) error {
	return c.In("").StopAlloc(ctx, id)
}
