package cluster

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Nodes lists the nodes with devices. See run.Cluster.
func (n *Nomad) Nodes(ctx context.Context) ([]failover.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stubs, _, err := n.client.Nodes().List((&api.QueryOptions{Params: map[string]string{"resources": "true"}}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	var nodes []failover.Node
	for _, s := range stubs {
		if s.NodeResources != nil && len(s.NodeResources.Devices) > 0 {
			nodes = append(nodes, fromNode(s.ID, s.Name, s.ModifyIndex, s.NodeResources.Devices))
		}
	}
	return nodes, nil
}

func fromNode(id, name string, index uint64, groups []*api.NodeDeviceResource) failover.Node {
	out := failover.Node{ID: id, Name: name, Index: index}
	for _, g := range groups {
		for _, d := range g.Instances {
			out.Devices = append(out.Devices, failover.Device{
				ID: d.ID, Board: g.Name, Healthy: d.Healthy, Description: d.HealthDescription,
			})
		}
	}
	return out
}

// Instances lists a node's endpoint instances. See run.Cluster.
func (n *Nomad) Instances(ctx context.Context, nodeID string) ([]run.Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	allocs, _, err := n.client.Nodes().Allocations(nodeID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("listing the allocations of node %s: %w", nodeID, err)
	}
	var out []run.Instance
	for _, a := range allocs {
		if a.Job == nil || a.Job.Meta[jobspec.MetaEndpoint] == "" || !strings.HasPrefix(a.JobID, jobPrefix) {
			continue
		}
		x := run.Instance{Alloc: fromAlloc(a), Workspace: a.Job.Meta[jobspec.MetaWorkspace], Endpoint: a.Job.Meta[jobspec.MetaEndpoint]}
		if !x.Ended() {
			out = append(out, x)
		}
	}
	return out, nil
}

// Signal sends a signal to a task. See run.Jobs.
func (n *jobs) Signal(ctx context.Context, allocID, signal string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := n.client.Allocations().Signal(&api.Allocation{ID: allocID}, n.reads(ctx), jobspec.TaskName, signal)
	if err == nil {
		return nil
	}
	// Nomad tells a task that does not run by this text only.
	if statusOf(err) == http.StatusNotFound || strings.Contains(err.Error(), "not running") {
		return run.ErrNoTask
	}
	return fmt.Errorf("sending %s to allocation %s: %w", signal, allocID, err)
}

// StopAlloc ends an allocation, which is placed again. See run.Jobs.
func (n *jobs) StopAlloc(ctx context.Context, allocID string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := n.reads(ctx)
	a, _, err := n.client.Allocations().Info(allocID, q)
	if err == nil && (a.DesiredStatus != api.AllocDesiredStatusRun || a.ClientTerminalStatus()) {
		return nil
	}
	if err == nil {
		_, err = n.client.Allocations().Stop(a, q)
	}
	if err != nil && statusOf(err) != http.StatusNotFound {
		return fmt.Errorf("stopping allocation %s: %w", allocID, err)
	}
	return nil
}
