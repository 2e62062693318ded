package client

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/nomad/api"
)

var errCut = errors.New("the node is cut off from the server")

// link is the way to the server, which a partition cuts.
type link struct {
	Server
	mu      sync.Mutex
	isCut   bool
	changed chan struct{}
}

func newLink(s Server) *link { return &link{Server: s, changed: make(chan struct{})} }

func (l *link) set(isCut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isCut != isCut {
		l.isCut = isCut
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

func (l *link) cut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isCut
}

func (l *link) check() error {
	if l.cut() {
		return errCut
	}
	return nil
}

func (l *link) RegisterNode(n *api.Node) error {
	if err := l.check(); err != nil {
		return err
	}
	return l.Server.RegisterNode(n)
}

// Heartbeat has no answer while the link is cut, which is no reason to
// register again.
func (l *link) Heartbeat(id string) bool { return l.cut() || l.Server.Heartbeat(id) }

func (l *link) NodeAllocs(ctx context.Context, id string, index uint64) ([]*api.Allocation, uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		l.mu.Lock()
		isCut, changed := l.isCut, l.changed
		l.mu.Unlock()
		if isCut {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, index, ctx.Err()
			}
		}
		stop := make(chan struct{})
		go func() {
			select {
			case <-changed:
				cancel()
			case <-stop:
			}
		}()
		allocs, next, err := l.Server.NodeAllocs(ctx, id, index)
		close(stop)
		if err == nil && l.cut() {
			err = errCut
		}
		return allocs, next, err
	}
}

func (l *link) UpdateAllocs(updates []*api.Allocation) error {
	if err := l.check(); err != nil {
		return err
	}
	return l.Server.UpdateAllocs(updates)
}

func (l *link) RegisterServices(regs []*api.ServiceRegistration) error {
	if err := l.check(); err != nil {
		return err
	}
	return l.Server.RegisterServices(regs)
}

func (l *link) DeregisterServices(allocID string, ids []string) error {
	if err := l.check(); err != nil {
		return err
	}
	return l.Server.DeregisterServices(allocID, ids)
}
