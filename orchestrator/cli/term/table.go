package term

import (
	"strings"
)

// Table is rows of cells under a header, columns aligned by two spaces.
type Table struct {
	header []string
	rows   [][]string
	right  map[int]bool
}

// NewTable makes an empty table with a header.
func NewTable(header ...string) *Table {
	return &Table{header: header, right: map[int]bool{}}
}

// Right aligns columns (counted from 0) to the right, for numbers.
func (t *Table) Right(columns ...int) *Table {
	for _, c := range columns {
		t.right[c] = true
	}
	return t
}

// Row adds a row. An empty cell is printed as "-", but for the last column.
func (t *Table) Row(cells ...string) {
	t.rows = append(t.rows, cells)
}

// Lines are the table's lines, header first, without trailing spaces. A table
// whose last columns are empty in every row does without them.
func (t *Table) Lines() []string {
	columns := t.usedColumns()
	widths := make([]int, columns)
	all := make([][]string, 0, len(t.rows)+1)
	all = append(all, t.header[:columns])
	for _, row := range t.rows {
		cells := make([]string, columns)
		for i := range cells {
			switch {
			case i < len(row) && row[i] != "":
				cells[i] = row[i]
			case i < columns-1:
				cells[i] = "-"
			}
		}
		all = append(all, cells)
	}
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], Width(cell))
		}
	}
	lines := make([]string, len(all))
	for i, row := range all {
		lines[i] = t.line(row, widths)
	}
	return lines
}

func (t *Table) line(row []string, widths []int) string {
	var b strings.Builder
	for i, cell := range row {
		if i > 0 {
			b.WriteString("  ")
		}
		pad := strings.Repeat(" ", widths[i]-Width(cell))
		if t.right[i] {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func (t *Table) usedColumns() int {
	used := 1
	for _, row := range t.rows {
		for i, cell := range row {
			if cell != "" && i < len(t.header) {
				used = max(used, i+1)
			}
		}
	}
	if len(t.rows) == 0 {
		used = len(t.header)
	}
	return used
}

// Print prints the table.
func (s *Screen) Print(t *Table) {
	for _, line := range t.Lines() {
		s.Printf("%s\n", line)
	}
}

// Fields prints names and values, aligned, as Nomad's status commands do. Pairs
// with an empty value are left out; a name that repeats is printed once, with
// its values below each other.
func (s *Screen) Fields(pairs ...string) {
	width := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, len(pairs[i]))
		}
	}
	last := ""
	for i := 0; i+1 < len(pairs); i += 2 {
		switch name, value := pairs[i], pairs[i+1]; {
		case value == "":
		case name == last:
			s.Printf("%-*s   %s\n", width, "", value)
		default:
			s.Printf("%-*s = %s\n", width, name, value)
			last = name
		}
	}
}
