package cli_test

import (
	"strings"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/gate"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
)

// at is a moment, in seconds after the beginning.
func at(seconds int) *time.Time {
	t := apitest.Epoch.Add(time.Duration(seconds) * time.Second)
	return &t
}

func to[T any](v T) *T { return &v }

// digest is one of a kind.
func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

// newWorld has a run that went well, an older one with other parameters, one
// that failed, one that is under way, and what came of them.
func newWorld() *apitest.World {
	w := &apitest.World{
		Stages: map[string][]run.Run{"tiny": tinyStages(), "broken": brokenStages()},
		LogText: map[pipeline.NodeID]string{
			"step.train": "epoch 1\nepoch 2\n",
		},
		Points: []run.MetricPoint{
			{Node: "step.train", Metric: "loss", Step: 1, Value: 0.9, Time: *at(21)},
			{Node: "step.train", Metric: "loss", Step: 2, Value: 0.25, Time: *at(22)},
			{Node: "step.train", Metric: "loss", Step: 3, Value: 0.3125, Time: *at(23)},
			{Node: "step.evaluate", Metric: "accuracy", Step: 0, Value: 0.953, Time: *at(30)},
		},
		Origin: run.Lineage{
			Produced:  []run.Use{{Run: "done2", Node: "step.train", Name: "model"}},
			Ancestors: []run.Use{{Run: "done2", Node: "dataset.digits", Name: "data"}},
			Consumed:  []run.Use{{Run: "done2", Node: "step.evaluate", Name: "model"}},
			Versions:  []registry.Version{{Model: "digits", Number: 2}},
		},
	}
	w.Add(done("done1", 0.05, 0.941, 1), done("done2", 0.02, 0.953, 2), failed(), waiting())
	w.Add(moved(), gang())
	w.AddIncident(failover.Incident{ID: "inc1", Fault: fault("GPU-0001", "gpu-01", "Xid 48: double-bit ECC error"), Cause: "Xid 48: double-bit ECC error",
		Seen: *at(100), Ended: at(700), Times: 2, Affected: []failover.Affected{}})
	w.AddIncident(incident())
	addQueue(w)
	w.AddModel(
		registry.Model{Workspace: "default", Name: "digits", Latest: 2, Aliases: map[string]int{"champion": 2}, Updated: *at(40)},
		version(2, 0.953, "champion"), version(1, 0.941),
	)
	w.AddEndpoint(registry.Endpoint{
		Workspace: "default", Name: "digits", Model: "digits", Version: 2, Revision: 2, Status: registry.Live, Run: "done2",
		Node: "endpoint.digits", JobID: "drover-endpoint-default-digits", Service: "drover-default-digits", Updated: *at(50),
	})
	return w
}

func version(n int, accuracy float64, aliases ...string) registry.Version {
	return registry.Version{
		Workspace: "default", Model: "digits", Number: n, Digest: digest("c"), Metrics: map[string]float64{"accuracy": accuracy},
		Params: map[string]any{"lr": 0.02}, Inputs: map[string]string{"features": digest("b")}, Run: "done" + string(rune('0'+n)),
		Node: "model.digits", Source: "step.train", Pipeline: "digits", By: "alice", Created: *at(40), Aliases: aliases,
	}
}

