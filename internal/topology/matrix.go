package topology

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// legend explains the cells of a matrix.
const legend = `
Legend:
  X     the device itself
  NV#   # NVLinks together, directly or through NVSwitches
  PIX   one PCIe switch at most between them
  PXB   several PCIe switches, but not the CPU's host bridge
  PHB   the PCIe host bridge of a CPU
  NODE  two host bridges of one NUMA node
  SYS   the interconnect between NUMA nodes
  ?     unknown
`

// WriteMatrix prints the graph as nvidia-smi topo -m does. ParseMatrix reads
// it. NICs have rows if it is known how they are connected with each other; how
// they are with GPUs is in the rows of those.
func (g Graph) WriteMatrix(w io.Writer) error {
	type end struct{ id, label string }
	var ends []end
	for _, gpu := range g.GPUs {
		ends = append(ends, end{gpu.ID, fmt.Sprintf("GPU%d", gpu.Index)})
	}
	for i, nic := range g.NICs {
		ends = append(ends, end{nic.Name, fmt.Sprintf("NIC%d", i)})
	}
	rows := ends
	if !g.connectsNICs() {
		rows = ends[:len(g.GPUs)]
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, e := range ends {
		fmt.Fprintf(t, "\t%s", e.label)
	}
	fmt.Fprintln(t, "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID")
	known := g.links()
	for i, row := range rows {
		fmt.Fprint(t, row.label)
		for _, column := range ends {
			cell := known.between(row.id, column.id).String()
			switch {
			case row == column:
				cell = "X"
			case cell == "":
				cell = unknownLink
			}
			fmt.Fprintf(t, "\t%s", cell)
		}
		if i < len(g.GPUs) {
			gpu := g.GPUs[i]
			fmt.Fprintf(t, "\t%s\t%s\t%s", orNA(gpu.CPUs), number(gpu.NUMANode), number(gpu.MemoryNode))
		} else {
			fmt.Fprintf(t, "\t\t%s\t", number(g.NICs[i-len(g.GPUs)].NUMANode))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, legend); err != nil || len(g.NICs) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w, "\nNIC Legend:"); err != nil {
		return err
	}
	for i, nic := range g.NICs {
		if _, err := fmt.Fprintf(w, "  NIC%d: %s\n", i, nic.Name); err != nil {
			return err
		}
	}
	return nil
}

// connectsNICs reports whether a connection of two NICs is known.
func (g Graph) connectsNICs() bool {
	isNIC := make(map[string]bool)
	for _, n := range g.NICs {
		isNIC[n.Name] = true
	}
	return slices.ContainsFunc(g.Links, func(l Link) bool { return isNIC[l.A] && isNIC[l.B] })
}

func orNA(text string) string {
	if text == "" {
		return notAvailable
	}
	return text
}

const notAvailable = "N/A"

func number(n *int) string {
	if n == nil {
		return notAvailable
	}
	return strconv.Itoa(*n)
}
