package workspace

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) // a Wednesday

// fails is what *testing.T and *rapid.T have in common.
type fails interface {
	Helper()
	Fatalf(format string, args ...any)
}

// opens has the queue take what is effective, and returns it.
func opens(t fails, d Definitions, now time.Time, seen Seen) (*queue.State, []queue.Queue) {
	t.Helper()
	policy, cohorts, queues, _ := d.Effective(now, seen)
	s, err := queue.Open(queue.Snapshot{Policy: policy, Cohorts: cohorts, Queues: queues}, queue.Anywhere{})
	if err != nil {
		t.Fatalf("the queue does not take them: %v\n%s", err, d.Export())
	}
	return s, queues
}

func TestWhatIsValidOpens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := definitions(t)
		now := time.Unix(rapid.Int64Range(1.7e9, 1.9e9).Draw(t, "now"), 0)
		_, queues := opens(t, d, now, Seen{Workspaces: []string{"w0", "someone"}})
		if want := 2 * (len(d.Workspaces) + 2); len(d.Workspaces) == 0 && len(queues) != want || len(queues) > want {
			t.Fatalf("%d queues of %d workspaces", len(queues), len(d.Workspaces))
		}
	})
}

// submit says whether a job of an amount of a flavor starts in a queue, beside
// those that run.
func submit(t *testing.T, s *queue.State, q queue.QueueID, f queue.Flavor, a queue.Amount) bool {
	t.Helper()
	id := queue.JobID(fmt.Sprintf("%s-%s-%s", q, f, a))
	err := s.Submit(queue.Job{ID: id, Queue: q, Submitted: noon, Each: queue.Resources{f: a}, Min: 1})
	if err != nil {
		return false
	}
	plan := s.Plan(noon)
	started := len(plan.Start) == 1
	if started {
		if err := s.Apply(plan, noon); err != nil {
			t.Fatal(err)
		}
	} else if err := s.End(id, noon); err != nil {
		t.Fatal(err)
	}
	return started
}

const two = `
flavor "h100" {}
cohort "c" {}
workspace "a" {
  cohort = "c"
  quota "h100" {
    nominal = 8
    lend    = 3
  }
  serving "h100" {
    floor    = 2
    headroom = 1
  }
}
workspace "b" {
  cohort = "c"
  quota "h100" {
    nominal = 4
    borrow  = 2
  }
}
`

func TestWhoMayUseWhat(t *testing.T) {
	type ask struct {
		queue queue.QueueID
		n     queue.Amount
		want  bool
	}
	one := queue.One
	tests := map[string][]ask{
		"all that training has, and never the floor": {{"a", 11, false}, {"a", 10, true}, {"a", 1, false}, {"a/serving", 2, true}, {"a/serving", 1, false}},
		"training borrows headroom":                  {{"a", 6, true}, {"a/serving", 2, true}, {"b", 4, true}},
		"endpoints have floor and headroom":          {{"b", 4, true}, {"a/serving", 3, true}, {"a", 5, true}, {"a", 1, false}},
		"endpoints borrow":                           {{"a/serving", 8, true}, {"a", 1, true}},
		"no more is borrowed than may be":            {{"b", 7, false}, {"b", 6, true}},
		"no more is lent than may be":                {{"b", 4, true}, {"b", 2, true}, {"a", 4, true}, {"a/serving", 2, true}, {"a", 1, false}},
		"cpu is unlimited where nobody has a quota":  {},
	}
	for name, asks := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := opens(t, read(t, two), noon, Seen{})
			for i, a := range asks {
				if got := submit(t, s, a.queue, "h100", a.n*one); got != a.want {
					t.Errorf("%d: %s starts with %d: %v, want %v", i, a.queue, a.n, got, a.want)
				}
			}
			if !submit(t, s, "b", CPU, 1000*one) || !submit(t, s, "a/serving", Memory, 1000*one) {
				t.Error("there is no cpu or no memory")
			}
		})
	}
}

