// Package state is the cluster's memory: jobs, allocations, evaluations,
// deployments, nodes and the rest, in the types of Nomad's own API.
//
// A change is a transaction (Store.Update). It is journalled and synced before
// anyone can see it, so what a reader has seen survives a kill at any moment.
// Every transaction has an index, larger than any before it; rows carry it as
// Nomad's do, and blocking queries and event streams count by it.
//
// Rows are shared and immutable: never change a row that a Reader returned,
// put a changed copy.
package state

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/journal"
)

// Names of the tables, as TableIndex takes them.
const (
	Jobs        = "jobs"
	JobVersions = "job_versions"
	Allocs      = "allocs"
	Evals       = "evals"
	Deployments = "deployment"
	Nodes       = "nodes"
	NodePools   = "node_pools"
	Namespaces  = "namespaces"
	Variables   = "variables"
	Services    = "services"
	Histories   = "job_histories"
)

// compactAt is the journal size, in bytes, from which it is rewritten once it
// has also quadrupled since the last time.
const compactAt = 32 << 20

// Store is the durable state. Its methods may be called concurrently.
type Store struct {
	mu      sync.RWMutex
	journal *journal.Journal
	compact int64 // rewrite the journal at this size
	index   uint64
	changed chan struct{} // closed and replaced by every commit
	events  *Events

	tables      map[string]anyTable
	jobs        *table[api.Job]
	versions    *table[api.Job]
	versionsOf  *grouping[api.Job]
	allocs      *table[api.Allocation]
	allocsOfJob *grouping[api.Allocation]
	liveOn      *grouping[api.Allocation] // by node
	evals       *table[api.Evaluation]
	evalsOfJob  *grouping[api.Evaluation]
	evalsByStat *grouping[api.Evaluation]
	deployments *table[api.Deployment]
	deploysOf   *grouping[api.Deployment]
	nodes       *table[api.Node]
	pools       *table[api.NodePool]
	namespaces  *table[api.Namespace]
	variables   *table[api.Variable]
	services    *table[api.ServiceRegistration]
	servicesOf  *grouping[api.ServiceRegistration] // by allocation
	histories   *table[JobHistory]
}

// Open opens or creates the store in dir.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating state folder: %w", err)
	}
	s := newStore()
	j, err := journal.Open(filepath.Join(dir, "state.journal"), s.replay)
	if err != nil {
		return nil, fmt.Errorf("opening cluster state: %w", err)
	}
	s.journal = j
	s.attachJobs()
	s.events.restart(s.index)
	s.compact = max(compactAt, 4*j.Size())
	if j.Size() > compactAt/2 {
		if err := s.rewrite(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newStore() *Store {
	s := &Store{changed: make(chan struct{}), events: newEvents(), tables: map[string]anyTable{}}
	s.jobs = add(s, newTable[api.Job](Jobs))
	s.versions = add(s, newTable[api.Job](JobVersions))
	s.versionsOf = s.versions.groupBy(func(j *api.Job) string { return Key(*j.Namespace, *j.ID) })
	s.allocs = add(s, newTable[api.Allocation](Allocs))
	s.allocs.encode, s.allocs.decode = encodeAlloc, decodeAlloc
	s.allocsOfJob = s.allocs.groupBy(func(a *api.Allocation) string { return Key(a.Namespace, a.JobID) })
	s.liveOn = s.allocs.groupBy(liveNode)
	s.evals = add(s, newTable[api.Evaluation](Evals))
	s.evalsOfJob = s.evals.groupBy(func(e *api.Evaluation) string { return Key(e.Namespace, e.JobID) })
	s.evalsByStat = s.evals.groupBy(func(e *api.Evaluation) string { return e.Status })
	s.deployments = add(s, newTable[api.Deployment](Deployments))
	s.deploysOf = s.deployments.groupBy(func(d *api.Deployment) string { return Key(d.Namespace, d.JobID) })
	s.nodes = add(s, newTable[api.Node](Nodes))
	s.pools = add(s, newTable[api.NodePool](NodePools))
	s.namespaces = add(s, newTable[api.Namespace](Namespaces))
	s.variables = add(s, newTable[api.Variable](Variables))
	s.services = add(s, newTable[api.ServiceRegistration](Services))
	s.servicesOf = s.services.groupBy(func(r *api.ServiceRegistration) string { return r.AllocID })
	s.histories = add(s, newTable[JobHistory](Histories))
	return s
}

func add[T any](s *Store, t *table[T]) *table[T] {
	s.tables[t.name] = t
	return t
}

func (s *Store) replay(rec journal.Record) error {
	s.index = max(s.index, rec.Index)
	for _, c := range rec.Changes {
		t, ok := s.tables[c.Table]
		if !ok {
			return fmt.Errorf("unknown table %q: the state was written by a newer version", c.Table)
		}
		if err := t.replay(rec.Index, c); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the journal. Updates after it fail.
func (s *Store) Close() error { return s.journal.Close() }

// Events is the stream of what happened since the store was opened.
func (s *Store) Events() *Events { return s.events }

// View calls fn with a consistent view. fn must not block.
func (s *Store) View(fn func(r Reader)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	fn(Reader{s})
}

// Update runs fn in a transaction and makes its changes durable, then visible.
// If fn returns an error nothing changes and the error is returned. A
// transaction without changes leaves the index as it is. fn must not block.
func (s *Store) Update(fn func(tx *Tx) error) (index uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := &Tx{Reader: Reader{s}, index: s.index + 1}
	if err := fn(tx); err != nil {
		tx.undo()
		return 0, err
	}
	if len(tx.changes) == 0 {
		return s.index, nil
	}
	if err := s.journal.Append(journal.Record{Index: tx.index, Changes: tx.changes}); err != nil {
		tx.undo()
		return 0, fmt.Errorf("storing cluster state: %w", err)
	}
	s.index = tx.index
	for _, done := range tx.committed {
		done()
	}
	s.events.publish(tx.index, tx.events)
	close(s.changed)
	s.changed = make(chan struct{})
	if s.journal.Size() > s.compact {
		if err := s.rewrite(); err != nil {
			// The old journal is whole: try again much later.
			s.compact *= 2
			return s.index, nil
		}
	}
	return s.index, nil
}

func (s *Store) rewrite() error {
	if err := s.journal.Rewrite(s.dump()); err != nil {
		return err
	}
	s.compact = max(compactAt, 4*s.journal.Size())
	return nil
}

func (s *Store) dump() iter.Seq[journal.Record] {
	return func(yield func(journal.Record) bool) {
		for _, t := range s.tables {
			if !t.dump(yield) {
				return
			}
		}
		yield(journal.Record{Index: s.index})
	}
}

// Await calls read, and again after every change, until it returns true or
// ctx ends. It reports whether read returned true.
func (s *Store) Await(ctx context.Context, read func(r Reader) bool) bool {
	for {
		s.mu.RLock()
		changed := s.changed
		done := read(Reader{s})
		s.mu.RUnlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
