package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// declare applies definitions, and returns what the command says.
func declare(t *testing.T, p *lab.Platform, definitions string) string {
	t.Helper()
	file := filepath.Join(p.Dir, "workspaces.hcl")
	if err := os.WriteFile(file, []byte(definitions), 0o644); err != nil {
		t.Fatal(err)
	}
	out, code := p.CLI("workspace", "apply", "-yes", "-f", file)
	if code != 0 {
		t.Fatalf("drover workspace apply: exit code %d\n%s", code, out)
	}
	return out
}

// uses is how a workspace stands with the GPUs.
func uses(t *testing.T, p *lab.Platform, name string) (workspace.Status, workspace.FlavorStatus) {
	t.Helper()
	out, code := p.CLI("workspace", "show", "-json", name)
	var s workspace.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 {
		t.Fatalf("drover workspace show: exit code %d, %v: %s", code, err, out)
	}
	for _, f := range s.Flavors {
		if f.Flavor == "a100" {
			return s, f
		}
	}
	return s, workspace.FlavorStatus{}
}

// entry is a task in the queue.
func entry(t *testing.T, p *lab.Platform, task queue.JobID) admission.Entry {
	t.Helper()
	for _, e := range queued(t, p) {
		if e.Task == task {
			return e
		}
	}
	return admission.Entry{}
}

// waitsFor waits until a task waits for a reason.
func waitsFor(t *testing.T, p *lab.Platform, task queue.JobID, code queue.Code) {
	t.Helper()
	lab.Eventually(t, fmt.Sprintf("%s waits: %s", task, code), func() string {
		e := entry(t, p, task)
		if e.State != "waiting" || e.Reason.Code != string(code) {
			return fmt.Sprintf("it is %s: %+v", e.State, e.Reason)
		}
		return ""
	})
}

const twoTeams = `
flavor "a100" { model = "*A100*" }
cohort "all" {}
workspace "vision" {
  cohort = "all"
  quota "a100" { nominal = 8 }
}
workspace "speech" {
  cohort = "all"
  quota "a100" {
    nominal = 8
    borrow  = 0
  }
}
`

// A team borrows what another leaves unused, and gives it back; what nobody may
// ever use is refused; quotas and what was used are kept when the orchestrator is
// killed.
func TestQuotas(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		if out := declare(t, p, twoTeams); !strings.Contains(out, "Plan: 4 to create") {
			t.Errorf("apply says\n%s", out)
		}
		if out := declare(t, p, twoTeams); !strings.Contains(out, "Nothing to change") {
			t.Errorf("the same again says\n%s", out)
		}
		runs, marks := make([]run.ID, 2), make([]string, 2)
		for i := range runs {
			runs[i], _, marks[i] = work(t, p, "vision", "long=true", "gpus=8")
			holding(t, p, runs[i])
		}
		if _, f := uses(t, p, "vision"); f.Used == nil || *f.Used != 16_000 || f.Nominal != 8000 {
			t.Errorf("vision stands with %+v, want 16 of 8", f)
		}

		p.Server.Kill()
		p.Start()
		back, task, backMarks := work(t, p, "speech", "long=true", "gpus=8")
		holding(t, p, back)
		if _, f := uses(t, p, "vision"); *f.Used != 8000 {
			t.Errorf("vision stands with %+v, want what is its own", f)
		}
		left := 0
		for _, id := range runs {
			for _, a := range p.Node(id, "step.work").Attempts {
				if strings.Contains(a.Reason, string(task)) {
					left++
				}
			}
		}
		if left != 1 {
			t.Errorf("%d of vision's made room for %s, want one", left, task)
		}
		letGo(t, backMarks)
		p.Succeeded(back)
		holding(t, p, runs...) // it borrows again

		if out := declare(t, p, strings.Replace(twoTeams, "nominal = 8", "nominal = 4", 1)); !strings.Contains(out, "Workspace vision uses 16 of a100 now, and has 4 then") {
			t.Errorf("a cut says\n%s", out)
		}
		declare(t, p, strings.Replace(twoTeams, "nominal = 8\n    borrow", "nominal = 4\n    borrow", 1))
		if _, code := p.CLI("run", "-detach", "-workspace", "speech", "-var", "marks=/tmp", "-var", "gpus=8", "testdata/queue.hcl"); code != 1 {
			t.Errorf("submitting what speech may never have: exit code %d", code)
		}
		restarts := 0
		for i, id := range runs {
			letGo(t, marks[i])
			p.Succeeded(id)
			restarts += len(starts(t, marks[i], "step.work")) - 1
		}
		if restarts != 1 {
			t.Errorf("vision's were started anew %d times, want once", restarts)
		}
	})
}

