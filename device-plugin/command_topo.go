package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/topology"
)

// wiring is what `topo -json` prints.
type wiring struct {
	GPUs []wiredGPU `json:"gpus"`
	NICs []wiredNIC `json:"nics"`
	// Links are the connections that are known, as nvidia-smi names them.
	Links   []wire     `json:"links"`
	Islands [][]string `json:"islands"` // the GPUs that reach each other over NVLink
	Best    []string   `json:"best,omitempty"`
}

type wiredGPU struct {
	ID         string   `json:"id"`
	Index      int      `json:"index"`
	PCIBusID   string   `json:"pci_bus_id,omitempty"`
	NUMANode   *int     `json:"numa_node,omitempty"`
	CPUs       string   `json:"cpus,omitempty"`
	MemoryNode *int     `json:"memory_numa_node,omitempty"`
	Island     *int     `json:"island,omitempty"`
	NICs       []string `json:"nearest_nics,omitempty"`
}

type wiredNIC struct {
	Name     string `json:"name"`
	Netdev   string `json:"netdev,omitempty"`
	PCIBusID string `json:"pci_bus_id,omitempty"`
	NUMANode *int   `json:"numa_node,omitempty"`
	RDMA     bool   `json:"rdma"`
	Down     bool   `json:"down,omitempty"`
}

type wire struct {
	A             string `json:"a"`
	B             string `json:"b"`
	Kind          string `json:"kind"`
	BandwidthMBps int64  `json:"bandwidth_mbps,omitempty"`
}

// topoCommand prints how the GPUs and network cards of a machine are
// connected.
func topoCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("topo")
	config := machineFlags(flags)
	asJSON := flags.Bool("json", false, "print JSON")
	from := flags.String("from", "", "a `file` with the output of nvidia-smi topo -m, instead of this machine")
	best := flags.Int("best", 0, "tell which `n` of the GPUs are connected best")
	if err := parseFlags(flags, args, 0, stdout); err != nil {
		return err
	}
	if *from != "" && config.Simulate != "" {
		return usagef("-from and -simulate are two machines; give one of them")
	}
	var g topology.Graph
	var err error
	if *from != "" {
		g, err = matrixFile(*from)
	} else {
		g, err = machineGraph(ctx, *config, stderr)
	}
	if err != nil {
		return err
	}
	if *best < 0 || *best > len(g.GPUs) {
		return usagef("-best %d: there are %d GPUs", *best, len(g.GPUs))
	}
	chosen := g.Best(*best, idsOf(g.GPUs))
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(wiringOf(g, chosen))
	}
	return printTopology(stdout, g, chosen)
}

// matrixFile reads the graph from a file with a matrix.
func matrixFile(name string) (topology.Graph, error) {
	f, err := os.Open(name)
	if err != nil {
		return topology.Graph{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, topology.MaxMatrixBytes+1))
	if err != nil {
		return topology.Graph{}, err
	}
	g, err := topology.ParseMatrix(string(content))
	if err != nil {
		return g, fmt.Errorf("%s: %w", name, err)
	}
	return g, nil
}

// machineGraph reads the graph from this machine, or a simulated one.
func machineGraph(ctx context.Context, config Config, stderr io.Writer) (topology.Graph, error) {
	s, err := config.check()
	if err != nil {
		return topology.Graph{}, err
	}
	m := machineOf(openSource(s, hclog.New(&hclog.LoggerOptions{Output: stderr})))
	defer m.Close()
	inv, err := m.Inventory(ctx)
	if errors.Is(err, gpu.ErrNoDriver) {
		fmt.Fprintln(stderr, err)
	} else if err != nil {
		return topology.Graph{}, fmt.Errorf("reading the GPUs: %w", err)
	}
	g, err := m.graph(ctx, gpu.State{}.Next(inv).Devices, s.machine != nil)
	if err != nil {
		return g, fmt.Errorf("reading the topology: %w", err)
	}
	return g, nil
}

func idsOf(gpus []topology.GPU) []string {
	ids := make([]string, 0, len(gpus))
	for _, g := range gpus {
		ids = append(ids, g.ID)
	}
	return ids
}

func nicNames(nics []topology.NIC) []string {
	names := make([]string, 0, len(nics))
	for _, n := range nics {
		names = append(names, n.Name)
	}
	return names
}

func wiringOf(g topology.Graph, best []string) wiring {
	w := wiring{GPUs: []wiredGPU{}, NICs: []wiredNIC{}, Links: []wire{}, Islands: g.Islands(), Best: best}
	if w.Islands == nil {
		w.Islands = [][]string{}
	}
	for _, b := range g.GPUs {
		w.GPUs = append(w.GPUs, wiredGPU{
			ID: b.ID, Index: b.Index, PCIBusID: b.PCIBusID, NUMANode: b.NUMANode, CPUs: b.CPUs, MemoryNode: b.MemoryNode,
			Island: b.Island, NICs: nicNames(g.Nearest([]string{b.ID})),
		})
	}
	for _, n := range g.NICs {
		w.NICs = append(w.NICs, wiredNIC(n))
	}
	for _, l := range g.Links {
		w.Links = append(w.Links, wire{A: l.A, B: l.B, Kind: l.String(), BandwidthMBps: l.BandwidthMBps})
	}
	return w
}

// printTopology prints the matrix, and what follows from it.
func printTopology(w io.Writer, g topology.Graph, best []string) error {
	if len(g.GPUs) == 0 {
		_, err := fmt.Fprintln(w, "There are no GPUs.")
		return err
	}
	if err := g.WriteMatrix(w); err != nil {
		return err
	}
	label := make(map[string]string)
	for _, b := range g.GPUs {
		label[b.ID] = fmt.Sprintf("GPU%d", b.Index)
	}
	labels := func(ids []string) string {
		var all []string
		for _, id := range ids {
			all = append(all, label[id])
		}
		return strings.Join(all, " ")
	}
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nGPU\tID\tPCI BUS ID\tNVLINK ISLAND\tNEAREST NICS")
	for _, b := range g.GPUs {
		island := "-"
		if b.Island != nil {
			island = fmt.Sprint(*b.Island)
		}
		near := g.Nearest([]string{b.ID})
		nics := strings.Join(nicNames(near), " ")
		if len(near) > 0 {
			nics += fmt.Sprintf(" (%s)", g.Between(b.ID, near[0].Name))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", label[b.ID], b.ID, orDash(b.PCIBusID), island, orDash(nics))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, island := range g.Islands() {
		if i == 0 {
			text.WriteString("\n")
		}
		fmt.Fprintf(&text, "Island %d: %s (the farthest two: %s)\n", i, labels(island), orDash(g.Class(island)))
	}
	if down := slices.DeleteFunc(slices.Clone(g.NICs), func(n topology.NIC) bool { return !n.Down }); len(down) > 0 {
		fmt.Fprintf(&text, "\nWithout a link: %s\n", strings.Join(nicNames(down), " "))
	}
	if len(best) > 0 {
		fmt.Fprintf(&text, "\nBest %d: %s\n", len(best), labels(best))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
