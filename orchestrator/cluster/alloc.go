package cluster

import (
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
)

func fromStub(s *api.AllocationListStub) run.Alloc {
	return fromAlloc(&api.Allocation{
		ID: s.ID, Namespace: s.Namespace, JobID: s.JobID, NodeID: s.NodeID, NodeName: s.NodeName, TaskGroup: s.TaskGroup,
		CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
		ClientStatus: s.ClientStatus, ClientDescription: s.ClientDescription,
		DesiredStatus: s.DesiredStatus, DesiredDescription: s.DesiredDescription,
		PreemptedByAllocation: s.PreemptedByAllocation,
		TaskStates:            s.TaskStates, AllocatedResources: s.AllocatedResources, DeploymentStatus: s.DeploymentStatus,
		Job: &api.Job{Version: &s.JobVersion},
	})
}

func fromAlloc(a *api.Allocation) run.Alloc {
	out := run.Alloc{
		ID: a.ID, Namespace: a.Namespace, JobID: a.JobID, NodeID: a.NodeID, NodeName: a.NodeName,
		Created: a.CreateIndex, Modified: a.ModifyIndex,
		Client: a.ClientStatus, Desired: a.DesiredStatus,
		Description: a.ClientDescription, Preempted: a.PreemptedByAllocation != "",
	}
	out.Rank, _ = jobspec.RankOf(a.TaskGroup)
	if d := a.DeploymentStatus; d != nil && d.Healthy != nil {
		out.Unhealthy = !*d.Healthy
	}
	if a.Job != nil && a.Job.Version != nil {
		out.JobVersion = *a.Job.Version
	}
	if a.DesiredStatus != api.AllocDesiredStatusRun || out.Description == "" {
		out.Description = a.DesiredDescription
	}
	if a.AllocatedResources != nil {
		if t := a.AllocatedResources.Tasks[jobspec.TaskName]; t != nil {
			for _, d := range t.Devices {
				out.Devices = append(out.Devices, d.DeviceIDs...)
			}
		}
	}
	if t := a.TaskStates[jobspec.TaskName]; t != nil {
		out.Started, out.Finished, out.Failed = t.StartedAt, t.FinishedAt, t.Failed
		for _, e := range t.Events {
			fromEvent(&out, e)
		}
	}
	return out
}

// resumedMessage is how the ml driver tells that a task goes on from a
// checkpoint, whose step is the event's detail "step".
const resumedMessage = "Resumed from step "

// fromEvent takes in what a task event tells: how the task ended, what the
// driver says, and what went wrong. The newest event comes last.
func fromEvent(a *run.Alloc, e *api.TaskEvent) {
	message := e.DisplayMessage
	if message == "" {
		message = e.Message
	}
	switch e.Type {
	case api.TaskDriverMessage:
		if step, err := strconv.ParseInt(e.Details["step"], 10, 64); err == nil && strings.HasPrefix(message, resumedMessage) {
			a.ResumedFrom = &step
		}
		a.Events = append(a.Events, run.TaskEvent{
			Time: time.Unix(0, e.Time).UTC(), Message: message, Fault: fromFault(a, e.Details),
			Sealed: strings.HasPrefix(message, "Checkpoint ") && strings.HasSuffix(message, " sealed"),
		})
	case api.TaskTerminated:
		a.ExitCode, a.Signal = new(intOf(e.Details["exit_code"], e.ExitCode)), intOf(e.Details["signal"], e.Signal)
		a.OOM = e.Details["oom_killed"] == "true"
		if m := e.Details["exit_message"]; m != "" {
			a.Problem = m
		}
	// A device plugin's refusal is a failed hook.
	case api.TaskSetupFailure, api.TaskDriverFailure, api.TaskFailedValidation, "Failed Artifact Download", "Task hook failed":
		for _, m := range []string{e.Details["driver_error"], e.Details["setup_error"], e.Details["validation_error"], e.Details["download_error"], message} {
			if m = strings.TrimSpace(m); m != "" {
				a.Problem = m
				break
			}
		}
	}
}

// fromFault is the fault of a GPU that the ml driver tells of, nil if it tells
// of something else.
func fromFault(a *run.Alloc, details map[string]string) *failover.Fault {
	f := failover.Fault{
		NodeID: a.NodeID, NodeName: a.NodeName, Index: a.Created,
		Device: details["gpu"], Reason: details["reason"], Action: gpustatus.Action(details["action"]),
	}
	if f.Device == "" || f.Reason == "" || f.Action == "" {
		return nil
	}
	return &f
}

func intOf(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return otherwise
}
