package run_test

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/run"
)

const trains = `
pipeline "p" {}
step "train" {
  command = ["train"]
  output "model" {}
  checkpoint {}
  resources {
    gpu { count = 1 }
  }
}
`

// trainer is a task that makes a checkpoint whenever it is asked for one, and
// ends well once it is let.
type trainer struct {
	w   *world
	end chan struct{} // closed to let it end

	mu   sync.Mutex
	from []int64 // the checkpoint of each start, -1 for none
}

func newTrainer(w *world) *trainer { return &trainer{w: w, end: make(chan struct{})} }

func (tr *trainer) starts() []int64 {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]int64(nil), tr.from...)
}

func (tr *trainer) train(x clustertest.Task) clustertest.Exit {
	step, seal := tr.begin(x)
	for {
		select {
		case <-x.Signals:
			step++
			seal(step)
		case <-x.Stopped:
			return clustertest.Exit{Signal: 15}
		case <-tr.end:
			return usual(x)
		}
	}
}

// begin notes which checkpoint a start goes on from, and gives what makes one.
func (tr *trainer) begin(x clustertest.Task) (int64, func(int64)) {
	key := x.Job.TaskGroups[0].Tasks[0].Config["checkpoint"].([]map[string]any)[0]["key"].(string)
	record := func(step int64) string { return fmt.Sprintf("checkpoints/%s/step-%d", key, step) }
	step := int64(-1)
	var r mltask.CheckpointRecord
	for tr.w.artifacts.GetRecord(context.Background(), record(step+1), &r) == nil {
		step++
	}
	tr.mu.Lock()
	tr.from = append(tr.from, step)
	tr.mu.Unlock()
	if step >= 0 {
		x.Resumed(step)
	}
	return step, func(step int64) {
		tr.w.artifacts.PutRecord(record(step), mltask.CheckpointRecord{Step: step, SealedAt: time.Now(), AllocID: x.AllocID})
	}
}

// unasked takes no notice of signals.
func (tr *trainer) unasked(x clustertest.Task) clustertest.Exit {
	tr.begin(x)
	select {
	case <-x.Stopped:
		return clustertest.Exit{Signal: 15}
	case <-tr.end:
		return usual(x)
	}
}

