package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/conformance"
)

func TestConformance(t *testing.T) {
	t.Run("boards", func(t *testing.T) {
		t.Parallel()
		conformance.Run(t, conformance.Config{
			Path: pluginBinary(t), Plugin: map[string]any{"simulate": "dgx-h100", "simulate_node": "n", "state_dir": t.TempDir()},
		})
	})
	t.Run("slices", func(t *testing.T) {
		t.Parallel()
		conformance.Run(t, conformance.Config{
			Path: pluginBinary(t), Plugin: map[string]any{"simulate": "2xa100-80gb/all-balanced", "simulate_node": "n", "state_dir": t.TempDir()}, Only: []string{"device/"},
		})
	})
	t.Run("library", func(t *testing.T) {
		t.Parallel()
		conformance.Run(t, conformance.Config{
			Path: pluginBinary(t), Env: []string{"LD_LIBRARY_PATH=" + fakeNVML(t)}, Plugin: map[string]any{"state_dir": t.TempDir()}, Only: []string{"start/", "device/"},
		})
	})
}

// TestOnNomad loads the plugin into a Nomad agent and asks for GPUs as jobs do.
func TestOnNomad(t *testing.T) {
	nomad, err := exec.LookPath("nomad")
	switch {
	case err != nil:
		t.Skip("no nomad binary on the PATH")
	case os.Geteuid() != 0:
		t.Skip("a Nomad client needs root")
	}
	dir := t.TempDir()
	faults := filepath.Join(dir, "faults.hcl")
	client := startAgent(t, nomad, dir, fmt.Sprintf(`
		simulate        = "testdata/mixed.hcl"
		simulate_node   = "n"
		simulate_faults = %q
		state_dir       = %q`, faults, filepath.Join(dir, "state")))

	node := waitNode(t, client, "devices", func(n *api.Node) bool { return len(n.NodeResources.Devices) > 0 })
	got := map[string]int{}
	for _, d := range node.NodeResources.Devices {
		got[d.ID()] = len(d.Instances)
		if d.Name == "NVIDIA A100-SXM4-40GB" {
			if m := d.Attributes["memory"]; m == nil || m.IntVal == nil || *m.IntVal != 40536 || m.Unit != "MiB" {
				t.Errorf("memory is %v", m)
			}
		}
	}
	want := map[string]int{
		"nvidia/gpu/NVIDIA A100-SXM4-40GB": 2, "nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 4g.20gb": 1,
		"nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 3g.20gb": 2, "nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 2g.10gb": 1,
		"nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 1g.5gb": 1, "nvidia/gpu/NVIDIA RTX 6000 Ada Generation": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	a100 := node.NodeResources.Devices[slices.IndexFunc(node.NodeResources.Devices, func(d *api.NodeDeviceResource) bool {
		return d.Name == "NVIDIA A100-SXM4-40GB"
	})]

	out := runJob(t, client, "boards", api.RequestedDevice{
		Name: "nvidia/gpu", Count: ref(uint64(2)),
		Constraints: []*api.Constraint{
			api.NewConstraint("${device.attr.memory}", ">=", "40 GB"),
			api.NewConstraint("${device.attr.compute_capability}", ">=", "7.5"),
			api.NewConstraint("${device.attr.cuda_version}", "version", ">= 12.0"),
		},
	})
	first, second := a100.Instances[0].ID, a100.Instances[1].ID
	list := first + "," + second
	if out != "CUDA "+list+"\nNVIDIA "+list+"\n" {
		t.Errorf("a job for two boards got %q; boards are in order %s", out, list)
	}
	out = runJob(t, client, "slice", api.RequestedDevice{Name: "nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 1g.5gb"})
	if !strings.HasPrefix(out, "CUDA MIG-") || strings.Contains(out, ",") {
		t.Errorf("a job for a slice got %q", out)
	}

	write(t, faults, `fault "0" { reason = "Xid 79" }`)
	waitNode(t, client, "an unhealthy GPU", func(n *api.Node) bool {
		for _, d := range n.NodeResources.Devices {
			for _, i := range d.Instances {
				if i.ID == first {
					return !i.Healthy && strings.HasPrefix(i.HealthDescription, "Xid 79, at ")
				}
			}
		}
		return false
	})
}

func ref[T any](v T) *T { return &v }

// startAgent starts a Nomad agent with the plugin and waits for its API.
func startAgent(t *testing.T, nomad, dir, config string) *api.Client {
	t.Helper()
	ports := freePorts(t, 3)
	plugins := filepath.Dir(pluginBinary(t))
	file := filepath.Join(dir, "agent.hcl")
	write(t, file, fmt.Sprintf(`
		bind_addr  = "127.0.0.1"
		data_dir   = %q
		plugin_dir = %q
		ports {
			http = %d
			rpc  = %d
			serf = %d
		}
		client {
			options = { "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean" }
		}
		plugin "nomad-device-gpu" {
			config {%s}
		}`, filepath.Join(dir, "data"), plugins, ports[0], ports[1], ports[2], config))
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	agent := exec.Command(nomad, "agent", "-dev", "-config", file)
	agent.Stdout, agent.Stderr = log, log
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Signal(os.Interrupt)
		stopped := make(chan struct{})
		go func() { _ = agent.Wait(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(20 * time.Second):
		}
		_ = syscall.Kill(-agent.Process.Pid, syscall.SIGKILL) // what is left of the group
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("agent:\n%s", text)
		}
	})
	c := api.DefaultConfig()
	c.Address = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	client, err := api.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// waitNode follows the one node until it is ready and as wanted.
