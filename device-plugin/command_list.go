package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// listing is what `list -json` prints.
type listing struct {
	DriverVersion string         `json:"driver_version,omitempty"`
	CUDAVersion   string         `json:"cuda_version,omitempty"`
	Devices       []listedDevice `json:"devices"`
}

type listedDevice struct {
	ID        gpu.ID `json:"id"`
	Name      string `json:"name"`
	Parent    gpu.ID `json:"parent,omitempty"` // of a MIG slice
	MIG       string `json:"mig_profile,omitempty"`
	MemoryMiB *int64 `json:"memory_mib,omitempty"`
	PCIBusID  string `json:"pci_bus_id,omitempty"`
	Healthy   bool   `json:"healthy"`
	Reason    string `json:"reason,omitempty"`
	// RunningWork is what becomes of the work on an unhealthy device.
	RunningWork gpustatus.Action `json:"running_work,omitempty"`
	Nodes       []string         `json:"device_nodes,omitempty"`
}

// listCommand prints the GPUs as the plugin would offer them.
func listCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("list")
	config := machineFlags(flags)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parseFlags(flags, args, 0, stdout); err != nil {
		return err
	}
	s, err := config.check()
	if err != nil {
		return err
	}
	src := openSource(s, hclog.New(&hclog.LoggerOptions{Output: stderr}))
	defer src.Close()
	inv, err := src.Inventory(ctx)
	if errors.Is(err, gpu.ErrNoDriver) {
		fmt.Fprintln(stderr, err)
	} else if err != nil {
		return fmt.Errorf("reading the GPUs: %w", err)
	}
	for _, l := range inv.Lost {
		fmt.Fprintf(stderr, "GPU %d does not tell its ID: %s\n", l.Index, l.Reason)
	}
	offer := gpu.State{}.Next(inv).Offer(gpu.Policy{}, gpu.Overlay{Faults: knownFaults(s, stderr)})
	if *asJSON {
		return printJSON(stdout, inv, offer)
	}
	return printTable(stdout, offer)
}

// knownFaults are what the plugin of the machine has found, if one keeps its
// state there: it has watched, where a command sees a moment only.
func knownFaults(s settings, stderr io.Writer) map[gpu.ID]gpu.Fault {
	status, err := gpustatus.Read(filepath.Join(s.stateDir, statusFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(stderr, err)
	}
	faults := make(map[gpu.ID]gpu.Fault)
	for _, d := range status.Devices {
		faults[gpu.ID(d.ID)] = gpu.Fault{Reason: d.Reason, Action: d.Action}
	}
	return faults
}

// machineFlags adds the options that tell which machine a command is about.
func machineFlags(flags *flag.FlagSet) *Config {
	config := defaultConfig()
	flags.StringVar(&config.Simulate, "simulate", "", "a simulated machine instead of this one: a `preset` such as dgx-h100, or a board file (.hcl, .json)")
	flags.StringVar(&config.SimulateNode, "node", "", "`name` of the simulated node, on which its GPU IDs depend; default: the host name")
	flags.StringVar(&config.SimulateFaults, "faults", "", "fault `file` of the simulated machine")
	flags.StringVar(&config.StateDir, "state-dir", config.StateDir, "`folder` in which the plugin of the machine keeps its state")
	return &config
}

func printJSON(w io.Writer, inv gpu.Inventory, offer gpu.Offer) error {
	l := listing{DriverVersion: inv.DriverVersion, CUDAVersion: inv.CUDAVersion, Devices: []listedDevice{}}
	for _, d := range offer.Devices {
		parent := d.Parent
		if parent == d.ID {
			parent = ""
		}
		l.Devices = append(l.Devices, listedDevice{
			ID: d.ID, Name: d.Name, Parent: parent, MIG: d.Profile, MemoryMiB: d.Specs.MemoryMiB,
			PCIBusID: d.PCIBusID, Healthy: d.Fault.OK(), Reason: d.Fault.Reason, RunningWork: d.Fault.Action, Nodes: d.Nodes,
		})
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(l)
}

func printTable(w io.Writer, offer gpu.Offer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tMEMORY\tPCI BUS ID\tHEALTH")
	for _, d := range offer.Devices {
		memory, health := "-", "healthy"
		if d.Specs.MemoryMiB != nil {
			memory = fmt.Sprintf("%d MiB", *d.Specs.MemoryMiB)
		}
		if !d.Fault.OK() {
			health = "unhealthy: " + d.Fault.Reason
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", d.ID, d.Name, memory, d.PCIBusID, health)
	}
	return t.Flush()
}
