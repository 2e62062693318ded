// Package nomadtest runs the sample plugins in a real Nomad agent. It needs a
// nomad binary on the PATH and root, as an agent does, and is skipped without.
package nomadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// agent is a Nomad agent, server and client, with the sample plugins.
type agent struct {
	dir  string
	addr string
	cmd  *exec.Cmd
	done chan struct{}
}

const agentConfig = `
name       = "sample"
data_dir   = "%[1]s/data"
plugin_dir = "%[1]s/plugins"
bind_addr  = "127.0.0.1"
disable_update_check = true
ports {
  http = %[2]d
  rpc  = %[3]d
  serf = %[4]d
}
advertise {
  http = "127.0.0.1:%[2]d"
  rpc  = "127.0.0.1:%[3]d"
  serf = "127.0.0.1:%[4]d"
}
server {
  enabled          = true
  bootstrap_expect = 1
}
client {
  enabled = true
  servers = ["127.0.0.1:%[3]d"]
  options = { "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean" }
}
plugin "nomad-device-sample" {
  config { count = 3 }
}
plugin "nomad-driver-sample" {}
`

func newAgent(t *testing.T) *agent {
	t.Helper()
	if _, err := exec.LookPath("nomad"); err != nil {
		t.Skip("SKIP: no nomad binary on the PATH, so the plugins are not tried in a real agent")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: a Nomad client needs root")
	}
	dir, err := os.MkdirTemp("", "nomadtest")
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{dir: dir}
	t.Cleanup(a.cleanUp)
	plugins := filepath.Join(dir, "plugins") + "/"
	build := exec.Command("go", "build", "-o", plugins, "../sample/nomad-device-sample", "../sample/nomad-driver-sample")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the plugins: %v\n%s", err, out)
	}
	ports := freePorts(t, 3)
	a.addr = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	config := fmt.Sprintf(agentConfig, dir, ports[0], ports[1], ports[2])
	if err := os.WriteFile(filepath.Join(dir, "agent.hcl"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(a.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a.cmd = exec.Command("nomad", "agent", "-config", filepath.Join(a.dir, "agent.hcl"))
	a.cmd.Stdout, a.cmd.Stderr = log, log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done, cmd := make(chan struct{}), a.cmd
	a.done = done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
}

func (a *agent) signal(sig syscall.Signal) {
	_ = a.cmd.Process.Signal(sig)
	<-a.done
}

// cleanUp stops the agent and removes what it mounted.
func (a *agent) cleanUp() {
	if a.cmd != nil {
		a.signal(syscall.SIGINT)
	}
	mounts, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], a.dir+"/") {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
	_ = os.RemoveAll(a.dir)
}

// get reads a path of the HTTP API into v.
func (a *agent) get(ctx context.Context, path string, v any) error {
	return a.do(ctx, http.MethodGet, path, nil, v)
}

func (a *agent) do(ctx context.Context, method, path string, body io.Reader, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.addr+path, body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if s, ok := v.(*string); ok {
		*s = string(b)
		return nil
	}
	return json.Unmarshal(b, v)
}

// eventually asks until ok says that the answer is the one waited for.
func (a *agent) eventually(t *testing.T, what, path string, v any, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := a.get(ctx, path, v)
		if err == nil && ok() {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(a.dir, "agent.log"))
			t.Fatalf("waiting for %s: %v; last answer: %+v\nagent log:\n%s", what, err, v, log[max(0, len(log)-8000):])
		}
	}
}

func (a *agent) register(t *testing.T, script string) {
	t.Helper()
	job := map[string]any{"Job": map[string]any{
		"ID": "sample", "Type": "batch", "Datacenters": []string{"*"},
		"TaskGroups": []any{map[string]any{
			"Name":             "group",
			"RestartPolicy":    map[string]any{"Attempts": 0, "Mode": "fail", "Interval": int64(time.Hour), "Delay": int64(time.Second)},
			"ReschedulePolicy": map[string]any{"Attempts": 0, "Unlimited": false},
			"Tasks": []any{map[string]any{
				"Name": "main", "Driver": "sample-driver",
				"Config": map[string]any{"command": "/bin/sh", "args": []string{"-c", script}},
				"Resources": map[string]any{
					"CPU": 50, "MemoryMB": 32,
					"Devices": []any{map[string]any{"Name": "drover/gpu", "Count": 2}},
				},
			}},
		}},
	}}
	b, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	var reply map[string]any
	if err := a.do(t.Context(), http.MethodPost, "/v1/jobs", bytes.NewReader(b), &reply); err != nil {
		t.Fatal(err)
	}
}
