package pipeline

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	maxName = 256 // bytes of a node's name
	maxKey  = 128 // bytes of a for_each key
)

// fileName is a name that becomes a file's: of inputs, outputs and models.
var fileName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,127}$`)

// inputName is a fileName, or one with a key after a dot.
var inputName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._-]{0,127}$`)

// endpointName leaves room for "drover-<workspace>-" in a DNS label.
var endpointName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)

// envName is the name of an environment variable.
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// digest is an artefact's or blob's digest.
var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ValidEndpointName reports whether an endpoint may have the name: it becomes
// part of a service's name, and so of a DNS label.
func ValidEndpointName(name string) bool { return endpointName.MatchString(name) }

// checkIdentifier reports a name that references could not be made with.
func (s *scope) checkIdentifier(name string, at hcl.Range, what string) bool {
	switch {
	case len(name) > maxName:
		s.diags = append(s.diags, problem(at, "Name too long",
			fmt.Sprintf("The name of a %s may have %d bytes; this one has %d.", what, maxName, len(name))))
		return false
	case !hclsyntax.ValidIdentifier(name):
		s.diags = append(s.diags, problem(at, "Invalid name",
			fmt.Sprintf("The name of a %s is an identifier: letters, digits, _ and -, beginning with a letter. Write %q instead of %q.", what, identifier(name), name)))
		return false
	}
	return true
}

// checkFileName reports a name that cannot be a file's.
func (s *scope) checkFileName(name string, at hcl.Range, what string) bool {
	if fileName.MatchString(name) {
		return true
	}
	s.diags = append(s.diags, problem(at, "Invalid name",
		fmt.Sprintf("The name of %s becomes a file's: A to Z, a to z, digits, _ and -, beginning with a letter, 128 at most. Write %q instead of %q.", what, identifier(name), name)))
	return false
}

// identifier makes an ASCII identifier that resembles name, to suggest.
func identifier(name string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case b.Len() >= 40:
		case r < unicode.MaxASCII && (unicode.IsLetter(r) || r == '_' || b.Len() > 0 && (unicode.IsDigit(r) || r == '-')):
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "_"):
			b.WriteByte('_')
		}
	}
	if clean := strings.TrimRight(b.String(), "_"); clean != "" {
		return clean
	}
	return "name"
}

// printable reports whether text has no control characters.
func printable(text string) bool {
	return strings.IndexFunc(text, unicode.IsControl) < 0
}
