package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Published is the topology attribute of a device group: what Nomad's own
// attributes cannot say, since they are of a whole group. It has all boards of
// the node, so that groups can be told to be near each other, and the slices of
// the group itself:
//
//	{"v":1,
//	 "boards":[{"id":"GPU-0e1...","bus":"00000000:07:00.0","numa":0,"cpus":"0-23","island":0},{"id":"GPU-52a...",...}],
//	 "slices":[{"id":"MIG-77d...","board":1,"start":4,"size":4,"gi":2,"ci":0}],
//	 "nics":[{"name":"mlx5_0","netdev":"ib0","numa":0,"rdma":true}],
//	 "links":["NV12 PXB","SYS"]}
//
// Row i of links has the connections of board i with each later board and then
// with each NIC, as nvidia-smi names them; "?" is unknown. A replica is where
// its board or slice is, whose ID is that before "::".
type Published struct {
	Version int              `json:"v"`
	Boards  []PublishedBoard `json:"boards"`
	Slices  []PublishedSlice `json:"slices,omitempty"`
	NICs    []PublishedNIC   `json:"nics,omitempty"`
	Links   []string         `json:"links,omitempty"`
}

// PublishedBoard is a board of the node.
type PublishedBoard struct {
	ID       string `json:"id"`
	PCIBusID string `json:"bus,omitempty"`
	Serial   string `json:"serial,omitempty"`
	Minor    *int   `json:"minor,omitempty"` // of /dev/nvidia<minor>
	NUMANode *int   `json:"numa,omitempty"`
	CPUs     string `json:"cpus,omitempty"`
	Island   *int   `json:"island,omitempty"`
}

// PublishedSlice is a slice of the group.
type PublishedSlice struct {
	ID    string `json:"id"`
	Board int    `json:"board"` // its position in Boards
	// Start and Size are its place in the board's memory slots.
	Start           *int `json:"start,omitempty"`
	Size            *int `json:"size,omitempty"`
	GPUInstance     *int `json:"gi,omitempty"`
	ComputeInstance *int `json:"ci,omitempty"`
}

// PublishedNIC is a network card of the node.
type PublishedNIC struct {
	Name     string `json:"name"`
	Netdev   string `json:"netdev,omitempty"`
	NUMANode *int   `json:"numa,omitempty"`
	RDMA     bool   `json:"rdma,omitempty"`
	Down     bool   `json:"down,omitempty"`
}

const (
	publishedVersion = 1
	// MaxPublishedBytes bounds the attribute: with all else that an agent
	// tells of a node it is stored by Nomad's servers. 64 boards of 7 slices
	// with 16 NICs fit.
	MaxPublishedBytes = 96 << 10
	// maxBoards bounds what is compared with each other.
	maxBoards   = 256
	unknownLink = "?"
)

// Publish is the attribute without slices and serials, which the caller adds.
func Publish(g Graph) Published {
	g = g.WithIslands()
	p := Published{Version: publishedVersion, Boards: []PublishedBoard{}}
	known := g.links()
	word := func(a, b string) string {
		if text := known.between(a, b).String(); text != "" {
			return text
		}
		return unknownLink
	}
	for i, gpu := range g.GPUs {
		p.Boards = append(p.Boards, PublishedBoard{
			ID: gpu.ID, PCIBusID: gpu.PCIBusID, NUMANode: gpu.NUMANode, CPUs: gpu.CPUs, Island: gpu.Island,
		})
		var row []string
		for _, other := range g.GPUs[i+1:] {
			row = append(row, word(gpu.ID, other.ID))
		}
		for _, nic := range g.NICs {
			row = append(row, word(gpu.ID, nic.Name))
		}
		p.Links = append(p.Links, strings.Join(row, " "))
	}
	for _, n := range g.NICs {
		p.NICs = append(p.NICs, PublishedNIC{Name: n.Name, Netdev: n.Netdev, NUMANode: n.NUMANode, RDMA: n.RDMA, Down: n.Down})
	}
	return p
}

