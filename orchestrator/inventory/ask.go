package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Ask is what one member of a job needs, all of it on one node.
type Ask struct {
	CPUMHz int64 `json:"cpu_mhz,omitempty"`
	// Cores are reserved whole, beside CPUMHz.
	Cores     int   `json:"cores,omitempty"`
	MemoryMiB int64 `json:"memory_mib,omitempty"`
	// GPU is the devices that it needs; nil: none.
	GPU *pipeline.GPU `json:"gpu,omitempty"`
	// Or are alternatives to GPU, in order of preference.
	Or []pipeline.GPU `json:"or,omitempty"`
	// Driver is the task driver that the node must have; "": any node will do.
	Driver string `json:"driver,omitempty"`
	// Pools and Datacenters are those that it may run in; none: all. A datacenter
	// may have * in it, as in Nomad.
	Pools       []string `json:"pools,omitempty"`
	Datacenters []string `json:"datacenters,omitempty"`
	Avoid       Avoid    `json:"avoid,omitzero"`
	Topology    Topology `json:"topology,omitzero"`
}

// Avoid is what an ask must not get.
type Avoid struct {
	Devices []string       `json:"devices,omitempty"`
	Nodes   []queue.NodeID `json:"nodes,omitempty"`
}

// Topology is how near to each other the members of a job are to be. Without one,
// they are as near as there is room. How near the devices of one member are is up
// to [pipeline.GPU].
type Topology struct {
	Level Level `json:"level,omitempty"`
	// Required lets the job wait for a place that is as near. Otherwise it takes the
	// nearest there is.
	Required bool `json:"required,omitempty"`
}

// Level is a domain of nearness.
type Level string

// The levels, from near to far. An island is boards of a node that reach each
// other over NVLink; slices and replicas are on one island if they are of one board.
//
// Rack and block of a node are its meta keys "drover.rack" and "drover.block", or
// else "rack" and "block". Racks of one name in two blocks are two.
const (
	Island Level = "island"
	Host   Level = "host"
	Rack   Level = "rack"
	Block  Level = "block"
)

// Bounds of an ask.
const (
	maxCount   = 1024
	maxListed  = 4096      // pools, datacenters, devices and nodes to avoid
	maxShape   = 256 << 10 // bytes
	maxAmount  = 1 << 40   // MHz, MiB
	maxCores   = 1 << 20
	maxOr      = 16
	maxRelated = 64 // constraints of a GPU ask
)

// Check says what is wrong with a.
func (a Ask) Check() error {
	switch {
	case a.CPUMHz < 0 || a.CPUMHz > maxAmount:
		return fmt.Errorf("ask for %d MHz: it is 0 to %d", a.CPUMHz, maxAmount)
	case a.MemoryMiB < 0 || a.MemoryMiB > maxAmount:
		return fmt.Errorf("ask for %d MiB of memory: it is 0 to %d", a.MemoryMiB, maxAmount)
	case a.Cores < 0 || a.Cores > maxCores:
		return fmt.Errorf("ask for %d cores: it is 0 to %d", a.Cores, maxCores)
	case a.GPU == nil && len(a.Or) > 0:
		return errors.New("ask for GPUs as an alternative to none")
	case len(a.Or) > maxOr:
		return fmt.Errorf("ask with %d alternatives: %d at most", len(a.Or), maxOr)
	case max(len(a.Pools), len(a.Datacenters), len(a.Avoid.Devices), len(a.Avoid.Nodes)) > maxListed:
		return fmt.Errorf("ask with a list of pools, datacenters, devices or nodes of more than %d", maxListed)
	case a.Topology.Level == "" && a.Topology.Required:
		return errors.New("ask for a topology of no level: name island, host, rack or block")
	case a.Topology.Level != "" && !slices.Contains([]Level{Island, Host, Rack, Block}, a.Topology.Level):
		return fmt.Errorf("ask for topology %.40q: the levels are island, host, rack and block", a.Topology.Level)
	}
	for _, g := range a.gpus() {
		if g.Count < 1 || g.Count > maxCount {
			return fmt.Errorf("ask for %d devices %.80q: it is 1 to %d", g.Count, g.Device, maxCount)
		}
		if len(g.Constraints) > maxRelated {
			return fmt.Errorf("ask for devices with %d constraints: %d at most", len(g.Constraints), maxRelated)
		}
	}
	return nil
}

// gpus are the alternatives, in order.
func (a Ask) gpus() []pipeline.GPU {
	if a.GPU == nil {
		return nil
	}
	return append([]pipeline.GPU{*a.GPU}, a.Or...)
}

// Shape is a as text: equal asks have equal shapes. [ParseShape] reads it.
func (a Ask) Shape() string {
	a.Pools, a.Datacenters = set(a.Pools), set(a.Datacenters)
	a.Avoid = Avoid{set(a.Avoid.Devices), set(a.Avoid.Nodes)}
	if len(a.Or) == 0 {
		a.Or = nil
	}
	for i := range a.Or {
		if len(a.Or[i].Constraints) == 0 && a.Or[i].Constraints != nil {
			a.Or = slices.Clone(a.Or)
			a.Or[i].Constraints = nil
		}
	}
	if g := a.GPU; g != nil && len(g.Constraints) == 0 {
		plain := *g
		plain.Constraints = nil
		a.GPU = &plain
	}
	text, err := json.Marshal(a)
	if err != nil {
		panic("inventory: an ask has only strings and numbers: " + err.Error())
	}
	return string(text)
}

// set is list sorted, each once; nil if it is empty.
func set[S ~string](list []S) []S {
	if len(list) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// ParseShape reads what Shape wrote. "" is the ask for nothing.
func ParseShape(shape string) (Ask, error) {
	var a Ask
	if shape == "" {
		return a, nil
	}
	if len(shape) > maxShape {
		return a, fmt.Errorf("reading the shape of an ask: %d bytes are more than %d", len(shape), maxShape)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(shape)))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return Ask{}, fmt.Errorf("reading the shape of an ask: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Ask{}, errors.New("reading the shape of an ask: there is more after it")
	}
	if err := a.Check(); err != nil {
		return Ask{}, fmt.Errorf("reading the shape of an ask: %w", err)
	}
	return a, nil
}
