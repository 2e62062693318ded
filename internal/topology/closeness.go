package topology

import (
	"cmp"
	"fmt"
)

// pcieRanks order the kinds without NVLink, from far to near.
var pcieRanks = map[Kind]int{System: 1, SameNode: 2, HostBridge: 3, Bridges: 4, SameBoard: 5}

// rank is how near a connection is: the higher the nearer, more NVLinks nearer
// than few, any of them nearer than PCIe. An unknown connection is farthest.
func (l Link) rank() int {
	if l.Kind == NVLink {
		return pcieRanks[SameBoard] + max(l.NVLinks, 1)
	}
	return pcieRanks[l.Kind]
}

// Compare orders connections from far to near: it is positive if a is nearer.
// Unknown connections are farthest.
func Compare(a, b Link) int { return cmp.Compare(a.rank(), b.rank()) }

// String is the connection as nvidia-smi shows it, "NV12" or "PXB"; "" if it
// is unknown.
func (l Link) String() string {
	if l.Kind == NVLink && l.NVLinks > 0 {
		return fmt.Sprintf("%s%d", NVLink, l.NVLinks)
	}
	return string(l.Kind)
}

// parseLink reads what String writes. NVLink comes with a number there.
func parseLink(text string) (Link, bool) {
	if _, ok := pcieRanks[Kind(text)]; ok {
		return Link{Kind: Kind(text)}, true
	}
	var n int
	if _, err := fmt.Sscanf(text, "NV%d", &n); err != nil || n < 1 || n > maxNVLinks || text != fmt.Sprintf("NV%d", n) {
		return Link{}, false
	}
	return Link{Kind: NVLink, NVLinks: n}, true
}

// maxNVLinks is far beyond the 18 links of today's boards.
const maxNVLinks = 999

// links looks connections up by their ends.
type links map[[2]string]Link

func (g Graph) links() links {
	m := make(links, 2*len(g.Links))
	for _, l := range g.Links {
		m[[2]string{l.A, l.B}] = l
		m[[2]string{l.B, l.A}] = l
	}
	return m
}

func (m links) between(a, b string) Link {
	if l, ok := m[[2]string{a, b}]; ok {
		return l
	}
	return Link{A: a, B: b}
}

// Between is the connection of two ends. Its Kind is "" if it is unknown.
func (g Graph) Between(a, b string) Link { return g.links().between(a, b) }

// Class is the farthest connection between any two of the GPUs, as nvidia-smi
// names it: what bounds a job that uses them together. It is "" for fewer than
// two GPUs, or if a connection is unknown.
func (g Graph) Class(gpus []string) string {
	known := g.links()
	var farthest *Link
	for i, a := range gpus {
		for _, b := range gpus[:i] {
			if l := known.between(a, b); farthest == nil || Compare(l, *farthest) < 0 {
				farthest = &l
			}
		}
	}
	if farthest == nil {
		return ""
	}
	return farthest.String()
}

// Islands are the sets of GPUs that reach each other over NVLink, directly or
// through others, in the order of the graph. A GPU without NVLink is in none.
func (g Graph) Islands() [][]string {
	known := g.links()
	seen := make(map[string]bool)
	var islands [][]string
	for _, first := range g.GPUs {
		if seen[first.ID] {
			continue
		}
		members := map[string]bool{first.ID: true}
		for reached := []string{first.ID}; len(reached) > 0; reached = reached[1:] {
			for _, other := range g.GPUs {
				if !members[other.ID] && known.between(reached[0], other.ID).Kind == NVLink {
					members[other.ID] = true
					reached = append(reached, other.ID)
				}
			}
		}
		if len(members) < 2 {
			continue
		}
		var island []string
		for _, other := range g.GPUs {
			if members[other.ID] {
				seen[other.ID] = true
				island = append(island, other.ID)
			}
		}
		islands = append(islands, island)
	}
	return islands
}

// WithIslands is the graph with the island of each GPU filled in from its
// links, numbered from 0 in the order of the graph.
func (g Graph) WithIslands() Graph {
	number := make(map[string]int)
	for n, island := range g.Islands() {
		for _, id := range island {
			number[id] = n
		}
	}
	gpus := make([]GPU, len(g.GPUs))
	for i, gpu := range g.GPUs {
		gpu.Island = nil
		if n, ok := number[gpu.ID]; ok {
			gpu.Island = &n
		}
		gpus[i] = gpu
	}
	g.GPUs = gpus
	return g
}
