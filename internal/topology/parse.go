package topology

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits on a matrix that is read.
const (
	MaxMatrixBytes = 1 << 20
	maxColumns     = 512
	maxHeaders     = 4
)

// ParseMatrix reads the output of nvidia-smi topo -m as people paste it, of any
// driver: columns between tabs or spaces, with or without colour codes, lines
// around it, rows for NICs, legends and the columns after the matrix. GPUs have
// no UUIDs there; their IDs are "GPU0", "GPU1", ...
//
// A GPU that has a column and no row is one that the driver lost: it is not in
// the graph. A matrix that contradicts itself, or has a cell that is no kind of
// connection, is an error that names row and column.
func ParseMatrix(text string) (Graph, error) {
	if len(text) > MaxMatrixBytes {
		return Graph{}, fmt.Errorf("reading a topology matrix: %d bytes are more than the %d allowed", len(text), MaxMatrixBytes)
	}
	lines := strings.Split(escapes.ReplaceAllString(text, ""), "\n")
	problem := errors.New("there is no header line such as `GPU0 GPU1 CPU Affinity`; give the output of nvidia-smi topo -m")
	for i, headers := 0, 0; i < len(lines) && headers < maxHeaders; i++ {
		columns, ok := parseHeader(lines[i])
		if !ok {
			continue
		}
		g, err := columns.parse(lines[i+1:])
		if err == nil {
			return g, nil
		}
		// A line of talk may look like a header; the first tells the most.
		if headers++; headers == 1 {
			problem = err
		}
	}
	return Graph{}, fmt.Errorf("reading a topology matrix: %w", problem)
}

var (
	escapes  = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]|\r")
	gpuLabel = regexp.MustCompile(`^GPU([0-9]{1,4})$`)
	nicEntry = regexp.MustCompile(`^(NIC[0-9]{1,4}): *(\S+)$`)
	cpuList  = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)
)

// The columns after the matrix.
const (
	cpuColumn    = "CPU Affinity"
	nodeColumn   = "NUMA Affinity"
	memoryColumn = "GPU NUMA ID"
)

// header is what the columns of a matrix are.
type header struct {
	devices []string // labels: "GPU0", "NIC0", "mlx5_0"
	extra   []string // of the columns after the matrix, those that are there
}

// parseHeader reads a header line; false if it is none: the columns of a
// matrix begin with a GPU, and a row has a cell after that.
func parseHeader(line string) (header, bool) {
	var h header
	for _, name := range []string{cpuColumn, nodeColumn, memoryColumn} {
		if i := strings.Index(line, name); i >= 0 {
			h.extra = append(h.extra, name)
			line = line[:i] + " " + line[i+len(name):]
		}
	}
	h.devices = strings.Fields(line)
	if len(h.devices) == 0 || len(h.devices) > maxColumns || !gpuLabel.MatchString(h.devices[0]) {
		return header{}, false
	}
	for _, label := range h.devices {
		if _, ok := parseLink(label); ok || label == self {
			return header{}, false
		}
	}
	return h, true
}

// self is the cell of a device with itself.
const self = "X"

// parse reads the rows below a header, up to the legend.
func (h header) parse(lines []string) (Graph, error) {
	if twice := slices.Compact(slices.Sorted(slices.Values(h.devices))); len(twice) != len(h.devices) {
		return Graph{}, errors.New("two columns have one name")
	}
	m := matrix{header: h, cells: make(map[[2]string]string), extras: make(map[string][]string)}
	names := make(map[string]string) // of NICs, by label
	for _, line := range lines {
		fields := strings.Fields(line)
		if entry := nicEntry.FindStringSubmatch(strings.TrimSpace(line)); entry != nil {
			names[entry[1]] = entry[2]
		} else if len(fields) > 1 && slices.Contains(h.devices, fields[0]) {
			if err := m.row(fields[0], fields[1:]); err != nil {
				return Graph{}, err
			}
		}
	}
	return m.graph(names)
}

// matrix is what the rows say.
type matrix struct {
	header
	rows   []string
	cells  map[[2]string]string
	extras map[string][]string // of a row, the values after the matrix
}