// A budget that is used up lets nothing start, ends nothing, and is counted on
// over a kill; a larger one lets start what waits.
func TestBudget(t *testing.T) {
	c := lab.NewDevcluster(t, bin)
	p := lab.NewPlatform(t, c, bin, c.Addr())
	const definitions = `
flavor "a100" { model = "*A100*" }
workspace "vision" {
  quota "a100" { nominal = 16 }
  budget {
    gpu_hours = 0.01
    per       = "year"
  }
}
`
	declare(t, p, definitions)
	first, _, firstMarks := work(t, p, "vision", "long=true", "gpus=8")
	holding(t, p, first)
	lab.Eventually(t, "the budget is used up", func() string {
		if s, _ := uses(t, p, "vision"); !s.Budget.Held {
			return fmt.Sprint(s.Budget.Used, " of ", s.Budget.GPUHours)
		}
		return ""
	})
	// The queue goes by what was counted when it was last opened.
	spent, _ := uses(t, p, "vision")
	lab.Eventually(t, "it is counted again", func() string {
		if s, _ := uses(t, p, "vision"); s.Budget.Used == spent.Budget.Used {
			return fmt.Sprint("still ", s.Budget.Used)
		}
		return ""
	})
	second, task, _ := work(t, p, "vision", "gpus=1")
	waitsFor(t, p, task, queue.Held)
	before, _ := uses(t, p, "vision")
	p.Server.Kill()
	p.Start()
	waitsFor(t, p, task, queue.Held)
	if after, _ := uses(t, p, "vision"); after.Budget.Used < before.Budget.Used {
		t.Errorf("after the kill %s GPU-hours are used, before it %s", after.Budget.Used, before.Budget.Used)
	}
	declare(t, p, strings.Replace(definitions, "0.01", "1000", 1))
	p.Succeeded(second)
	letGo(t, firstMarks)
	p.Succeeded(first)
	if n := len(starts(t, firstMarks, "step.work")); n != 1 {
		t.Errorf("what ran while the budget was used up was started %d times", n)
	}
	began, _ := admitted(t, p, first)
	most := 8 * time.Since(began).Hours()
	if s, _ := uses(t, p, "vision"); float64(s.Budget.Used)/1000 > most+0.01 {
		t.Errorf("%s GPU-hours are counted, there were not even %.3f", s.Budget.Used, most)
	}
}

// Training floods the cluster, and endpoints have their floor all the same, before
// and after they are there.
func TestFloorOfEndpoints(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		declare(t, p, `
flavor "a100" { model = "*A100*" }
cohort "all" {}
workspace "prod" {
  cohort = "all"
  quota "a100" { nominal = 8 }
  serving "a100" { floor = 1 }
}
workspace "vision" {
  cohort = "all"
  quota "a100" { nominal = 8 }
}
`)
		flood, _, floodMarks := work(t, p, "vision", "long=true", "gpus=8")
		rest, _, restMarks := work(t, p, "vision", "long=true", "gpus=7")
		holding(t, p, flood, rest)
		more, task, moreMarks := work(t, p, "vision", "gpus=1")
		waitsFor(t, p, task, queue.QuotaInUse)
		out, code := p.CLI("run", "-detach", "-json", "-workspace", "prod", "testdata/failover-serve.hcl")
		var r run.Run
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
			t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
		}
		if r = p.Ended(r.ID); r.Phase != run.Succeeded {
			t.Fatalf("the endpoint: %s: %s", r.Phase, r.Error)
		}
		if _, f := uses(t, p, "prod"); f.ServingUsed == nil || *f.ServingUsed != 1000 {
			t.Errorf("prod stands with %+v, want its endpoint on one GPU", f)
		}
		waitsFor(t, p, task, queue.QuotaInUse)
		for _, marks := range []string{floodMarks, restMarks} {
			if n := len(starts(t, marks, "step.work")); n != 1 {
				t.Errorf("training was started %d times for an endpoint within its floor", n)
			}
			letGo(t, marks)
		}
		p.Succeeded(flood)
		p.Succeeded(rest)
		p.Succeeded(more)
		if n := len(starts(t, moreMarks, "step.work")); n != 1 {
			t.Errorf("what waited was started %d times", n)
		}
	})
}
