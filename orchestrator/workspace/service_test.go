package workspace_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func service(t *testing.T, file string) *workspace.Service {
	t.Helper()
	db, err := store.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s, err := workspace.Open(t.Context(), db, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, text string) workspace.Definitions {
	t.Helper()
	d, diags := workspace.Parse(workspace.Source{Filename: "w.hcl", Text: []byte(text)})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return d
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestApply(t *testing.T) {
	s := service(t, filepath.Join(t.TempDir(), "drover.db"))
	ctx := t.Context()
	d := parse(t, `workspace "w" { weight = 2 }`)
	changed := s.Changed()
	plan, err := s.Apply(ctx, d, 0, "ann")
	if err != nil || plan.Version != 1 || len(plan.Changes) != 1 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if !closed(changed) || closed(s.Changed()) {
		t.Error("the bell does not ring once")
	}
	if got := s.Current(); got.By != "ann" || !got.At.Equal(noon) || got.Version != 1 {
		t.Errorf("current: %+v", got)
	}
	changed = s.Changed()
	if plan, err = s.Apply(ctx, d, 1, "bob"); err != nil || plan.Version != 1 || len(plan.Changes) != 0 || s.Current().By != "ann" {
		t.Errorf("the same again: %+v, %v", plan, err)
	}
	if _, err := s.Apply(ctx, workspace.Definitions{}, 0, "bob"); !problem.Is(err, problem.Conflict) {
		t.Errorf("an old version: %v", err)
	}
	var invalid *workspace.InvalidError
	if _, err := s.Apply(ctx, workspace.Definitions{Workspaces: []workspace.Workspace{{Name: "a/b"}}}, 1, "bob"); !errors.As(err, &invalid) {
		t.Errorf("wrong definitions: %v", err)
	}
	if _, err := s.Delete(ctx, "v", "bob"); !problem.Is(err, problem.NotFound) {
		t.Errorf("deleting what is not there: %v", err)
	}
	if closed(changed) {
		t.Error("the bell rings though nothing changed")
	}
	if plan, err = s.Delete(ctx, "w", "bob"); err != nil || plan.Version != 2 || !closed(changed) {
		t.Errorf("delete: %+v, %v", plan, err)
	}
}

func TestOfManyWhoApplyOneIsFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "drover.db")
	s := service(t, file)
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		d := parse(t, fmt.Sprintf("workspace \"w%d\" {}", i))
		wg.Go(func() { _, errs[i] = s.Apply(context.Background(), d, 0, "") })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !problem.Is(err, problem.Conflict) {
			t.Error(err)
		}
	}
	if won != 1 || s.Current().Version != 1 {
		t.Errorf("%d applied, version %d", won, s.Current().Version)
	}
}

func TestStatus(t *testing.T) {
	s := service(t, filepath.Join(t.TempDir(), "drover.db"))
	ctx := t.Context()
	if _, err := s.Apply(ctx, parse(t, `
flavor "h100" {}
workspace "w" {
  quota "h100" { nominal = 4 }
  serving "h100" { floor = 1 }
  schedule "noon" {
    from = "11:00"
    to   = "13:00"
    quota "h100" { nominal = 6 }
  }
  budget {
    gpu_hours = 3
    per       = "day"
  }
}
`), 0, ""); err != nil {
		t.Fatal(err)
	}
	amount := func(n workspace.Amount) *workspace.Amount { return &n }
	quota, serving := workspace.Quota{Nominal: 6000}, workspace.Serving{Floor: 1000}

	before, err := s.Status(ctx, "w")
	if diff := cmp.Diff([]workspace.FlavorStatus{{Flavor: "h100", Quota: quota, Serving: serving}}, before.Flavors); diff != "" || err != nil {
		t.Errorf("while nobody knows what is used: %v (-want +got)\n%s", err, diff)
	}
	s.SetUsing(func(context.Context) (map[queue.QueueID]queue.Resources, error) {
		return map[queue.QueueID]queue.Resources{"w": {"h100": 2500, "cpu": 8000}, "w/serving": {"h100": 1000}, "v": {"h100": 9000}}, nil
	})
	charge := workspace.Charge{Job: "r/n", Attempt: 1, Workspace: "w", Flavor: "h100", Amount: 3000, From: noon.Add(-time.Hour), To: noon}
	if err := s.AddUsage(ctx, []workspace.Charge{charge}); err != nil {
		t.Fatal(err)
	}
	until, midnight := noon.Add(time.Hour), noon.Truncate(24*time.Hour)
	got, err := s.Status(ctx, "w")
	want := workspace.Status{
		Workspace: before.Workspace,
		Flavors: []workspace.FlavorStatus{
			{Flavor: "cpu", Unlimited: true, Used: amount(8000), ServingUsed: amount(0)},
			{Flavor: "h100", Quota: quota, Serving: serving, Used: amount(3500), ServingUsed: amount(1000)},
		},
		Budget: &workspace.BudgetStatus{
			Budget: workspace.Budget{GPUHours: 3000, Per: workspace.Day}, Used: 3000, Begin: midnight, End: midnight.AddDate(0, 0, 1), Held: true,
		},
		Schedules: []workspace.ScheduleStatus{{Name: "noon", Holds: true, Until: &until}},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if _, err := s.Status(ctx, "v"); !problem.Is(err, problem.NotFound) {
		t.Errorf("one that nobody declared: %v", err)
	}
}

func TestPlansTellOfCuts(t *testing.T) {
	s := service(t, filepath.Join(t.TempDir(), "drover.db"))
	ctx := t.Context()
	declare := func(cpu, h100 string) workspace.Definitions {
		return parse(t, `
flavor "h100" {}
workspace "w" {
  quota "cpu" { nominal = `+cpu+` }
  quota "h100" { nominal = `+h100+` }
}
`)
	}
	if _, err := s.Apply(ctx, declare("8", "2"), 0, ""); err != nil {
		t.Fatal(err)
	}
	var failure error
	s.SetUsing(func(context.Context) (map[queue.QueueID]queue.Resources, error) {
		return map[queue.QueueID]queue.Resources{"w": {"cpu": 4000, "h100": 2000}, "w/serving": {"h100": 1000}}, failure
	})
	tests := map[string]struct {
		after workspace.Definitions
		want  []workspace.Cut
	}{
		"less than is used": {declare("3.5", "2"), []workspace.Cut{{Workspace: "w", Flavor: "cpu", Used: 4000, Nominal: 3500}}},
		"still enough":      {declare("4", "2"), nil},
		"more":              {declare("8", "2.5"), nil},
		"over, and less":    {declare("8", "0"), []workspace.Cut{{Workspace: "w", Flavor: "h100", Used: 3000}}},
		"deleted":           {workspace.Definitions{}, nil},
		"not declared":      {parse(t, `workspace "w" {}`), []workspace.Cut{{Workspace: "w", Flavor: "h100", Used: 3000}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			plan, err := s.Plan(ctx, test.after)
			if diff := cmp.Diff(test.want, plan.Cuts); diff != "" || err != nil {
				t.Errorf("%v (-want +got)\n%s", err, diff)
			}
		})
	}
	failure = problem.New(problem.Unavailable, "the cluster does not answer")
	if plan, err := s.Plan(ctx, declare("0", "0")); err != nil || len(plan.Changes) != 1 || plan.Cuts != nil {
		t.Errorf("while nobody knows what is used: %+v, %v", plan, err)
	}
	if status, err := s.Status(ctx, "w"); err != nil || status.Flavors[0].Used != nil {
		t.Errorf("while nobody knows what is used: %+v, %v", status, err)
	}
}
