package nvml

import (
	"io/fs"
	"sync"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/software"
)

// softwareFor is for how long what software there is is taken for the same. It
// is less than the usual time between two inventories, and spares those that
// follow each other closely.
const softwareFor = 30 * time.Second

// softwareCache remembers what software the node has.
type softwareCache struct {
	mu   sync.Mutex
	at   time.Time
	last gpu.Environment
}

func (c *softwareCache) read(files fs.FS) gpu.Environment {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) > softwareFor {
		c.last, c.at = software.Find(files), time.Now()
	}
	return c.last
}
