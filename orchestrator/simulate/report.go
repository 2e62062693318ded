package simulate

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Report is what came of a replay. It says nothing of how it was made: the same
// input and seed give the same report.
type Report struct {
	Policy  string  `json:"policy"`
	Seed    uint64  `json:"seed"`
	Load    float64 `json:"load"`
	Cluster Cluster `json:"cluster"`
	Jobs    Jobs    `json:"jobs"`
	// MakespanS is from when the first job came to when the last one ended, or was
	// refused.
	MakespanS   float64     `json:"makespan_s"`
	Waiting     Waits       `json:"waiting"`
	Workspaces  []Workspace `json:"workspaces"`
	Sizes       []Size      `json:"sizes"`
	Utilisation Utilisation `json:"utilisation"`
	// FragmentedPct is the part of all GPUs that is free and that jobs of the trace,
	// each as often as it is in it, cannot use, in the mean.
	FragmentedPct float64  `json:"fragmented_pct"`
	Fairness      Fairness `json:"fairness"`
	Preemption    Lost     `json:"preemption"`
	// Cost is nil if there are no prices.
	Cost     *float64  `json:"cost,omitempty"`
	GPUs     []Model   `json:"gpus"`
	Refused  []Refused `json:"refused"`
	Stranded []Refused `json:"stranded"`
	Curve    Curve     `json:"curve"`
}

// Cluster is what there is.
type Cluster struct {
	Nodes     int     `json:"nodes"`
	GPUs      int     `json:"gpus"`
	Cores     float64 `json:"cores"`
	MemoryGiB float64 `json:"memory_gib"`
}

// Jobs are all jobs by what came of them.
type Jobs struct {
	Total   int `json:"total"`
	Ended   int `json:"ended"`
	Refused int `json:"refused"`
	// Stranded still waited when nothing more could happen.
	Stranded int `json:"stranded"`
	// PeakWaiting is how many waited at once, at most.
	PeakWaiting int `json:"peak_waiting"`
}

// Waits are how long jobs waited for their first start, in seconds. All are zero
// if none started.
type Waits struct {
	Started int     `json:"started"`
	MeanS   float64 `json:"mean_s"`
	MedianS float64 `json:"median_s"`
	P90S    float64 `json:"p90_s"`
	P99S    float64 `json:"p99_s"`
	MaxS    float64 `json:"max_s"`
}

// Lost is work that was done in vain.
type Lost struct {
	Evictions int `json:"evictions"`
	// LostGPUHours are what victims did since their last checkpoint, and held while
	// they left.
	LostGPUHours float64 `json:"lost_gpu_hours"`
}

// Workspace is what a workspace got.
type Workspace struct {
	Name     string  `json:"name"`
	Jobs     int     `json:"jobs"`
	Waiting  Waits   `json:"waiting"`
	GPUHours float64 `json:"gpu_hours"`
	// SharePct is its dominant share: of GPUs, cores and memory the greatest part
	// that it held, in the mean over time.
	SharePct float64 `json:"share_pct"`
	// ShortGPUHours are how much of its nominal quota it could have used and did
	// not get, LongestShortS the longest time in which there was any.
	ShortGPUHours float64 `json:"short_gpu_hours"`
	LongestShortS float64 `json:"longest_short_s"`
	Lost
	Cost *float64 `json:"cost,omitempty"`
}

// Size is jobs that ask for so many GPUs, all members together.
type Size struct {
	GPUs    string `json:"gpus"`
	Jobs    int    `json:"jobs"`
	Waiting Waits  `json:"waiting"`
}

// Utilisation is the mean part of the cluster that was held, in per cent.
type Utilisation struct {
	GPUPct float64 `json:"gpu_pct"`
	// GPUPctWhileWaiting is the mean over the times in which jobs waited.
	GPUPctWhileWaiting float64 `json:"gpu_pct_while_waiting"`
	CPUPct             float64 `json:"cpu_pct"`
	MemoryPct          float64 `json:"memory_pct"`
}

// Fairness compares workspaces while at least two of them have jobs waiting.
type Fairness struct {
	// Jain is Jain's index of their dominant shares, in the mean: 1 is even, 1/n is
	// all for one of n. Nil: there was no such time.
	Jain *float64 `json:"jain"`
	// Hours are how long that was.
	Hours float64 `json:"hours"`
}

