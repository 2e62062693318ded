package run

import (
	"log/slog"
	"sync"

	"github.com/drover-ml/drover/orchestrator/registry"
)

// Config is what an Engine is made of. Store, Cluster and Artifacts are
// required.
type Config struct {
	Store     Store
	Cluster   Cluster
	Artifacts Artifacts
	Logger    *slog.Logger // default: slog.Default()
}

// Engine takes runs through their lives. Its methods may be called from many
// goroutines, and those that only read also before Start and after Stop.
type Engine struct {
	config   Config
	registry *registry.Registry
	wg       sync.WaitGroup
}

// New returns an engine that is not started.
func New(c Config) *Engine {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Engine{config: c, registry: registry.New(c.Store)}
}

// Registry is the model registry that the engine's runs register in.
func (e *Engine) Registry() *registry.Registry { return e.registry }
