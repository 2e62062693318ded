package cli_test

import (
	"fmt"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// task is one in the queue of a workspace.
func task(id, workspace, state string, gpus, members, submitted int) admission.Entry {
	return admission.Entry{
		Task: queue.JobID(id), Workspace: workspace, Queue: queue.QueueID(workspace), State: state, Members: members, Submitted: *at(submitted),
		Needs: admission.Resources{"h100": fmt.Sprint(gpus), "cpu": "64", "memory": "512"},
	}
}

func running(id, workspace string, gpus int, since int, nodes ...string) admission.Entry {
	e := task(id, workspace, "admitted", gpus, len(nodes), since)
	e.Started, e.Nodes = at(since), nodes
	return e
}

func waitingFor(position int, e admission.Entry, r admission.Reason, expected int, nodes ...string) admission.Entry {
	e.Position, e.Reason = position, &r
	if expected > 0 {
		e.Expected, e.OnNodes = at(expected), nodes
	}
	return e
}

// addQueue has two workspaces that share a cluster; the world's user is of the first.
func addQueue(w *apitest.World) {
	noPlace := admission.Reason{Code: "no_place", Flavor: "h100", Need: "8", Members: 4, Placeable: 2, Until: at(9000),
		Text: "needs room for 4 members of 8 h100 at once; there is room for 2; add nodes for 2 more, until 2026-03-01T14:30:00Z"}
	quota := admission.Reason{Code: "quota_in_use", Subject: "research", Flavor: "h100", Need: "16", Have: "8", Members: 1,
		Text:  `needs 16 h100; "research" has 8 unused; raise its queue's nominal quota by 8 h100, or wait for jobs to end`,
		Raise: admission.Resources{"h100": "8"}}
	leaving := running("01k1/step.tune", "default", 8, -1200, "gpu-02")
	leaving.State, leaving.For = "leaving", "01k3/step.urgent"
	foreign := running("alloc/9f2c1a7e-6a51-4b0e-8b3c-2f1d7c0e4a55", "default", 1, -90000, "gpu-03")
	foreign.State = "foreign"
	urgent := waitingFor(1, task("01k3/step.urgent", "default", "waiting", 8, 1, -60),
		admission.Reason{Code: "evicting", Text: "others are leaving to make room; it starts when they are gone"}, 0)
	urgent.Expected, urgent.OnNodes, urgent.Priority = at(0), []string{"gpu-02"}, 1000
	urgent.Evicts = []admission.Victim{{Task: "01k1/step.tune", LostGPUSeconds: 5400}}
	speech := task("01k5/step.big", "speech", "waiting", 16, 1, -300)
	w.Work = []admission.Entry{
		foreign,
		running("01k0/step.train", "default", 64, -7200, "gpu-04", "gpu-05", "gpu-06", "gpu-07", "gpu-08", "gpu-09", "gpu-10", "gpu-11"),
		leaving,
		running("01k2/step.asr", "speech", 8, -600, "gpu-12"),
		urgent,
		waitingFor(2, task("01k4/step.pretrain", "default", "waiting", 32, 4, -600), noPlace, 9000, "gpu-04", "gpu-05", "gpu-06", "gpu-07"),
		waitingFor(3, speech, quota, 0),
	}
	w.Work[4].Evictions = 2
	now, then := w.Work[5].Outlook, w.Work[5].Outlook
	then.Reason, then.Expected, then.OnNodes = nil, at(0), []string{"gpu-01+1.1", "gpu-01+1.2"}
	then.Evicts = []admission.Victim{{Task: "01k1/step.tune", LostGPUSeconds: 30}}
	w.WhatIfs = map[string]admission.Comparison{
		"gpu-01=2": {At: apitest.Epoch, Waiting: 3, Earlier: 1, Tasks: []admission.Compared{
			{Task: "01k4/step.pretrain", Workspace: "default", Members: 4, Needs: w.Work[5].Needs, Submitted: w.Work[5].Submitted, Change: admission.Earlier, Now: now, Then: then},
			{Task: "01k3/step.urgent", Workspace: "default", Members: 1, Needs: urgent.Needs, Change: admission.Same, Now: urgent.Outlook, Then: urgent.Outlook},
		}},
		"": {At: apitest.Epoch, Waiting: 1, Tasks: []admission.Compared{}},
	}
	planned := waitingFor(3, task("plan/step.hello", "default", "waiting", 32, 4, 0), noPlace, 9000, "gpu-04", "gpu-05")
	planned.Evicts = urgent.Evicts
	w.Outlooks = map[pipeline.NodeID][]admission.Entry{"step.hello": {planned}}
}
