package simulate

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Plot writes a report's curves as an SVG image: GPUs in use and of no use, jobs
// that wait, and the workspaces' shares, over one axis of time.
func Plot(w io.Writer, r *Report) error {
	p := &plot{steps: len(r.Curve.GPUPct), step: r.Curve.StepS, span: r.MakespanS}
	p.unit, p.unitS = timeUnit(p.span)
	most, lines := 4.0, shareLines(r)
	for _, n := range r.Curve.Waiting {
		most = max(most, n)
	}
	shares := 1.0
	for _, l := range lines {
		for _, s := range l.Pct {
			shares = max(shares, s)
		}
	}
	p.text(plotLeft, 28, "title", "start", fmt.Sprintf("%d jobs on %d GPUs of %d nodes", r.Jobs.Total, r.Cluster.GPUs, r.Cluster.Nodes))
	p.text(plotLeft, 46, "note", "start", p.subtitle(r))

	p.panel("GPUs", "%", 100)
	used := make([]float64, p.steps)
	for i := range used {
		used[i] = r.Curve.GPUPct[i] + r.Curve.FragmentedPct[i]
	}
	p.area(used, palette[1])
	p.area(r.Curve.GPUPct, palette[0])
	p.legend([]string{"in use", "free, but of no use to the trace's jobs"}, palette[:2])

	p.panel("Waiting", "jobs", most)
	p.area(r.Curve.Waiting, palette[2])

	p.panel("Dominant shares", "%", min(100, shares))
	names := make([]string, len(lines))
	for i, l := range slices.Backward(lines) { // the greatest on top
		names[i] = l.Workspace
		p.line(l.Pct, palette[i%len(palette)])
	}
	p.legend(names, palette)
	return p.write(w)
}

// Geometry of a plot, in pixels.
const (
	plotWidth   = 960.0
	plotLeft    = 64.0
	plotRight   = 24.0
	plotTop     = 84.0
	panelHeight = 170.0
	panelGap    = 56.0
	innerWidth  = plotWidth - plotLeft - plotRight
)

// palette is colours that people with any kind of sight can tell apart (Okabe and
// Ito, 2008).
var palette = []string{"#0072b2", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#d55e00", "#7f7f7f"}

// shareLines are the workspaces with the greatest shares, the greatest first, and
// the sum of all others.
func shareLines(r *Report) []ShareLine {
	lines := slices.Clone(r.Curve.Shares)
	sum := func(l ShareLine) (s float64) {
		for _, v := range l.Pct {
			s += v
		}
		return s
	}
	slices.SortStableFunc(lines, func(a, b ShareLine) int { return cmp.Compare(sum(b), sum(a)) })
	most := len(palette)
	if len(lines) <= most {
		return lines
	}
	rest := ShareLine{Workspace: fmt.Sprintf("%d others", len(lines)-most+1), Pct: make([]float64, len(r.Curve.GPUPct))}
	for _, l := range lines[most-1:] {
		for i, v := range l.Pct {
			rest.Pct[i] += v
		}
	}
	return append(lines[:most-1:most-1], rest)
}

// plot is an image under way.
type plot struct {
	svg    bytes.Buffer
	steps  int
	step   float64 // seconds
	span   float64 // seconds
	unit   string
	unitS  float64
	panels int
	top    float64 // of the current panel
	most   float64 // of its axis
}

func (p *plot) subtitle(r *Report) string {
	parts := []string{
		"placement by " + r.Policy, fmt.Sprintf("load %v", r.Load), fmt.Sprintf("%.1f %% of GPUs in use", r.Utilisation.GPUPct),
		fmt.Sprintf("mean wait %s", time.Duration(r.Waiting.MeanS*float64(time.Second)).Round(time.Second)),
	}
	if n := r.Preemption.Evictions; n > 0 {
		parts = append(parts, fmt.Sprintf("%d evictions", n))
	}
	return strings.Join(parts, " · ")
}

// timeUnit is what a time of so many seconds is told in.
func timeUnit(span float64) (name string, seconds float64) {
	switch {
	case span < 300:
		return "seconds", 1
	case span < 5*3600:
		return "minutes", 60
	case span < 5*86400:
		return "hours", 3600
	default:
		return "days", 86400
	}
}

// ticks are about n round numbers from 0 to most.
func ticks(most float64, n int) (all []float64) {
	if !(most > 0) {
		return []float64{0}
	}
	rough := most / float64(n)
	unit := math.Pow(10, math.Floor(math.Log10(rough)))
	step := 10 * unit
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*unit >= rough && (m != 2.5 || unit >= 10) {
			step = m * unit
			break
		}
	}
	for i := 0; float64(i)*step <= most*(1+1e-9); i++ {
		all = append(all, float64(i)*step)
	}
	return all
}

