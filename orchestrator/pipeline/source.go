package pipeline

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Limits of what a pipeline file may hold. They keep a mistake, or a hostile
// file, from taking the server's memory.
const (
	maxSourceBytes = 4 << 20
	maxDepth       = 500    // of nested brackets and chained operators
	maxLocalDepth  = 100    // of locals that each use the next; each may nest as deep as maxDepth
	maxNodes       = 20_000 // after for_each
	maxInstances   = 10_000 // of one for_each
	maxTrials      = 10_000 // of one sweep
	maxEdges       = 1_000_000
	maxValueBytes  = 1 << 20 // of a local: each may hold the one before twice
)

// readSource parses src into a syntax tree. The body is nil if there is none
// that is worth looking at.
func readSource(filename string, src []byte) (*hclsyntax.Body, hcl.Diagnostics) {
	if diags := checkBytes(filename, src); diags.HasErrors() {
		return nil, diags
	}
	cuts, diags := checkDepth(filename, src)
	if diags.HasErrors() {
		return nil, diags
	}
	if body := parsePieces(filename, src, cuts); body != nil {
		return body, nil
	}
	file, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos)
	if file == nil {
		return nil, diags
	}
	body, _ := file.Body.(*hclsyntax.Body)
	return body, diags
}

// parsePieces parses a large file in pieces, cut between top-level items: the
// parser holds all tokens of what it is given at once, which takes most of the
// time in a file of megabytes. The result is nil if there are no cuts, or
// anything is wrong, which is best told of the file as a whole.
func parsePieces(filename string, src []byte, cuts []int) *hclsyntax.Body {
	if len(cuts) == 0 {
		return nil
	}
	ends := append(cuts, len(src))
	bodies := make([]*hclsyntax.Body, len(ends))
	var work sync.WaitGroup
	busy := make(chan struct{}, runtime.GOMAXPROCS(0))
	start := hcl.InitialPos
	for i, end := range ends {
		piece, at := src[start.Byte:end], start
		busy <- struct{}{}
		work.Go(func() {
			if file, diags := hclsyntax.ParseConfig(piece, filename, at); len(diags) == 0 {
				bodies[i] = file.Body.(*hclsyntax.Body)
			}
			<-busy
		})
		start.Line += bytes.Count(piece, []byte("\n"))
		start.Byte = end
	}
	work.Wait()
	whole := &hclsyntax.Body{
		Attributes: hclsyntax.Attributes{},
		SrcRange:   hcl.Range{Filename: filename, Start: hcl.InitialPos, End: start},
	}
	for _, body := range bodies {
		if body == nil {
			return nil
		}
		for name, attr := range body.Attributes {
			if whole.Attributes[name] != nil {
				return nil
			}
			whole.Attributes[name] = attr
		}
		whole.Blocks = append(whole.Blocks, body.Blocks...)
	}
	return whole
}

func checkBytes(filename string, src []byte) hcl.Diagnostics {
	if len(src) > maxSourceBytes {
		start := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.InitialPos}
		return hcl.Diagnostics{problem(start, "File too large",
			fmt.Sprintf("The file has %d bytes; a pipeline file may have %d (4 MiB). Data belongs in a dataset, and repetition in for_each.", len(src), maxSourceBytes))}
	}
	if i := bytes.IndexByte(src, 0); i >= 0 {
		return hcl.Diagnostics{problem(byteRange(filename, src, i), "NUL byte",
			"A pipeline file is text; this one has a NUL byte. Was it saved in another encoding? Save it as UTF-8.")}
	}
	if !utf8.Valid(src) {
		i := 0
		for i < len(src) {
			r, n := utf8.DecodeRune(src[i:])
			if r == utf8.RuneError && n <= 1 {
				break
			}
			i += n
		}
		return hcl.Diagnostics{problem(byteRange(filename, src, i), "Not UTF-8",
			fmt.Sprintf("The byte 0x%02x is no UTF-8 here. Save the file as UTF-8.", src[i]))}
	}
	return nil
}

// byteRange is the place of src[i].
func byteRange(filename string, src []byte, i int) hcl.Range {
	before := src[:i]
	line := bytes.Count(before, []byte("\n")) + 1
	lineStart := bytes.LastIndexByte(before, '\n') + 1
	start := hcl.Pos{Line: line, Column: utf8.RuneCount(src[lineStart:i]) + 1, Byte: i}
	end := hcl.Pos{Line: line, Column: start.Column + 1, Byte: i + 1}
	return hcl.Range{Filename: filename, Start: start, End: end}
}
