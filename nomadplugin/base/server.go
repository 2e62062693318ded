package base

import (
	"context"

	"google.golang.org/grpc"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/basepb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// Register serves the base protocol of p on r. device.Serve and driver.Serve
// do it themselves; it is exported for servers inside a test.
func Register(r grpc.ServiceRegistrar, p Plugin) {
	basepb.RegisterBasePluginServer(r, &server{p: p})
}

type server struct {
	basepb.UnimplementedBasePluginServer
	p Plugin
}

func (s *server) PluginInfo(context.Context, *basepb.PluginInfoRequest) (*basepb.PluginInfoResponse, error) {
	i := s.p.Info()
	if len(i.APIVersions) == 0 {
		i.APIVersions = []string{APIVersion}
	}
	return &basepb.PluginInfoResponse{
		Type:              basepb.PluginType(i.Type),
		Name:              i.Name,
		PluginVersion:     i.Version,
		PluginApiVersions: i.APIVersions,
	}, nil
}

func (s *server) ConfigSchema(context.Context, *basepb.ConfigSchemaRequest) (*basepb.ConfigSchemaResponse, error) {
	spec, err := wire.SpecMessage(s.p.ConfigSchema())
	if err != nil {
		return nil, err
	}
	return &basepb.ConfigSchemaResponse{Spec: spec}, nil
}

func (s *server) SetConfig(ctx context.Context, r *basepb.SetConfigRequest) (*basepb.SetConfigResponse, error) {
	c := Config{MsgPack: r.GetMsgpackConfig(), APIVersion: r.GetPluginApiVersion()}
	if r.GetNomadConfig() != nil {
		c.Agent = agentConfig(r.GetNomadConfig().GetDriver())
	}
	if err := s.p.SetConfig(ctx, c); err != nil {
		return nil, err
	}
	return &basepb.SetConfigResponse{}, nil
}

func agentConfig(m *basepb.NomadDriverConfig) *AgentConfig {
	a := &AgentConfig{MinPort: m.GetClientMinPort(), MaxPort: m.GetClientMaxPort()}
	t := m.GetTopology()
	if t == nil {
		return a
	}
	a.Topology = &Topology{
		NodeIDs:                 t.GetNodeIds(),
		Dimension:               t.GetDistances().GetDimension(),
		Distances:               t.GetDistances().GetValues(),
		OverrideTotalCompute:    t.GetOverrideTotalCompute(),
		OverrideWithheldCompute: t.GetOverrideWitholdCompute(),
	}
	for _, c := range t.GetCores() {
		a.Topology.Cores = append(a.Topology.Cores, Core{
			Socket: c.GetSocketId(), Node: c.GetNodeId(), ID: c.GetCoreId(),
			Efficiency: c.GetCoreGrade() == basepb.CoreGrade_Efficiency,
			Disabled:   c.GetDisable(),
			BaseSpeed:  c.GetBaseSpeed(), MaxSpeed: c.GetMaxSpeed(), GuessSpeed: c.GetGuessSpeed(),
		})
	}
	return a
}