// Whatever runs elsewhere, endpoints can have their floor, while there is a budget.
func TestTheFloorIsAlwaysThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := definitions(t)
		for i := range d.Workspaces {
			d.Workspaces[i].Budget = nil
		}
		s, queues := opens(t, d, noon, Seen{})
		if len(queues) == 0 {
			return
		}
		for i := range 12 {
			q := rapid.SampledFrom(queues).Draw(t, "queue").ID
			f := rapid.SampledFrom([]queue.Flavor{"f0", "f1", CPU}).Draw(t, "flavor")
			j := queue.Job{ID: queue.JobID(fmt.Sprint(i)), Queue: q, Submitted: noon, Min: 1, Each: queue.Resources{f: queue.Amount(amount(t)) + 1}}
			if w, ok := d.Workspace(string(q[:2])); ok == nil && len(w.Serving) > 0 && string(q) != w.Name {
				continue // that the endpoints themselves use it is another matter
			}
			if s.Submit(j) != nil {
				continue // it is larger than its queue can ever be, or nobody has such quota
			}
			if err := s.Apply(s.Plan(noon), noon); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range d.Workspaces {
			for f, serving := range w.Serving {
				if serving.Floor == 0 {
					continue
				}
				id := queue.JobID(fmt.Sprintf("%s/%s", w.Name, f))
				if err := s.Submit(queue.Job{ID: id, Queue: d.QueueFor(w.Name, true), Submitted: noon, Min: 1, Each: queue.Resources{f: queue.Amount(serving.Floor)}}); err != nil {
					t.Fatal(err)
				}
				started := false
				for _, start := range s.Plan(noon).Start {
					started = started || start.Job == id
				}
				if !started {
					why, _ := s.Why(id)
					t.Fatalf("the floor %s of %s in %s is not there: %s\n%s", serving.Floor, f, w.Name, why, d.Export())
				}
			}
		}
	})
}

func TestCPUIsLimitedInTheWholeTree(t *testing.T) {
	s, _ := opens(t, read(t, `
cohort "c" {}
workspace "a" {
  cohort = "c"
  quota "cpu" { nominal = 8 }
}
workspace "b" { cohort = "c" }
workspace "alone" {}
`), noon, Seen{})
	if submit(t, s, "b", CPU, 9*queue.One) || !submit(t, s, "b", CPU, 8*queue.One) {
		t.Error("b may use what a lends, and no more")
	}
	if !submit(t, s, "alone", CPU, 99*queue.One) {
		t.Error("alone is in another tree")
	}
}

func TestUndeclaredWorkspacesHaveNoLimits(t *testing.T) {
	s, _ := opens(t, read(t, two), noon, Seen{Workspaces: []string{"b", "x", "x"}, Flavors: []queue.Flavor{"fpga"}})
	for _, f := range []queue.Flavor{"h100", "fpga", CPU, Memory} {
		if !submit(t, s, "x", f, 100*queue.One) || !submit(t, s, "x/serving", f, 100*queue.One) {
			t.Errorf("x may not use %s", f)
		}
	}
	if submit(t, s, "b", "fpga", queue.One) {
		t.Error("b, which is declared, uses a flavor that it has no quota of")
	}
}

func TestUndeclaredWorkspacesCanBeHeld(t *testing.T) {
	d := read(t, "policy { hold_undeclared = true }\nworkspace \"a\" {}\n")
	s, queues := opens(t, d, noon, Seen{Workspaces: []string{"a", "x"}})
	for _, q := range queues {
		if declared := q.Cohort == "a"; declared != (q.Held == nil) {
			t.Errorf("%s is held: %+v", q.ID, q.Held)
		}
	}
	if !submit(t, s, "a", CPU, queue.One) || submit(t, s, "x", CPU, queue.One) {
		t.Error("x is held, and a is not")
	}
}

