package queue

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestAvailable holds the closed form against counting up until a limit is broken.
func TestAvailable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small := func(label string) Amount { return Amount(rapid.IntRange(0, 5).Draw(t, label)) }
		some := func(label string) *Amount {
			if rapid.Bool().Draw(t, label) {
				return nil
			}
			a := small(label)
			return &a
		}
		quotas := func() map[Flavor]Quota {
			return map[Flavor]Quota{"g": {small("nominal"), some("borrowing"), some("lending")}}
		}
		cohorts := []Cohort{{Name: "top", Quotas: quotas()}, {Name: "left", Parent: "top", Quotas: quotas()}}
		queues := []Queue{{ID: "a", Cohort: "top", Quotas: quotas()}, {ID: "b", Cohort: "left", Quotas: quotas()}, {ID: "c", Cohort: "left", Quotas: quotas()}}
		tr, err := newTree(&Snapshot{Cohorts: cohorts, Queues: queues})
		if err != nil {
			t.Fatal(err)
		}
		u := tr.newUsage()
		allowed := func() bool {
			for i, n := range tr.nodes {
				used := u[tr.at(i, 0)]
				if n.parent < 0 && used > n.total[0] {
					return false
				}
				if n.parent >= 0 && n.borrow[0] >= 0 && used > n.total[0]+n.borrow[0] {
					return false
				}
			}
			return true
		}
		for range rapid.IntRange(0, 20).Draw(t, "charges") {
			q := tr.queues[QueueID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "queue"))]
			var most Amount
			for ; allowed(); most++ {
				tr.charge(u, q, 0, 1)
			}
			tr.charge(u, q, 0, -most)
			if got := tr.available(u, q, 0); got != most-1 {
				t.Fatalf("available %d, want %d", got, most-1)
			}
			if ceiling, _ := tr.ceiling(q, 0); most-1+u[tr.at(q, 0)] > ceiling {
				t.Fatalf("queue may use %d, its ceiling is %d", most-1+u[tr.at(q, 0)], ceiling)
			}
			tr.charge(u, q, 0, min(most-1, small("charge")))
		}
	})
}

func TestInvalid(t *testing.T) {
	quota := func(a Amount) map[Flavor]Quota { return map[Flavor]Quota{"g": {Nominal: a}} }
	negative := Amount(-1)
	tests := []struct {
		name string
		snap Snapshot
		want string
	}{
		{"cycle", Snapshot{Cohorts: []Cohort{{Name: "a", Parent: "b"}, {Name: "b", Parent: "a"}}}, "cycle: "},
		{"its own parent", Snapshot{Cohorts: []Cohort{{Name: "a", Parent: "a"}}}, "a -> a"},
		{"no parent", Snapshot{Cohorts: []Cohort{{Name: "a", Parent: "b"}}}, `no cohort "b"`},
		{"cohort twice", Snapshot{Cohorts: []Cohort{{Name: "a"}, {Name: "a"}}}, "used once"},
		{"queue twice", Snapshot{Queues: []Queue{{ID: "a"}, {ID: "a"}}}, "used once"},
		{"negative", Snapshot{Queues: []Queue{{ID: "a", Quotas: quota(-1)}}}, "nominal quota -0.001"},
		{"overflow", Snapshot{Queues: []Queue{{ID: "a", Quotas: quota(1 << 62)}}}, "amounts are 0 to"},
		{"negative limit", Snapshot{Queues: []Queue{{ID: "a", Quotas: map[Flavor]Quota{"g": {BorrowingLimit: &negative}}}}}, "borrowing limit"},
		{"negative policy", Snapshot{Policy: Policy{Aging: -1}}, "policy"},
		{"no queue", Snapshot{Waiting: []Job{{ID: "j", Queue: "a"}}}, `no queue "a"`},
		{"option", Snapshot{Queues: []Queue{{ID: "a"}}, Running: []Running{{Job{ID: "j", Queue: "a"}, Run{Members: 1, Option: 1}}}}, "option 1"},
		{"job overflows", Snapshot{Queues: []Queue{{ID: "a", Quotas: quota(1)}}, Waiting: []Job{{ID: "j", Queue: "a", Min: 1 << 40, Each: Resources{"g": 1 << 30}}}}, "amounts are"},
		{"negative ask", Snapshot{Queues: []Queue{{ID: "a", Quotas: quota(1)}}, Waiting: []Job{{ID: "j", Queue: "a", Each: Resources{"g": -1}}}}, "amounts are"},
		{"members", Snapshot{Queues: []Queue{{ID: "a"}}, Waiting: []Job{{ID: "j", Queue: "a", Min: 3, Max: 2}}}, "3 to 2"},
		{"claim of nobody", Snapshot{Claims: []JobID{"j"}}, "does not wait"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(tt.snap, Anywhere{})
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to name %s", err, tt.want)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	limit := Amount(2)
	s, err := Open(Snapshot{Cohorts: []Cohort{{Name: "c"}}, Queues: []Queue{
		{ID: "a", Cohort: "c", Quotas: map[Flavor]Quota{"g": {Nominal: 2, BorrowingLimit: &limit}}},
		{ID: "b", Cohort: "c", Quotas: map[Flavor]Quota{"g": {Nominal: 9}}}}}, NewCounting(map[NodeID]Resources{"n": {"g": 10}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		queue QueueID
		ask   Amount
		want  string
	}{{"a", 4, ""}, {"a", 5, `"a" limits its queue to 0.004`}, {"b", 12, `"c" limits`}, {"b", 11, "all nodes together"}} {
		err := s.Submit(Job{ID: JobID(tt.queue) + JobID(tt.ask.String()), Queue: tt.queue, Each: Resources{"g": tt.ask}})
		var r *Refusal
		if refused := errors.As(err, &r); refused != (tt.want != "") || refused && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s of queue %s: got %v, want %q", tt.ask, tt.queue, err, tt.want)
		}
	}
}

// TestDecay holds past use against its closed form.
func TestDecay(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, err := Open(Snapshot{Policy: Policy{HalfLife: time.Hour}, Queues: []Queue{{ID: "a", Quotas: map[Flavor]Quota{"g": {Nominal: 8000}}}}}, Anywhere{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Submit(Job{ID: "j", Queue: "a", Each: Resources{"g": 8000}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(s.Plan(now), now); err != nil {
		t.Fatal(err)
	}
	for hours, want := range []float64{0, 4000, 6000, 7000} {
		if got := s.mean(0, now.Add(time.Duration(hours)*time.Hour)); got != want {
			t.Errorf("after %d h: %v, want %v", hours, got, want)
		}
	}
	if err := s.End("j", now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := s.mean(0, now.Add(3*time.Hour)); got != 1000 {
		t.Errorf("two half-lives after its end: %v, want 1000", got)
	}
}

func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"1", "0.125", "1.5", "-1", "1.", ".5", "1e3", "9999999999", "1099511627.776"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAmount(s)
		if err != nil {
			return
		}
		if again, err := ParseAmount(a.String()); a < 0 || a > MaxAmount || err != nil || again != a {
			t.Errorf("%q is %d, which is written %s and read %d, %v", s, a, a, again, err)
		}
	})
}
