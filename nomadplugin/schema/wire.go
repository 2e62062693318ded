package schema

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/hclspecpb"
)

// maxDepth bounds the nesting of schemas and of values, so that a hostile
// plugin or agent cannot exhaust the stack.
const maxDepth = 64

// MarshalBinary encodes the schema as Nomad's hclspec.Spec message.
func (s *Spec) MarshalBinary() ([]byte, error) {
	p, err := s.message(0)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(p)
}

// UnmarshalBinary decodes Nomad's hclspec.Spec message.
func (s *Spec) UnmarshalBinary(data []byte) error {
	var p hclspecpb.Spec
	if err := proto.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("decoding schema: %w", err)
	}
	got, err := fromMessage(&p, 0)
	if err != nil {
		return err
	}
	*s = *got
	return nil
}

func (s *Spec) message(depth int) (*hclspecpb.Spec, error) {
	if s == nil {
		return nil, errors.New("schema has a nil node")
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("schema is nested deeper than %d levels", maxDepth)
	}
	nested := func() (*hclspecpb.Spec, error) {
		n, err := s.nested.message(depth + 1)
		if err != nil {
			return nil, fmt.Errorf("block %q: %w", s.name, err)
		}
		return n, nil
	}
	switch s.kind {
	case kindObject:
		o := &hclspecpb.Object{Attributes: make(map[string]*hclspecpb.Spec, len(s.attrs))}
		for name, a := range s.attrs {
			p, err := a.message(depth + 1)
			if err != nil {
				return nil, fmt.Errorf("attribute %q: %w", name, err)
			}
			o.Attributes[name] = p
		}
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_Object{Object: o}}, nil
	case kindArray:
		a := &hclspecpb.Array{}
		for i, e := range s.elems {
			p, err := e.message(depth + 1)
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
			a.Values = append(a.Values, p)
		}
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_Array{Array: a}}, nil
	case kindAttr:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_Attr{Attr: &hclspecpb.Attr{Name: s.name, Type: s.typ, Required: s.required}}}, nil
	case kindBlockAttrs:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_BlockAttrs{BlockAttrs: &hclspecpb.BlockAttrs{Name: s.name, Type: s.typ, Required: s.required}}}, nil
	case kindLiteral:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_Literal{Literal: &hclspecpb.Literal{Value: s.literal}}}, nil
	case kindDefault:
		return s.defaultMessage(depth)
	case kindBlock, kindBlockList, kindBlockSet, kindBlockMap:
		n, err := nested()
		if err != nil {
			return nil, err
		}
		return s.blockMessage(n), nil
	default:
		return nil, errors.New("schema has an empty node: build it with this package's functions")
	}
}

func (s *Spec) defaultMessage(depth int) (*hclspecpb.Spec, error) {
	primary, err := s.elems[0].message(depth + 1)
	if err != nil {
		return nil, err
	}
	def, err := s.elems[1].message(depth + 1)
	if err != nil {
		return nil, err
	}
	return &hclspecpb.Spec{Block: &hclspecpb.Spec_Default{Default: &hclspecpb.Default{Primary: primary, Default: def}}}, nil
}

func (s *Spec) blockMessage(nested *hclspecpb.Spec) *hclspecpb.Spec {
	switch s.kind {
	case kindBlock:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_BlockValue{BlockValue: &hclspecpb.Block{Name: s.name, Required: s.required, Nested: nested}}}
	case kindBlockList:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_BlockList{BlockList: &hclspecpb.BlockList{Name: s.name, MinItems: s.min, MaxItems: s.max, Nested: nested}}}
	case kindBlockSet:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_BlockSet{BlockSet: &hclspecpb.BlockSet{Name: s.name, MinItems: s.min, MaxItems: s.max, Nested: nested}}}
	default:
		return &hclspecpb.Spec{Block: &hclspecpb.Spec_BlockMap{BlockMap: &hclspecpb.BlockMap{Name: s.name, Labels: s.labels, Nested: nested}}}
	}
}

func fromMessage(p *hclspecpb.Spec, depth int) (*Spec, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("schema is nested deeper than %d levels", maxDepth)
	}
	block := func(k kind, name string, n *hclspecpb.Spec) (*Spec, error) {
		nested, err := fromMessage(n, depth+1)
		if err != nil {
			return nil, fmt.Errorf("block %q: %w", name, err)
		}
		return &Spec{kind: k, name: name, nested: nested}, nil
	}
	switch b := p.GetBlock().(type) {
	case *hclspecpb.Spec_Object:
		o := &Spec{kind: kindObject, attrs: make(map[string]*Spec, len(b.Object.GetAttributes()))}
		for name, a := range b.Object.GetAttributes() {
			got, err := fromMessage(a, depth+1)
			if err != nil {
				return nil, fmt.Errorf("attribute %q: %w", name, err)
			}
			o.attrs[name] = got
		}
		return o, nil
	case *hclspecpb.Spec_Array:
		elems, err := fromMessages(b.Array.GetValues(), depth+1)
		return &Spec{kind: kindArray, elems: elems}, err
	case *hclspecpb.Spec_Attr:
		return Attr(b.Attr.GetName(), b.Attr.GetType(), b.Attr.GetRequired()), nil
	case *hclspecpb.Spec_BlockAttrs:
		return BlockAttrs(b.BlockAttrs.GetName(), b.BlockAttrs.GetType(), b.BlockAttrs.GetRequired()), nil
	case *hclspecpb.Spec_Literal:
		return Literal(b.Literal.GetValue()), nil
	case *hclspecpb.Spec_Default:
		elems, err := fromMessages([]*hclspecpb.Spec{b.Default.GetPrimary(), b.Default.GetDefault()}, depth+1)
		return &Spec{kind: kindDefault, elems: elems}, err
	case *hclspecpb.Spec_BlockValue:
		s, err := block(kindBlock, b.BlockValue.GetName(), b.BlockValue.GetNested())
		if err == nil {
			s.required = b.BlockValue.GetRequired()
		}
		return s, err
	case *hclspecpb.Spec_BlockList:
		s, err := block(kindBlockList, b.BlockList.GetName(), b.BlockList.GetNested())
		if err == nil {
			s.min, s.max = b.BlockList.GetMinItems(), b.BlockList.GetMaxItems()
		}
		return s, err
	case *hclspecpb.Spec_BlockSet:
		s, err := block(kindBlockSet, b.BlockSet.GetName(), b.BlockSet.GetNested())
		if err == nil {
			s.min, s.max = b.BlockSet.GetMinItems(), b.BlockSet.GetMaxItems()
		}
		return s, err
	case *hclspecpb.Spec_BlockMap:
		s, err := block(kindBlockMap, b.BlockMap.GetName(), b.BlockMap.GetNested())
		if err == nil {
			s.labels = b.BlockMap.GetLabels()
		}
		return s, err
	default:
		return nil, errors.New("schema has an empty node")
	}
}

func fromMessages(ps []*hclspecpb.Spec, depth int) ([]*Spec, error) {
	elems := make([]*Spec, len(ps))
	for i, p := range ps {
		got, err := fromMessage(p, depth)
		if err != nil {
			return nil, err
		}
		elems[i] = got
	}
	return elems, nil
}
