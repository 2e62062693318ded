package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/gateway"
	"github.com/drover-ml/drover/orchestrator/run"
)

// oracle asks the endpoint and returns its answer and who gave it.
func oracle(p *lab.Platform) (answer string, pid int, err error) { return oracleOf(p, "default") }

// oracleOf asks the endpoint of a workspace.
func oracleOf(p *lab.Platform, workspace string) (answer string, pid int, err error) {
	question := []byte(`{"inputs":[{"name":"question","shape":[1],"datatype":"INT64","data":[1]}]}`)
	req, err := http.NewRequest(http.MethodPost, p.Gateway+"/v2/models/oracle/infer", bytes.NewReader(question))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(gateway.WorkspaceHeader, workspace)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", 0, err
	}
	var out struct {
		Outputs []struct {
			Name string
			Data []any
		}
	}
	if res.StatusCode != 200 {
		return "", 0, fmt.Errorf("%s: %s", res.Status, body)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return "", 0, err
	}
	for _, o := range out.Outputs {
		switch v := o.Data[0].(type) {
		case string:
			answer = v
		case float64:
			pid = int(v)
		}
	}
	return answer, pid, nil
}

// deploy runs the serving pipeline to its end.
func deploy(t *testing.T, p *lab.Platform, vars ...string) run.Run {
	t.Helper()
	args := []string{"run", "-detach", "-json"}
	for _, v := range vars {
		args = append(args, "-var", v)
	}
	out, code := p.CLI(append(args, "testdata/serve.hcl")...)
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
	}
	r = p.Ended(r.ID)
	if r.Phase != run.Succeeded {
		stderr, _ := p.CLI("logs", "-stderr", string(r.ID), "endpoint.oracle")
		t.Logf("run %s: %s\n%s", r.Phase, r.Error, stderr)
	}
	return r
}

// A revision replaces another without a request lost; a broken one does not
// replace it at all; an instance that dies comes back; and requests are served
// while the server is down.
func TestEndpoint(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		if r := deploy(t, p, "answer=one", "count=1"); r.Phase != run.Succeeded {
			t.Fatalf("first revision: %s: %s", r.Phase, r.Error)
		}
		serves(t, p, "one", 1)
		replaces(t, p, "one", "uno", "count=1")
		serves(t, p, "uno", 1)
		replaces(t, p, "uno", "two", "count=2")

		// A broken revision fails its run and changes nothing.
		r := deploy(t, p, "answer=three", "broken=true")
		if r.Phase != run.Failed || !strings.Contains(r.Error, "endpoint.oracle") {
			t.Errorf("broken revision: %s: %s", r.Phase, r.Error)
		}
		serves(t, p, "two", 2)

		// The server is gone, an instance dies: it is served and comes back.
		p.Server.Kill()
		pids := serves(t, p, "two", 2)
		for pid := range pids {
			lab.Kill9(t, pid)
			break
		}
		lab.Eventually(t, "two instances again", func() string {
			now := map[int]bool{}
			for range 40 {
				answer, pid, err := oracle(p)
				if err != nil || answer != "two" {
					return fmt.Sprint(answer, " ", err)
				}
				if !processAlive(pid) {
					return fmt.Sprintf("answer of dead process %d", pid)
				}
				now[pid] = true
			}
			if len(now) != 2 {
				return fmt.Sprint("instances: ", now)
			}
			return ""
		})
		p.Start()
	})
}

// replaces deploys a revision while requests come, none of which may fail.
func replaces(t *testing.T, p *lab.Platform, before, after string, vars ...string) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	var failures []string
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				answer, _, err := oracle(p)
				mu.Lock()
				if err != nil {
					failures = append(failures, err.Error())
				} else {
					answers[answer]++
				}
				mu.Unlock()
			}
		})
	}
	r := deploy(t, p, append(vars, "answer="+after)...)
	lab.Eventually(t, after+" everywhere", func() string {
		for range 20 {
			if answer, _, err := oracle(p); err != nil || answer != after {
				return fmt.Sprint(answer, " ", err)
			}
		}
		return ""
	})
	close(stop)
	wg.Wait()
	if r.Phase != run.Succeeded {
		t.Fatalf("revision %s: %s: %s", after, r.Phase, r.Error)
	}
	if len(failures) > 0 {
		t.Errorf("%d requests failed during the change to %s, first: %s", len(failures), after, failures[0])
	}
	if answers[before] == 0 || answers[after] == 0 || len(answers) != 2 {
		t.Errorf("answers during the change: %v", answers)
	}
}

// serves waits until n instances of the endpoint give the answer, and no other
// is given; it returns their PIDs.
func serves(t *testing.T, p *lab.Platform, want string, n int) map[int]bool {
	t.Helper()
	var pids map[int]bool
	lab.Eventually(t, "the endpoint answers "+want, func() string {
		pids = map[int]bool{}
		for range 40 {
			answer, pid, err := oracle(p)
			if err != nil || answer != want {
				return fmt.Sprint(answer, " ", err)
			}
			pids[pid] = true
		}
		if len(pids) != n {
			return fmt.Sprintf("%d instances answer, want %d", len(pids), n)
		}
		return ""
	})
	return pids
}

func processAlive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}
