package base

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/basepb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Client is an agent's side of the base protocol. It is safe for concurrent
// use.
type Client struct{ rpc basepb.BasePluginClient }

// NewClient returns a client on a connection to a plugin; host.Launch makes
// one.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: basepb.NewBasePluginClient(conn)}
}

// Info asks who the plugin is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	r, err := c.rpc.PluginInfo(ctx, &basepb.PluginInfoRequest{})
	if err != nil {
		return Info{}, fmt.Errorf("asking plugin for its info: %w", wire.RemoteError(err))
	}
	return Info{
		Type:        Type(r.GetType()),
		Name:        r.GetName(),
		Version:     r.GetPluginVersion(),
		APIVersions: r.GetPluginApiVersions(),
	}, nil
}

// ConfigSchema asks for the schema of the plugin's configuration; nil means
// that none is allowed.
func (c *Client) ConfigSchema(ctx context.Context) (*schema.Spec, error) {
	r, err := c.rpc.ConfigSchema(ctx, &basepb.ConfigSchemaRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking plugin for its configuration schema: %w", wire.RemoteError(err))
	}
	return wire.Spec(r.GetSpec())
}

// SetConfig configures the plugin.
func (c *Client) SetConfig(ctx context.Context, cfg Config) error {
	r := &basepb.SetConfigRequest{MsgpackConfig: cfg.MsgPack, PluginApiVersion: cfg.APIVersion}
	if r.PluginApiVersion == "" {
		r.PluginApiVersion = APIVersion
	}
	if cfg.Agent != nil {
		r.NomadConfig = &basepb.NomadConfig{Driver: agentMessage(cfg.Agent)}
	}
	if _, err := c.rpc.SetConfig(ctx, r); err != nil {
		return fmt.Errorf("configuring plugin: %w", wire.RemoteError(err))
	}
	return nil
}

func agentMessage(a *AgentConfig) *basepb.NomadDriverConfig {
	m := &basepb.NomadDriverConfig{ClientMinPort: a.MinPort, ClientMaxPort: a.MaxPort}
	t := a.Topology
	if t == nil {
		return m
	}
	m.Topology = &basepb.ClientTopology{
		NodeIds:                t.NodeIDs,
		Distances:              &basepb.ClientTopologySLIT{Dimension: t.Dimension, Values: t.Distances},
		OverrideTotalCompute:   t.OverrideTotalCompute,
		OverrideWitholdCompute: t.OverrideWithheldCompute,
	}
	for _, c := range t.Cores {
		grade := basepb.CoreGrade_Performance
		if c.Efficiency {
			grade = basepb.CoreGrade_Efficiency
		}
		m.Topology.Cores = append(m.Topology.Cores, &basepb.ClientTopologyCore{
			SocketId: c.Socket, NodeId: c.Node, CoreId: c.ID,
			CoreGrade: grade, Disable: c.Disabled,
			BaseSpeed: c.BaseSpeed, MaxSpeed: c.MaxSpeed, GuessSpeed: c.GuessSpeed,
		})
	}
	return m
}
