// Package catalog finds the instances of services: today through Nomad's own
// service registrations.
package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Prefix begins the name of every service that Drover registers.
const Prefix = "drover-"

// The tags that say what an instance of an endpoint serves, as "key=value".
const (
	TagEndpoint  = "drover.endpoint"
	TagWorkspace = "drover.workspace"
	TagRevision  = "drover.revision"
	TagModel     = "drover.model"
	TagVersion   = "drover.version"
	TagReady     = "drover.ready" // path that answers 200 when the instance can serve
)

// Instance is one registered instance of a service.
type Instance struct {
	ID      string
	Service string
	AllocID string
	Address string // host:port
	Tags    map[string]string
}

// Nomad finds instances through a Nomad cluster's service registrations. They
// tell where an instance runs, not whether it is ready.
type Nomad struct {
	client *api.Client
	log    *slog.Logger
}

// NewNomad makes a catalog that asks the cluster behind client.
func NewNomad(client *api.Client, log *slog.Logger) *Nomad {
	return &Nomad{client: client, log: log}
}

// Watch calls update with every instance of Drover's services in all
// namespaces that the token may read, at once and on every change, until ctx
// ends. While the cluster cannot be reached it retries and the last set holds.
func (n *Nomad) Watch(ctx context.Context, update func([]Instance)) error {
	const firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
	var index uint64
	retry := firstRetry
	for {
		instances, next, err := n.read(ctx, index)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			n.log.Warn("cannot read services, keeping the last known instances", "retry_in", retry, "error", err)
			select {
			case <-time.After(retry):
			case <-ctx.Done():
				return ctx.Err()
			}
			retry = min(2*retry, lastRetry)
			index = 0 // the cluster may have started anew with lower indexes
			continue
		}
		retry = firstRetry
		if next < index {
			index = 0 // the cluster has started anew
		} else {
			index = max(next, 1) // 0 would not wait
		}
		update(instances)
	}
}

// read waits for a change after index and returns the instances then.
func (n *Nomad) read(ctx context.Context, index uint64) ([]Instance, uint64, error) {
	q := (&api.QueryOptions{Namespace: "*", WaitIndex: index, WaitTime: 5 * time.Minute}).WithContext(ctx)
	lists, meta, err := n.client.Services().List(q)
	if err != nil {
		return nil, 0, fmt.Errorf("listing services: %w", err)
	}
	var out []Instance
	for _, list := range lists {
		for _, stub := range list.Services {
			if !strings.HasPrefix(stub.ServiceName, Prefix) {
				continue
			}
			q := (&api.QueryOptions{Namespace: list.Namespace}).WithContext(ctx)
			regs, _, err := n.client.Services().Get(stub.ServiceName, q)
			if err != nil {
				return nil, 0, fmt.Errorf("reading service %q: %w", stub.ServiceName, err)
			}
			for _, r := range regs {
				out = append(out, Instance{
					ID:      r.ID,
					Service: r.ServiceName,
					AllocID: r.AllocID,
					Address: net.JoinHostPort(r.Address, strconv.Itoa(r.Port)),
					Tags:    parseTags(r.Tags),
				})
			}
		}
	}
	slices.SortFunc(out, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return out, meta.LastIndex, nil
}

func parseTags(tags []string) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		if k, v, ok := strings.Cut(t, "="); ok {
			m[k] = v
		}
	}
	return m
}
