package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster"
)

// Cluster is a Nomad cluster of a test's own, with two nodes ("n1" and "n2")
// that have simulated GPUs and run the plugins under test.
type Cluster interface {
	Client() *api.Client
	Addr() string
	Store() string // URL of the artefact store that the driver uses
	StoreDir() string
	// KillAgent is kill -9 of what runs the tasks of all nodes: plugins and
	// tasks stay. StartAgent brings it back on the same state.
	KillAgent()
	StartAgent()
	// KillNode is a power failure of one node: everything on it is gone.
	KillNode(name string)
	// ScriptGPUs replaces what goes wrong with a node's simulated GPUs: the
	// content of the device plugin's fault file.
	ScriptGPUs(node, script string)
	// GPUState is the folder in which a node's device plugin keeps its state.
	GPUState(node string) string
	// Plugins are the PIDs of a plugin's processes, helpers excluded.
	Plugins(binary string) []int
	Kind() string
}

// base is what both kinds of cluster share.
type base struct {
	t      T
	dir    string
	tag    string
	api    *api.Client
	port   int
	agents map[string]*Process
}

func newBase(t T) base {
	t.Helper()
	// Unix socket paths are short: t.TempDir would be too deep.
	dir, err := os.MkdirTemp("", "drover-lab-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := base{t: t, dir: dir, tag: "DROVER_LAB=" + filepath.Base(dir), port: FreePort(t), agents: map[string]*Process{}}
	conf := api.DefaultConfig()
	conf.Address = b.Addr()
	if b.api, err = api.NewClient(conf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range b.agents {
				t.Log(p.Tail())
			}
		}
		b.removeAll()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			left := Tagged(b.tag, "", nil)
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
			Kill9(t, left...)
		}
		unmountBelow(dir)
		_ = os.RemoveAll(dir)
	})
	return b
}

func (b *base) Client() *api.Client { return b.api }
func (b *base) Addr() string        { return fmt.Sprintf("http://127.0.0.1:%d", b.port) }
func (b *base) Store() string       { return "file://" + filepath.Join(b.dir, "store") }

func (b *base) StoreDir() string { return filepath.Join(b.dir, "store") }

func (b *base) Plugins(binary string) []int {
	return Tagged(b.tag, binary, func(args []string) bool { return len(args) == 1 })
}

