package devcluster

import (
	"context"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/client"
	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/httpapi"
	"github.com/drover-ml/drover/devcluster/state"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

// server is the control server as nodes see it.
type server struct{ *control.Server }

// Variable reads a variable for a task's template.
func (s server) Variable(namespace, path string) (v *api.Variable) {
	s.Store().View(func(r state.Reader) { v = r.Variable(namespace, path) })
	return v
}

// clients finds nodes for the API.
type clients struct{ c *Cluster }

func (cs clients) Client(nodeID string) httpapi.NodeClient {
	cs.c.mu.Lock()
	defer cs.c.mu.Unlock()
	for _, n := range cs.c.running.nodes {
		if n.ID() == nodeID && !n.Partitioned() {
			return nodeClient{n}
		}
	}
	return nil
}

// nodeClient is a node as the API sees it.
type nodeClient struct{ *client.Node }

// ExecAlloc passes a command on to the driver.
func (n nodeClient) ExecAlloc(ctx context.Context, allocID, task string, x httpapi.Exec) (int, error) {
	sizes := make(chan driver.TerminalSize)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(sizes)
		for {
			select {
			case s := <-x.Resize:
				select {
				case sizes <- driver.TerminalSize{Height: int32(s.Height), Width: int32(s.Width)}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return n.Node.ExecAlloc(ctx, allocID, task, driver.ExecStreams{Command: x.Command, TTY: x.TTY,
		Stdin: x.Stdin, Stdout: x.Stdout, Stderr: x.Stderr, Resize: sizes})
}