// Model is the GPUs of a model.
type Model struct {
	Model string `json:"model"`
	GPUs  int    `json:"gpus"`
	// UsedHours are GPU-hours that jobs held.
	UsedHours float64  `json:"used_hours"`
	Cost      *float64 `json:"cost,omitempty"`
}

// Refused is a job that was not run, and why.
type Refused struct {
	Job       string `json:"job"`
	Workspace string `json:"workspace"`
	Line      int    `json:"line"`
	Why       string `json:"why"`
}

// Curve is how it was over time: means over steps of equal length.
type Curve struct {
	StepS         float64     `json:"step_s"`
	GPUPct        []float64   `json:"gpu_pct"`
	FragmentedPct []float64   `json:"fragmented_pct"`
	Waiting       []float64   `json:"waiting"`
	Shares        []ShareLine `json:"shares"`
}

// ShareLine is the dominant shares of a workspace.
type ShareLine struct {
	Workspace string    `json:"workspace"`
	Pct       []float64 `json:"pct"`
}

// sizes are classes of jobs by their GPUs in thousandths, up to most.
var sizes = []struct {
	most int64
	name string
}{
	{0, "none"}, {999, "part of one"}, {1000, "1"}, {2000, "2"}, {4000, "3-4"}, {8000, "5-8"}, {16000, "9-16"}, {32000, "17-32"},
	{64000, "33-64"}, {128000, "65-128"}, {math.MaxInt64, "over 128"},
}

// hourMilli is a GPU-hour in thousandths times milliseconds.
const hourMilli = 1000 * 3600 * 1000

// rounded is v with four decimals: more would be noise.
func rounded(v float64) float64 { return math.Round(v*1e4) / 1e4 }

func pct(part, all float64) float64 {
	if all == 0 {
		return 0
	}
	return rounded(100 * part / all)
}

func (r *replay) report() *Report {
	rec := r.record
	span := float64(rec.until.Sub(r.Start).Milliseconds())
	rep := &Report{
		Policy: r.Policy, Seed: r.Seed, Load: r.Load, MakespanS: span / 1000,
		Cluster: Cluster{len(r.Nodes), int(rec.capacity.gpu / 1000), float64(rec.capacity.cpu) / 1000, rounded(float64(rec.capacity.memory) / 1024)},
		Jobs:    Jobs{Total: len(r.jobs), Ended: r.ended, Refused: len(r.refused), PeakWaiting: rec.peakWaiting},
		Utilisation: Utilisation{
			GPUPct: pct(rec.busy.gpu, float64(rec.capacity.gpu)*span), GPUPctWhileWaiting: pct(rec.busyWaiting.gpu, float64(rec.capacity.gpu)*rec.waited),
			CPUPct: pct(rec.busy.cpu, float64(rec.capacity.cpu)*span), MemoryPct: pct(rec.busy.memory, float64(rec.capacity.memory)*span),
		},
		Fairness: Fairness{Hours: rounded(rec.compared / 3600e3)},
		Refused:  r.refused, Stranded: r.stranded(), Curve: r.curve(),
	}
	rep.Jobs.Stranded = len(rep.Stranded)
	if rec.compared > 0 {
		jain := rounded(rec.even / rec.compared)
		rep.Fairness.Jain = &jain
	}
	rep.FragmentedPct = pct(rec.fragmentedMs, float64(rec.capacity.gpu)*span)
	r.reportWaits(rep)
	r.reportWorkspaces(rep, span)
	r.reportModels(rep)
	return rep
}

