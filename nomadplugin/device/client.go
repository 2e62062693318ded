package device

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/devicepb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// ErrStreamEnded is returned by the client's streams when the plugin ended
// one, which a healthy plugin does not do.
var ErrStreamEnded = wire.ErrStreamEnded

// Client is an agent's side of the device protocol. It is safe for concurrent
// use.
type Client struct{ rpc devicepb.DevicePluginClient }

// NewClient returns a client on a connection to a plugin; host.Launch makes
// one.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: devicepb.NewDevicePluginClient(conn)}
}

// Fingerprint calls each with every set that the plugin publishes, one after
// the other, until ctx ends, each returns an error, or the plugin ends the
// stream or publishes an invalid set. It never returns nil.
func (c *Client) Fingerprint(ctx context.Context, each func([]Group) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Fingerprint(ctx, &devicepb.FingerprintRequest{})
	return wire.Receive("fingerprinting devices", wire.RemoteError, stream, err, func(r *devicepb.FingerprintResponse) error {
		groups, err := groupsOf(r.GetDeviceGroup())
		if err != nil {
			return fmt.Errorf("fingerprinting devices: %w", err)
		}
		return each(groups)
	})
}

// Reserve asks for what a task needs to use the given instances.
func (c *Client) Reserve(ctx context.Context, ids []string) (*Reservation, error) {
	r, err := c.rpc.Reserve(ctx, &devicepb.ReserveRequest{DeviceIds: ids})
	if err != nil {
		return nil, fmt.Errorf("reserving devices %q: %w", ids, wire.RemoteError(err))
	}
	if r.GetContainerRes() == nil {
		return nil, fmt.Errorf("reserving devices %q: plugin replied without a reservation, which crashes a Nomad agent", ids)
	}
	return reservationOf(r.GetContainerRes()), nil
}

// Stats calls each with every reading, as Fingerprint does.
func (c *Client) Stats(ctx context.Context, interval time.Duration, each func([]GroupStats) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Stats(ctx, &devicepb.StatsRequest{CollectionInterval: durationpb.New(interval)})
	return wire.Receive("reading device statistics", wire.RemoteError, stream, err, func(r *devicepb.StatsResponse) error {
		return each(statsOf(r.GetGroups()))
	})
}
