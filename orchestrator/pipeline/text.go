package pipeline

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
)

// WriteGraph writes the nodes of p for people, in the order of p.Nodes: each
// with what it is and what it waits for.
func WriteGraph(w io.Writer, p *Pipeline) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tAFTER\tWHAT")
	for _, n := range p.Nodes {
		after := make([]string, len(n.DependsOn))
		for i, id := range n.DependsOn {
			after[i] = string(id)
		}
		switch {
		case n.OnExit:
			after = []string{"all others"}
		case len(after) == 0:
			after = []string{"-"}
		case len(after) > maxListed:
			after = append(after[:maxListed:maxListed], fmt.Sprintf("%d more", len(after)-maxListed))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", n.ID, strings.Join(after, ", "), n.Summary())
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the graph: %w", err)
	}
	return nil
}

// maxListed bounds how many dependencies of a node WriteGraph lists.
const maxListed = 4

// Summary says in a few words what n does.
func (n *Node) Summary() string {
	switch {
	case n.Dataset != nil:
		return n.Dataset.Path
	case n.Step != nil:
		return n.Step.summary()
	case n.Sweep != nil:
		goal := "least"
		if n.Sweep.Maximize {
			goal = "most"
		}
		return fmt.Sprintf("%s of %d trials, %s %s: %s", n.Sweep.Method, n.Sweep.Size(), goal, n.Sweep.Metric, n.Sweep.summary())
	case n.Gate != nil:
		return n.Gate.summary()
	case n.Model != nil:
		text := fmt.Sprintf("registers %s from %s.output.%s", n.Model.Registered, n.Model.Source, n.Model.Output)
		if n.Model.Alias != "" {
			text += " as " + n.Model.Alias
		}
		return text
	case n.Endpoint != nil:
		return fmt.Sprintf("serves %s, %d × %s", n.Endpoint.Model, n.Endpoint.Count, n.Endpoint.summary())
	default:
		return ""
	}
}

// maxCommand bounds a command in a summary, in characters.
const maxCommand = 60

func (s *Step) summary() string {
	text := "a command that depends on results"
	if s.Command != nil {
		text = plain(strings.Join(s.Command, " "))
	}
	r := s.Resources
	if r.Cores > 0 {
		text += fmt.Sprintf(" (%d cores, %d MiB", r.Cores, r.MemoryMiB)
	} else {
		text += fmt.Sprintf(" (%d MHz, %d MiB", r.CPUMHz, r.MemoryMiB)
	}
	for i := range r.Alternatives() {
		g := r.Alternative(i).GPU
		if g == nil {
			continue
		}
		text += []string{", ", " or "}[min(i, 1)] + fmt.Sprintf("%d × %s", g.Count, g.Device)
		if g.MemoryMin != "" {
			text += " of " + g.MemoryMin
		}
	}
	text += ")"
	if s.Gang != nil {
		text = s.Gang.String() + " × " + text
	}
	return text
}

// String is the number of members, such as "4" or "2 to 4".
func (g *Gang) String() string {
	if g.Min == g.Max {
		return strconv.Itoa(g.Min)
	}
	return fmt.Sprintf("%d to %d", g.Min, g.Max)
}

func (g *Gate) summary() string {
	checks := make([]string, len(g.Checks))
	for i, c := range g.Checks {
		var bounds []string
		if c.Min != nil {
			bounds = append(bounds, fmt.Sprintf("≥ %v", *c.Min))
		}
		if c.Max != nil {
			bounds = append(bounds, fmt.Sprintf("≤ %v", *c.Max))
		}
		if c.AgainstChampion {
			better := "≥"
			if c.LowerIsBetter {
				better = "≤"
			}
			bounds = append(bounds, better+" champion")
		}
		checks[i] = c.Metric + " " + strings.Join(bounds, " and ")
	}
	return strings.Join(checks, "; ")
}

// plain is text on one line, cut to maxCommand characters.
func plain(text string) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text))
	if len(runes) > maxCommand {
		return string(runes[:maxCommand-1]) + "…"
	}
	return string(runes)
}

// WriteDOT writes the graph of p in Graphviz's language.
func WriteDOT(w io.Writer, p *Pipeline) error {
	shapes := map[Kind]string{
		KindDataset: "cylinder", KindStep: "box", KindSweep: "box3d",
		KindGate: "diamond", KindModel: "component", KindEndpoint: "house",
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "digraph %s {\n  rankdir = LR\n", quoteDOT(p.Name))
	for _, n := range p.Nodes {
		fmt.Fprintf(out, "  %s [shape = %s]\n", quoteDOT(string(n.ID)), shapes[n.Kind])
	}
	for _, n := range p.Nodes {
		for _, id := range n.DependsOn {
			fmt.Fprintf(out, "  %s -> %s\n", quoteDOT(string(id)), quoteDOT(string(n.ID)))
		}
	}
	fmt.Fprintln(out, "}")
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing the graph: %w", err)
	}
	return nil
}

func quoteDOT(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