func (m *matrix) row(label string, values []string) error {
	if slices.Contains(m.rows, label) {
		return fmt.Errorf("there are two rows of %s", label)
	}
	if len(values) < len(m.devices) {
		return fmt.Errorf("row %s has %d cells, and there are %d columns", label, len(values), len(m.devices))
	}
	m.rows = append(m.rows, label)
	for i, column := range m.devices {
		cell := values[i]
		if _, ok := parseLink(cell); !ok && cell != self && cell != notAvailable && cell != unknownLink {
			return fmt.Errorf("row %s, column %s: %.20q is no kind of connection", label, column, cell)
		}
		if (cell == self) != (label == column) {
			return fmt.Errorf("row %s, column %s: %s is for a device with itself, and only there", label, column, self)
		}
		m.cells[[2]string{label, column}] = cell
	}
	m.extras[label] = values[len(m.devices):]
	return nil
}

// graph makes a graph of what was read.
func (m *matrix) graph(names map[string]string) (Graph, error) {
	var g Graph
	name := make(map[string]string) // of a label
	slices.SortStableFunc(m.devices, gpusFirst)
	for _, label := range m.devices {
		name[label] = label
		found := gpuLabel.FindStringSubmatch(label)
		switch {
		case found != nil && slices.Contains(m.rows, label):
			gpu := GPU{ID: label}
			gpu.Index, _ = strconv.Atoi(found[1]) // at most four digits
			if err := m.describe(&gpu); err != nil {
				return Graph{}, fmt.Errorf("row %s: %w", label, err)
			}
			g.GPUs = append(g.GPUs, gpu)
		case found != nil:
			delete(name, label)
		default:
			if named, ok := names[label]; ok {
				name[label] = named
			}
			g.NICs = append(g.NICs, NIC{Name: name[label], RDMA: true})
		}
	}
	if len(g.GPUs) == 0 {
		return Graph{}, errors.New("there is no row of a GPU")
	}
	taken := make(map[string]bool)
	for _, n := range name {
		if taken[n] {
			return Graph{}, fmt.Errorf("the NIC legend has %s twice", n)
		}
		taken[n] = true
	}
	for i, a := range m.devices {
		for _, b := range m.devices[i+1:] {
			l, known, err := m.link(a, b)
			if err != nil {
				return Graph{}, err
			}
			if known && name[a] != "" && name[b] != "" {
				l.A, l.B = name[a], name[b]
				g.Links = append(g.Links, l)
			}
		}
	}
	return g.WithIslands(), nil
}

func gpusFirst(a, b string) int {
	switch isGPU := gpuLabel.MatchString; {
	case isGPU(a) == isGPU(b):
		return 0
	case isGPU(a):
		return -1
	}
	return 1
}

// link is the connection of two columns, from whichever row has it.
func (m *matrix) link(a, b string) (l Link, known bool, err error) {
	there, one := parseLink(m.cells[[2]string{a, b}])
	back, other := parseLink(m.cells[[2]string{b, a}])
	switch {
	case one && other && there != back:
		return Link{}, false, fmt.Errorf("%s to %s is %s in one row and %s in the other", a, b, there, back)
	case one:
		return there, true, nil
	}
	return back, other, nil
}

// describe reads the columns after the matrix. Values may be missing, but not
// swap their places.
func (m *matrix) describe(gpu *GPU) error {
	values := m.extras[gpu.ID]
	for _, column := range m.extra {
		if len(values) == 0 {
			return nil
		}
		value := values[0]
		switch {
		case value == notAvailable:
			values = values[1:]
		case column == cpuColumn && len(values) < len(m.extra) && isNumber(value):
			// Of a row with fewer values than columns, a number is the NUMA
			// node: the list of CPUs is what drivers leave out.
		case column == cpuColumn && cpuList.MatchString(value):
			cpus, err := parseCPUs(value)
			if err != nil {
				return err
			}
			gpu.CPUs, values = FormatCPUs(cpus), values[1:]
		case column == nodeColumn && cpuList.MatchString(value):
			// A range, as 0-1, is of a GPU that is as near to both.
			if node, err := strconv.Atoi(value); err == nil {
				gpu.NUMANode = &node
			}
			values = values[1:]
		case column == memoryColumn && isNumber(value):
			node, err := strconv.Atoi(value)
			if err != nil {
				return err
			}
			gpu.MemoryNode, values = &node, values[1:]
		default:
			return fmt.Errorf("%.40q is no value of column %s", value, column)
		}
	}
	return nil
}

func isNumber(text string) bool {
	_, err := strconv.Atoi(text)
	return err == nil
}
