package driver

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/gang"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/stage"
	"github.com/drover-ml/drover/task-driver/supervisor"
)

var errWaiting = errors.New("the task waits for the other members of its gang: its command has not started yet")

// gangOf says which gang a task is a member of, nil if it is one of its own.
func gangOf(c *driver.TaskConfig, m *mltask.Config, storeURL string) (*supervisor.Gang, error) {
	if len(m.Gang) == 0 {
		return nil, nil
	}
	if storeURL == "" {
		return nil, errors.New("gang: its members meet in the artifact store, and there is none: set store in the task or the plugin")
	}
	config := m.Gang[0]
	timeout, err := config.Wait()
	if err != nil {
		return nil, fmt.Errorf("gang.timeout: %w", err)
	}
	g := &supervisor.Gang{Key: config.Key, Rank: config.Rank, Size: config.Size, Timeout: timeout}
	p, ok := masterPort(c)
	switch {
	case !ok && c.Network != nil && c.Network.Path != "":
		return nil, fmt.Errorf("gang: in a network of its own the task needs a port with the label %q: add port %q { to = -1 } to the group's network", mltask.MasterPort, mltask.MasterPort)
	case !ok:
		return g, nil // the supervisor chooses
	case p.To != 0 && p.To != p.Value:
		return nil, fmt.Errorf("gang: the port %q is %d inside and %d outside, and members need one number: set to = -1", mltask.MasterPort, p.To, p.Value)
	}
	g.Address, g.Port = p.HostIP, int(p.Value)
	return g, nil
}

// command is the task's command, zero while the task waits for its gang.
func (h *handle) command() process.ID {
	if !h.running.Waiting() {
		return h.running.Command
	}
	r, err := h.dir.Running()
	if err != nil { // destroyed
		return process.ID{}
	}
	return r.Command
}

// tellGang tells the gang of a task that its supervisor was killed, which cannot.
func (d *Driver) tellGang(h *handle) {
	member := h.running.Gang
	if member == nil || h.command() == (process.ID{}) {
		return
	}
	g := &gang.Gang{
		Key: member.Key, Self: gang.Member{Rank: member.Rank, AllocID: h.alloc},
		Open: func() (*artifact.Store, error) { return stage.OpenStore(member.Store, true) },
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	if err := g.Break(ctx, fmt.Sprintf("rank %d was killed with its supervisor", member.Rank)); err != nil {
		d.log.Error("telling the gang of the task's end", "task_id", h.id, "error", err)
	}
}

// askToEnd sends the command's process group a signal. A task that waits for
// its gang leaves it instead; if the gang starts just then, the signal follows.
func (h *handle) askToEnd(ctx context.Context, sig syscall.Signal, deadline time.Time) error {
	if h.running.Gang == nil {
		return h.running.Command.SignalGroup(sig)
	}
	if err := h.running.Supervisor.Signal(supervisor.Ending); err != nil {
		return err
	}
	for {
		if c := h.command(); c != (process.ID{}) {
			return c.SignalGroup(sig)
		}
		if !time.Now().Before(deadline) || h.endedWithin(ctx, 20*time.Millisecond) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
