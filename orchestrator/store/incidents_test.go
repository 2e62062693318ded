package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

func begins(id, device string, at time.Time) failover.Incident {
	return failover.Incident{ID: id, Cause: "broken", Seen: at, Times: 1, Fault: failover.Fault{
		NodeID: "n", NodeName: "gpu-01", Device: device, Board: "A100", Reason: "broken", Action: gpustatus.Move,
	}}
}

func TestIncidentsOfADevice(t *testing.T) {
	db := open(t, temp(t))
	ctx := t.Context()
	must := func(i failover.Incident, err error) failover.Incident {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first := must(db.OpenIncident(ctx, begins("i1", "GPU-a", noon)))
	if first.ID != "i1" || first.Times != 1 {
		t.Errorf("the first = %+v", first)
	}
	worse := begins("i2", "GPU-a", noon.Add(time.Second))
	worse.Fault.Reason, worse.Action = "gone", gpustatus.End
	if same := must(db.OpenIncident(ctx, worse)); same.ID != "i1" || same.Times != 1 || same.Reason != "gone" || same.Action != gpustatus.End || same.Cause != "broken" || !same.Seen.Equal(noon) {
		t.Errorf("while it goes on = %+v", same)
	}
	if other := must(db.OpenIncident(ctx, begins("i3", "GPU-b", noon))); other.ID != "i3" {
		t.Errorf("another device's = %+v", other)
	}
	ended := noon.Add(time.Minute)
	must(db.UpdateIncident(ctx, "i1", func(i *failover.Incident) { i.Ended = &ended }))
	if going, err := db.Unfinished(ctx); err != nil || len(going) != 1 || going[0].ID != "i3" {
		t.Errorf("unfinished = %+v, %v", going, err)
	}
	if again := must(db.OpenIncident(ctx, begins("i4", "GPU-a", ended.Add(failover.Flapping-1)))); again.ID != "i1" || again.Times != 2 || again.Ended != nil {
		t.Errorf("soon after its end = %+v", again)
	}
	must(db.UpdateIncident(ctx, "i1", func(i *failover.Incident) { i.Ended = &ended }))
	if later := must(db.OpenIncident(ctx, begins("i5", "GPU-a", ended.Add(failover.Flapping)))); later.ID != "i5" || later.Times != 1 {
		t.Errorf("long after its end = %+v", later)
	}
	if _, err := db.UpdateIncident(ctx, "nope", func(*failover.Incident) {}); !problem.Is(err, problem.NotFound) {
		t.Errorf("changing what is not there: %v, want a problem.NotFound", err)
	}
	if _, err := db.Incident(ctx, "nope"); !problem.Is(err, problem.NotFound) {
		t.Errorf("reading what is not there: %v, want a problem.NotFound", err)
	}
}

func TestIncidentWithAnInstanceIsUnfinished(t *testing.T) {
	db := open(t, temp(t))
	ctx := t.Context()
	i := begins("i1", "GPU-a", noon)
	i.Ended = &noon
	i.Instances = []failover.Move{{Incident: "i1", AllocID: "a", Phase: failover.Leaving, Seen: noon}}
	if _, err := db.OpenIncident(ctx, i); err != nil {
		t.Fatal(err)
	}
	for phase, want := range map[failover.Phase]int{failover.Leaving: 1, failover.Left: 1, failover.Resumed: 0, failover.Over: 0} {
		if _, err := db.UpdateIncident(ctx, "i1", func(i *failover.Incident) { i.Instances[0].Phase = phase }); err != nil {
			t.Fatal(err)
		}
		if all, err := db.Unfinished(ctx); err != nil || len(all) != want {
			t.Errorf("%s: %d unfinished, %v; want %d", phase, len(all), err, want)
		}
	}
}

func TestIncidentsHaveWhatTheyTouched(t *testing.T) {
	db := open(t, temp(t))
	ctx := t.Context()
	s := state("r1", "")
	create(t, db, s)
	i := begins("i1", "GPU-a", noon)
	i.Instances = []failover.Move{{Incident: "i1", AllocID: "b", Workspace: "w", Endpoint: "digits", Phase: failover.Left, Seen: noon}}
	if _, err := db.OpenIncident(ctx, i); err != nil {
		t.Fatal(err)
	}
	m := failover.Move{Incident: "i1", AllocID: "a", Phase: failover.Resumed, Seen: noon, Checkpoint: new(int64(7)), To: "gpu-02"}
	for _, c := range []run.AttemptState{
		{Node: "step.train", Attempt: run.Attempt{Number: 1, JobID: "j1"}, Move: &m},
		{Node: "step.train", Attempt: run.Attempt{Number: 2, JobID: "j2"}},
	} {
		if err := db.Commit(ctx, run.Change{ID: s.ID, Attempts: []run.AttemptState{c}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.Incident(ctx, "i1")
	if err != nil {
		t.Fatal(err)
	}
	want := []failover.Affected{
		{Workspace: "w", Endpoint: "digits", Move: i.Instances[0]},
		{Workspace: "default", Run: "r1", Step: "step.train", Attempt: 1, Move: m},
	}
	if diff := cmp.Diff(want, got.Affected); diff != "" {
		t.Errorf("affected (-want +got):\n%s", diff)
	}
}

func TestIncidentFilters(t *testing.T) {
	db := open(t, temp(t))
	ctx := t.Context()
	for n := range 5 {
		i := begins(fmt.Sprint("i", n), fmt.Sprint("GPU-", n), noon)
		if n == 3 {
			i.Ended = &noon
		}
		if n == 4 {
			i.NodeID, i.NodeName = "m", "gpu-02"
		}
		if _, err := db.OpenIncident(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		f    failover.Filter
		want string
	}{
		"all":           {failover.Filter{}, "i4 i3 i2 i1 i0"},
		"a page":        {failover.Filter{Limit: 2, Before: "i3"}, "i2 i1"},
		"a device":      {failover.Filter{Device: "GPU-1"}, "i1"},
		"a prefix":      {failover.Filter{Device: "GPU", Limit: 1}, "i4"},
		"not a pattern": {failover.Filter{Device: "GPU%"}, ""},
		"open":          {failover.Filter{Open: true}, "i4 i2 i1 i0"},
		"a node's name": {failover.Filter{Node: "gpu-02"}, "i4"},
		"a node's ID":   {failover.Filter{Node: "n", Open: true}, "i2 i1 i0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			all, err := db.Incidents(ctx, tt.f)
			got := ""
			for _, i := range all {
				got += " " + i.ID
			}
			if want := tt.want; err != nil || len(got) > 0 && got[1:] != want || len(got) == 0 && want != "" {
				t.Errorf("incidents =%s, %v; want %s", got, err, want)
			}
		})
	}
}
