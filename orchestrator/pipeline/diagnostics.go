package pipeline

import (
	"bytes"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// problem is an error at a place in the source.
func problem(at hcl.Range, summary, detail string) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at}
}

// warning is something at a place in the source that may be meant.
func warning(at hcl.Range, summary, detail string) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: summary, Detail: detail, Subject: &at}
}

// sentence makes an error's text the beginning or whole of a message.
func sentence(err error) string {
	text := err.Error()
	r, n := utf8.DecodeRuneInString(text)
	text = string(unicode.ToUpper(r)) + text[n:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// inOrder sorts diagnostics as their places are in the source, and leaves out
// repetitions.
func inOrder(diags hcl.Diagnostics) hcl.Diagnostics {
	at := func(d *hcl.Diagnostic) hcl.Range {
		if d.Subject == nil {
			return hcl.Range{}
		}
		return *d.Subject
	}
	sort.SliceStable(diags, func(i, j int) bool {
		a, b := at(diags[i]), at(diags[j])
		if a.Filename != b.Filename {
			return a.Filename < b.Filename
		}
		return a.Start.Byte < b.Start.Byte
	})
	type identity struct {
		at              hcl.Range
		summary, detail string
	}
	seen := make(map[identity]bool, len(diags))
	kept := diags[:0]
	for _, d := range diags {
		id := identity{at(d), d.Summary, d.Detail}
		if !seen[id] {
			seen[id] = true
			kept = append(kept, d)
		}
	}
	return kept
}

// Diagnostic is a diagnostic for programs.
type Diagnostic struct {
	Severity string    `json:"severity"` // error or warning
	Summary  string    `json:"summary"`
	Detail   string    `json:"detail,omitempty"`
	File     string    `json:"file,omitempty"`
	Start    *Position `json:"start,omitempty"`
	End      *Position `json:"end,omitempty"` // exclusive
	// Snippet is the line of the source where it starts.
	Snippet string `json:"snippet,omitempty"`
}

// Position is a place in a source: line and column count from 1, columns in
// characters.
type Position struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// Describe gives diags for programs, in the same order. Sources are as for
// WriteDiagnostics.
func Describe(diags hcl.Diagnostics, sources map[string][]byte) []Diagnostic {
	described := make([]Diagnostic, 0, len(diags))
	for _, d := range diags {
		one := Diagnostic{Severity: "error", Summary: d.Summary, Detail: d.Detail}
		if d.Severity == hcl.DiagWarning {
			one.Severity = "warning"
		}
		if d.Subject != nil {
			one.File = d.Subject.Filename
			one.Start = &Position{d.Subject.Start.Line, d.Subject.Start.Column}
			one.End = &Position{d.Subject.End.Line, d.Subject.End.Column}
			one.Snippet = lineAt(sources[d.Subject.Filename], d.Subject.Start.Byte)
		}
		described = append(described, one)
	}
	return described
}

// maxSnippet bounds a line of source in a diagnostic for programs, in bytes.
const maxSnippet = 400

func lineAt(src []byte, offset int) string {
	if offset < 0 || offset > len(src) {
		return ""
	}
	start := bytes.LastIndexByte(src[:offset], '\n') + 1
	line, _, _ := bytes.Cut(src[start:], []byte("\n"))
	line = bytes.TrimRight(line, "\r")
	return string(bytes.ToValidUTF8(line[:min(len(line), maxSnippet)], nil))
}