// done is a run of digits that went well.
func done(id run.ID, lr, accuracy float64, version int) run.Run {
	return run.Run{
		ID: id, Pipeline: "digits", Workspace: "default", Phase: run.Succeeded, By: "alice", Variables: map[string]any{"epochs": 12.0, "lr": lr},
		Submitted: *at(0), Started: at(0), Ended: at(60),
		Nodes: []run.Node{
			{ID: "dataset.digits", Kind: pipeline.KindDataset, Phase: run.Succeeded, Started: at(0), Ended: at(0), Outputs: map[string]run.Output{"data": {Digest: digest("a"), Kind: "file", Bytes: 123456, Files: 1}}},
			{ID: "step.features", Kind: pipeline.KindStep, Phase: run.Succeeded, Cached: "earlier", Started: at(0), Ended: at(0), Depends: []pipeline.NodeID{"dataset.digits"},
				Inputs: map[string]string{"data": digest("a")}, Outputs: map[string]run.Output{"features": {Digest: digest("b"), Kind: "dir", Bytes: 4096, Files: 4}}},
			{ID: "sweep.search", Kind: pipeline.KindSweep, Phase: run.Succeeded, Started: at(1), Ended: at(20), Depends: []pipeline.NodeID{"step.features"}, Best: to(1),
				Metrics: map[string]float64{"val_accuracy": 0.95},
				Trials: []run.Trial{
					{Index: 0, Phase: run.Succeeded, Params: map[string]any{"lr": 0.005}, Metrics: map[string]float64{"val_accuracy": 0.9}, Started: at(1), Ended: at(10)},
					{Index: 1, Phase: run.Succeeded, Params: map[string]any{"lr": lr}, Metrics: map[string]float64{"val_accuracy": 0.95}, Started: at(10), Ended: at(20)},
				}},
			{ID: "step.train", Kind: pipeline.KindStep, Phase: run.Succeeded, Started: at(20), Ended: at(29), Depends: []pipeline.NodeID{"step.features", "sweep.search"},
				Params: map[string]any{"lr": lr, "epochs": 12.0}, Metrics: map[string]float64{"loss": 0.3125},
				Inputs:  map[string]string{"features": digest("b")},
				Outputs: map[string]run.Output{"model": {Digest: digest("c"), Kind: "file", Bytes: 2048, Files: 1}},
				Attempts: []run.Attempt{
					{Number: 1, JobID: "drover-x-train-1", AllocID: "11111111-2222", NodeName: "dev-1", Phase: run.Failed, Signal: 9, OOM: true, LogTail: "allocating\nKilled\n", Started: at(20), Ended: at(22)},
					{Number: 2, JobID: "drover-x-train-2", AllocID: "33333333-4444", NodeName: "dev-2", Phase: run.Succeeded, ExitCode: to(0), ResumedFrom: to(int64(3)), Devices: []string{"GPU-1"}, Started: at(22), Ended: at(29)},
				}},
			{ID: "step.evaluate", Kind: pipeline.KindStep, Phase: run.Succeeded, Started: at(29), Ended: at(31), Depends: []pipeline.NodeID{"step.features", "step.train"},
				Metrics: map[string]float64{"accuracy": accuracy}, Inputs: map[string]string{"model": digest("c")}},
			{ID: "gate.accuracy", Kind: pipeline.KindGate, Phase: run.Succeeded, Started: at(31), Ended: at(31), Depends: []pipeline.NodeID{"step.evaluate"},
				Gate: &run.Verdict{Passed: true, Champion: version - 1, Checks: []gate.CheckResult{{Metric: "accuracy", Value: &accuracy, Passed: true, Reason: "accuracy of step.evaluate is at least 0.9"}}}},
			{ID: "model.digits", Kind: pipeline.KindModel, Phase: run.Succeeded, Started: at(31), Ended: at(31), Depends: []pipeline.NodeID{"gate.accuracy", "step.train"}, Model: "digits", Version: version,
				Outputs: map[string]run.Output{"model": {Digest: digest("c"), Kind: "file", Bytes: 2048, Files: 1}}},
			{ID: "endpoint.digits", Kind: pipeline.KindEndpoint, Phase: run.Succeeded, Started: at(31), Ended: at(60), Depends: []pipeline.NodeID{"model.digits"}, Endpoint: "digits"},
		},
	}
}

// failed is a run whose gate refused.
func failed() run.Run {
	accuracy := 0.21
	return run.Run{
		ID: "failed", Pipeline: "digits", Workspace: "default", Phase: run.Failed, By: "bob", Error: "gate accuracy refused: accuracy 0.21 is below 0.9",
		Submitted: *at(100), Started: at(100), Ended: at(160),
		Nodes: []run.Node{
			{ID: "step.evaluate", Kind: pipeline.KindStep, Phase: run.Succeeded, Started: at(100), Ended: at(150), Metrics: map[string]float64{"accuracy": accuracy}},
			{ID: "gate.accuracy", Kind: pipeline.KindGate, Phase: run.Failed, Started: at(150), Ended: at(150), Reason: "accuracy 0.21 is below 0.9",
				Gate: &run.Verdict{Checks: []gate.CheckResult{{Metric: "accuracy", Value: &accuracy, Reason: "accuracy 0.21 is below 0.9"}}}},
			{ID: "model.digits", Kind: pipeline.KindModel, Phase: run.Skipped, Model: "digits", Reason: "gate.accuracy failed"},
		},
	}
}