// Board is the position of a board in Boards; false if it is not there.
func (p Published) Board(id string) (int, bool) {
	i := slices.IndexFunc(p.Boards, func(b PublishedBoard) bool { return b.ID == id })
	return i, i >= 0
}

// Marshal is the attribute's text.
func (p Published) Marshal() (string, error) {
	if err := p.check(); err != nil {
		return "", fmt.Errorf("writing a topology attribute: %w", err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("writing a topology attribute: %w", err)
	}
	if len(text) > MaxPublishedBytes {
		return "", fmt.Errorf("writing a topology attribute: %d bytes are more than the %d allowed", len(text), MaxPublishedBytes)
	}
	return string(text), nil
}

// ParsePublished reads what Marshal wrote.
func ParsePublished(text string) (Published, error) {
	var p Published
	if len(text) > MaxPublishedBytes {
		return p, fmt.Errorf("reading a topology attribute: %d bytes are more than the %d allowed", len(text), MaxPublishedBytes)
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return Published{}, fmt.Errorf("reading a topology attribute: %w", err)
	}
	if err := p.check(); err != nil {
		return Published{}, fmt.Errorf("reading a topology attribute: %w", err)
	}
	return p, nil
}

// check reports what contradicts the format.
func (p Published) check() error {
	if p.Version != publishedVersion {
		return fmt.Errorf("version %d; this program reads version %d", p.Version, publishedVersion)
	}
	if len(p.Boards) > maxBoards || len(p.NICs) > maxBoards {
		return fmt.Errorf("%d boards and %d NICs; there can be %d of each", len(p.Boards), len(p.NICs), maxBoards)
	}
	taken := make(map[string]bool)
	unique := func(id string) error {
		if id == "" || taken[id] {
			return fmt.Errorf("%.60q is empty or listed twice", id)
		}
		taken[id] = true
		return nil
	}
	var problems []error
	for _, b := range p.Boards {
		problems = append(problems, unique(b.ID))
	}
	for _, n := range p.NICs {
		problems = append(problems, unique(n.Name))
	}
	for _, s := range p.Slices {
		problems = append(problems, unique(s.ID))
		if s.Board < 0 || s.Board >= len(p.Boards) {
			problems = append(problems, fmt.Errorf("slice %.60q is of board %d of %d", s.ID, s.Board, len(p.Boards)))
		}
	}
	if len(p.Links) != 0 && len(p.Links) != len(p.Boards) {
		return errors.Join(append(problems, fmt.Errorf("links of %d boards, not of %d", len(p.Links), len(p.Boards)))...)
	}
	for i, row := range p.Links {
		cells := strings.Fields(row)
		if want := len(p.Boards) - i - 1 + len(p.NICs); len(cells) != want {
			problems = append(problems, fmt.Errorf("links of board %d are %d, not %d", i, len(cells), want))
		}
		for _, c := range cells {
			if _, ok := parseLink(c); !ok && c != unknownLink {
				problems = append(problems, fmt.Errorf("links of board %d: %.20q is no kind of connection", i, c))
			}
		}
	}
	return errors.Join(problems...)
}

// Graph is the graph that was published. Bandwidths are not: they follow from
// the boards' models.
func (p Published) Graph() Graph {
	var g Graph
	var ends []string // boards, then NICs
	for i, b := range p.Boards {
		g.GPUs = append(g.GPUs, GPU{ID: b.ID, Index: i, PCIBusID: b.PCIBusID, NUMANode: b.NUMANode, CPUs: b.CPUs, Island: b.Island})
		ends = append(ends, b.ID)
	}
	for _, n := range p.NICs {
		g.NICs = append(g.NICs, NIC{Name: n.Name, Netdev: n.Netdev, NUMANode: n.NUMANode, RDMA: n.RDMA, Down: n.Down})
		ends = append(ends, n.Name)
	}
	for i, row := range p.Links {
		for j, cell := range strings.Fields(row) {
			if l, ok := parseLink(cell); ok {
				l.A, l.B = ends[i], ends[i+1+j]
				g.Links = append(g.Links, l)
			}
		}
	}
	return g
}
