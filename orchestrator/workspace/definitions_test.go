package workspace

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// What JSON can say and a file cannot.
func TestCheck(t *testing.T) {
	negative, huge := Amount(-1), Amount(queue.MaxAmount+1)
	of := func(w Workspace) Definitions {
		w.Name = "w"
		return Definitions{Workspaces: []Workspace{w}}
	}
	schedule := func(s Schedule) Definitions {
		s.Name, s.Quotas = "s", Quotas{CPU: {}}
		return of(Workspace{Quotas: s.Quotas, Schedules: []Schedule{s}})
	}
	tests := map[string]struct {
		d    Definitions
		want string // path and summary
	}{
		"nothing":          {Definitions{}, ""},
		"negative nominal": {of(Workspace{Quotas: Quotas{CPU: {Nominal: negative}}}), "workspaces[0].quotas.cpu.nominal: Out of range"},
		"huge borrow":      {of(Workspace{Quotas: Quotas{CPU: {Borrow: &huge}}}), "workspaces[0].quotas.cpu.borrow: Out of range"},
		"negative floor":   {of(Workspace{Serving: map[queue.Flavor]Serving{CPU: {Floor: negative}}}), "workspaces[0].serving.cpu.floor: Out of range"},
		"negative budget":  {of(Workspace{Budget: &Budget{GPUHours: negative, Per: Day}}), "workspaces[0].budget.gpu_hours: Out of range"},
		"sum that overflows": {of(Workspace{Quotas: Quotas{CPU: {Nominal: Amount(queue.MaxAmount)}},
			Serving: map[queue.Flavor]Serving{CPU: {Floor: Amount(queue.MaxAmount), Headroom: Amount(queue.MaxAmount)}}}), "workspaces[0].serving.cpu: More than the quota"},
		"no name":                  {Definitions{Cohorts: []Cohort{{}}}, "cohorts[0].name: Invalid name"},
		"a path as a name":         {Definitions{Workspaces: []Workspace{{Name: "../w"}}}, "workspaces[0].name: Invalid name"},
		"control character":        {Definitions{Flavors: []Flavor{{Name: "f", Model: "a\nb"}}}, "flavors[0].model: Invalid model"},
		"long pattern":             {Definitions{Flavors: []Flavor{{Name: "f", Vendor: strings.Repeat("x", 129)}}}, "flavors[0].vendor: Invalid vendor"},
		"negative memory":          {Definitions{Flavors: []Flavor{{Name: "f", MemoryMaxMiB: -1}}}, "flavors[0].memory_min_mib: Impossible bounds"},
		"long policy":              {Definitions{Policy: Policy{Patience: maxDuration + 1}}, "policy.patience: Out of range"},
		"duration of days":         {schedule(Schedule{From: "08:00", Duration: 1}), "workspaces[0].schedules[0].duration: Two kinds of schedule"},
		"cron for ever":            {schedule(Schedule{Cron: "0 0 * * *", Duration: maxCron + 1}), "workspaces[0].schedules[0].duration: Out of range"},
		"cron of seconds":          {schedule(Schedule{Cron: "0 0 0 * * * *", Duration: 1}), "workspaces[0].schedules[0].cron: Invalid cron expression"},
		"a long cron":              {schedule(Schedule{Cron: strings.Repeat("0,", 100) + "0 0 * * *", Duration: 1}), "workspaces[0].schedules[0].cron: Too long"},
		"no cpu by day":            {of(Workspace{Schedules: []Schedule{{Name: "s", From: "20:00", Quotas: Quotas{CPU: {}}}}}), "workspaces[0].schedules[0].quotas.cpu: Nothing at other times"},
		"a long text":              {Definitions{PriorityClasses: []PriorityClass{{Name: "p", Description: strings.Repeat("ü", maxDescription+1)}}}, "priority_classes[0].description: Too long"},
		"cron of words":            {schedule(Schedule{Cron: "a b c d e", Duration: 1}), "workspaces[0].schedules[0].cron: Invalid cron expression"},
		"this machine's time zone": {schedule(Schedule{From: "08:00", Timezone: "Local"}), "workspaces[0].schedules[0].timezone: Unknown time zone"},
		"a file as time zone":      {schedule(Schedule{From: "08:00", Timezone: "../../etc/passwd"}), "workspaces[0].schedules[0].timezone: Unknown time zone"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, p := range test.d.Check() {
				got += p.Path + ": " + p.Summary + "\n"
			}
			if diff := cmp.Diff(test.want, strings.TrimSpace(got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDeepCohorts(t *testing.T) {
	var d Definitions
	for i := range maxDepth + 1 {
		c := Cohort{Name: "c" + strings.Repeat("x", i)}
		if i > 0 {
			c.Parent = d.Cohorts[i-1].Name
		}
		d.Cohorts = append(d.Cohorts, c)
	}
	if problems := d.Check(); len(problems) != 1 || problems[0].Summary != "Too many levels" {
		t.Errorf("one level too many: %v", problems)
	}
	d.Cohorts = d.Cohorts[:maxDepth]
	d.Workspaces = []Workspace{{Name: "w", Cohort: d.Cohorts[maxDepth-1].Name}}
	if problems := d.Check(); len(problems) > 0 {
		t.Errorf("the most levels: %v", problems)
	}
	opens(t, d, noon, Seen{})
}

func TestWhereWorkGoes(t *testing.T) {
	d := read(t, `
workspace "a" {
  namespace   = "team-a"
  node_pools  = ["gpu"]
  preemptible = false
}
workspace "b" {}
`)
	if d.NamespaceOf("a") != "team-a" || d.NamespaceOf("b") != "" || d.NamespaceOf("x") != "" {
		t.Error("namespaces")
	}
	if diff := cmp.Diff([]string{"gpu"}, d.PoolsOf("a")); diff != "" || d.PoolsOf("b") != nil || d.PoolsOf("x") != nil {
		t.Error("node pools")
	}
	if d.Preemptible("a") || !d.Preemptible("b") || !d.Preemptible("x") {
		t.Error("preemptible")
	}
	for namespace, want := range map[string]string{"team-a": "a", "b": "", "": ""} {
		if got, ok := d.ByNamespace(namespace); got != want || ok != (want != "") {
			t.Errorf("work in %q is %q's", namespace, got)
		}
	}
	d.Workspaces[0], d.Workspaces[1] = d.Workspaces[1], d.Workspaces[0]
	for _, name := range []string{"a", "b"} {
		if w, err := d.Workspace(name); err != nil || w.Name != name {
			t.Errorf("out of order, %s is not found: %v", name, err)
		}
	}
	if _, err := d.Workspace("x"); !problem.Is(err, problem.NotFound) {
		t.Errorf("x is found: %v", err)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]string{"1h0m0s": "1h", "90m": "1h30m", "30s": "30s", "1h0m5s": "1h0m5s", "0s": "0s", "10m": "10m", "100h": "100h", "1.5s": "1.5s"} {
		d, err := time.ParseDuration(text)
		if got := Duration(d).String(); err != nil || got != want {
			t.Errorf("%s is written %s, want %s", text, got, want)
		}
	}
}
