package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Platform is an orchestrator process on a cluster.
type Platform struct {
	Server *Process
	Client *client.Client
	Addr   string // of the API
	// Gateway is the address of a gateway in a process of its own.
	Gateway string
	Dir     string // of its own
	Bin     string // folder of the binaries

	t T
}

// NewPlatform starts `drover server` against the Nomad API at nomad, which may
// be a proxy in front of c.
func NewPlatform(t T, c Cluster, bin, nomad string) *Platform {
	t.Helper()
	dir, err := os.MkdirTemp("", "drover-lab-")
	if err != nil {
		t.Fatal(err)
	}
	listen := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	gateway := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	p := &Platform{t: t, Gateway: "http://" + gateway, Addr: "http://" + listen, Dir: dir, Bin: bin}
	p.Server = &Process{
		Name: "drover server",
		Argv: []string{
			filepath.Join(bin, "drover"), "server", "-listen", listen, "-gateway-listen", "", "-gateway-url", "http://" + gateway,
			"-data-dir", filepath.Join(dir, "state"), "-store", c.Store(), "-nomad-addr", nomad,
		},
		Log: filepath.Join(dir, "server.log"),
	}
	g := &Process{
		Name: "drover gateway",
		Argv: []string{filepath.Join(bin, "drover"), "gateway", "-listen", gateway, "-nomad-addr", nomad},
		Log:  filepath.Join(dir, "gateway.log"),
	}
	if p.Client, err = client.New(client.Config{Address: p.Addr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Server.Stop(os.Interrupt)
		g.Stop(os.Interrupt)
		if t.Failed() {
			t.Log(p.Server.Tail())
			t.Log(g.Tail())
		}
		_ = os.RemoveAll(dir)
	})
	g.Start(t)
	p.Start()
	return p
}

// Start starts the server and waits until it answers.
func (p *Platform) Start() {
	p.t.Helper()
	p.Server.Start(p.t)
	Eventually(p.t, "drover server up", func() string {
		if !p.Server.Alive() {
			p.t.Fatal("drover server ended")
		}
		if _, err := p.Client.Health(context.Background()); err != nil {
			return err.Error()
		}
		return ""
	})
}

// CLI runs a drover command against the platform.
func (p *Platform) CLI(args ...string) (stdout string, code int) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(p.Bin, "drover"), args...)
	cmd.Env = append(os.Environ(), "DROVER_ADDR="+p.Addr)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	if code = cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Logf("drover %s: exit code %d\n%s", strings.Join(args, " "), code, stderr.String())
	}
	return string(out), code
}

// Run reads a run.
func (p *Platform) Run(id run.ID) run.Run {
	p.t.Helper()
	r, err := p.Client.Run(context.Background(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// Node reads a node of a run.
func (p *Platform) Node(id run.ID, node pipeline.NodeID) run.Node {
	p.t.Helper()
	r := p.Run(id)
	i := slices.IndexFunc(r.Nodes, func(n run.Node) bool { return n.ID == node })
	if i < 0 {
		p.t.Fatalf("run %s has no node %s", id, node)
	}
	return r.Nodes[i]
}

// Succeeded waits for a run's end and fails unless it is success.
func (p *Platform) Succeeded(id run.ID) run.Run {
	p.t.Helper()
	r := p.Ended(id)
	if r.Phase != run.Succeeded {
		out, _ := p.CLI("status", string(id))
		p.t.Fatalf("run %s: %s\n%s", r.Phase, r.Error, out)
	}
	return r
}

// Ended waits for a run's end.
func (p *Platform) Ended(id run.ID) run.Run {
	p.t.Helper()
	var r run.Run
	Eventually(p.t, "run "+string(id)+" ended", func() string {
		var err error
		if r, err = p.Client.Run(context.Background(), id); err != nil {
			return err.Error()
		}
		if r.Phase.Ended() {
			return ""
		}
		var open []string
		for _, n := range r.Nodes {
			if !n.Phase.Ended() {
				open = append(open, fmt.Sprintf("%s %s (%s)", n.ID, n.Phase, n.Reason))
			}
		}
		return strings.Join(open, ", ")
	})
	return r
}
