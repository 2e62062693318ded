package pipeline

import (
	"bytes"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// checkDepth bounds how deep the syntax tree gets. Parsing and evaluation
// recurse, and Go cannot recover from a stack that is used up. Cuts are where
// a large file can be cut into pieces, if that is known.
func checkDepth(filename string, src []byte) (cuts []int, diags hcl.Diagnostics) {
	offset, cuts, sure := depthOfBytes(src)
	if !sure {
		offset, cuts = depthOfTokens(filename, src), nil
	}
	if offset < 0 {
		return cuts, nil
	}
	return nil, hcl.Diagnostics{problem(byteRange(filename, src, offset), "Nested too deeply",
		fmt.Sprintf("Brackets and operators nest more than %d deep here. Split the expression up with locals.", maxDepth))}
}

// CheckNesting reports where brackets and operators of an HCL file nest deeper
// than is safe to parse.
func CheckNesting(filename string, src []byte) hcl.Diagnostics {
	_, diags := checkDepth(filename, src)
	return diags
}

// depthMeter adds up what makes a tree deep: open brackets, and operators in a
// row, which nest to one side. An operator counts until the expression that it
// belongs to ends, which is at a comma or bracket, or at the end of the line
// where lines count.
type depthMeter struct {
	levels []depthLevel
	depth  int
}

type depthLevel struct {
	open      byte // { [ ( " or, for an interpolation, $
	operators int
}

func newDepthMeter() *depthMeter { return &depthMeter{levels: []depthLevel{{open: '{'}}} }

func (m *depthMeter) top() *depthLevel { return &m.levels[len(m.levels)-1] }

func (m *depthMeter) open(bracket byte) {
	m.levels = append(m.levels, depthLevel{open: bracket})
	m.depth++
}

func (m *depthMeter) operator() {
	m.top().operators++
	m.depth++
}

// end ends an expression.
func (m *depthMeter) end() {
	m.depth -= m.top().operators
	m.top().operators = 0
}

func (m *depthMeter) newline() {
	if m.top().open == '{' {
		m.end()
	}
}

// close ends the innermost bracket.
func (m *depthMeter) close() {
	m.end()
	if len(m.levels) == 1 {
		return // one too many, which is the parser's to report
	}
	bracket := m.top().open
	m.levels = m.levels[:len(m.levels)-1]
	m.depth--
	if bracket == '[' {
		m.operator() // a[0][1] nests as operators do
	}
}

// pieceBytes is how large the pieces of a file get that is cut.
const pieceBytes = 64 << 10

// depthOfBytes finds where src gets too deep, -1 if nowhere. It is several
// times as fast as taking the file to tokens, but not sure about heredocs,
// escaped templates and what is malformed.
func depthOfBytes(src []byte) (offset int, cuts []int, sure bool) {
	m := newDepthMeter()
	piece := 0
	for i := 0; i < len(src); i++ {
		next := byte('\n')
		if i+1 < len(src) {
			next = src[i+1]
		}
		ok := true
		if m.top().open == '"' {
			i, ok = m.quotedByte(src, i, next)
		} else {
			i, ok = m.codeByte(src, i, next)
		}
		if !ok {
			return -1, nil, false
		}
		if m.depth > maxDepth {
			return min(i, len(src)-1), nil, true
		}
		if i-piece >= pieceBytes && len(m.levels) == 1 && i < len(src)-1 && src[i] == '\n' {
			piece = i + 1
			cuts = append(cuts, piece)
		}
	}
	return -1, cuts, true
}

// quotedByte takes src[i] inside a string. It gives the last byte that it took.
func (m *depthMeter) quotedByte(src []byte, i int, next byte) (last int, sure bool) {
	switch src[i] {
	case '\\':
		return i + 1, next != '\n'
	case '\n':
		return i, false
	case '"':
		m.close()
	case '$', '%':
		if next == src[i] {
			return i, false // perhaps an escape
		}
		if next == '{' {
			if src[i] == '%' {
				m.operator() // %{ if } and %{ for } nest without brackets
			}
			m.open('$')
			return i + 1, true
		}
	}
	return i, true
}

// codeByte takes src[i] outside of strings. It gives the last byte that it
// took.
func (m *depthMeter) codeByte(src []byte, i int, next byte) (last int, sure bool) {
	c := src[i]
	switch {
	case c == '#' || c == '/' && next == '/':
		if n := bytes.IndexByte(src[i:], '\n'); n >= 0 {
			return i + n - 1, true // the newline itself counts
		}
		return len(src), true
	case c == '/' && next == '*':
		if n := bytes.Index(src[i+2:], []byte("*/")); n >= 0 {
			return i + n + 3, true
		}
		return i, false
	case c == '<' && next == '<':
		return i, false // a heredoc
	}
	switch c {
	case '"', '{', '[', '(':
		m.open(c)
	case '}', ']', ')':
		if !m.closes(c) {
			return i, false
		}
		m.close()
	case ',':
		m.end()
	case '\n':
		m.newline()
	case '+', '-', '*', '/', '%', '!', '=', '<', '>', '&', '|', '?', '.':
		m.operator()
	}
	return i, true
}

// closes reports whether c is the end of the innermost bracket.
func (m *depthMeter) closes(c byte) bool {
	open := m.top().open
	switch c {
	case '}':
		return open == '$' || open == '{' && len(m.levels) > 1
	case ']':
		return open == '['
	default:
		return open == '('
	}
}

// depthOfTokens finds where src gets too deep, -1 if nowhere.
func depthOfTokens(filename string, src []byte) (offset int) {
	tokens, _ := hclsyntax.LexConfig(src, filename, hcl.InitialPos) // parsing reports what is wrong
	m := newDepthMeter()
	for _, token := range tokens {
		switch token.Type {
		case hclsyntax.TokenOBrace:
			m.open('{')
		case hclsyntax.TokenOBrack:
			m.open('[')
		case hclsyntax.TokenOParen:
			m.open('(')
		case hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			m.open('"')
		case hclsyntax.TokenTemplateControl:
			m.operator()
			m.open('$')
		case hclsyntax.TokenTemplateInterp:
			m.open('$')
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote,
			hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			m.close()
		case hclsyntax.TokenComma:
			m.end()
		case hclsyntax.TokenNewline:
			m.newline()
		case hclsyntax.TokenComment: // # takes the newline with it
			if bytes.HasSuffix(token.Bytes, []byte("\n")) {
				m.newline()
			}
		case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash,
			hclsyntax.TokenPercent, hclsyntax.TokenBang, hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual,
			hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan,
			hclsyntax.TokenGreaterThanEq, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenQuestion,
			hclsyntax.TokenDot:
			m.operator()
		}
		if m.depth > maxDepth {
			return min(token.Range.Start.Byte, len(src)-1)
		}
	}
	return -1
}
