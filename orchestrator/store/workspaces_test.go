package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

func declared(version int64, name string) workspace.Stored {
	borrow := workspace.Amount(125)
	return workspace.Stored{Version: version, By: "ann", At: &noon, Definitions: workspace.Definitions{
		Policy: workspace.Policy{Aging: workspace.Duration(time.Hour)},
		Workspaces: []workspace.Workspace{{
			Name: name, Quotas: workspace.Quotas{"cpu": {Nominal: 8500, Borrow: &borrow}},
			Schedules: []workspace.Schedule{{Name: "nights", From: "20:00", Quotas: workspace.Quotas{"cpu": {Nominal: 1}}}},
		}},
	}}
}

func TestDefinitionsHaveVersions(t *testing.T) {
	path := temp(t)
	db := open(t, path)
	ctx := t.Context()
	if none, err := db.Workspaces(ctx); err != nil || none.Version != 0 || len(none.Definitions.Workspaces) != 0 {
		t.Errorf("at first: %+v, %v", none, err)
	}
	for _, s := range []workspace.Stored{declared(1, "a"), declared(2, "b")} {
		if err := db.PutWorkspaces(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []int64{0, 1, 2, 4} {
		if err := db.PutWorkspaces(ctx, declared(version, "c")); !problem.Is(err, problem.Conflict) {
			t.Errorf("version %d after 2: %v, want a conflict", version, err)
		}
	}
	db.Close()
	got, err := open(t, path).Workspaces(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(declared(2, "b"), got); diff != "" {
		t.Errorf("after it was opened again (-want +got)\n%s", diff)
	}
}

func TestOfTwoApplyingOneIsTold(t *testing.T) {
	db := open(t, temp(t))
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = db.PutWorkspaces(t.Context(), declared(1, fmt.Sprint("w", i))) })
	}
	wg.Wait()
	winner := ""
	for i, err := range errs {
		if err == nil && winner == "" {
			winner = fmt.Sprint("w", i)
		} else if !problem.Is(err, problem.Conflict) {
			t.Errorf("%d: %v, want a conflict", i, err)
		}
	}
	if got, err := db.Workspaces(t.Context()); err != nil || got.Definitions.Workspaces[0].Name != winner {
		t.Errorf("%+v, %v; want %s's", got, err, winner)
	}
}

func TestUsageByDay(t *testing.T) {
	db := open(t, temp(t))
	midnight := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	c := workspace.Charge{Job: "r/n", Attempt: 1, Workspace: "w", Flavor: "h100", Amount: 1500, From: midnight.Add(-time.Hour), To: midnight.Add(2*time.Hour + 999*time.Millisecond)}
	other := c
	other.Attempt, other.Amount, other.From, other.To = 2, queue.One, midnight.Add(30*time.Hour), midnight.Add(31*time.Hour)
	for range 3 { // what is told again is not counted again
		if err := db.AddUsage(t.Context(), []workspace.Charge{c, other}); err != nil {
			t.Fatal(err)
		}
	}
	want := []workspace.Use{
		{Workspace: "w", Flavor: "h100", Day: midnight.AddDate(0, 0, -1), Seconds: 1500 * 3600},
		{Workspace: "w", Flavor: "h100", Day: midnight, Seconds: 1500 * 7200},
		{Workspace: "w", Flavor: "h100", Day: midnight.AddDate(0, 0, 1), Seconds: 1000 * 3600},
	}
	got, err := db.Usage(t.Context(), time.Time{})
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if got, err := db.Usage(t.Context(), midnight.Add(time.Minute)); err != nil || len(got) != 2 {
		t.Errorf("since the second day: %+v, %v", got, err)
	}
}

func TestChargesAreAllOrNothing(t *testing.T) {
	db := open(t, temp(t))
	good := workspace.Charge{Job: "a", Attempt: 1, Workspace: "w", Flavor: "h100", Amount: 1, From: noon, To: noon.Add(time.Hour)}
	tests := map[string]func(*workspace.Charge){
		"negative":  func(c *workspace.Charge) { c.Amount = -1 },
		"too much":  func(c *workspace.Charge) { c.Amount = queue.MaxAmount + 1 },
		"for ever":  func(c *workspace.Charge) { c.From = time.Time{} },
		"in future": func(c *workspace.Charge) { c.To = noon.AddDate(500, 0, 0) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			bad := good
			bad.Job = "b"
			change(&bad)
			if err := db.AddUsage(t.Context(), []workspace.Charge{good, bad}); err == nil {
				t.Error("it is taken")
			}
			if got, err := db.Usage(t.Context(), time.Time{}); err != nil || len(got) != 0 {
				t.Errorf("something is counted: %+v, %v", got, err)
			}
		})
	}
}

// However often and in whatever pieces an attempt's time is told, each second of
// it counts once.
func TestEachSecondCountsOnce(t *testing.T) {
	db := open(t, temp(t))
	base := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		ws := fmt.Sprint("w", run)
		type attempt struct{ from, to int }
		attempts := map[int]*attempt{}
		amount := queue.Amount(rapid.Int64Range(0, 9000).Draw(t, "amount"))
		for range rapid.IntRange(1, 15).Draw(t, "charges") {
			n := rapid.IntRange(1, 3).Draw(t, "attempt")
			a := attempts[n]
			if a == nil {
				a = &attempt{from: rapid.IntRange(0, 10_000).Draw(t, "from")}
				a.to = a.from
				attempts[n] = a
			}
			to := a.from + rapid.IntRange(-10, 200_000).Draw(t, "to")
			err := db.AddUsage(t.Context(), []workspace.Charge{{
				Job: queue.JobID(ws), Attempt: n, Workspace: ws, Flavor: "h100", Amount: amount,
				From: base.Add(time.Duration(a.from) * time.Second), To: base.Add(time.Duration(to) * time.Second),
			}})
			if err != nil {
				t.Fatal(err)
			}
			a.to = max(a.to, to)
		}
		want := map[int64]queue.Amount{}
		for _, a := range attempts {
			for s := a.from; s < a.to; s++ {
				want[base.Add(time.Duration(s)*time.Second).Unix()/secondsPerDay] += amount
			}
		}
		uses, err := db.Usage(t.Context(), base.AddDate(0, 0, -1))
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range uses {
			if day := u.Day.Unix() / secondsPerDay; u.Workspace == ws && u.Seconds != want[day] {
				t.Fatalf("on %s: %d, want %d", u.Day, u.Seconds, want[day])
			} else if u.Workspace == ws {
				delete(want, day)
			}
		}
		for day, seconds := range want {
			if seconds > 0 {
				t.Fatalf("of day %d, %d is missing", day, seconds)
			}
		}
	})
}