// waiting is a run that waits for GPUs.
func waiting() run.Run {
	return run.Run{
		ID: "waiting", Pipeline: "large", Workspace: "default", Phase: run.Running, By: "bob", Submitted: *at(3000), Started: at(3000),
		Nodes: []run.Node{
			{ID: "step.prepare", Kind: pipeline.KindStep, Phase: run.Running, Started: at(3000), Progress: &run.Progress{Step: 40, Metrics: map[string]float64{"rows": 12000}},
				Attempts: []run.Attempt{{Number: 1, JobID: "drover-y-prepare-1", AllocID: "55555555-6666", NodeName: "dev-1", Phase: run.Running, Started: at(3000)}}},
			{ID: "step.train", Kind: pipeline.KindStep, Phase: run.Queued, Reason: "needs 8 GPUs on one node; the largest free block is 6 (gpu-03)"},
			{ID: "step.report", Kind: pipeline.KindStep, Phase: run.Waiting, Depends: []pipeline.NodeID{"step.train"}, Reason: "waits for step.train"},
		},
	}
}

// tinyStages is the life of a run that goes well.
func tinyStages() []run.Run {
	node := func(p run.Phase, more func(*run.Node)) []run.Node {
		n := run.Node{ID: "step.hello", Kind: pipeline.KindStep, Phase: p}
		more(&n)
		return []run.Node{n}
	}
	return []run.Run{
		{Phase: run.Running, Started: at(0), Nodes: node(run.Waiting, func(*run.Node) {})},
		{Phase: run.Running, Started: at(0), Nodes: node(run.Queued, func(n *run.Node) { n.Reason = "waits for a free node" })},
		{Phase: run.Running, Started: at(0), Nodes: node(run.Running, func(n *run.Node) {
			n.Started = at(1)
			n.Progress = &run.Progress{Step: 1}
			n.Attempts = []run.Attempt{{Number: 1, JobID: "j", NodeName: "dev-1", Phase: run.Running}}
		})},
		{Phase: run.Succeeded, Started: at(0), Ended: at(5), Nodes: node(run.Succeeded, func(n *run.Node) {
			n.Started, n.Ended, n.Metrics = at(1), at(5), map[string]float64{"greetings": 3}
		})},
	}
}

// brokenStages is the life of a run whose step fails twice.
func brokenStages() []run.Run {
	attempt := func(n int) run.Attempt {
		return run.Attempt{Number: n, JobID: "j" + string(rune('0'+n)), NodeName: "dev-1", Phase: run.Failed, ExitCode: to(3),
			LogTail: "Traceback:\n  no such column: \x1b[31mlabel\n"}
	}
	stage := func(p run.Phase, attempts ...run.Attempt) run.Run {
		n := run.Node{ID: "step.hello", Kind: pipeline.KindStep, Phase: p, Started: at(1), Attempts: attempts}
		r := run.Run{Phase: p, Started: at(0), Nodes: []run.Node{n}}
		if p.Ended() {
			r.Error, r.Ended = "step.hello failed: exit code 3", at(9)
			r.Nodes[0].Ended, r.Nodes[0].Reason = at(8), "exit code 3"
		}
		return r
	}
	return []run.Run{
		stage(run.Running),
		stage(run.Running, attempt(1), run.Attempt{Number: 2, JobID: "j2", NodeName: "dev-1", Phase: run.Running}),
		stage(run.Failed, attempt(1), attempt(2)),
	}
}

func fault(device, node, reason string) failover.Fault {
	return failover.Fault{NodeID: "7d5c", NodeName: node, Device: device, Board: "NVIDIA A100-SXM4-40GB", Reason: reason, Action: gpustatus.Move}
}

