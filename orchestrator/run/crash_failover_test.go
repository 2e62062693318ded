package run_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/orchestrator/cluster/clustertest"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (s dyingStore) OpenIncident(ctx context.Context, i failover.Incident) (out failover.Incident, err error) {
	err = s.effect("OpenIncident", func() (err error) { out, err = s.Store.OpenIncident(ctx, i); return })
	return out, err
}

func (s dyingStore) UpdateIncident(ctx context.Context, id string, change func(*failover.Incident)) (out failover.Incident, err error) {
	err = s.effect("UpdateIncident", func() (err error) { out, err = s.Store.UpdateIncident(ctx, id, change); return })
	return out, err
}

// story is a run in which a GPU fails.
type story struct {
	source string
	play   func(w *world)
	// told reports whether all has happened, after the run's end.
	told func(w *world) bool
}

// essenceOfMoves is what must be the same of an incident, whatever happened on
// the way.
func (w *world) essenceOfMoves(m map[string]string) {
	for i, x := range w.incidents() {
		s := fmt.Sprintf("%s on %s: %s, %d times:", x.Device, x.NodeName, x.Reason, x.Times)
		for _, a := range x.Affected {
			s += fmt.Sprintf(" [%s%s %d %s to %s]", a.Step, a.Endpoint, a.Attempt, a.Phase, a.To)
			if a.Checkpoint != nil {
				s += fmt.Sprintf(" from %d", *a.Checkpoint)
			}
		}
		m[fmt.Sprint("incident ", i)] = s
	}
	m["starts"] = fmt.Sprint(w.cluster.StartsByMeta())
}

// A GPU fails, and the engine is killed at every write and every call of what
// follows: nothing is lost, and nothing happens twice.
func TestKillAtEveryEffectOfAMove(t *testing.T) {
	twoGPUs := func(w *world) {
		w.cluster.AddGPU("n1", "GPU-a")
		w.cluster.AddGPU("n2", "GPU-b")
	}
	resumed := func(w *world) bool {
		all := w.incidents()
		return len(all) == 1 && len(all[0].Affected) == 1 && all[0].Affected[0].Phase == failover.Resumed
	}
	stories := map[string]story{
		"with a checkpoint": {
			source: trains, told: resumed,
			play: func(w *world) {
				twoGPUs(w)
				tr := newTrainer(w)
				w.task("step.train", func(x clustertest.Task) clustertest.Exit {
					if x.Meta("drover.attempt") == "1" {
						go w.cluster.SetHealth("GPU-a", xid79(gpustatus.Move))
						step, seal := tr.begin(x)
						<-x.Signals
						seal(step + 1)
						<-x.Stopped
						return clustertest.Exit{Signal: 15}
					}
					tr.begin(x)
					return usual(x)
				})
			},
		},
		"its GPU is gone": {
			source: trains, told: resumed,
			play: func(w *world) {
				twoGPUs(w)
				w.task("step.train", func(x clustertest.Task) clustertest.Exit {
					if x.Meta("drover.attempt") == "1" {
						w.cluster.SetHealth("GPU-a", xid79(gpustatus.End))
						return clustertest.Exit{Code: 1, Error: gpustatus.TaskError(gpustatus.Device{ID: "GPU-a", Reason: "Xid 79: GPU has fallen off the bus"}).Error()}
					}
					return usual(x)
				})
			},
		},
		"an endpoint's instance": {
			source: strings.Replace(served, `command = ["serve"]`, "command = [\"serve\"]\n  resources {\n    gpu { count = 1 }\n  }", 1) +
				"step \"last\" {\n  command    = [\"last\"]\n  depends_on = [endpoint.digits]\n}\n",
			told: resumed,
			play: func(w *world) {
				twoGPUs(w)
				w.task("step.train", measures(map[string]float64{"accuracy": 1}))
				w.task("step.last", func(x clustertest.Task) clustertest.Exit {
					w.cluster.SetHealth("GPU-a", xid79(gpustatus.Move))
					return usual(x)
				})
			},
		},
	}
	for name, s := range stories {
		t.Run(name, func(t *testing.T) { killAtEveryEffectOf(t, s) })
	}
}

func killAtEveryEffectOf(t *testing.T, story story) {
	outcome := func(w *world, s run.Submission) map[string]string {
		m := essence(w.finish(s))
		eventually(w.t, fmt.Sprintf("all that belongs to it: %+v", w.incidents()), func() bool { return story.told(w) })
		w.essenceOfMoves(m)
		return m
	}
	undisturbed := newWorld(t)
	story.play(undisturbed)
	undisturbed.open(nil)
	s := undisturbed.submission(story.source)
	s.Key = "k"
	want := outcome(undisturbed, s)

	places := map[string]bool{}
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			w := makeWorld(t, t.TempDir())
			story.play(w)
			d := dieAt(n, after)
			w.cluster.Fault(func(when, call, job string) error {
				if (when == "after") == after && (call == "Register" || call == "Stop" || call == "Signal" || call == "StopAlloc") {
					return d.effect(call, func() error { return nil })
				}
				if d.isDead() {
					return errDead
				}
				return nil
			})
			w.open(func(s run.Store) run.Store { return dyingStore{s, d} })
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() {
				r, _, err := w.engine.Submit(ctx, s)
				if err != nil {
					return
				}
				if events, err := w.engine.Watch(ctx, r.ID, 0); err == nil {
					for range events {
					}
				}
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil && !story.told(w) {
					<-tick.C
				}
				cancel()
			})
			select {
			case <-d.dead:
			case <-ctx.Done():
			}
			cancel()
			wg.Wait()
			w.shut()
			survived := !d.isDead()
			w.cluster.Fault(nil)
			w.open(nil)
			if diff := cmp.Diff(want, outcome(w, s)); diff != "" {
				t.Fatalf("killed %s (effect %d): (-undisturbed +killed):\n%s", d.where, n, diff)
			}
			w.close()
			if survived {
				break
			}
			places[d.where] = true
		}
	}
	t.Logf("killed at %d places", len(places))
}
