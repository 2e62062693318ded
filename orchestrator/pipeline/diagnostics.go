package pipeline

import (
	"io"

	"github.com/hashicorp/hcl/v2"
)

// WriteDiagnostics writes diags for people, each with its place and a snippet
// of the source it is about. Sources are file contents by the name that Parse
// was given. Width is the terminal's, 0 for no wrapping.
func WriteDiagnostics(w io.Writer, diags hcl.Diagnostics, sources map[string][]byte, color bool, width uint) error {
	files := make(map[string]*hcl.File, len(sources))
	for name, src := range sources {
		files[name] = &hcl.File{Bytes: src}
	}
	return hcl.NewDiagnosticTextWriter(w, files, width, color).WriteDiagnostics(diags)
}

// Diagnostic is a diagnostic for programs.
type Diagnostic struct {
	Severity string    `json:"severity"` // error or warning
	Summary  string    `json:"summary"`
	Detail   string    `json:"detail,omitempty"`
	File     string    `json:"file,omitempty"`
	Start    *Position `json:"start,omitempty"`
	End      *Position `json:"end,omitempty"` // exclusive
	// Snippet is the first line of the source that it is about.
	Snippet string `json:"snippet,omitempty"`
}

// Position is a place in a source: line and column count from 1, columns in
// characters.
type Position struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}