func (w *world) incidents() []failover.Incident {
	w.t.Helper()
	all, err := w.engine.Incidents(context.Background(), failover.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func xid79(a gpustatus.Action) string {
	return gpustatus.Describe("Xid 79: GPU has fallen off the bus", a)
}

// eventually waits for what nobody tells of.
func eventually(t fataler, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func says(text string) func(run.Event) bool {
	return func(e run.Event) bool { return e.Type == "failover" && strings.Contains(e.Message, text) }
}

// A task on a GPU that is to be left makes a checkpoint and goes on elsewhere
// from there; its neighbours notice nothing.
func TestMoveOffAFailingGPU(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	for _, g := range []string{"n1/GPU-a", "n1/GPU-b", "n2/GPU-c"} {
		node, id, _ := strings.Cut(g, "/")
		w.cluster.AddGPU(node, id)
	}
	both := strings.Replace(trains, `step "train"`, `step "other" {
  command = ["other"]
  checkpoint {}
  resources {
    gpu { count = 1 }
  }
}
step "train"`, 1)
	tr, other := newTrainer(w), newTrainer(w)
	w.task("step.train", tr.train)
	w.task("step.other", other.train)
	id := w.submit(both)
	w.until(id, "step.train running", reaches("step.train", run.Running))
	w.until(id, "step.other running", reaches("step.other", run.Running))
	first := node(w.get(id), "step.train").Attempts[0]
	w.cluster.SetHealth(first.Devices[0], xid79(gpustatus.Move))
	w.until(id, "the task going on", says("goes on on node"))
	close(tr.end)
	close(other.end)
	r := w.wait(id)

	train := node(r, "step.train")
	want := fmt.Sprintf("moved off %s on node %s: Xid 79: GPU has fallen off the bus", first.Devices[0], first.NodeName)
	if r.Phase != run.Succeeded || len(train.Attempts) != 2 || train.Attempts[0].Reason != want || !train.Attempts[0].Moved {
		t.Errorf("%s, moved %v", describe(r), train.Attempts[0].Moved)
	}
	if second := train.Attempts[1]; second.Devices[0] == first.Devices[0] || second.ResumedFrom == nil || *second.ResumedFrom != 0 {
		t.Errorf("the second attempt = %+v", second)
	}
	if n := len(node(r, "step.other").Attempts); n != 1 || len(other.starts()) != 1 {
		t.Errorf("the other task has %d attempts", n)
	}
	all := w.incidents()
	if len(all) != 1 || len(all[0].Affected) != 1 {
		t.Fatalf("incidents = %+v", all)
	}
	i, x := all[0], all[0].Affected[0]
	if i.Device != first.Devices[0] || i.Board != "Pretend GPU" || i.Reason != "Xid 79: GPU has fallen off the bus" || i.Action != gpustatus.Move || i.Ended != nil || i.Times != 1 {
		t.Errorf("incident = %+v", i)
	}
	if x.Run != string(id) || x.Step != "step.train" || x.Attempt != 1 || x.Phase != failover.Resumed || x.Checkpoint == nil || *x.Checkpoint != 0 ||
		x.Checkpointed == nil || x.Stopped == nil || x.Resumed == nil || x.To != train.Attempts[1].NodeName || x.LostSeconds == nil {
		t.Errorf("affected = %+v", x)
	}
	w.cluster.SetHealth(first.Devices[0], "")
	eventually(t, "the incident ends", func() bool { return w.incidents()[0].Ended != nil })
}

func TestMoves(t *testing.T) {
	cases := map[string]struct {
		source string // instead of trains
		act    func(w *world, id run.ID, tr *trainer, gpu string)
		starts []int64
		phase  failover.Phase
		reason string // of the first attempt
	}{
		"end: nothing is waited for": {
			act: func(w *world, id run.ID, tr *trainer, gpu string) {
				w.cluster.SetHealth(gpu, xid79(gpustatus.End))
				w.until(id, "going on", says("goes on on node n2 from the beginning"))
			},
			starts: []int64{-1, -1}, phase: failover.Resumed, reason: "moved off GPU-a on node n1: Xid 79: GPU has fallen off the bus",
		},
		"keep: it may finish": {
			act: func(w *world, id run.ID, tr *trainer, gpu string) {
				w.cluster.SetHealth(gpu, gpustatus.Describe("row remap pending", gpustatus.Keep))
				eventually(w.t, "the incident", func() bool { return len(w.incidents()) == 1 })
			},
			starts: []int64{-1},
		},
		"without checkpoints it leaves at once": {
			source: strings.Replace(trains, "checkpoint {}", "", 1),
			act: func(w *world, id run.ID, tr *trainer, gpu string) {
				w.cluster.SetHealth(gpu, "some other plugin's words")
				w.until(id, "going on", says("goes on on node n2 from the beginning"))
			},
			phase: failover.Resumed, reason: "moved off GPU-a on node n1: some other plugin's words",
		},
		"well again before it has left": {
			act: func(w *world, id run.ID, tr *trainer, gpu string) {
				w.task("step.train", tr.unasked)
				w.cluster.SetHealth(gpu, xid79(gpustatus.Move))
				w.until(id, "asking", says("asking for a checkpoint"))
				w.cluster.SetHealth(gpu, "")
				w.until(id, "staying", says("well again: the task stays"))
			},
			starts: []int64{-1}, phase: failover.Stayed,
		},
		"worse while it is waited for": {
			act: func(w *world, id run.ID, tr *trainer, gpu string) {
				w.cluster.SetHealth(gpu, xid79(gpustatus.Move))
				w.until(id, "asking", says("asking for a checkpoint"))
				w.cluster.SetHealth(gpu, xid79(gpustatus.End))
				w.until(id, "going on", says("goes on on node n2 from the beginning"))
			},
			starts: []int64{-1, -1}, phase: failover.Resumed, reason: "moved off GPU-a on node n1: Xid 79: GPU has fallen off the bus",
		},
		"ended before it has left": {
			act: func(w *world, id run.ID, tr *trainer, gpu string) {
				w.cluster.SetHealth(gpu, xid79(gpustatus.Move))
				w.until(id, "asking", says("asking for a checkpoint"))
			},
			starts: []int64{-1}, phase: failover.Over,
		},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(nil)
			w.cluster.AddGPU("n1", "GPU-a")
			tr := newTrainer(w)
			w.task("step.train", tr.train)
			if strings.HasPrefix(name, "well again") || strings.HasPrefix(name, "worse") || strings.HasPrefix(name, "ended") {
				w.task("step.train", tr.unasked)
			}
			source := cmp.Or(tt.source, trains)
			if tt.source != "" {
				w.task("step.train", func(x clustertest.Task) clustertest.Exit {
					select {
					case <-x.Stopped:
						return clustertest.Exit{Signal: 15}
					case <-tr.end:
						return usual(x)
					}
				})
			}
			id := w.submit(source)
			w.until(id, "step.train running", reaches("step.train", run.Running))
			w.cluster.AddGPU("n2", "GPU-b")
			tt.act(w, id, tr, "GPU-a")
			close(tr.end)
			r := w.wait(id)
			train := node(r, "step.train")
			if r.Phase != run.Succeeded || fmt.Sprint(tr.starts()) != fmt.Sprint(tt.starts) || train.Attempts[0].Reason != tt.reason {
				t.Errorf("%s\nstarts %v", describe(r), tr.starts())
			}
			all := w.incidents()
			if len(all) != 1 {
				t.Fatalf("incidents = %+v", all)
			}
			if tt.phase == "" {
				if len(all[0].Affected) != 0 {
					t.Errorf("affected = %+v", all[0].Affected)
				}
			} else if len(all[0].Affected) != 1 || all[0].Affected[0].Phase != tt.phase {
				t.Errorf("affected = %+v, want one that %s", all[0].Affected, tt.phase)
			}
		})
	}
}

// The driver ends a task whose GPU is gone by itself, perhaps before Nomad
// knows: that is the same incident, no failure of the task's own, and the next
// attempt does not get that GPU, though Nomad would give it out.
func TestDriverEndsATaskWithItsGPU(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.cluster.AddGPU("n1", "GPU-a")
	tr := newTrainer(w)
	die := make(chan struct{})
	w.task("step.train", func(x clustertest.Task) clustertest.Exit {
		if x.Meta("drover.attempt") != "1" {
			return tr.train(x)
		}
		_, seal := tr.begin(x)
		seal(0)
		<-die
		return clustertest.Exit{Code: 1, Error: gpustatus.TaskError(gpustatus.Device{ID: "GPU-a", Reason: "Xid 79: GPU has fallen off the bus"}).Error()}
	})
	id := w.submit(trains)
	w.until(id, "step.train running", reaches("step.train", run.Running))
	close(die)
	w.until(id, "the wait for another GPU", func(e run.Event) bool {
		return strings.HasSuffix(e.Message, "1 node exhausted on devices; it was moved off GPU-a on node n1: Xid 79: GPU has fallen off the bus")
	})
	// A restart does not have Nomad's word, which is old, believed.
	w.shut()
	before := w.cluster.Lists()
	w.open(nil)
	eventually(t, "a look at the nodes, and another", func() bool { return w.cluster.Lists() >= before+2 })
	w.cluster.SetHealth("GPU-a", xid79(gpustatus.End))
	w.cluster.AddGPU("n1", "GPU-b")
	close(tr.end)
	r := w.wait(id)
	train := node(r, "step.train")
	if r.Phase != run.Succeeded || len(train.Attempts) != 2 || !train.Attempts[0].Moved || fmt.Sprint(tr.starts()) != "[-1 0]" {
		t.Errorf("%s\nstarts %v", describe(r), tr.starts())
	}
	if all := w.incidents(); len(all) != 1 || len(all[0].Affected) != 1 || all[0].Affected[0].Phase != failover.Resumed || all[0].Board != "Pretend GPU" || all[0].Times != 1 {
		t.Errorf("incidents = %+v", all)
	}
}

// A task that waits for another GPU than the one that failed gets that one, once
// it is in service again.
func TestAvoidedDeviceReturns(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.cluster.AddGPU("n1", "GPU-a")
	tr := newTrainer(w)
	w.task("step.train", func(x clustertest.Task) clustertest.Exit {
		if x.Meta("drover.attempt") != "1" {
			return tr.train(x)
		}
		tr.begin(x)
		return clustertest.Exit{Code: 1, Error: gpustatus.TaskError(gpustatus.Device{ID: "GPU-a", Reason: "gone"}).Error()}
	})
	close(tr.end)
	id := w.submit(trains)
	w.until(id, "the wait for another GPU", func(e run.Event) bool {
		return strings.Contains(e.Message, "1 node exhausted on devices")
	})
	w.cluster.SetHealth("GPU-a", xid79(gpustatus.End))
	eventually(t, "Nomad's word on the GPU", func() bool { return w.incidents()[0].Reason != "gone" })
	w.cluster.SetHealth("GPU-a", "")
	r := w.wait(id)
	train := node(r, "step.train")
	if r.Phase != run.Succeeded || len(train.Attempts) != 3 || !train.Attempts[1].Moved {
		t.Errorf("%s", describe(r))
	}
}

// A device that fails again and again moves a task only so often.
func TestFlapping(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.cluster.AddGPU("n1", "GPU-a")
	tr := newTrainer(w)
	w.task("step.train", tr.train)
	id := w.submit(trains)
	for i := range failover.MaxMoves {
		eventually(t, fmt.Sprint("start ", i+1), func() bool {
			n := node(w.get(id), "step.train")
			return len(n.Attempts) == i+1 && n.Phase == run.Running
		})
		w.cluster.SetHealth("GPU-a", xid79(gpustatus.End))
		eventually(t, fmt.Sprint("move ", i+1), func() bool { return len(node(w.get(id), "step.train").Attempts) == i+2 })
		w.cluster.SetHealth("GPU-a", "")
	}
	eventually(t, "the last start", func() bool { return node(w.get(id), "step.train").Phase == run.Running })
	w.cluster.SetHealth("GPU-a", xid79(gpustatus.End))
	eventually(t, "the fault is known", func() bool { return w.incidents()[0].Ended == nil })
	close(tr.end)
	r := w.wait(id)
	if n := len(node(r, "step.train").Attempts); r.Phase != run.Succeeded || n != failover.MaxMoves+1 {
		t.Errorf("%d attempts: %s", n, describe(r))
	}
	if all := w.incidents(); len(all) != 1 || all[0].Times != failover.MaxMoves+1 || len(all[0].Affected) != failover.MaxMoves {
		t.Errorf("incidents = %+v", all)
	}
}

func TestCancelWhileMoving(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.cluster.AddGPU("n1", "GPU-a")
	tr := newTrainer(w)
	stopping, release := make(chan struct{}), make(chan struct{})
	w.task("step.train", func(x clustertest.Task) clustertest.Exit {
		x2 := tr.train(x)
		close(stopping)
		<-release
		return x2
	})
	id := w.submit(trains)
	w.until(id, "step.train running", reaches("step.train", run.Running))
	w.cluster.SetHealth("GPU-a", xid79(gpustatus.End))
	<-stopping
	if err := w.engine.Cancel(t.Context(), id, "bob"); err != nil {
		t.Fatal(err)
	}
	close(release)
	r := w.wait(id)
	if a := node(r, "step.train"); r.Phase != run.Cancelled || a.Phase != run.Cancelled || len(a.Attempts) != 1 || a.Attempts[0].Moved {
		t.Error(describe(r))
	}
	if x := w.incidents()[0].Affected[0]; x.Phase != failover.Over {
		t.Errorf("affected = %+v", x)
	}
}

// An endpoint's instance is stopped on the GPU that fails, and Nomad places
// another.
func TestInstanceMoves(t *testing.T) {
	w := newWorld(t)
	w.open(nil)
	w.cluster.AddGPU("n1", "GPU-a")
	w.task("step.train", measures(map[string]float64{"accuracy": 1}))
	source := strings.Replace(served, `command = ["serve"]`, "command = [\"serve\"]\n  resources {\n    gpu { count = 1 }\n  }", 1)
	if r := w.wait(w.submit(source)); r.Phase != run.Succeeded {
		t.Fatal(describe(r))
	}
	w.cluster.AddGPU("n2", "GPU-b")
	w.cluster.SetHealth("GPU-a", xid79(gpustatus.Move))
	eventually(t, "the instance runs elsewhere", func() bool {
		all := w.incidents()
		return len(all) == 1 && len(all[0].Affected) == 1 && all[0].Affected[0].Phase == failover.Resumed
	})
	x := w.incidents()[0].Affected[0]
	if x.Endpoint != "digits" || x.Workspace != "default" || x.To != "n2" || x.Stopped == nil || x.Resumed == nil {
		t.Errorf("affected = %+v", x)
	}
}
