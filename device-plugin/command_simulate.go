package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/simulated"
	"github.com/drover-ml/drover/internal/topology"
)

// simulation is what `simulate -json` prints.
type simulation struct {
	Node          string            `json:"node"`
	DriverVersion string            `json:"driver_version"`
	CUDAVersion   string            `json:"cuda_version"`
	Boards        []simulatedBoard  `json:"boards"`
	NICs          []simulatedNIC    `json:"nics"`
	Links         []simulatedLink   `json:"links"`
	Timeline      []simulatedMoment `json:"timeline"`
	// More is set if the script goes on after what the timeline has.
	More bool `json:"more,omitempty"`

	graph topology.Graph
}

type simulatedBoard struct {
	Index     int              `json:"index"`
	ID        gpu.ID           `json:"id"`
	Product   string           `json:"product"`
	MemoryMiB *int64           `json:"memory_mib,omitempty"`
	PCIBusID  string           `json:"pci_bus_id"`
	Serial    string           `json:"serial,omitempty"`
	NUMANode  *int             `json:"numa_node,omitempty"`
	CPUs      string           `json:"cpus,omitempty"`
	MIG       bool             `json:"mig"`
	Slices    []simulatedSlice `json:"slices,omitempty"`
}

type simulatedSlice struct {
	ID        gpu.ID `json:"id"`
	Profile   string `json:"profile"`
	MemoryMiB *int64 `json:"memory_mib,omitempty"`
	Start     *int   `json:"start"`
	Size      *int   `json:"size"`
}

type simulatedNIC struct {
	Name     string `json:"name"`
	Netdev   string `json:"netdev,omitempty"`
	PCIBusID string `json:"pci_bus_id,omitempty"`
	NUMANode *int   `json:"numa_node,omitempty"`
	RDMA     bool   `json:"rdma"`
}

type simulatedLink struct {
	A             string `json:"a"`
	B             string `json:"b"`
	Kind          string `json:"kind"` // "NV18", "PXB"
	BandwidthMBps int64  `json:"bandwidth_mbps,omitempty"`
}

type simulatedMoment struct {
	At     string `json:"at"`
	Device string `json:"device,omitempty"` // a board's index, an ID or "*"; none is the driver
	Event  string `json:"event"`            // "begins" or "ends"
	What   string `json:"what"`
}

// simulateCommand checks a simulated machine and a script of its faults, and
// prints what they amount to.
func simulateCommand(ctx context.Context, args []string, stdout, _ io.Writer) error {
	flags := newFlags("simulate")
	presets := flags.Bool("presets", false, "list the presets")
	write := flags.Bool("write", false, "print the preset's board file, as a start of one's own")
	node := flags.String("node", "", "`name` of the node, on which GPU IDs depend; default: the board file's, or the host name")
	faults := flags.String("faults", "", "fault `file`: also print what it does, and when")
	until := flags.Duration("until", 10*time.Minute, "how far to follow the fault file")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parseFlags(flags, args, 1, stdout); err != nil {
		return err
	}
	switch {
	case *presets && flags.NArg() > 0:
		return usagef("-presets lists all presets: leave %q out", flags.Arg(0))
	case *presets:
		return printPresets(stdout, *asJSON)
	case flags.NArg() == 0:
		return usagef("name a preset or a board file; -presets lists the presets")
	case *until < 0:
		return usagef("-until is %s; it cannot be negative", *until)
	case *write:
		file, err := simulated.PresetFile(flags.Arg(0))
		if err != nil {
			return err
		}
		_, err = stdout.Write(file)
		return err
	}
	sim, err := readSimulation(ctx, flags.Arg(0), *node, *faults, *until)
	if err != nil {
		return err
	}
	if *asJSON {
		return encode(stdout, sim)
	}
	return sim.print(stdout, *faults)
}

