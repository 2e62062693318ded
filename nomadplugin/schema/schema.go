// Package schema describes plugin and task configuration to Nomad (its
// hclspec), and reads and writes configurations as they travel between agents
// and plugins.
//
// A Spec is a plugin's to build; MarshalBinary is its wire form. Decode is the
// plugin's side of a configuration, Encode and EncodeTemplates the agent's,
// which give the very bytes of a Nomad agent. Input from the other side is
// bounded: nesting deeper than 64 levels and lengths beyond the message are
// errors.
package schema

// Spec is one node of a configuration schema. Build it with the functions of
// this package; the zero value is not valid. The root is an Object.
type Spec struct {
	kind     kind
	name     string
	typ      string // an HCL type expression
	required bool
	attrs    map[string]*Spec // Object
	elems    []*Spec          // Array; Default: primary, default
	nested   *Spec
	labels   []string
	min, max uint64
	literal  string // an HCL expression
}

type kind int

const (
	kindObject kind = iota + 1
	kindArray
	kindAttr
	kindBlock
	kindBlockAttrs
	kindBlockList
	kindBlockSet
	kindBlockMap
	kindDefault
	kindLiteral
)

// Object is a set of named attributes and blocks.
func Object(attrs map[string]*Spec) *Spec { return &Spec{kind: kindObject, attrs: attrs} }

// Attr is an attribute of an HCL type such as `string`, `number`, `bool` or
// `list(string)`. Two traps: numbers beyond 2^53 are rounded on their way, so
// declare such values as strings; and Nomad turns an object of an HCL job file
// into a list of one, so a `map(string)` cannot be given there: use BlockAttrs,
// or `list(map(string))`. Decode reads all three into a map.
func Attr(name, hclType string, required bool) *Spec {
	return &Spec{kind: kindAttr, name: name, typ: hclType, required: required}
}

// Default gives an attribute a default, an HCL expression: `"1m"` with its
// quotes for a string, `true`, `[]`.
func Default(primary *Spec, hclExpr string) *Spec {
	return &Spec{kind: kindDefault, elems: []*Spec{primary, Literal(hclExpr)}}
}

// Literal is a fixed value, an HCL expression.
func Literal(hclExpr string) *Spec { return &Spec{kind: kindLiteral, literal: hclExpr} }

// Array is a list of fixed length, one node an element.
func Array(elems ...*Spec) *Spec { return &Spec{kind: kindArray, elems: elems} }

// Block is a block that may be given once.
func Block(name string, required bool, nested *Spec) *Spec {
	return &Spec{kind: kindBlock, name: name, required: required, nested: nested}
}

// BlockAttrs is a block of free attributes of one type.
func BlockAttrs(name, hclType string, required bool) *Spec {
	return &Spec{kind: kindBlockAttrs, name: name, typ: hclType, required: required}
}

// BlockList is a block that may be given between min and max times; max 0 is
// no limit.
func BlockList(name string, min, max uint64, nested *Spec) *Spec {
	return &Spec{kind: kindBlockList, name: name, min: min, max: max, nested: nested}
}

// BlockSet is a BlockList without order and repeats.
func BlockSet(name string, min, max uint64, nested *Spec) *Spec {
	return &Spec{kind: kindBlockSet, name: name, min: min, max: max, nested: nested}
}

// BlockMap is a block with labels, each combination of them given once.
func BlockMap(name string, labels []string, nested *Spec) *Spec {
	return &Spec{kind: kindBlockMap, name: name, labels: labels, nested: nested}
}