// panel begins a panel whose axis goes from 0 to at least most.
func (p *plot) panel(title, unit string, most float64) {
	p.top = plotTop + float64(p.panels)*(panelHeight+panelGap)
	p.panels++
	marks := ticks(most, 4)
	if last := marks[len(marks)-1]; len(marks) > 1 && last < most {
		marks = append(marks, last+marks[1])
	}
	p.most = marks[len(marks)-1]
	p.text(plotLeft, p.top-10, "name", "start", title+", "+unit)
	for _, v := range marks {
		y := p.y(v)
		fmt.Fprintf(&p.svg, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", plotLeft, y, plotWidth-plotRight, y)
		p.text(plotLeft-8, y+4, "tick", "end", number(v))
	}
	p.timeAxis()
}

func (p *plot) timeAxis() {
	bottom := p.top + panelHeight
	for _, v := range ticks(p.span/p.unitS, 9) {
		x := p.x(v * p.unitS)
		fmt.Fprintf(&p.svg, `<line class="axis" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", x, bottom, x, bottom+5)
		p.text(x, bottom+18, "tick", "middle", number(v))
	}
	fmt.Fprintf(&p.svg, `<line class="axis" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", plotLeft, bottom, plotWidth-plotRight, bottom)
	if p.panels == plotPanels {
		p.text(plotLeft+innerWidth/2, bottom+38, "note", "middle", p.unit+" since the first job")
	}
}

const plotPanels = 3

// number is a tick's label.
func number(v float64) string {
	if v >= 10_000 {
		return fmt.Sprintf("%gk", v/1000)
	}
	return fmt.Sprintf("%g", math.Round(v*1e6)/1e6)
}

func (p *plot) x(seconds float64) float64 {
	return plotLeft + innerWidth*min(1, seconds/max(p.span, 1e-9))
}

func (p *plot) y(v float64) float64 { return p.top + panelHeight*(1-min(v, p.most)/p.most) }

// path is a line through the means of steps, each from its beginning to its end.
func (p *plot) path(values []float64) string {
	var b strings.Builder
	for i, v := range values {
		from, to := p.x(float64(i)*p.step), p.x(float64(i+1)*p.step)
		fmt.Fprintf(&b, "L%.1f %.1fH%.1f", from, p.y(v), to)
	}
	return strings.TrimPrefix(b.String(), "L")
}

func (p *plot) line(values []float64, color string) {
	if len(values) > 0 {
		fmt.Fprintf(&p.svg, `<path class="line" stroke="%s" d="M%s"/>`+"\n", color, p.path(values))
	}
}

func (p *plot) area(values []float64, color string) {
	if len(values) > 0 {
		fmt.Fprintf(&p.svg, `<path fill="%s" d="M%.1f %.1fL%sV%.1fZ"/>`+"\n", color, plotLeft, p.y(0), p.path(values), p.y(0))
	}
}

// legend names colours, to the right of the panel's title.
func (p *plot) legend(names []string, colors []string) {
	const swatch, gap, letter, longest = 15.0, 18.0, 6.4, 40
	short, width := make([]string, len(names)), -gap
	for i, n := range names {
		if r := []rune(n); len(r) > longest {
			n = string(r[:longest-1]) + "…"
		}
		short[i] = n
		width += swatch + letter*float64(len([]rune(n))) + gap
	}
	x := plotWidth - plotRight - width
	for i, n := range short {
		fmt.Fprintf(&p.svg, `<rect x="%.1f" y="%.1f" width="10" height="10" rx="2" fill="%s"/>`+"\n", x, p.top-19, colors[i%len(colors)])
		p.text(x+swatch, p.top-10, "note", "start", n)
		x += swatch + letter*float64(len([]rune(n))) + gap
	}
}

func (p *plot) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(&p.svg, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">`, class, x, y, anchor)
	_ = xml.EscapeText(&p.svg, []byte(text)) // a buffer takes all
	p.svg.WriteString("</text>\n")
}

const plotStyle = `text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f; }
.title { font-size: 17px; font-weight: 600; } .name { font-size: 13px; font-weight: 600; }
.note { font-size: 12px; fill: #57606a; } .tick { font-size: 11px; fill: #57606a; }
.grid { stroke: #d8dee4; stroke-width: 1; } .axis { stroke: #57606a; stroke-width: 1; }
.line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }`

func (p *plot) write(w io.Writer) error {
	height := plotTop + plotPanels*(panelHeight+panelGap)
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img">
<style>%s</style>
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, plotWidth, height, plotWidth, height, plotStyle, p.svg.Bytes())
	return err
}