func TestScheduledQuotas(t *testing.T) {
	d := read(t, `
flavor "h100" {}
workspace "w" {
  quota "h100" { nominal = 4 }
  schedule "nights" {
    from = "20:00"
    to   = "06:00"
    quota "h100" { nominal = 16 }
  }
  schedule "weekend" {
    days = ["sat", "sun"]
    quota "h100" { nominal = 32 }
  }
}
`)
	tests := map[string]struct {
		now     time.Time
		nominal queue.Amount
		next    time.Time
	}{
		"by day":          {noon, 4, noon.Add(8 * time.Hour)},
		"at night":        {noon.Add(8 * time.Hour), 16, noon.Add(18 * time.Hour)},
		"last of a night": {noon.Add(18*time.Hour - 1), 16, noon.Add(18 * time.Hour)},
		"Saturday":        {noon.AddDate(0, 0, 3), 32, noon.AddDate(0, 0, 3).Add(8 * time.Hour)},
		"Sunday night":    {noon.AddDate(0, 0, 4).Add(9 * time.Hour), 32, noon.AddDate(0, 0, 4).Add(12 * time.Hour)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, queues, next := d.Effective(test.now, Seen{})
			if got := queues[0].Quotas["h100"].Nominal; got != test.nominal*queue.One || !next.Equal(test.next) {
				t.Errorf("%s until %s, want %d until %s", got, next, test.nominal, test.next)
			}
		})
	}
}

// What is refused by the greatest quotas is refused at any time.
func TestAtMost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := definitions(t)
		now := time.Unix(rapid.Int64Range(1.7e9, 1.9e9).Draw(t, "now"), 0)
		s, queues := opens(t, d, now, Seen{})
		most, _ := opens(t, d.AtMost(), now, Seen{})
		for _, q := range queues {
			f := queue.Flavor(rapid.SampledFrom([]string{"cpu", "f0", "f1"}).Draw(t, "flavor"))
			j := queue.Job{ID: "j", Queue: q.ID, Submitted: now, Min: 1, Each: queue.Resources{f: queue.Amount(amount(t))}}
			if s.Check(j) == nil && most.Check(j) != nil {
				t.Fatalf("%s of %s in %s is refused at most only: %v\n%s", j.Each[f], f, q.ID, most.Check(j), d.Export())
			}
		}
	})
}

// A flavor that a schedule alone has a quota of is known at other times, too.
func TestAtMostOfAFlavorAtNight(t *testing.T) {
	d := read(t, `
flavor "l4" {}
workspace "w" {
  schedule "nights" {
    from = "20:00"
    to   = "06:00"
    quota "l4" { nominal = 2 }
  }
}
`)
	j := queue.Job{ID: "j", Queue: "w", Submitted: noon, Min: 1, Each: queue.Resources{"l4": 2 * queue.One}}
	s, _ := opens(t, d, noon, Seen{})
	var refusal *queue.Refusal
	if err := s.Check(j); !errors.As(err, &refusal) || refusal.Reason.Code != queue.TooLarge {
		t.Errorf("at noon: %v, want that it is too large", err)
	}
	if s, _ = opens(t, d.AtMost(), noon, Seen{}); s.Check(j) != nil {
		t.Errorf("at most: %v", s.Check(j))
	}
}

