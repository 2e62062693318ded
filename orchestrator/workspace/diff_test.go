package workspace

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

func TestDiff(t *testing.T) {
	before := read(t, `
priority_class "low" { value = 1 }
workspace "a" {
  weight = 2
  quota "cpu" {
    nominal = 8
  }
  schedule "x" {
    from = "08:00"
    quota "cpu" { nominal = 1 }
  }
  schedule "y" {
    from = "09:00"
    quota "cpu" { nominal = 2 }
  }
}
workspace "b" {}
`)
	after := read(t, `
policy { aging = "1h" }
priority_class "low" { value = 1 }
workspace "c" { strict = true }
workspace "a" {
  quota "cpu" { nominal = 8.5 }
  schedule "y" {
    from = "09:00"
    quota "cpu" { nominal = 2 }
  }
  schedule "x" {
    from = "08:00"
    quota "cpu" { nominal = 1 }
  }
}
`)
	want := []Change{
		{Create, "policy", "", []FieldChange{{"aging", "", `"1h"`}}},
		{Update, "workspace", "a", []FieldChange{
			{"quota.cpu.nominal", "8", "8.5"},
			{"order of schedules", `["x", "y"]`, `["y", "x"]`},
			{"weight", "2", ""},
		}},
		{Create, "workspace", "c", []FieldChange{{"strict", "", "true"}}},
		{Delete, "workspace", "b", []FieldChange{}},
	}
	if diff := cmp.Diff(want, Diff(before, after)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Definitions differ if, and only if, their files do.
func TestDiffSeesWhatFilesShow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := definitions(t), definitions(t)
		if rapid.Bool().Draw(t, "alike") {
			b = a
			if len(b.Workspaces) > 0 {
				b.Workspaces = append([]Workspace{aWorkspace(t, b, "w0", []queue.Flavor{CPU})}, a.Workspaces[1:]...)
			}
		}
		changes := Diff(a, b)
		if same := bytes.Equal(a.Export(), b.Export()); same != (len(changes) == 0) {
			t.Fatalf("the files are the same: %v; %v", same, changes)
		}
		if back := Diff(b, a); len(back) != len(changes) {
			t.Fatalf("%d changes to, and %d back", len(changes), len(back))
		}
	})
}
