package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// failoverRounds is how many GPUs fail, one after another.
const failoverRounds = 8

// benchFailover breaks simulated GPUs under trainings, and takes the time until
// Nomad's server knows, and until the training runs elsewhere.
func benchFailover(ctx context.Context) ([]row, error) {
	return onEachCluster(func(t lab.T, c lab.Cluster, bin string) []row { return failoverOn(ctx, t, c, bin) })
}

func failoverOn(ctx context.Context, t lab.T, c lab.Cluster, bin string) []row {
	p := lab.NewPlatform(t, c, bin, c.Addr())
	marks, err := os.MkdirTemp(p.Dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	out, code := p.CLI("run", "-detach", "-json", "-no-cache", "-var", "marks="+marks, filepath.Join("internal", "e2e", "testdata", "failover.hcl"))
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
	}
	var rows []row
	for _, fault := range []struct {
		xid  int
		what string
	}{{48, "to be left: a checkpoint first"}, {79, "gone"}} {
		var known, resumed []float64
		for i := range failoverRounds / 2 {
			step := pipeline.NodeID(fmt.Sprintf("step.train[%q]", []string{"a", "b", "c", "d"}[i]))
			k, g := breakGPU(ctx, t, c, p, r.ID, step, marks, fault.xid)
			t.Logf("failover: %s, Xid %d, %s: known after %v, goes on after %v", c.Kind(), fault.xid, step, k, g)
			known, resumed = append(known, k.Seconds()), append(resumed, g.Seconds())
		}
		what := fmt.Sprintf("Xid %d, the GPU is %s", fault.xid, fault.what)
		atServer := spread(what, c.Kind()+", unhealthy at the server", "s", known)
		atServer.Note = fmt.Sprintf("%.2f x the bound of 1 s", atServer.Value)
		rows = append(rows, atServer, spread(what, c.Kind()+", training goes on elsewhere", "s", resumed))
	}
	if err := os.WriteFile(filepath.Join(marks, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.Succeeded(r.ID)
	return rows
}

// breakGPU breaks the GPU of a running training.
func breakGPU(ctx context.Context, t lab.T, c lab.Cluster, p *lab.Platform, id run.ID, step pipeline.NodeID, marks string, xid int) (known, resumed time.Duration) {
	var at run.Attempt
	lab.Eventually(t, string(step)+" trains", func() string {
		n := p.Node(id, step)
		if n.Phase != run.Running || n.Progress == nil || len(n.Attempts) == 0 {
			return fmt.Sprint(n.Phase, " ", n.Reason)
		}
		at = n.Attempts[len(n.Attempts)-1]
		return ""
	})
	before := countStarts(t, marks, step)
	start := time.Now()
	c.ScriptGPUs(at.NodeName, fmt.Sprintf("fault %q {\n  xid = %d\n}\n", at.Devices[0], xid))
	told := make(chan error, 1)
	go func() { // the driver tells sooner than Nomad's client
		err := awaitUnhealthy(ctx, c.Client(), at.NodeName, at.Devices[0])
		known = time.Since(start)
		told <- err
	}()
	lab.Eventually(t, string(step)+" goes on", func() string {
		if countStarts(t, marks, step) == before {
			return "it has not: " + p.Node(id, step).Reason
		}
		return ""
	})
	resumed = time.Since(start)
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	return known, resumed
}

func countStarts(t lab.T, marks string, step pipeline.NodeID) int {
	b, err := os.ReadFile(filepath.Join(marks, "starts"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count("\n"+string(b), "\n"+string(step)+" ")
}

// awaitUnhealthy waits until a device is unhealthy at the server.
func awaitUnhealthy(ctx context.Context, client *api.Client, name, device string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	nodes, _, err := client.Nodes().List((&api.QueryOptions{Filter: fmt.Sprintf("Name == %q", name)}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("looking for node %s: %w", name, err)
	}
	for _, n := range nodes {
		if n.Name != name {
			continue
		}
		q := (&api.QueryOptions{}).WithContext(ctx)
		for {
			node, meta, err := client.Nodes().Info(n.ID, q)
			if err != nil {
				return fmt.Errorf("asking for node %s: %w", name, err)
			}
			for _, g := range node.NodeResources.Devices {
				for _, d := range g.Instances {
					if d.ID == device && !d.Healthy {
						return nil
					}
				}
			}
			q.WaitIndex = meta.LastIndex
		}
	}
	return errors.New("there is no node " + name)
}
