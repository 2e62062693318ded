package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/run"
)

// Watch follows the event stream. See run.Cluster.
func (n *Nomad) Watch(ctx context.Context, index uint64, connected func(), report func(run.Update)) (uint64, error) {
	// Where the cluster is now. Whoever asks how things stand from here on
	// sees at least this, and all later changes come through the stream.
	now, err := n.now(ctx)
	if err != nil {
		return index, fmt.Errorf("asking the cluster for its index: %w", err)
	}
	if index == 0 || index > now { // new, or the cluster has forgotten its past
		index = now
	}
	connected()
	all := []string{string(api.TopicAll)}
	topics := map[api.Topic][]string{
		api.TopicAllocation: all, api.TopicEvaluation: all, api.TopicDeployment: all, api.TopicJob: all, api.TopicNode: all,
	}
	return follow(ctx, n.client, topics, index, func() {}, func(batch *api.Events) error {
		for i := range batch.Events {
			u, ok, err := update(&batch.Events[i])
			if err != nil {
				return fmt.Errorf("reading event %d: %w", batch.Index, err)
			}
			if ok {
				report(u)
			}
		}
		return nil
	})
}

func (n *Nomad) now(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, meta, err := n.client.Jobs().List((&api.QueryOptions{Namespace: api.AllNamespacesNamespace, Prefix: jobPrefix, PerPage: 1}).WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// update makes news of an event, false if it is not about a node with devices
// or a job of Drover's. Events of other jobs are not decoded.
func update(e *api.Event) (run.Update, bool, error) {
	if e.Topic == api.TopicNode {
		n, err := e.Node()
		if err != nil || n == nil || n.NodeResources == nil || len(n.NodeResources.Devices) == 0 {
			return run.Update{}, false, err
		}
		return run.Update{Node: new(fromNode(n.ID, n.Name, n.ModifyIndex, n.NodeResources.Devices))}, true, nil
	}
	object, _ := e.Payload[string(e.Topic)].(map[string]any)
	id, _ := object["JobID"].(string)
	if e.Topic == api.TopicJob {
		id, _ = object["ID"].(string)
	}
	if !strings.HasPrefix(id, jobPrefix) {
		return run.Update{}, false, nil
	}
	u := run.Update{JobID: id}
	u.Namespace, _ = object["Namespace"].(string)
	switch e.Topic {
	case api.TopicAllocation:
		a, err := e.Allocation()
		if err != nil || a == nil {
			return u, false, err
		}
		u.Alloc = new(fromAlloc(a))
	case api.TopicEvaluation:
		ev, err := e.Evaluation()
		if err != nil || ev == nil || len(ev.FailedTGAllocs) == 0 {
			return u, false, err
		}
		u.Waits = new(waits(ev.FailedTGAllocs))
	case api.TopicJob:
		// Only a job that someone ended is news by itself.
		return u, e.Type == "JobDeregistered", nil
	}
	return u, true, nil
}
