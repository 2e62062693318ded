package state

import (
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/journal"
)

// Tx is a transaction. It reads its own writes.
type Tx struct {
	Reader
	index     uint64
	changes   []journal.Change
	undos     []func()
	committed []func()
	event     string // the type of the events; "" publishes none
	events    []Event
}

// As names the type of the events that the transaction publishes, such as
// JobRegistered: like Nomad's, they all have one, whatever their topic.
// Without it the transaction publishes none.
func (tx *Tx) As(event string) { tx.event = event }

// Index is the transaction's own index.
func (tx *Tx) Index() uint64 { return tx.index }

// OnCommit has fn called once the transaction is durable, before others see
// it. fn must be quick and not use the store.
func (tx *Tx) OnCommit(fn func()) { tx.committed = append(tx.committed, fn) }

func (tx *Tx) undo() {
	for i := len(tx.undos) - 1; i >= 0; i-- {
		tx.undos[i]()
	}
}

func put[T any](tx *Tx, t *table[T], key string, row *T) error {
	change := journal.Change{Table: t.name, Key: key}
	if row != nil {
		value, err := t.marshal(row)
		if err != nil {
			return fmt.Errorf("encoding %s %q: %w", t.name, key, err)
		}
		change.Value = value
	}
	old, changed := t.rows[key], t.changed
	tx.undos = append(tx.undos, func() {
		t.put(key, old)
		t.changed = changed
	})
	tx.changes = append(tx.changes, change)
	t.put(key, row)
	t.changed = tx.index
	return nil
}

// PutJob stores a job and, with newVersion, a version of it. It fills
// CreateIndex, ModifyIndex and JobModifyIndex (the latter only with newVersion).
func (tx *Tx) PutJob(job *api.Job, newVersion bool) error {
	old := tx.Job(*job.Namespace, *job.ID)
	created := tx.index
	if old != nil {
		created = *old.CreateIndex
	}
	job.CreateIndex = &created
	job.ModifyIndex = &tx.index
	if newVersion {
		job.JobModifyIndex = &tx.index
	}
	if err := put(tx, tx.s.jobs, Key(*job.Namespace, *job.ID), job); err != nil {
		return err
	}
	tx.emit(Event{Topic: "Job", Key: *job.ID, Namespace: *job.Namespace, row: job})
	return tx.PutJobVersion(job)
}

// PutJobVersion stores job as the version that it says it is.
func (tx *Tx) PutJobVersion(job *api.Job) error {
	return put(tx, tx.s.versions, versionKey(*job.Namespace, *job.ID, *job.CreateIndex, *job.Version), job)
}

// DeleteJob removes a job. Its versions stay, for its allocations.
func (tx *Tx) DeleteJob(job *api.Job) error {
	key := Key(*job.Namespace, *job.ID)
	if _, ok := tx.s.histories.rows[key]; ok {
		if err := put(tx, tx.s.histories, key, nil); err != nil {
			return err
		}
	}
	tx.emit(Event{Topic: "Job", Key: *job.ID, Namespace: *job.Namespace, row: job, deleted: true})
	return put(tx, tx.s.jobs, key, nil)
}

// DeleteJobVersion forgets one stored version of a job.
func (tx *Tx) DeleteJobVersion(job *api.Job) error {
	return put(tx, tx.s.versions, versionKey(*job.Namespace, *job.ID, *job.CreateIndex, *job.Version), nil)
}

// PutAlloc stores an allocation. Server-side changes (all but the client's
// own reports) also move AllocModifyIndex, which clients watch.
func (tx *Tx) PutAlloc(a *api.Allocation, fromClient bool) error {
	if old := tx.Alloc(a.ID); old == nil {
		a.CreateIndex = tx.index
	}
	a.ModifyIndex = tx.index
	if !fromClient {
		a.AllocModifyIndex = tx.index
	}
	tx.emit(Event{Topic: "Allocation", Key: a.ID, Namespace: a.Namespace,
		FilterKeys: []string{a.JobID, a.DeploymentID}, row: a})
	return put(tx, tx.s.allocs, a.ID, a)
}

// DeleteAlloc forgets an allocation.
func (tx *Tx) DeleteAlloc(id string) error { return put(tx, tx.s.allocs, id, nil) }

// PutEval stores an evaluation.
func (tx *Tx) PutEval(e *api.Evaluation) error {
	if old := tx.Eval(e.ID); old == nil {
		e.CreateIndex = tx.index
		e.CreateTime = time.Now().UnixNano()
	}
	e.ModifyIndex = tx.index
	e.ModifyTime = time.Now().UnixNano()
	tx.emit(Event{Topic: "Evaluation", Key: e.ID, Namespace: e.Namespace,
		FilterKeys: []string{e.JobID, e.DeploymentID}, row: e})
	return put(tx, tx.s.evals, e.ID, e)
}

