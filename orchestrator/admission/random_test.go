package admission_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// play is a random history: tasks come and end and make room, others' work comes
// and goes, nodes stop taking work, Nomad declines, and the scheduler dies.
type play struct {
	t     *testing.T
	w     *world
	r     *rand.Rand
	open  map[queue.JobID]admission.Request // as it was asked for last
	tasks int
}

func TestRandomHistories(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &play{t: t, w: newWorld(t, 4, 4, 2), r: rand.New(rand.NewPCG(seed, 1)), open: map[queue.JobID]admission.Request{}}
				for range 80 {
					p.step()
					p.w.settle()
					p.check()
				}
				p.drain()
				p.w.stop()
			})
		})
	}
}

func (p *play) step() {
	running := p.running()
	switch k := p.r.IntN(20); {
	case k < 8:
		p.tasks++
		req := wants(queue.JobID(fmt.Sprintf("t%d", p.tasks)), 1+p.r.IntN(4), priority(p.r.IntN(4)))
		req.Preemptible = p.r.IntN(3) > 0
		if p.r.IntN(4) == 0 {
			req.Min, req.Max = 2, 2
		}
		req.Workspace = []string{"a", "b"}[p.r.IntN(2)]
		p.ask(req)
	case k < 12 && len(running) > 0:
		p.end(running[p.r.IntN(len(running))])
	case k < 14: // one that waits or runs is cancelled
		if ids := slices.Sorted(maps.Keys(p.open)); len(ids) > 0 {
			p.end(ids[p.r.IntN(len(ids))])
		}
	case k == 14 && len(running) > 0:
		id := running[p.r.IntN(len(running))]
		p.w.Declined(id, p.open[id].Attempt)
		p.again(id)
	case k == 15:
		p.others()
		p.w.settle() // what is decided before it is heard of, Nomad declines
	case k == 16:
		p.w.cluster.change(func() {
			n := &p.w.cluster.nodes[p.r.IntN(3)]
			n.Eligible = !n.Eligible
		})
	case k == 17:
		p.die()
	}
	for _, id := range p.running() { // those that were told to leave do, sooner or later
		p.w.mu.Lock()
		_, told := p.w.evicted[key(id, p.open[id].Attempt)]
		p.w.mu.Unlock()
		if told && p.r.IntN(2) == 0 {
			p.again(id)
		}
	}
}

func (p *play) ask(req admission.Request) {
	p.open[req.ID] = req
	p.w.Ask(req)
}

func (p *play) end(id queue.JobID) {
	p.w.Ended(id, p.open[id].Attempt, false)
	delete(p.open, id)
}

// again ends an attempt and asks for the next.
func (p *play) again(id queue.JobID) {
	req := p.open[id]
	p.w.Ended(id, req.Attempt, true)
	req.Attempt++
	req.NomadJob = fmt.Sprintf("drover-%s-%d", id, req.Attempt)
	p.ask(req)
}

// running are the tasks whose newest attempt was granted.
func (p *play) running() []queue.JobID {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.open)), func(id queue.JobID) bool { return p.w.grant(id, p.open[id].Attempt) == nil })
}

// others has work of others come, on devices that are free, or go.
func (p *play) others() {
	taken := p.taken()
	p.w.cluster.change(func() {
		if len(p.w.cluster.allocs) > 0 && p.r.IntN(2) == 0 {
			p.w.cluster.allocs = p.w.cluster.allocs[1:]
			return
		}
		for _, n := range p.w.cluster.nodes {
			for _, i := range n.Groups[0].Instances {
				if taken[i.ID] == "" {
					p.tasks++
					p.w.cluster.allocs = append(p.w.cluster.allocs, foreign(fmt.Sprintf("x%d", p.tasks), string(n.ID), i.ID))
					return
				}
			}
		}
	})
}

// die stops the scheduler and starts it anew; all ask again, in any order.
func (p *play) die() {
	before := map[queue.JobID][]string{}
	for _, id := range p.running() {
		before[id] = p.w.devices(id, p.open[id].Attempt)
	}
	p.w.stop()
	p.w.start(slices.Collect(maps.Keys(p.open))...)
	for _, req := range p.open {
		p.w.Ask(req)
	}
	p.w.settle()
	for id, devices := range before {
		if again := p.w.devices(id, p.open[id].Attempt); !slices.Equal(devices, again) {
			p.t.Fatalf("%s held %v, and %v after a restart", id, devices, again)
		}
	}
}

// taken is who has each device.
func (p *play) taken() map[string]string {
	taken := map[string]string{}
	for _, id := range p.running() {
		for _, d := range p.w.devices(id, p.open[id].Attempt) {
			if other := taken[d]; other != "" {
				p.t.Fatalf("%s was given to %s and to %s", d, other, id)
			}
			taken[d] = string(id)
		}
	}
	for _, a := range p.w.cluster.allocs {
		for _, d := range a.Devices[0].IDs {
			if other := taken[d]; other != "" {
				p.t.Fatalf("%s was given to %s and is somebody else's", d, other)
			}
			taken[d] = a.ID
		}
	}
	return taken
}

func (p *play) check() {
	p.t.Helper()
	p.taken()
	for _, id := range p.running() {
		req := p.open[id]
		g := p.w.grant(id, req.Attempt)
		if len(g.Members) != req.Min {
			p.t.Fatalf("%s runs with %d members, and wants %d", id, len(g.Members), req.Min)
		}
		for _, m := range g.Members {
			if len(m.Devices) != req.Ask.GPU.Count {
				p.t.Fatalf("a member of %s has %v, and wants %d", id, m.Devices, req.Ask.GPU.Count)
			}
		}
	}
	v, err := p.w.Queue(p.t.Context(), admission.Filter{})
	if err != nil {
		p.t.Fatal(err)
	}
	waiting := 0
	for _, e := range v.Entries {
		if e.State == "waiting" {
			waiting++
			if e.Reason == nil || e.Reason.Text == "" {
				p.t.Fatalf("%s waits without a reason", e.Task)
			}
		}
	}
	if want := len(p.open) - len(p.running()); waiting != want {
		p.t.Fatalf("%d wait, and %d were not granted", waiting, want)
	}
}

// drain lets all end, which they do in bounded time once the cluster is well.
func (p *play) drain() {
	p.w.cluster.change(func() {
		p.w.cluster.allocs = []inventory.Alloc{}
		for i := range p.w.cluster.nodes {
			p.w.cluster.nodes[i].Eligible = true
		}
	})
	for range 20 * len(p.open) {
		if len(p.open) == 0 {
			return
		}
		p.w.settle()
		p.check()
		for _, id := range p.running() {
			if _, told := p.w.evicted[key(id, p.open[id].Attempt)]; told {
				p.again(id)
			} else {
				p.end(id)
			}
		}
		time.Sleep(time.Minute)
	}
	if len(p.open) > 0 {
		p.t.Fatalf("%d still wait: %v", len(p.open), p.w.waits)
	}
}