// reportWaits fills in how long jobs waited, and makes a row for each workspace.
func (r *replay) reportWaits(rep *Report) {
	var all []time.Duration
	bySize, byWorkspace := make([][]time.Duration, len(sizes)), make([][]time.Duration, len(r.workspaces))
	countSize, count := make([]int, len(sizes)), make([]int, len(r.workspaces))
	for i := range r.jobs {
		j := &r.jobs[i]
		size := slices.IndexFunc(sizes, func(s struct {
			most int64
			name string
		}) bool {
			return j.Each.GPUMilli()*int64(j.Max) <= s.most
		})
		countSize[size]++
		count[j.workspace]++
		if j.began {
			wait := j.first.Sub(j.submitted)
			all = append(all, wait)
			bySize[size] = append(bySize[size], wait)
			byWorkspace[j.workspace] = append(byWorkspace[j.workspace], wait)
		}
	}
	rep.Waiting = newWaits(all)
	for i, s := range sizes {
		if countSize[i] > 0 {
			rep.Sizes = append(rep.Sizes, Size{s.name, countSize[i], newWaits(bySize[i])})
		}
	}
	for i, w := range r.workspaces {
		rep.Workspaces = append(rep.Workspaces, Workspace{Name: w, Jobs: count[i], Waiting: newWaits(byWorkspace[i])})
	}
}

func (r *replay) reportWorkspaces(rep *Report, span float64) {
	for i := range r.record.tenants {
		t, w := &r.record.tenants[i], &rep.Workspaces[i]
		if !t.shortSince.IsZero() {
			t.longestShort = max(t.longestShort, r.record.until.Sub(t.shortSince))
		}
		w.GPUHours, w.SharePct = rounded(t.used/hourMilli), pct(t.share, span)
		w.ShortGPUHours, w.LongestShortS = rounded(t.short/hourMilli), t.longestShort.Seconds()
		w.Lost = Lost{t.evictions, rounded(t.lost / hourMilli)}
		rep.Preemption.Evictions += t.evictions
		rep.Preemption.LostGPUHours = rounded(rep.Preemption.LostGPUHours + t.lost/hourMilli)
		w.Cost = r.cost(t.models...)
	}
}

func (r *replay) reportModels(rep *Report) {
	rep.Cost = r.cost(r.record.models...)
	for i, m := range r.models {
		row := Model{Model: m, GPUs: r.gpus[m], UsedHours: rounded(r.record.models[i] / hourMilli)}
		if r.Prices != nil {
			c := rounded(r.record.models[i] / hourMilli * r.Prices[m])
			row.Cost = &c
		}
		rep.GPUs = append(rep.GPUs, row)
	}
}

// cost is what use of each model costs; nil if there are no prices.
func (r *replay) cost(used ...float64) *float64 {
	if r.Prices == nil {
		return nil
	}
	sum := 0.0
	for i, u := range used {
		sum += u / hourMilli * r.Prices[r.models[i]]
	}
	sum = rounded(sum)
	return &sum
}

// stranded are the jobs that still wait.
func (r *replay) stranded() []Refused {
	all := []Refused{}
	for i := range r.jobs {
		j := &r.jobs[i]
		if !j.waits {
			continue
		}
		why := j.why
		if reason, err := r.state.Why(j.id); err == nil {
			why = reason.String()
		}
		all = append(all, Refused{j.Name, j.Workspace, j.Line, why})
	}
	return all
}

func (r *replay) curve() Curve {
	c := &r.record.curve
	all := Curve{StepS: c.step.Seconds(), Shares: make([]ShareLine, len(r.workspaces))}
	for i, w := range r.workspaces {
		all.Shares[i].Workspace = w
	}
	capacity := float64(r.record.capacity.gpu)
	for _, p := range c.points {
		all.GPUPct = append(all.GPUPct, pct(p.gpu, capacity*p.ms))
		all.FragmentedPct = append(all.FragmentedPct, pct(p.fragmented, capacity*p.ms))
		all.Waiting = append(all.Waiting, rounded(p.waiting/p.ms))
		for i := range all.Shares {
			all.Shares[i].Pct = append(all.Shares[i].Pct, pct(p.shares[i], p.ms))
		}
	}
	return all
}

func newWaits(all []time.Duration) Waits {
	if len(all) == 0 {
		return Waits{}
	}
	slices.Sort(all)
	sum := 0.0
	for _, d := range all {
		sum += d.Seconds()
	}
	// The least wait that so many jobs do not exceed.
	at := func(part float64) float64 { return all[max(1, int(math.Ceil(part*float64(len(all)))))-1].Seconds() }
	return Waits{len(all), rounded(sum / float64(len(all))), at(0.5), at(0.9), at(0.99), all[len(all)-1].Seconds()}
}

func (r Refused) String() string { return fmt.Sprintf("job %s of %s: %s", r.Job, r.Workspace, r.Why) }
