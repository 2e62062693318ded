package simulated

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
)

// maxFileBytes limits board files and scripts.
const maxFileBytes = 1 << 20

// decodeFile decodes HCL, or HCL's JSON syntax if the name ends in .json.
func decodeFile(name string, src []byte, into any) hcl.Diagnostics {
	parser := hclparse.NewParser()
	parse := parser.ParseHCL
	if filepath.Ext(name) == ".json" {
		parse = parser.ParseJSON
	}
	f, diags := parse(src, name)
	if diags.HasErrors() {
		return diags
	}
	return append(diags, gohcl.DecodeBody(f.Body, nil, into)...)
}

// rangeOf is the place of a body's attribute, or fallback if it has none of
// that name.
func rangeOf(body hcl.Body, attribute string, fallback hcl.Range) hcl.Range {
	attributes, _ := body.JustAttributes() // what else is there does not matter
	if a, ok := attributes[attribute]; ok {
		return a.Expr.Range()
	}
	return fallback
}

func problem(at hcl.Range, text string) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: text, Subject: &at}
}

// diagsError joins all problems, one a line, each with its place, in the order
// of the file.
func diagsError(diags hcl.Diagnostics) error {
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return 0
		}
		return a.Subject.Start.Byte - b.Subject.Start.Byte
	})
	var errs []error
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		text := d.Summary
		if d.Detail != "" {
			text += ": " + d.Detail
		}
		if d.Subject != nil {
			text = fmt.Sprintf("%s:%d:%d: %s", d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column, text)
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// readLimited reads a regular file of at most maxFileBytes.
func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(src) > maxFileBytes {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", maxFileBytes)}
	}
	return src, nil
}