func waitNode(t *testing.T, client *api.Client, what string, ok func(*api.Node) bool) *api.Node {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	query := &api.QueryOptions{WaitTime: time.Second}
	for time.Now().Before(deadline) {
		nodes, meta, err := client.Nodes().List(query)
		if err != nil { // not up yet, in all likelihood
			select {
			case <-t.Context().Done():
				t.Fatal(err)
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		query.WaitIndex = meta.LastIndex
		if len(nodes) == 0 || nodes[0].Status != api.NodeStatusReady {
			continue
		}
		if n, _, err := client.Nodes().Info(nodes[0].ID, nil); err == nil && ok(n) {
			return n
		}
	}
	t.Fatalf("the node did not get %s", what)
	return nil
}

// runJob runs a batch job that prints its GPUs, and returns what it printed.
func runJob(t *testing.T, client *api.Client, name string, device api.RequestedDevice) string {
	t.Helper()
	task := api.NewTask("t", "raw_exec").
		SetConfig("command", "/bin/sh").
		SetConfig("args", []string{"-c", "echo CUDA $CUDA_VISIBLE_DEVICES; echo NVIDIA $NVIDIA_VISIBLE_DEVICES"}).
		Require(&api.Resources{CPU: ref(50), MemoryMB: ref(50), Devices: []*api.RequestedDevice{&device}})
	job := api.NewBatchJob(name, name, "global", 50).AddTaskGroup(api.NewTaskGroup("g", 1).AddTask(task))
	if _, _, err := client.Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(60 * time.Second)
	query := &api.QueryOptions{WaitTime: time.Second}
	for time.Now().Before(deadline) {
		allocs, meta, err := client.Jobs().Allocations(name, false, query)
		if err != nil {
			t.Fatal(err)
		}
		query.WaitIndex = meta.LastIndex
		if len(allocs) == 0 {
			continue
		}
		switch allocs[0].ClientStatus {
		case api.AllocClientStatusComplete:
			return output(t, client, allocs[0].ID)
		case api.AllocClientStatusFailed:
			t.Fatalf("job %s failed: %+v", name, allocs[0].TaskStates["t"].Events)
		}
	}
	t.Fatalf("job %s did not end", name)
	return ""
}

func output(t *testing.T, client *api.Client, alloc string) string {
	t.Helper()
	r, err := client.AllocFS().Cat(&api.Allocation{ID: alloc}, "alloc/logs/t.stdout.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
