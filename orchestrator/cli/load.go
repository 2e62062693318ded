package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// variables are the values that a command line gives to a file's variables.
type variables struct {
	set   []string // name=value
	files []string
}

func (v *variables) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&v.set, "var", nil, "Give a variable a value, as `NAME=VALUE`. Can be repeated")
	cmd.Flags().StringArrayVar(&v.files, "var-file", nil, "Read values from `FILE`, a line NAME = VALUE for each. Can be repeated;\n-var wins over it")
}

// file is a pipeline file as a command reads it.
type file struct {
	name     string // as the user wrote it
	source   []byte
	vars     map[string]string
	pipeline *pipeline.Pipeline
}

// maxPipelineFile limits a pipeline file, in bytes.
const maxPipelineFile = 8 << 20

// load reads and parses a pipeline file. Problems of the file are printed, all
// of them, and errReported is returned.
func (a *app) load(name string, v variables) (*file, error) {
	f, diags, err := readFile(name, v)
	if err != nil {
		return nil, err
	}
	a.printDiagnostics(f, diags)
	if f.pipeline == nil {
		fmt.Fprintln(a.Err, "Nothing was submitted.")
		return nil, errReported
	}
	return f, nil
}

// readFile reads a pipeline file and the variables for it, and parses it. Its
// pipeline is nil if any of the diagnostics is an error.
func readFile(name string, v variables) (*file, hcl.Diagnostics, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, "pipeline.hcl")
	}
	source, err := readLimited(name, maxPipelineFile)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the pipeline file: %w", err)
	}
	f := &file{name: name, source: source, vars: map[string]string{}}
	var diags hcl.Diagnostics
	for _, name := range v.files {
		src, err := readLimited(name, maxPipelineFile)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the variable file: %w", err)
		}
		values, more := pipeline.ParseVarFile(name, src)
		diags = append(diags, more...)
		for k, value := range values {
			f.vars[k] = value
		}
	}
	for _, set := range v.set {
		k, value, ok := strings.Cut(set, "=")
		if !ok || k == "" {
			return nil, nil, usagef("-var %q: write it as NAME=VALUE", set)
		}
		f.vars[strings.TrimSpace(k)] = value
	}
	p, more := pipeline.Parse(name, source, pipeline.Options{Vars: f.vars, Check: f.check})
	diags = append(diags, more...)
	if !diags.HasErrors() {
		f.pipeline = p
	}
	return f, diags, nil
}

func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than the limit of %d bytes", name, limit)
	}
	return b, err
}

// path is where a path of the pipeline file is on this machine.
func (f *file) path(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(filepath.Dir(f.name), filepath.FromSlash(p))
}

// check says what is wrong with a path of the pipeline file.
func (f *file) check(p string, folder bool) error {
	info, err := os.Stat(f.path(p))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no file or folder %s", f.path(p))
	case err != nil:
		return err
	case folder && !info.IsDir():
		return pipeline.ErrNotFolder
	}
	return nil
}

// scan describes everything that the pipeline takes in, by path as written.
func (f *file) scan(ctx context.Context, tell func(path string)) (map[string]client.Source, error) {
	sources := make(map[string]client.Source, len(f.pipeline.Paths))
	for _, p := range f.pipeline.Paths {
		tell(p.Path)
		s, err := client.ScanSource(ctx, f.path(p.Path))
		if err != nil {
			return nil, err
		}
		sources[p.Path] = s
	}
	return sources, nil
}

// submission is what the server makes a run from.
func (f *file) submission(sources map[string]client.Source) run.Submission {
	uploads := make(map[string]string, len(sources))
	for p, s := range sources {
		uploads[p] = s.Digest
	}
	return run.Submission{Filename: f.name, Source: string(f.source), Vars: f.vars, Uploads: uploads}
}

// printDiagnostics prints the problems of a pipeline file for people.
func (a *app) printDiagnostics(f *file, diags hcl.Diagnostics) {
	if len(diags) == 0 {
		return
	}
	width, _ := a.screen.Size()
	if !a.screen.Terminal() {
		width = 0
	}
	sources := map[string][]byte{f.name: f.source}
	if err := pipeline.WriteDiagnostics(a.Err, diags, sources, a.errScreen.Colors(), uint(width)); err != nil {
		fmt.Fprintln(a.Err, diags.Error())
	}
	errs := 0
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			errs++
		}
	}
	if errs > 0 {
		fmt.Fprintf(a.Err, "\n%s: %s.\n", f.name, show.Count(errs, "problem"))
	}
}

// diagnosticsOf are diagnostics for programs.
func diagnosticsOf(f *file, diags hcl.Diagnostics) []pipeline.Diagnostic {
	return pipeline.Describe(diags, map[string][]byte{f.name: f.source})
}