func encode(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func printPresets(w io.Writer, asJSON bool) error {
	if asJSON {
		return encode(w, simulated.Presets())
	}
	_, err := fmt.Fprintln(w, strings.Join(simulated.Presets(), "\n"))
	return err
}

// readSimulation reads the machine as it is described, before anything goes
// wrong, and the script.
func readSimulation(ctx context.Context, spec, node, faults string, until time.Duration) (simulation, error) {
	m, err := simulate(spec, node)
	if err != nil {
		return simulation{}, err
	}
	src := simulated.New(simulated.Config{Machine: m})
	defer src.Close()
	inv, err := src.Inventory(ctx)
	if err != nil {
		return simulation{}, err
	}
	graph, err := src.Topology(ctx)
	if err != nil {
		return simulation{}, err
	}
	sim := simulation{
		Node: m.Node, DriverVersion: inv.DriverVersion, CUDAVersion: inv.CUDAVersion, graph: graph,
		NICs: []simulatedNIC{}, Links: []simulatedLink{}, Timeline: []simulatedMoment{},
	}
	for _, b := range inv.Boards {
		sim.Boards = append(sim.Boards, simulatedBoardOf(b))
	}
	for _, n := range graph.NICs {
		sim.NICs = append(sim.NICs, simulatedNIC{n.Name, n.Netdev, n.PCIBusID, n.NUMANode, n.RDMA})
	}
	for _, l := range graph.Links {
		sim.Links = append(sim.Links, simulatedLink{l.A, l.B, l.String(), l.BandwidthMBps})
	}
	if faults == "" {
		return sim, nil
	}
	if _, err := os.Stat(faults); err != nil { // the plugin waits for one; here somebody names it
		return simulation{}, fmt.Errorf("reading fault script: %w", err)
	}
	script, err := simulated.ReadScript(faults)
	if err != nil {
		return simulation{}, err
	}
	if unmatched := script.Unmatched(inv); len(unmatched) > 0 {
		return simulation{}, errors.New(strings.Join(unmatched, "\n"))
	}
	moments, more := script.Timeline(until)
	sim.More = more
	for _, moment := range moments {
		event := "begins"
		if moment.Ends {
			event = "ends"
		}
		sim.Timeline = append(sim.Timeline, simulatedMoment{moment.At.String(), moment.Device, event, moment.What})
	}
	return sim, nil
}

func simulatedBoardOf(b gpu.Board) simulatedBoard {
	board := simulatedBoard{
		Index: b.Index, ID: b.ID, Product: b.Product, MemoryMiB: b.Specs.MemoryMiB, PCIBusID: b.PCIBusID,
		Serial: b.Serial, NUMANode: b.NUMANode, CPUs: b.CPUs, MIG: b.MIG,
	}
	for _, s := range b.Slices {
		board.Slices = append(board.Slices, simulatedSlice{s.ID, s.Profile, s.MemoryMiB, s.Start, s.Size})
	}
	return board
}

func (s simulation) print(w io.Writer, faults string) error {
	fmt.Fprintf(w, "Node %s: driver %s, CUDA %s\n\n", s.Node, s.DriverVersion, s.CUDAVersion)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GPU\tNAME\tMEMORY\tPCI BUS ID\tNUMA\tCPUS\tSLOTS\tID")
	amount := func(mib *int64) string {
		if mib == nil {
			return "-"
		}
		return fmt.Sprintf("%d MiB", *mib)
	}
	for _, b := range s.Boards {
		numa, mig := "-", ""
		if b.NUMANode != nil {
			numa = fmt.Sprint(*b.NUMANode)
		}
		if b.MIG {
			mig = "MIG"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.Index, b.Product, amount(b.MemoryMiB), b.PCIBusID, numa, b.CPUs, mig, b.ID)
		for _, slice := range b.Slices {
			slots := ""
			if slice.Start != nil && slice.Size != nil {
				slots = fmt.Sprintf("%d:%d", *slice.Start, *slice.Size)
			}
			fmt.Fprintf(t, "\t  %s\t%s\t\t\t\t%s\t%s\n", slice.Profile, amount(slice.MemoryMiB), slots, slice.ID)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := s.graph.WriteMatrix(w); err != nil {
		return err
	}
	if faults == "" {
		return nil
	}
	fmt.Fprintln(w)
	fmt.Fprintln(t, "AT\tGPU\t\tWHAT")
	for _, m := range s.Timeline {
		device := m.Device
		if device == "" {
			device = "driver"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", m.At, device, m.Event, m.What)
	}
	if s.More {
		fmt.Fprintln(t, "and more later (-until)")
	}
	return t.Flush()
}
