package pipeline

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// WriteDiagnostics writes diags for people:
//
//	Error: Unknown step
//	  --> pipeline.hcl:21:22
//	   |
//	21 |   input "x" { from = step.evalute.output.report }
//	   |                      ^^^^^^^^^^^^^^^^^^^^^^^^^^
//	   = There is no step "evalute". Did you mean "evaluate"?
//
// Sources are file contents by the name that Parse was given. Width is the
// terminal's, 0 for no wrapping. Control characters of the source do not reach
// the terminal.
func WriteDiagnostics(w io.Writer, diags hcl.Diagnostics, sources map[string][]byte, color bool, width uint) error {
	r := renderer{out: bufio.NewWriter(w), sources: sources, color: color, width: int(width)}
	for i, d := range diags {
		if i > 0 {
			r.out.WriteByte('\n')
		}
		r.diagnostic(d)
	}
	if err := r.out.Flush(); err != nil {
		return fmt.Errorf("writing diagnostics: %w", err)
	}
	return nil
}

type renderer struct {
	out     *bufio.Writer
	sources map[string][]byte
	color   bool
	width   int
}

// Terminal sequences.
const (
	red    = "\x1b[1;31m"
	yellow = "\x1b[1;33m"
	bold   = "\x1b[1m"
	blue   = "\x1b[34m"
	plainT = "\x1b[0m"
)

func (r renderer) paint(style, text string) string {
	if !r.color {
		return text
	}
	return style + text + plainT
}

func (r renderer) diagnostic(d *hcl.Diagnostic) {
	label, style := "Error: ", red
	if d.Severity == hcl.DiagWarning {
		label, style = "Warning: ", yellow
	}
	fmt.Fprintf(r.out, "%s%s\n", r.paint(style, label), r.paint(bold, clean(d.Summary)))
	gutter := "  "
	if at := d.Subject; at != nil {
		number := fmt.Sprint(at.Start.Line)
		gutter = strings.Repeat(" ", len(number))
		fmt.Fprintf(r.out, "%s%s %s:%d:%d\n", gutter, r.paint(blue, "-->"), clean(at.Filename), at.Start.Line, at.Start.Column)
		if src, ok := r.sources[at.Filename]; ok {
			before, marked, after := snippet(src, *at)
			fmt.Fprintf(r.out, "%s %s\n", gutter, r.paint(blue, "|"))
			fmt.Fprintf(r.out, "%s%s%s%s\n", r.paint(blue, number+" |"), before, r.paint(style, marked), after)
			marks := strings.Repeat("^", max(1, utf8.RuneCountInString(marked)))
			fmt.Fprintf(r.out, "%s %s%s%s\n", gutter, r.paint(blue, "|"), strings.Repeat(" ", utf8.RuneCountInString(before)), r.paint(style, marks))
		}
	}
	for i, line := range wrap(clean(d.Detail), r.width-len(gutter)-3) {
		mark := "="
		if i > 0 {
			mark = " "
		}
		fmt.Fprintf(r.out, "%s %s %s\n", gutter, r.paint(blue, mark), line)
	}
}

// maxContext bounds what is shown of a line before and after what is marked,
// in characters.
const maxContext = 60

// snippet is the line of src where at begins, in three parts, ready to be
// shown. Before begins with a space.
func snippet(src []byte, at hcl.Range) (before, marked, after string) {
	start, end := at.Start.Byte, at.End.Byte
	if start < 0 || start > len(src) {
		return "", "", ""
	}
	lineStart := bytes.LastIndexByte(src[:start], '\n') + 1
	lineEnd := len(src)
	if n := bytes.IndexByte(src[start:], '\n'); n >= 0 {
		lineEnd = start + n
	}
	end = max(start, min(end, lineEnd))
	before = clean(string(src[lineStart:start]))
	if runes := []rune(before); len(runes) > maxContext {
		before = "…" + string(runes[len(runes)-maxContext:])
	}
	marked = clip(clean(string(src[start:end])))
	after = clip(clean(strings.TrimRight(string(src[end:lineEnd]), "\r")))
	return " " + before, marked, after
}

func clip(text string) string {
	if runes := []rune(text); len(runes) > maxContext {
		return string(runes[:maxContext]) + "…"
	}
	return text
}

// clean is text without what would confuse a terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n':
			return ' '
		case unicode.IsControl(r), r == utf8.RuneError, unicode.Is(unicode.Bidi_Control, r):
			return '\uFFFD'
		}
		return r
	}, text)
}

// wrap breaks text into lines of at most width characters where there are
// spaces; width below 20 is no limit.
func wrap(text string, width int) []string {
	if text == "" {
		return nil
	}
	if width < 20 {
		return []string{text}
	}
	var lines []string
	line, length := "", 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if length > 0 && length+1+n > width {
			lines = append(lines, line)
			line, length = "", 0
		}
		if length > 0 {
			line += " "
			length++
		}
		line += word
		length += n
	}
	return append(lines, line)
}
