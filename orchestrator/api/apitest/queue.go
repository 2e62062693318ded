package apitest

import (
	"context"
	"fmt"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/problem"
)

// Queue returns what f wants of w.Work.
func (w *World) Queue(_ context.Context, f admission.Filter) (admission.View, error) {
	v := admission.View{At: Epoch, Entries: []admission.Entry{}}
	for _, e := range w.Work {
		waits := e.State == "waiting"
		if f.Task != "" && f.Task != e.Task || f.Workspace != "" && f.Workspace != e.Workspace || f.Waiting && !waits {
			continue
		}
		n := &v.Running
		if waits {
			n = &v.Waiting
		}
		if *n++; f.Limit == 0 || *n <= f.Limit {
			v.Entries = append(v.Entries, e)
		}
	}
	return v, w.Fail
}

// WhatIf returns that of w.WhatIfs for the nodes; with other definitions alone, that
// of "".
func (w *World) WhatIf(_ context.Context, s admission.Supposition, _ admission.Filter) (admission.Comparison, error) {
	key := ""
	for _, n := range s.Nodes {
		key = fmt.Sprintf("%s=%d", n.Like, n.Count)
	}
	c, ok := w.WhatIfs[key]
	if w.Fail == nil && !ok {
		return c, problem.New(problem.NotFound, "there is no node in the cluster that more could be like: %s", key)
	}
	return c, w.Fail
}
