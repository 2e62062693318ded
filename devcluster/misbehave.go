package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/devcluster/client"
	"github.com/drover-ml/drover/devcluster/faults"
)

// ErrNoNode is returned for a node that the cluster does not have, or that is
// not in the state that the call needs.
var ErrNoNode = errors.New("no such node")

// node finds a running node by name or ID. c.mu is held.
func (c *Cluster) node(name string) (*client.Node, error) {
	for _, n := range c.running.nodes {
		if n.Name() == name || n.ID() == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%w: %q does not run", ErrNoNode, name)
}

// KillNode ends a node as a power failure does: its plugins, supervisors and
// tasks die at once. The server notices when heartbeats stay away.
func (c *Cluster) KillNode(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.node(name)
	if err != nil {
		return err
	}
	n.PowerOff()
	delete(c.running.nodes, n.Name())
	c.killed[n.Name()] = true
	return nil
}

// PartitionNode cuts a node off from the server. Its tasks go on.
func (c *Cluster) PartitionNode(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.node(name)
	if err == nil {
		n.SetPartitioned(true)
	}
	return err
}

// HealNode reconnects a node, or boots one that was killed.
func (c *Cluster) HealNode(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, err := c.node(name); err == nil {
		n.SetPartitioned(false)
		return nil
	}
	i := slices.IndexFunc(c.cfg.Nodes, func(nc NodeConfig) bool { return nc.Name == name })
	if i < 0 || !c.killed[name] {
		return fmt.Errorf("%w: %q", ErrNoNode, name)
	}
	n, err := c.startNode(ctx, c.running, i, c.cfg.Nodes[i])
	if err != nil {
		return fmt.Errorf("booting node %s: %w", name, err)
	}
	delete(c.killed, name)
	c.running.nodes[name] = n
	return nil
}

// FailGPU makes a simulated device of a node unhealthy. id "" heals all
// devices of the node.
func (c *Cluster) FailGPU(node, id, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.ContainsAny(id+reason, "\"\\\n${}%") {
		return fmt.Errorf("device ID and reason must not have quotes, braces, percent or dollar signs")
	}
	content := ""
	if id != "" {
		old, err := os.ReadFile(c.faultFile(node))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("reading the fault file: %w", err)
		}
		if reason == "" {
			reason = "failed on purpose"
		}
		content = string(old) + fmt.Sprintf("fault \"%s\" {\n  reason = \"%s\"\n}\n", id, reason)
	}
	return c.writeFaults(node, content)
}

// maxScript bounds a script of faults, in bytes.
const maxScript = 1 << 20

// ScriptGPUs replaces all that goes wrong with a node's simulated GPUs by a
// script, as the device plugin's documentation describes it: times in it count
// from now. "" ends what goes wrong; a GPU that needs a reset gets one from a
// reset block.
func (c *Cluster) ScriptGPUs(node, script string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(script) > maxScript {
		return fmt.Errorf("the script has %d bytes, more than %d", len(script), maxScript)
	}
	return c.writeFaults(node, script)
}

// writeFaults replaces a node's fault file. c.mu is held.
func (c *Cluster) writeFaults(node, content string) error {
	i := slices.IndexFunc(c.cfg.Nodes, func(nc NodeConfig) bool { return nc.Name == node })
	if i < 0 {
		return fmt.Errorf("%w: %q", ErrNoNode, node)
	}
	if c.cfg.Nodes[i].GPUs == "" {
		return fmt.Errorf("node %s has no simulated GPUs", node)
	}
	// The plugin may read at any moment: it sees the old file or the new one.
	path := c.faultFile(node)
	tmp := filepath.Join(filepath.Dir(path), ".gpu-faults.tmp")
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		return fmt.Errorf("writing the fault file: %w", err)
	}
	return os.Rename(tmp, path)
}

// DelayEvents holds the event stream back by d; 0 ends it.
func (c *Cluster) DelayEvents(d time.Duration) { c.faults.DelayEvents(d) }

// ErrorNext injects errors into API requests.
func (c *Cluster) ErrorNext(r faults.Rule) { c.faults.ErrorNext(r) }

// faultAPI offers the same over HTTP, below /v1/devcluster/:
//
//	POST kill-node, partition-node, heal-node  {"node": "node-1"}
//	POST fail-gpu                              {"node": "node-1", "id": "GPU-…", "reason": "…"}
//	POST script-gpus                           {"node": "node-1", "script": "fault …"}
//	POST delay-events                          {"delay": "2s"}
//	POST error-next                            a faults.Rule
//	POST clear                                 ends delays and injected errors
//	POST restart
func (c *Cluster) faultAPI() http.Handler {
	mux := http.NewServeMux()
	handle := func(name string, do func(ctx context.Context, req faultRequest) error) {
		mux.HandleFunc("POST /v1/devcluster/"+name, func(w http.ResponseWriter, r *http.Request) {
			var req faultRequest
			if r.ContentLength != 0 {
				if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxScript)).Decode(&req); err != nil {
					http.Error(w, "decoding request: "+err.Error(), http.StatusBadRequest)
					return
				}
			}
			err := do(context.WithoutCancel(r.Context()), req)
			switch {
			case errors.Is(err, ErrNoNode):
				http.Error(w, err.Error(), http.StatusNotFound)
			case err != nil:
				http.Error(w, err.Error(), http.StatusBadRequest)
			default:
				w.WriteHeader(http.StatusNoContent)
			}
		})
	}
	handle("kill-node", func(_ context.Context, r faultRequest) error { return c.KillNode(r.Node) })
	handle("partition-node", func(_ context.Context, r faultRequest) error { return c.PartitionNode(r.Node) })
	handle("heal-node", func(ctx context.Context, r faultRequest) error { return c.HealNode(ctx, r.Node) })
	handle("fail-gpu", func(_ context.Context, r faultRequest) error { return c.FailGPU(r.Node, r.ID, r.Reason) })
	handle("script-gpus", func(_ context.Context, r faultRequest) error { return c.ScriptGPUs(r.Node, r.Script) })
	handle("delay-events", func(_ context.Context, r faultRequest) error {
		d, err := time.ParseDuration(r.Delay)
		if err != nil {
			return err
		}
		c.DelayEvents(d)
		return nil
	})
	handle("error-next", func(_ context.Context, r faultRequest) error { c.ErrorNext(r.Rule); return nil })
	handle("clear", func(context.Context, faultRequest) error { c.faults.Clear(); return nil })
	handle("restart", func(ctx context.Context, _ faultRequest) error {
		// The answer has to be out before the connection breaks.
		go func() {
			if err := c.Restart(ctx); err != nil {
				c.log.Error("restarting", "error", err)
			}
		}()
		return nil
	})
	return mux
}

type faultRequest struct {
	Node, ID, Reason, Script, Delay string
	faults.Rule
}