// removeAll stops all jobs and then the agents, which leave running tasks alone.
func (b *base) removeAll() {
	if jobs, _, err := b.api.Jobs().List(nil); err == nil {
		for _, j := range jobs {
			_, _, _ = b.api.Jobs().Deregister(j.ID, false, nil)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		allocs, _, err := b.api.Allocations().List(nil)
		if err != nil || !slices.ContainsFunc(allocs, func(a *api.AllocationListStub) bool {
			return a.ClientStatus == "running" || a.ClientStatus == "pending"
		}) {
			break
		}
	}
	for _, p := range b.agents {
		p.Stop(os.Interrupt)
	}
}

// nodesReady waits until n nodes are ready with a healthy driver and devices.
func (b *base) nodesReady(n int) {
	b.t.Helper()
	Eventually(b.t, "nodes ready", func() string {
		for _, p := range b.agents {
			if p.cmd != nil && !p.Alive() && !p.killed {
				b.t.Fatalf("%s ended", p.Name)
			}
		}
		nodes, _, err := b.api.Nodes().List(&api.QueryOptions{Params: map[string]string{"resources": "true"}})
		if err != nil {
			return err.Error()
		}
		ready := 0
		for _, stub := range nodes {
			node, _, err := b.api.Nodes().Info(stub.ID, nil)
			if err != nil {
				return err.Error()
			}
			d := node.Drivers["ml"]
			if node.Status == "ready" && d != nil && d.Healthy && len(node.NodeResources.Devices) > 0 {
				ready++
			}
		}
		if ready < n {
			return fmt.Sprintf("%d of %d are", ready, n)
		}
		return ""
	})
}

const devclusterMode = "run-devcluster"

type devclusterCluster struct {
	base
	proc *Process
}

// NewDevcluster starts a devcluster in a process of its own. The program must
// begin with Main.
func NewDevcluster(t T, bin string) Cluster {
	c := &devclusterCluster{base: newBase(t)}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := json.Marshal(devclusterConfig{
		DataDir: filepath.Join(c.dir, "cluster"), Listen: fmt.Sprintf("127.0.0.1:%d", c.port), PluginDir: bin, Store: c.Store(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.proc = &Process{Name: "devcluster", Argv: []string{exe, devclusterMode, string(conf)}, Env: []string{c.tag}, Log: filepath.Join(c.dir, "devcluster.log")}
	c.agents["devcluster"] = c.proc
	c.StartAgent()
	return c
}

func (c *devclusterCluster) Kind() string { return "devcluster" }
func (c *devclusterCluster) KillAgent()   { c.proc.Kill() }

func (c *devclusterCluster) StartAgent() {
	c.proc.Start(c.t)
	c.nodesReady(2)
}

func (c *devclusterCluster) nodeDir(name string) string {
	return filepath.Join(c.dir, "cluster", "nodes", name)
}

func (c *devclusterCluster) ScriptGPUs(node, script string) {
	c.t.Helper()
	writeScript(c.t, filepath.Join(c.nodeDir(node), "gpu-faults.hcl"), script)
}

func (c *devclusterCluster) GPUState(node string) string {
	return filepath.Join(c.nodeDir(node), "gpu")
}

func (c *devclusterCluster) KillNode(name string) {
	c.t.Helper()
	if err := devclusterFault(c.Addr(), "kill-node", name); err != nil {
		c.t.Fatal(err)
	}
}

type nomadCluster struct{ base }

var agentConfig = template.Must(template.New("agent").Parse(`
name      = "{{.Name}}"
data_dir  = "{{.Dir}}"
bind_addr = "127.0.0.1"
log_level = "DEBUG"
leave_on_interrupt = false
disable_update_check = true
limits {
  http_max_conns_per_client = 0 # one machine is everybody here
}
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
ports {
  http = {{.HTTP}}
  rpc  = {{.RPC}}
  serf = {{.Serf}}
}
{{if .Server}}
server {
  enabled            = true
  bootstrap_expect   = 1
  heartbeat_grace    = "1s"
  min_heartbeat_ttl  = "2s"
}
{{end}}
{{if not .Server}}
client {
  enabled           = true
  servers           = ["127.0.0.1:{{.ServerRPC}}"]
  cpu_total_compute = 8000
  memory_total_mb   = 8192
  max_kill_timeout  = "60s"
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}
{{end}}
plugin_dir = "{{.Plugins}}"
plugin "nomad-driver-ml" {
  config {
    store     = "{{.Store}}"
    cache_dir = "{{.Dir}}/cache"
    state_dir = "{{.Dir}}/ml"
  }
}
plugin "nomad-device-gpu" {
  config {
    simulate        = "dgx-a100"
    simulate_node   = "{{.Name}}"
    simulate_faults = "{{.Dir}}/gpu-faults.hcl"
    state_dir       = "{{.Dir}}/gpu"
    health {
      hold_down     = "1s"
      settle        = "1s"
      vitals_period = "1s"
    }
  }
}
telemetry {
  publish_allocation_metrics = true
}
`))

// NewNomad starts two agents of the Nomad binary at path. It needs root.
func NewNomad(t T, path, bin string) Cluster {
	c := &nomadCluster{base: newBase(t)}
	rpc := FreePort(t)
	for _, name := range []string{"server", "n1", "n2"} {
		dir := filepath.Join(c.dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		data := map[string]any{
			"Name": name, "Dir": dir, "HTTP": FreePort(t), "RPC": FreePort(t), "Serf": FreePort(t), "Server": false,
			"ServerRPC": rpc, "Plugins": bin, "Store": c.Store(),
		}
		if name == "server" {
			data["HTTP"], data["RPC"], data["Server"] = c.port, rpc, true
		}
		file := filepath.Join(c.dir, name+".hcl")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := agentConfig.Execute(f, data); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		c.agents[name] = &Process{
			Name: "nomad " + name, Argv: []string{path, "agent", "-config", file}, Dir: dir,
			Env: []string{c.tag, c.tag + "-" + name, "TMPDIR=" + dir}, Log: filepath.Join(c.dir, name+".log"),
		}
	}
	c.StartAgent()
	return c
}

func (c *nomadCluster) Kind() string { return "nomad" }

func (c *nomadCluster) ScriptGPUs(node, script string) {
	c.t.Helper()
	writeScript(c.t, filepath.Join(c.dir, node, "gpu-faults.hcl"), script)
}

func (c *nomadCluster) GPUState(node string) string { return filepath.Join(c.dir, node, "gpu") }

// writeScript replaces a file at once: a plugin may read it at any moment.
func writeScript(t T, path, script string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (c *nomadCluster) KillAgent() {
	for _, p := range c.agents {
		p.Kill()
	}
}

func (c *nomadCluster) StartAgent() {
	c.t.Helper()
	c.agents["server"].Start(c.t)
	// A client that comes before the server has its keys waits half a minute
	// until it tries again.
	Eventually(c.t, "server up with its keys", func() string {
		keys, _, err := c.api.Keyring().List(nil)
		if err != nil {
			return err.Error()
		}
		if len(keys) == 0 {
			return "it has no keys yet"
		}
		return ""
	})
	c.agents["n1"].Start(c.t)
	c.agents["n2"].Start(c.t)
	c.nodesReady(2)
}

func (c *nomadCluster) KillNode(name string) {
	c.t.Helper()
	c.agents[name].Kill()
	for deadline := time.Now().Add(Wait); ; {
		left := Tagged(c.tag+"-"+name, "", nil)
		if len(left) == 0 {
			return
		}
		Kill9(c.t, left...)
		if time.Now().After(deadline) {
			c.t.Fatalf("processes of %s do not die: %v", name, left)
		}
	}
}

func unmountBelow(dir string) {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(mounts), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
}

// devclusterConfig is what the devcluster's process is told.
type devclusterConfig struct{ DataDir, Listen, PluginDir, Store string }

// Main must be called first in the main function of a program that uses
// NewDevcluster: it may be a process of the devcluster's.
func Main() {
	devcluster.MaybeRunHelper()
	if len(os.Args) > 2 && os.Args[1] == devclusterMode {
		runDevcluster(os.Args[2])
		os.Exit(0)
	}
}

func runDevcluster(text string) {
	log := hclog.New(&hclog.LoggerOptions{Name: "devcluster", Level: hclog.Debug, Output: os.Stderr})
	var conf devclusterConfig
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		log.Error("reading configuration", "error", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := devcluster.Start(ctx, devclusterOptions(conf, log))
	if err != nil {
		log.Error("starting", "error", err)
		os.Exit(1)
	}
	<-ctx.Done()
	if err := c.Stop(context.Background()); err != nil {
		log.Error("stopping", "error", err)
		os.Exit(1)
	}
}

func devclusterOptions(conf devclusterConfig, log hclog.Logger) devcluster.Config {
	return devcluster.Config{
		DataDir: conf.DataDir, Listen: conf.Listen, PluginDir: conf.PluginDir, Logger: log,
		Nodes:        []devcluster.NodeConfig{{Name: "n1", GPUs: "dgx-a100"}, {Name: "n2", GPUs: "dgx-a100"}},
		PluginConfig: map[string]map[string]any{"nomad-driver-ml": {"store": conf.Store}},
	}
}

// devclusterFault asks a devcluster to misbehave.
func devclusterFault(addr, fault, node string) error {
	body, err := json.Marshal(map[string]string{"node": node})
	if err != nil {
		return err
	}
	res, err := http.Post(addr+"/v1/devcluster/"+fault, "application/json", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking for %s: %w", fault, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("asking for %s: %s: %s", fault, res.Status, text)
	}
	return nil
}