// moved is a run whose training was moved off a GPU.
func moved() run.Run {
	why := fault("GPU-0002", "gpu-01", "Xid 48: double-bit ECC error").Why()
	return run.Run{
		ID: "moved", Pipeline: "long", Workspace: "default", Phase: run.Running, By: "ann", Submitted: *at(2000), Started: at(2000),
		Nodes: []run.Node{{
			ID: "step.train", Kind: pipeline.KindStep, Phase: run.Running, Started: at(2010), Progress: &run.Progress{Step: 140},
			Attempts: []run.Attempt{
				{Number: 1, JobID: "drover-m-train-1", AllocID: "aaaaaaaa-1111", NodeName: "gpu-01", Phase: run.Failed, Reason: why, Moved: true, Incident: "inc2",
					Devices: []string{"GPU-0002"}, Started: at(2010), Ended: at(3000), LogTail: "never shown"},
				{Number: 2, JobID: "drover-m-train-2", AllocID: "bbbbbbbb-2222", NodeName: "gpu-02", Phase: run.Running, ResumedFrom: to(int64(120)),
					Devices: []string{"GPU-0009"}, Started: at(3002)},
			},
		}},
	}
}

// gang is a run whose training of three members has made room once.
func gang() run.Run {
	members := []run.Member{
		{AllocID: "a0000000-1111", NodeName: "gpu-01", Devices: []string{"GPU-0001", "GPU-0002"}},
		{AllocID: "a1111111-1111", NodeName: "gpu-01", Devices: []string{"GPU-0003", "GPU-0004"}},
		{AllocID: "a2222222-1111", NodeName: "gpu-02", Devices: []string{"GPU-0011", "GPU-0012"}},
	}
	return run.Run{
		ID: "gang", Pipeline: "large", Workspace: "default", Phase: run.Running, By: "ann", Submitted: *at(1900), Started: at(1900),
		Nodes: []run.Node{{
			ID: "step.train", Kind: pipeline.KindStep, Phase: run.Running, Started: at(1910), Progress: &run.Progress{Step: 140},
			Attempts: []run.Attempt{
				{Number: 1, JobID: "drover-g-train-1", AllocID: "b0000000-1111", NodeName: "gpu-03", Phase: run.Failed, Free: true, Evicted: true,
					Reason: "it makes room for urgent/step.train", Started: at(1910), Ended: at(2900), LogTail: "never shown", Members: members},
				{Number: 2, JobID: "drover-g-train-2", AllocID: "a0000000-1111", NodeName: "gpu-01", Phase: run.Running, ResumedFrom: to(int64(120)),
					Devices: []string{"GPU-0001", "GPU-0002", "GPU-0003", "GPU-0004", "GPU-0011", "GPU-0012"}, Started: at(3002), Members: members},
			},
		}},
	}
}

// incident is that of the run that was moved, and of an endpoint's instance.
func incident() failover.Incident {
	f := fault("GPU-0002", "gpu-01", "Xid 48: double-bit ECC error; check 1 of 3 is due at 13:00")
	return failover.Incident{
		ID: "inc2", Fault: f, Cause: "Xid 48: double-bit ECC error", Seen: *at(2990), Times: 1,
		Affected: []failover.Affected{
			{Workspace: "default", Endpoint: "digits", Move: failover.Move{Incident: "inc2", Fault: f, AllocID: "cccccccc-3333", Phase: failover.Left,
				Seen: *at(2990), Stopped: at(2991), Outcome: "stopped: Nomad places another instance"}},
			{Workspace: "default", Run: "moved", Step: "step.train", Attempt: 1, Move: failover.Move{Incident: "inc2", Fault: f, AllocID: "aaaaaaaa-1111",
				Phase: failover.Resumed, Seen: *at(2990), Checkpointed: at(2998), Stopped: at(3000), Resumed: at(3002), To: "gpu-02",
				Checkpoint: to(int64(120)), LostSteps: to(int64(1)), LostSeconds: to(2.0), Outcome: "goes on on node gpu-02 from step 120"}},
		},
	}
}
