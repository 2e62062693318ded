package cluster

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// service is an endpoint's job as it was read, to be read again when it changes.
type service struct {
	index uint64
	admission.Service
}

// Services is as admission.Cluster says.
func (v *Inventory) Services(ctx context.Context) ([]admission.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v.mu.Lock()
	defer v.mu.Unlock()
	stubs, _, err := v.client.Jobs().List((&api.QueryOptions{Prefix: endpointPrefix, Namespace: "*"}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("listing endpoints' jobs: %w", err)
	}
	there := make(map[string]service, len(stubs))
	var all []admission.Service
	for _, s := range stubs {
		if s.Stop {
			continue
		}
		key := s.Namespace + "/" + s.ID
		known, ok := v.services[key]
		if !ok || known.index != s.JobModifyIndex {
			job, _, err := v.client.Jobs().Info(s.ID, (&api.QueryOptions{Namespace: s.Namespace}).WithContext(ctx))
			if statusOf(err) == 404 {
				continue // gone meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("asking for job %s: %w", s.ID, err)
			}
			known = service{s.JobModifyIndex, fromService(job)}
		}
		there[key] = known
		if known.Workspace != "" {
			all = append(all, known.Service)
		}
	}
	v.services = there
	return all, nil
}

// fromService reads an endpoint's job; one without a workspace is none.
func fromService(job *api.Job) admission.Service {
	if len(job.TaskGroups) == 0 || len(job.TaskGroups[0].Tasks) == 0 || job.Meta[jobspec.MetaEndpoint] == "" {
		return admission.Service{}
	}
	group := job.TaskGroups[0]
	out := admission.Service{JobID: *job.ID, Workspace: job.Meta[jobspec.MetaWorkspace], Priority: *job.Priority}
	if group.Count != nil {
		out.Count = *group.Count
	}
	out.Ask.Driver = group.Tasks[0].Driver
	r := group.Tasks[0].Resources
	if r == nil {
		return out
	}
	if r.Cores != nil && *r.Cores > 0 {
		out.Ask.Cores = *r.Cores
	} else if r.CPU != nil {
		out.Ask.CPUMHz = int64(*r.CPU)
	}
	if r.MemoryMB != nil {
		out.Ask.MemoryMiB = int64(*r.MemoryMB)
	}
	if len(r.Devices) > 0 {
		out.Ask.GPU = fromDevice(r.Devices[0])
	}
	return out
}

func fromDevice(d *api.RequestedDevice) *pipeline.GPU {
	g := &pipeline.GPU{Device: d.Name, Count: 1}
	if d.Count != nil {
		g.Count = int(*d.Count)
	}
	for _, c := range d.Constraints {
		g.Constraints = append(g.Constraints, pipeline.Constraint{Attribute: c.LTarget, Operator: c.Operand, Value: c.RTarget})
	}
	return g
}