func TestBudgets(t *testing.T) {
	d := read(t, `
flavor "h100" {}
workspace "w" {
  quota "h100" { nominal = 4 }
  budget {
    gpu_hours = 10.5
    per       = "month"
  }
}
`)
	day := func(n int) time.Time { return time.Date(2026, 3, n, 0, 0, 0, 0, time.UTC) }
	use := func(n int, f queue.Flavor, hours float64) Use {
		return Use{Workspace: "w", Flavor: f, Day: day(n), Seconds: queue.Amount(hours * 3600 * 1000)}
	}
	tests := map[string]struct {
		used []Use
		held bool
	}{
		"nothing":          {nil, false},
		"nearly":           {[]Use{use(1, "h100", 5), use(2, "h100", 5.499)}, false},
		"all":              {[]Use{use(1, "h100", 5), use(2, "other", 5.5)}, true},
		"last month's":     {[]Use{use(0, "h100", 50)}, false},
		"cpu and memory":   {[]Use{use(1, CPU, 50), use(1, Memory, 50)}, false},
		"another's":        {[]Use{{Workspace: "v", Flavor: "h100", Day: day(1), Seconds: 1 << 40}}, false},
		"more than counts": {[]Use{{Workspace: "w", Flavor: "h100", Day: day(1), Seconds: 1<<63 - 1}, use(2, "h100", 1)}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, queues, next := d.Effective(noon, Seen{Used: test.used})
			for _, q := range queues {
				if (q.Held != nil) != test.held {
					t.Errorf("%s is held: %+v, want %v", q.ID, q.Held, test.held)
				}
			}
			if test.held && !next.Equal(time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)) || !test.held && !next.IsZero() {
				t.Errorf("it changes at %s", next)
			}
		})
	}
	_, _, queues, _ := d.Effective(noon, Seen{Used: tests["all"].used})
	want := &queue.Hold{Why: "the budget of 10.5 GPU-hours a month is used up: 10.5 since 2026-03-01", Until: day(32)}
	if diff := cmp.Diff(want, queues[0].Held); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if since := d.UsedSince(noon); !since.Equal(day(1)) {
		t.Errorf("it wants to know since %s", since)
	}
}

func TestPeriods(t *testing.T) {
	date := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }
	tests := map[Period]struct{ begin, end time.Time }{
		Day:     {date(2026, 3, 4), date(2026, 3, 5)},
		Week:    {date(2026, 3, 2), date(2026, 3, 9)},
		Month:   {date(2026, 3, 1), date(2026, 4, 1)},
		Quarter: {date(2026, 1, 1), date(2026, 4, 1)},
		Year:    {date(2026, 1, 1), date(2027, 1, 1)},
	}
	for p, test := range tests {
		if begin, end := p.Around(noon); begin != test.begin || end != test.end {
			t.Errorf("the %s is from %s to %s", p, begin, end)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := Period(rapid.SampledFrom(periods).Draw(t, "period"))
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0)
		begin, end := p.Around(now)
		if now.Before(begin) || !now.Before(end) {
			t.Fatalf("%s is not from %s to %s", now, begin, end)
		}
		if next, _ := p.Around(end); next != end {
			t.Fatalf("after %s comes %s", end, next)
		}
		if same, _ := p.Around(end.Add(-1)); same != begin {
			t.Fatalf("%s and %s are one", same, begin)
		}
	})
}

func TestPriorities(t *testing.T) {
	d := read(t, `
priority_class "low" { value = -5 }
priority_class "normal" {
  value   = 10
  default = true
}
priority_class "urgent" { value = 100 }
workspace "any" {}
workspace "some" { priority_classes = ["low", "normal"] }
`)
	tests := map[string]struct {
		workspace, class string
		want             int
		err              string
	}{
		"default":            {"any", "", 10, ""},
		"named":              {"any", "urgent", 100, ""},
		"first of a list":    {"some", "", -5, ""},
		"of a list":          {"some", "normal", 10, ""},
		"not allowed":        {"some", "urgent", 0, `workspace "some" may not use the priority class "urgent". Known here: low, normal.`},
		"unknown":            {"any", "huge", 0, `there is no priority class "huge". Known here: low, normal, urgent.`},
		"of nobody declared": {"nobody", "urgent", 100, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := d.Priority(test.workspace, test.class)
			if got != test.want || test.err == "" && err != nil || test.err != "" && (err == nil || err.Error() != test.err) {
				t.Errorf("%d, %v; want %d, %s", got, err, test.want, test.err)
			}
		})
	}
	if !d.HasDefaultClass("any") || (Definitions{}).HasDefaultClass("any") {
		t.Error("work that names no class has one where there is a default")
	}
}
