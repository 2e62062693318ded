package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/run"
)

// A workspace has its runs and endpoints in its namespace of Nomad's, from their
// start to their end.
func TestNamespaceOfAWorkspace(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		file := filepath.Join(p.Dir, "workspaces.hcl")
		const vision = `flavor "a100" { model = "*A100*" }
workspace "vision" {
  namespace  = "vision"
  node_pools = ["default"]
  quota "a100" { nominal = 8 }
}`
		if err := os.WriteFile(file, []byte(vision), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := p.CLI("workspace", "apply", "-f", file, "-yes"); code != 0 {
			t.Fatalf("applying workspaces: exit code %d: %s", code, out)
		}
		serve := []string{"run", "-workspace", "vision", "-var", "answer=one", "-var", "count=1", "testdata/serve.hcl"}
		if _, code := p.CLI(serve...); code == 0 {
			t.Error("a run was taken though its namespace does not exist")
		}
		if _, err := c.Client().Namespaces().Register(&api.Namespace{Name: "vision"}, nil); err != nil {
			t.Fatal(err)
		}
		out, code := p.CLI(append([]string{serve[0], "-detach", "-json"}, serve[1:]...)...)
		var r run.Run
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
			t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
		}
		r = p.Succeeded(r.ID)
		in := map[string]int{}
		jobs, _, err := c.Client().Jobs().List(&api.QueryOptions{Namespace: api.AllNamespacesNamespace, Prefix: "drover-"})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			in[j.Namespace]++
		}
		if len(in) != 1 || in["vision"] != 2 {
			t.Errorf("jobs by namespace: %v, want 2 in vision", in)
		}
		for _, n := range r.Nodes {
			for _, a := range n.Attempts {
				if a.Namespace != "vision" {
					t.Errorf("%s is in namespace %q", a.JobID, a.Namespace)
				}
			}
		}
		lab.Eventually(t, "the endpoint answers", func() string {
			answer, _, err := oracleOf(p, "vision")
			if err != nil || answer != "one" {
				return fmt.Sprint(answer, " ", err)
			}
			return ""
		})

		// What is cancelled is stopped there.
		id, _, _ := work(t, p, "vision", "long=true", "gpus=1")
		holding(t, p, id)
		if out, code := p.CLI("logs", string(id), "step.work"); code != 0 {
			t.Errorf("logs: exit code %d: %s", code, out)
		}
		if out, code := p.CLI("cancel", string(id)); code != 0 {
			t.Fatalf("cancel: %s", out)
		}
		if r := p.Ended(id); r.Phase != run.Cancelled {
			t.Errorf("the run has %s: %s", r.Phase, r.Error)
		}
		if out, code := p.CLI("endpoints", "delete", "-workspace", "vision", "oracle"); code != 0 {
			t.Fatalf("deleting the endpoint: %s", out)
		}
		lab.Eventually(t, "nothing runs", func() string {
			allocs, _, err := c.Client().Allocations().List(&api.QueryOptions{Namespace: api.AllNamespacesNamespace})
			if err != nil {
				return err.Error()
			}
			for _, a := range allocs {
				if a.ClientStatus == api.AllocClientStatusPending || a.ClientStatus == api.AllocClientStatusRunning {
					return a.JobID + " is " + a.ClientStatus
				}
			}
			return ""
		})
	})
}
