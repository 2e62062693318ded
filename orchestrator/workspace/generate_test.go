package workspace

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// definitions draws definitions without a problem.
func definitions(t *rapid.T) Definitions {
	var d Definitions
	if rapid.Bool().Draw(t, "policy") {
		d.Policy = Policy{RunTime: duration(t), HalfLife: duration(t), Aging: duration(t), Patience: duration(t), MaxEvictions: rapid.IntRange(0, 9).Draw(t, "evictions"), HoldUndeclared: rapid.Bool().Draw(t, "hold")}
	}
	flavors := []queue.Flavor{CPU, Memory}
	for i := range rapid.IntRange(0, 3).Draw(t, "flavors") {
		f := Flavor{Name: fmt.Sprintf("f%d", i), Model: text(t), MemoryMinMiB: rapid.Int64Range(0, 1<<20).Draw(t, "memory")}
		d.Flavors, flavors = append(d.Flavors, f), append(flavors, queue.Flavor(f.Name))
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "classes") {
		d.PriorityClasses = append(d.PriorityClasses, PriorityClass{
			Name: fmt.Sprintf("class%d", i), Value: rapid.IntRange(-maxPriority, maxPriority).Draw(t, "value"), Default: i == 1, Description: text(t),
		})
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "cohorts") {
		c := Cohort{Name: fmt.Sprintf("cohort%d", i), Weight: rapid.IntRange(0, 9).Draw(t, "weight"), Quotas: quotas(t, flavors), Schedules: schedules(t, flavors, 0)}
		if above := rapid.IntRange(-1, i-1).Draw(t, "parent"); above >= 0 {
			c.Parent = d.Cohorts[above].Name
		}
		d.Cohorts = append(d.Cohorts, c)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "workspaces") {
		d.Workspaces = append(d.Workspaces, aWorkspace(t, d, fmt.Sprintf("w%d", i), flavors))
	}
	return d
}

func aWorkspace(t *rapid.T, d Definitions, name string, flavors []queue.Flavor) Workspace {
	w := Workspace{Name: name, Weight: rapid.IntRange(0, 9).Draw(t, "weight"), Strict: rapid.Bool().Draw(t, "strict")}
	if rapid.Bool().Draw(t, "placed") {
		w.Namespace, w.NodePools = "ns-"+name, []string{"gpu", name}
	}
	if n := rapid.IntRange(-1, len(d.Cohorts)-1).Draw(t, "cohort"); n >= 0 {
		w.Cohort = d.Cohorts[n].Name
	}
	for _, c := range d.PriorityClasses {
		if rapid.Bool().Draw(t, "class") {
			w.PriorityClasses = append(w.PriorityClasses, c.Name)
		}
	}
	if rapid.Bool().Draw(t, "says") {
		preemptible := rapid.Bool().Draw(t, "preemptible")
		w.Preemptible = &preemptible
	}
	w.Quotas = quotas(t, flavors)
	least := Amount(0)
	for _, f := range flavors {
		if q, ok := w.Quotas[f]; ok && rapid.Bool().Draw(t, "serves") {
			if w.Serving == nil {
				w.Serving = map[queue.Flavor]Serving{}
			}
			floor := rapid.Int64Range(0, int64(q.Nominal)).Draw(t, "floor")
			w.Serving[f] = Serving{Floor: Amount(floor), Headroom: Amount(rapid.Int64Range(0, int64(q.Nominal)-floor).Draw(t, "headroom"))}
			least = max(least, w.Serving[f].Floor+w.Serving[f].Headroom)
		}
	}
	w.Schedules = schedules(t, flavors, least)
	if rapid.Bool().Draw(t, "budget") {
		w.Budget = &Budget{GPUHours: amount(t), Per: Period(rapid.SampledFrom(periods).Draw(t, "per"))}
	}
	return w
}

func quotas(t *rapid.T, flavors []queue.Flavor) Quotas {
	var q Quotas
	for _, f := range flavors {
		if rapid.Bool().Draw(t, "has") {
			if q == nil {
				q = Quotas{}
			}
			q[f] = Quota{Nominal: amount(t), Borrow: limit(t), Lend: limit(t)}
		}
	}
	return q
}

// schedules draws schedules whose quotas are at least least.
func schedules(t *rapid.T, flavors []queue.Flavor, least Amount) []Schedule {
	var all []Schedule
	for i := range rapid.IntRange(0, 2).Draw(t, "schedules") {
		s := aSchedule(t)
		s.Name = fmt.Sprintf("s%d", i)
		f := rapid.SampledFrom(flavors).Draw(t, "flavor")
		s.Quotas = Quotas{f: {Nominal: max(least, amount(t)), Borrow: limit(t)}}
		all = append(all, s)
	}
	return all
}

var someZones = []string{"", "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"}

func aSchedule(t *rapid.T) Schedule {
	s := Schedule{Timezone: rapid.SampledFrom(someZones).Draw(t, "zone")}
	if rapid.Bool().Draw(t, "cron") {
		s.Cron = fmt.Sprintf("%d %d * * %s", rapid.IntRange(0, 59).Draw(t, "minute"), rapid.IntRange(0, 23).Draw(t, "hour"),
			rapid.SampledFrom([]string{"*", "1-5", "0,6", "3"}).Draw(t, "weekday"))
		s.Duration = Duration(rapid.IntRange(1, 3000).Draw(t, "minutes")) * Duration(time.Minute)
		return s
	}
	for _, day := range weekdays {
		if rapid.Bool().Draw(t, day) {
			s.Days = append(s.Days, day)
		}
	}
	s.From, s.To = timeOfDay(t), timeOfDay(t)
	return s
}

func timeOfDay(t *rapid.T) string {
	minute := rapid.IntRange(0, minutesPerDay).Draw(t, "time")
	return fmt.Sprintf("%02d:%02d", minute/60, minute%60)
}

func amount(t *rapid.T) Amount {
	return Amount(rapid.OneOf(rapid.Int64Range(0, 64_000), rapid.Int64Range(0, int64(queue.MaxAmount))).Draw(t, "amount"))
}

func limit(t *rapid.T) *Amount {
	if rapid.Bool().Draw(t, "unlimited") {
		return nil
	}
	a := amount(t)
	return &a
}

func duration(t *rapid.T) Duration {
	return Duration(rapid.Int64Range(0, int64(maxDuration)).Draw(t, "duration"))
}

func text(t *rapid.T) string {
	return rapid.StringMatching(`[ -~äöü✓]{0,20}`).Draw(t, "text")
}
