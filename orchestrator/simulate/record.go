package simulate

import (
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// record adds up what a replay does, over time.
type record struct {
	capacity resources
	tenants  []tenant // by workspace
	held     resources
	waiting  int
	// Amounts times milliseconds.
	busy, busyWaiting sums
	waited            float64 // milliseconds in which jobs waited
	even, compared    float64 // Jain's index times milliseconds, and those
	models            []float64
	fragments         []float64 // by node: thousandths of GPUs that are free and of no use
	fragmented        float64   // all of them
	fragmentedMs      float64   // times milliseconds
	peakWaiting       int
	until             time.Time // the time that was added up
	curve             curve
	days              days // nil: there are no budgets
}

// tenant is a workspace's part of it.
type tenant struct {
	held    resources
	flavors map[queue.Flavor]int64 // held, thousandths of GPUs
	waiting int
	wants   int64                  // thousandths of GPUs, of least numbers of members
	wantsOf map[queue.Flavor]int64 // those that a flavor would do for

	share, used  float64   // times milliseconds; used is thousandths of GPUs
	models       []float64 // used, by model
	short        float64   // of its nominal quota while it waited: thousandths of GPUs times milliseconds
	shortSince   time.Time // zero: it is not
	longestShort time.Duration
	evictions    int
	lost         float64 // thousandths of GPUs times milliseconds
}

// resources are thousandths of GPUs, thousandths of cores and MiB.
type resources struct{ gpu, cpu, memory int64 }

func (r *resources) add(o resources, times int64) {
	r.gpu += o.gpu * times
	r.cpu += o.cpu * times
	r.memory += o.memory * times
}

// dominant is the greatest part of all that r is, 0 to 1.
func (r resources) dominant(all resources) float64 {
	share := 0.0
	for _, p := range [][2]int64{{r.gpu, all.gpu}, {r.cpu, all.cpu}, {r.memory, all.memory}} {
		if p[1] > 0 {
			share = max(share, float64(p[0])/float64(p[1]))
		}
	}
	return share
}

// sums are resources times milliseconds.
type sums struct{ gpu, cpu, memory float64 }

func (s *sums) add(r resources, ms float64) {
	s.gpu += float64(r.gpu) * ms
	s.cpu += float64(r.cpu) * ms
	s.memory += float64(r.memory) * ms
}

func newRecord(r *replay) *record {
	rec := &record{until: r.Start, tenants: make([]tenant, len(r.workspaces)), models: make([]float64, len(r.models))}
	for _, n := range r.Nodes {
		rec.capacity.add(resources{int64(n.GPUs) * int64(queue.One), n.CPUMilli, n.MemoryMiB}, 1)
	}
	for i := range rec.tenants {
		rec.tenants[i] = tenant{flavors: map[queue.Flavor]int64{}, wantsOf: map[queue.Flavor]int64{}, models: make([]float64, len(r.models))}
	}
	rec.fragments = make([]float64, len(r.Nodes))
	for i := range r.Nodes {
		rec.fragment(r, i)
	}
	if r.budgets {
		rec.days = days{}
	}
	var last time.Duration
	for i := range r.jobs {
		last = max(last, r.jobs[i].submitted.Sub(r.Start))
	}
	rec.curve = newCurve(last, len(r.workspaces))
	return rec
}

// pass adds up the time until to, in which nothing changed.
func (rec *record) pass(r *replay, to time.Time) {
	from := rec.until
	ms := float64(to.Sub(from).Milliseconds())
	if ms <= 0 {
		return
	}
	rec.until = to
	rec.busy.add(rec.held, ms)
	if rec.waiting > 0 {
		rec.busyWaiting.add(rec.held, ms)
		rec.waited += ms
	}
	var sum, squares, n float64
	for i := range rec.tenants {
		t := &rec.tenants[i]
		share := t.held.dominant(rec.capacity)
		t.share += share * ms
		t.used += float64(t.held.gpu) * ms
		rec.curve.shares[i] = share
		if rec.days != nil {
			rec.days.add(i, from, to, t.held.gpu)
		}
		if t.waiting > 0 {
			sum, squares, n = sum+share, squares+share*share, n+1
			t.short += float64(t.shortfall(r.settings.nominal[i])) * ms
		}
	}
	if n > 1 {
		rec.compared += ms
		if squares == 0 {
			rec.even += ms // nobody has anything: that is even
		} else {
			rec.even += sum * sum / (n * squares) * ms
		}
	}
	rec.fragmentedMs += rec.fragmented * ms
	rec.curve.add(from.Sub(r.Start), to.Sub(r.Start), point{gpu: float64(rec.held.gpu), waiting: float64(rec.waiting), fragmented: rec.fragmented})
}

// settle notes, after a decision, who is short of what is their own.
func (rec *record) settle(r *replay) {
	for i := range rec.tenants {
		t := &rec.tenants[i]
		short := t.waiting > 0 && t.shortfall(r.settings.nominal[i]) > 0
		if t.shortSince.IsZero() == short {
			if short {
				t.shortSince = r.now
			} else {
				t.longestShort = max(t.longestShort, r.now.Sub(t.shortSince))
				t.shortSince = time.Time{}
			}
		}
	}
	rec.peakWaiting = max(rec.peakWaiting, rec.waiting)
}

// shortfall is how many thousandths of GPUs of its nominal quota a workspace could
// use and has not.
func (t *tenant) shortfall(nominal queue.Resources) int64 {
	var short int64
	for f, a := range nominal {
		short += max(0, min(int64(a)-t.flavors[f], t.wantsOf[f]))
	}
	return min(short, t.wants)
}

// waits notes that j waits (sign 1), or no longer (-1).
func (rec *record) waits(j *job, sign int) {
	t := &rec.tenants[j.workspace]
	rec.waiting += sign
	t.waiting += sign
	wants := j.Each.GPUMilli() * int64(j.Min) * int64(sign)
	t.wants += wants
	for _, o := range j.options {
		t.wantsOf[o.flavor] += wants
	}
}

// runs notes that j holds its place (sign 1), or no longer (-1).
func (rec *record) runs(j *job, sign int) {
	t := &rec.tenants[j.workspace]
	held := j.holds()
	rec.held.add(held, int64(sign))
	t.held.add(held, int64(sign))
	t.flavors[j.options[j.option].flavor] += held.gpu * int64(sign)
}

// fragment notes that what is free on a node changed.
func (rec *record) fragment(r *replay, node int) {
	now := r.used.cluster.FragmentedOn(node)
	rec.fragmented += now - rec.fragments[node]
	rec.fragments[node] = now
}

// served notes what j used from its start until now.
func (rec *record) served(r *replay, j *job) {
	t := &rec.tenants[j.workspace]
	ms := float64(r.now.Sub(j.started).Milliseconds())
	for _, s := range j.place {
		if j.Each.GPUs > 0 {
			used := float64(j.Each.GPUMilli()) * float64(s.Members) * ms
			rec.models[r.modelOf(s.Node)] += used
			t.models[r.modelOf(s.Node)] += used
		}
	}
}

// evicted notes that j lost the work of a time.
func (rec *record) evicted(j *job, lost time.Duration) {
	t := &rec.tenants[j.workspace]
	t.evictions++
	t.lost += float64(j.holds().gpu) * float64(lost.Milliseconds())
}
