// Package base holds what every Nomad plugin has in common: who it is, how it
// is configured, and the handshake by which a Nomad agent launches it.
//
// The protocol is Nomad's plugin API v0.1.0, as spoken by Nomad 1.6 to 2.x. It
// is implemented here from its wire facts; nothing of Nomad itself is imported.
package base

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/drover-ml/drover/nomadplugin/schema"
)

// APIVersion is the one version of the plugin API that every Nomad release
// speaks, for drivers and devices alike.
const APIVersion = "v0.1.0"

// Type says what kind of plugin a binary is.
type Type int

// The plugin types of Nomad's base protocol. The values are the wire's.
const (
	TypeUnknown Type = 0
	TypeDriver  Type = 2
	TypeDevice  Type = 3
)

func (t Type) String() string {
	switch t {
	case TypeDriver:
		return "driver"
	case TypeDevice:
		return "device"
	default:
		return "unknown"
	}
}

// Info identifies a plugin. Name is its identity in job files (a driver's
// name); it need not be the binary's file name. Version must parse as a
// semantic version, or the agent refuses to start.
type Info struct {
	Type        Type
	Name        string
	Version     string
	APIVersions []string // empty means {APIVersion}
}

// versionPattern is what agents parse: dotted numbers, then an optional
// pre-release and build.
var versionPattern = regexp.MustCompile(`^v?[0-9]+(\.[0-9]+)*([-+~][0-9A-Za-z.+~-]+)?$`)

// Validate reports what would make an agent refuse the plugin.
func (i Info) Validate() error {
	var errs []error
	if i.Type != TypeDriver && i.Type != TypeDevice {
		errs = append(errs, fmt.Errorf("plugin type is %d, want driver or device", i.Type))
	}
	if i.Name == "" {
		errs = append(errs, errors.New("plugin has no name"))
	}
	if !versionPattern.MatchString(i.Version) {
		errs = append(errs, fmt.Errorf("plugin version %q does not parse, want one such as \"1.2.3\"", i.Version))
	}
	return errors.Join(errs...)
}

// Plugin is the part that drivers and devices share.
//
// A Nomad agent launches a plugin three times at start (info, config check,
// real), so construction and SetConfig must be cheap, idempotent and free of
// side effects, and SetConfig must not fail for a missing device or library:
// an error there aborts the whole agent. Report such things as health.
type Plugin interface {
	Info() Info
	// ConfigSchema describes the `config` block of the agent's `plugin`
	// block. Nil means that no configuration is allowed.
	ConfigSchema() *schema.Spec
	// SetConfig receives the agent's configuration. It may be called several
	// times, and is not called when an agent reattaches to a living driver.
	SetConfig(ctx context.Context, c Config) error
}

// Config is what an agent passes to SetConfig.
type Config struct {
	// MsgPack is the decoded `config` block, in cty's MessagePack encoding.
	MsgPack    []byte
	APIVersion string
	// Agent is set only in the real launch, nil in the agent's config check.
	Agent *AgentConfig
}

// Decode fills the struct that v points to, by `codec:"name"` tags. Unset
// (nil) values leave fields untouched; numbers are accepted in any of the
// forms the wire has for them (integer, float, decimal string). Without any
// configuration v is left as it is. See schema.Decode.
func (c Config) Decode(v any) error {
	if len(c.MsgPack) == 0 {
		return nil
	}
	return schema.Decode(c.MsgPack, v)
}

// AgentConfig is what the agent tells about itself.
type AgentConfig struct {
	MinPort, MaxPort uint32
	Topology         *Topology // nil before Nomad 1.7
}

// Topology is the client's view of its CPUs.
type Topology struct {
	NodeIDs []uint32
	// Distances is the SLIT matrix, row-major, Dimension wide; empty if unknown.
	Dimension uint32
	Distances []uint32
	Cores     []Core
	// OverrideTotalCompute and OverrideWithheldCompute are in MHz; 0 is unset.
	OverrideTotalCompute    uint64
	OverrideWithheldCompute uint64
}

// Core is one logical CPU. Speeds are in MHz, 0 when unknown.
type Core struct {
	Socket, Node, ID                uint32
	Efficiency                      bool
	Disabled                        bool
	BaseSpeed, MaxSpeed, GuessSpeed uint64
}
