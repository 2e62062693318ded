package pipeline

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Limits of what a pipeline file may hold. They keep a mistake, or a hostile
// file, from taking the server's memory.
const (
	maxSourceBytes = 4 << 20
	maxDepth       = 1000   // of nested brackets and chained operators
	maxNodes       = 20_000 // after for_each
	maxInstances   = 10_000 // of one for_each
	maxTrials      = 10_000 // of one sweep
	maxEdges       = 1_000_000
)

// readSource parses src into a syntax tree. The body is nil if there is none
// that is worth looking at.
func readSource(filename string, src []byte) (*hclsyntax.Body, hcl.Diagnostics) {
	if diags := checkBytes(filename, src); diags.HasErrors() {
		return nil, diags
	}
	if diags := checkDepth(filename, src); diags.HasErrors() {
		return nil, diags
	}
	file, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos)
	if file == nil {
		return nil, diags
	}
	body, _ := file.Body.(*hclsyntax.Body)
	return body, diags
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

// checkDepth bounds how deep the syntax tree gets. Parsing and evaluation
// recurse, and Go cannot recover from a stack that is used up. Depth comes
// from open brackets and from operators in a row, which nest to one side; an
// operator counts until the expression that it belongs to ends.
func checkDepth(filename string, src []byte) hcl.Diagnostics {
	tokens, _ := hclsyntax.LexConfig(src, filename, hcl.InitialPos) // ParseConfig reports these again
	type level struct {
		open      hclsyntax.TokenType
		operators int
	}
	stack := []level{{open: hclsyntax.TokenOBrace}}
	depth := 0
	for _, token := range tokens {
		top := &stack[len(stack)-1]
		switch token.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote,
			hclsyntax.TokenOHeredoc, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			if token.Type == hclsyntax.TokenTemplateControl {
				top.operators++ // %{ if } and %{ for } nest without brackets
				depth++
			}
			stack = append(stack, level{open: token.Type})
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote,
			hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			depth -= top.operators
			if len(stack) > 1 {
				depth--
				stack = stack[:len(stack)-1]
				if token.Type == hclsyntax.TokenCBrack { // a[0][1] nests as operators do
					stack[len(stack)-1].operators++
					depth++
				}
			} else {
				top.operators = 0
			}
		case hclsyntax.TokenComma:
			depth -= top.operators
			top.operators = 0
		case hclsyntax.TokenNewline:
			if top.open == hclsyntax.TokenOBrace {
				depth -= top.operators
				top.operators = 0
			}
		case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash,
			hclsyntax.TokenPercent, hclsyntax.TokenBang, hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual,
			hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan,
			hclsyntax.TokenGreaterThanEq, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenQuestion,
			hclsyntax.TokenDot:
			top.operators++
			depth++
		}
		if depth > maxDepth {
			return hcl.Diagnostics{problem(token.Range, "Nested too deeply",
				fmt.Sprintf("Brackets and operators nest more than %d deep here. Split the expression up with locals.", maxDepth))}
		}
	}
	return nil
}
