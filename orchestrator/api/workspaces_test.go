package api_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// withWorkspaces is the API over a store of its own.
func withWorkspaces(t *testing.T) http.Handler {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "drover.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	service, err := workspace.Open(t.Context(), db, func() time.Time { return apitest.Epoch })
	if err != nil {
		t.Fatal(err)
	}
	return handler(t, &apitest.World{}, func(c *api.Config) { c.Workspaces = service })
}

const someDefinitions = `{"flavors":[{"name":"h100","model":"*H100*"}],"cohorts":[{"name":"c"}],
	"workspaces":[{"name":"w","cohort":"c","quotas":{"h100":{"nominal":8.125,"lend":0.1}},"budget":{"gpu_hours":100,"per":"week"}}]}`

func TestDefinitionsAreReplacedAsAWhole(t *testing.T) {
	h := withWorkspaces(t)
	if s := decode[workspace.Stored](t, call(h, "GET", "/v1/workspaces", "")); s.Version != 0 {
		t.Errorf("at first: %+v", s)
	}
	plan := decode[workspace.Plan](t, call(h, "POST", "/v1/workspaces/plan", `{"definitions":`+someDefinitions+`}`))
	if len(plan.Changes) != 3 || plan.Version != 0 || plan.Changes[2].Action != workspace.Create {
		t.Errorf("plan: %+v", plan)
	}
	apply := `{"version":0,"definitions":` + someDefinitions + `}`
	if w := call(h, "PUT", "/v1/workspaces", apply); w.Code != 200 || decode[workspace.Plan](t, w).Version != 1 {
		t.Fatalf("apply: %d %s", w.Code, w.Body)
	}
	if w := call(h, "PUT", "/v1/workspaces", apply); w.Code != 409 {
		t.Errorf("another apply of version 0: %d %s", w.Code, w.Body)
	}
	same := strings.Replace(apply, `"version":0`, `"version":1`, 1)
	if p := decode[workspace.Plan](t, call(h, "PUT", "/v1/workspaces", same)); p.Version != 1 || len(p.Changes) != 0 {
		t.Errorf("the same again: %+v", p)
	}
	got := decode[workspace.Status](t, call(h, "GET", "/v1/workspaces/w", ""))
	lend := workspace.Amount(100)
	want := []workspace.FlavorStatus{{Flavor: "h100", Quota: workspace.Quota{Nominal: 8125, Lend: &lend}}}
	if diff := cmp.Diff(want, got.Flavors); diff != "" || got.Budget.Held || got.Budget.End != time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) {
		t.Errorf("status %+v (-want +got)\n%s", got, diff)
	}
	if w := call(h, "DELETE", "/v1/workspaces/w", ""); w.Code != 200 || decode[workspace.Plan](t, w).Version != 2 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	if w := call(h, "DELETE", "/v1/workspaces/w", ""); w.Code != 404 {
		t.Errorf("delete again: %d %s", w.Code, w.Body)
	}
	stored := decode[workspace.Stored](t, call(h, "GET", "/v1/workspaces", ""))
	if stored.Version != 2 || len(stored.Definitions.Workspaces) != 0 || len(stored.Definitions.Cohorts) != 1 {
		t.Errorf("in the end: %+v", stored)
	}
}

func TestWrongDefinitionsAreRefused(t *testing.T) {
	h := withWorkspaces(t)
	tests := map[string]struct {
		definitions string
		fields      []string
	}{
		"negative":         {`{"workspaces":[{"name":"w","quotas":{"cpu":{"nominal":-1}}}]}`, []string{"body.definitions.workspaces[0].quotas.cpu.nominal"}},
		"overflowing":      {`{"workspaces":[{"name":"w","quotas":{"cpu":{"nominal":1e300}}}]}`, []string{"body.definitions.workspaces[0].quotas.cpu.nominal"}},
		"too exact":        {`{"workspaces":[{"name":"w","quotas":{"cpu":{"nominal":0.0001}}}]}`, []string{"body"}},
		"unknown field":    {`{"workspaces":[{"name":"w","colour":"red"}]}`, []string{"body.definitions.workspaces[0].colour"}},
		"cycle":            {`{"cohorts":[{"name":"a","parent":"b"},{"name":"b","parent":"a"}]}`, []string{"body.definitions.cohorts[0].parent"}},
		"several problems": {`{"workspaces":[{"name":"w","cohort":"c","quotas":{"h100":{"nominal":1}}},{"name":"w"}]}`, []string{"body.definitions.workspaces[0].cohort", "body.definitions.workspaces[0].quotas.h100", "body.definitions.workspaces[1].name"}},
		"no period":        {`{"workspaces":[{"name":"w","budget":{"gpu_hours":1,"per":"fortnight"}}]}`, []string{"body.definitions.workspaces[0].budget.per"}},
		"no duration":      {`{"policy":{"aging":"soon"}}`, []string{"body.definitions.policy.aging"}},
		"no number":        {`{"workspaces":[{"name":"w","quotas":{"cpu":{"nominal":"8"}}}]}`, []string{"body.definitions.workspaces[0].quotas.cpu.nominal"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, r := range []struct{ method, path string }{{"PUT", "/v1/workspaces"}, {"POST", "/v1/workspaces/plan"}} {
				body := `{"definitions":` + test.definitions + `}`
				if r.method == "PUT" {
					body = `{"version":0,"definitions":` + test.definitions + `}`
				}
				w := call(h, r.method, r.path, body)
				if w.Code != 422 {
					t.Fatalf("%s: status %d: %s", r.method, w.Code, w.Body)
				}
				var fields []string
				for _, e := range decode[api.Problem](t, w).Errors {
					fields = append(fields, e.Location)
				}
				if diff := cmp.Diff(test.fields, fields); diff != "" {
					t.Errorf("%s: fields (-want +got)\n%s%s", r.method, diff, w.Body)
				}
			}
		})
	}
	if w := call(h, "GET", "/v1/workspaces/no%20such", ""); w.Code != 422 {
		t.Errorf("a name that is none: %d", w.Code)
	}
	if w := call(h, "PUT", "/v1/workspaces", `{"definitions":{}}`); w.Code != 422 {
		t.Errorf("without a version: %d", w.Code)
	}
	if w := call(h, "PUT", "/v1/workspaces", `{"version":0,"definitions":{"policy":{"aging":"`+strings.Repeat("x", 9<<20)+`"}}}`); w.Code != 413 {
		t.Errorf("too much: %d", w.Code)
	}
}