// DeleteEval forgets an evaluation.
func (tx *Tx) DeleteEval(id string) error { return put(tx, tx.s.evals, id, nil) }

// PutDeployment stores a deployment.
func (tx *Tx) PutDeployment(d *api.Deployment) error {
	if old := tx.Deployment(d.ID); old == nil {
		d.CreateIndex = tx.index
		d.CreateTime = time.Now().UnixNano()
	}
	d.ModifyIndex = tx.index
	d.ModifyTime = time.Now().UnixNano()
	tx.emit(Event{Topic: "Deployment", Key: d.ID, Namespace: d.Namespace,
		FilterKeys: []string{d.JobID}, row: d})
	return put(tx, tx.s.deployments, d.ID, d)
}

// DeleteDeployment forgets a deployment.
func (tx *Tx) DeleteDeployment(id string) error { return put(tx, tx.s.deployments, id, nil) }

// PutNode stores a node.
func (tx *Tx) PutNode(n *api.Node) error {
	if old := tx.Node(n.ID); old == nil {
		n.CreateIndex = tx.index
	}
	n.ModifyIndex = tx.index
	tx.emit(Event{Topic: "Node", Key: n.ID, row: n})
	return put(tx, tx.s.nodes, n.ID, n)
}

// DeleteNode forgets a node.
func (tx *Tx) DeleteNode(n *api.Node) error {
	tx.emit(Event{Topic: "Node", Key: n.ID, row: n})
	return put(tx, tx.s.nodes, n.ID, nil)
}

// PutNodePool stores a node pool.
func (tx *Tx) PutNodePool(p *api.NodePool) error {
	if old := tx.NodePool(p.Name); old == nil {
		p.CreateIndex = tx.index
	} else {
		p.CreateIndex = old.CreateIndex
	}
	p.ModifyIndex = tx.index
	tx.emit(Event{Topic: "NodePool", Key: p.Name, row: p})
	return put(tx, tx.s.pools, p.Name, p)
}

// DeleteNodePool forgets a node pool.
func (tx *Tx) DeleteNodePool(p *api.NodePool) error {
	tx.emit(Event{Topic: "NodePool", Key: p.Name, row: p})
	return put(tx, tx.s.pools, p.Name, nil)
}

// PutNamespace stores a namespace.
func (tx *Tx) PutNamespace(n *api.Namespace) error {
	if old := tx.Namespace(n.Name); old == nil {
		n.CreateIndex = tx.index
	} else {
		n.CreateIndex = old.CreateIndex
	}
	n.ModifyIndex = tx.index
	return put(tx, tx.s.namespaces, n.Name, n)
}

// DeleteNamespace forgets a namespace.
func (tx *Tx) DeleteNamespace(name string) error { return put(tx, tx.s.namespaces, name, nil) }

// PutVariable stores a variable.
func (tx *Tx) PutVariable(v *api.Variable) error {
	now := time.Now().UnixNano()
	v.CreateIndex, v.CreateTime = tx.index, now
	if old := tx.Variable(v.Namespace, v.Path); old != nil {
		v.CreateIndex, v.CreateTime = old.CreateIndex, old.CreateTime
	}
	v.ModifyIndex, v.ModifyTime = tx.index, now
	tx.emit(Event{Topic: "Variable", Key: v.Path, Namespace: v.Namespace, row: v.Metadata()})
	return put(tx, tx.s.variables, Key(v.Namespace, v.Path), v)
}

// DeleteVariable forgets a variable.
func (tx *Tx) DeleteVariable(v *api.Variable) error {
	tx.emit(Event{Topic: "Variable", Key: v.Path, Namespace: v.Namespace, row: v.Metadata(), deleted: true})
	return put(tx, tx.s.variables, Key(v.Namespace, v.Path), nil)
}

// PutService stores a service registration.
func (tx *Tx) PutService(r *api.ServiceRegistration) error {
	if old := tx.Service(r.ID); old == nil {
		r.CreateIndex = tx.index
	} else {
		r.CreateIndex = old.CreateIndex
	}
	r.ModifyIndex = tx.index
	tx.emit(Event{Topic: "Service", Key: r.ID, Namespace: r.Namespace,
		FilterKeys: []string{r.JobID, r.ServiceName}, row: r})
	return put(tx, tx.s.services, r.ID, r)
}

// DeleteService forgets a service registration.
func (tx *Tx) DeleteService(r *api.ServiceRegistration) error {
	tx.emit(Event{Topic: "Service", Key: r.ID, Namespace: r.Namespace,
		FilterKeys: []string{r.JobID, r.ServiceName}, row: r})
	return put(tx, tx.s.services, r.ID, nil)
}

// PutHistory stores a job's history.
func (tx *Tx) PutHistory(h *JobHistory) error {
	return put(tx, tx.s.histories, Key(h.Namespace, h.JobID), h)
}
