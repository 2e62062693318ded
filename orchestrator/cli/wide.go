package cli

import (
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/orchestrator/cli/term"
)

// unlimited is the width of what is no terminal.
const unlimited = 1 << 20

// width is how many columns there are: as COLUMNS says, or the terminal.
func (a *app) width() int {
	if n, err := strconv.Atoi(a.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if !a.screen.Terminal() {
		return unlimited
	}
	w, _ := a.screen.Size()
	return w
}

// printTable prints a table without the columns of drop. If it is wider than the
// screen, the last column goes below each row, broken into lines.
func (a *app) printTable(header []string, rows [][]string, drop, right []int) {
	keep := func(cells []string) []string {
		var out []string
		for i, c := range cells {
			if !slices.Contains(drop, i) {
				out = append(out, c)
			}
		}
		return out
	}
	table := func(last int) []string {
		t := term.NewTable(keep(header)[:last]...).Right(right...)
		for _, r := range rows {
			t.Row(keep(r)[:last]...)
		}
		return t.Lines()
	}
	width, n := a.width(), len(keep(header))
	lines := table(n)
	if !slices.ContainsFunc(lines, func(l string) bool { return term.Width(l) > width }) {
		for _, line := range lines {
			a.screen.Printf("%s\n", line)
		}
		return
	}
	for i, line := range table(n - 1) {
		a.screen.Printf("%s\n", line)
		if i == 0 || rows[i-1][len(rows[i-1])-1] == "" {
			continue
		}
		for _, more := range wrap(rows[i-1][len(rows[i-1])-1], width-4) {
			a.screen.Printf("    %s\n", a.screen.Paint(term.Dim, more))
		}
	}
}

// wrap breaks text at spaces into lines of width columns, where it can.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case term.Width(line)+1+term.Width(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
