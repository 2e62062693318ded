package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/jobspec"
)

// Inventory is what a cluster has to give out. It remembers nodes, and asks again
// only for those that have changed.
type Inventory struct {
	client *api.Client

	mu    sync.Mutex
	nodes map[string]known
	metas map[jobID]map[string]string // of endpoints' jobs
	// services are endpoints' jobs, by namespace and ID.
	services map[string]service
}

type jobID struct{ namespace, id string }

type known struct {
	index uint64
	node  inventory.Node
}

var _ admission.Cluster = (*Inventory)(nil)

// NewInventory returns the inventory of the cluster that client reaches.
func NewInventory(client *api.Client) *Inventory {
	return &Inventory{client: client, nodes: map[string]known{}, metas: map[jobID]map[string]string{}}
}

// Inventory is as admission.Cluster says.
func (v *Inventory) Inventory(ctx context.Context) ([]inventory.Node, []inventory.Alloc, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v.mu.Lock()
	defer v.mu.Unlock()
	// Nodes first: what is placed meanwhile is on a node that is known.
	nodes, err := v.listNodes(ctx)
	if err != nil {
		return nil, nil, err
	}
	allocs, err := v.listAllocs(ctx)
	return nodes, allocs, err
}

func (v *Inventory) listNodes(ctx context.Context) ([]inventory.Node, error) {
	q := (&api.QueryOptions{}).WithContext(ctx)
	stubs, _, err := v.client.Nodes().List(q)
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	there := make(map[string]known, len(stubs))
	nodes := make([]inventory.Node, 0, len(stubs))
	for _, s := range stubs {
		k, ok := v.nodes[s.ID]
		if !ok || k.index != s.ModifyIndex {
			n, _, err := v.client.Nodes().Info(s.ID, q)
			if statusOf(err) == 404 {
				continue // gone meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("asking for node %s: %w", s.ID, err)
			}
			k = known{n.ModifyIndex, inventory.FromNomad(n)}
		}
		there[s.ID] = k
		nodes = append(nodes, k.node)
	}
	v.nodes = there
	return nodes, nil
}

func (v *Inventory) listAllocs(ctx context.Context) ([]inventory.Alloc, error) {
	q := (&api.QueryOptions{Namespace: "*", Params: map[string]string{"resources": "true", "task_states": "false"}}).WithContext(ctx)
	stubs, _, err := v.client.Allocations().List(q)
	if err != nil {
		return nil, fmt.Errorf("listing allocations: %w", err)
	}
	var allocs []inventory.Alloc
	metas := map[jobID]map[string]string{}
	for _, s := range stubs {
		a, holds := inventory.AllocFromStub(s)
		if !holds {
			continue
		}
		if strings.HasPrefix(s.JobID, endpointPrefix) {
			if a.Meta, err = v.meta(ctx, s); err != nil {
				return nil, err
			}
			metas[jobID{s.Namespace, s.JobID}] = a.Meta
		}
		allocs = append(allocs, a)
	}
	v.metas = metas
	return allocs, nil
}

// endpointPrefix is what the IDs of endpoints' jobs start with.
const endpointPrefix = jobPrefix + "endpoint-"

// meta is whose an endpoint's job is, which its revisions do not change.
func (v *Inventory) meta(ctx context.Context, s *api.AllocationListStub) (map[string]string, error) {
	if m, ok := v.metas[jobID{s.Namespace, s.JobID}]; ok {
		return m, nil
	}
	job, _, err := v.client.Jobs().Info(s.JobID, (&api.QueryOptions{Namespace: s.Namespace}).WithContext(ctx))
	if statusOf(err) == 404 {
		return nil, nil // purged while an instance is still there
	}
	if err != nil {
		return nil, fmt.Errorf("asking for job %s: %w", s.JobID, err)
	}
	return map[string]string{
		jobspec.MetaWorkspace: job.Meta[jobspec.MetaWorkspace], jobspec.MetaEndpoint: job.Meta[jobspec.MetaEndpoint],
	}, nil
}

// Changes is as admission.Cluster says.
func (v *Inventory) Changes(ctx context.Context, ring func()) error {
	all := []string{string(api.TopicAll)}
	topics := map[api.Topic][]string{api.TopicAllocation: all, api.TopicNode: all}
	_, err := follow(ctx, v.client, topics, 0, ring, func(batch *api.Events) error {
		for i := range batch.Events {
			if !ours(&batch.Events[i]) {
				ring()
				break
			}
		}
		return nil
	})
	return err
}

// ours reports whether an event is about a task of Drover's, of which the run
// engine tells better.
func ours(e *api.Event) bool {
	if e.Topic != api.TopicAllocation {
		return false
	}
	object, _ := e.Payload[string(e.Topic)].(map[string]any)
	id, _ := object["JobID"].(string)
	return strings.HasPrefix(id, jobPrefix) && !strings.HasPrefix(id, endpointPrefix)
}
