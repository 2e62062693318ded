package schema

import (
	"bytes"
	"fmt"
	"io"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// parse reads one MessagePack value into nil, bool, int64, uint64, float64,
// string, []any or map[string]any. Lengths and depth are checked before
// anything is allocated for them.
func parse(data []byte) (any, error) {
	r := bytes.NewReader(data)
	p := parser{dec: msgpack.NewDecoder(r), left: r.Len}
	v, err := p.value(0)
	if err != nil {
		return nil, fmt.Errorf("decoding MessagePack at byte %d of %d: %w", len(data)-r.Len(), len(data), noEOF(err))
	}
	if r.Len() > 0 {
		return nil, fmt.Errorf("decoding MessagePack: %d bytes after the value", r.Len())
	}
	return v, nil
}

// noEOF turns io.EOF into io.ErrUnexpectedEOF: callers take a bare EOF for a
// clean end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

type parser struct {
	dec  *msgpack.Decoder
	left func() int // bytes not read yet
}

func (p parser) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value is nested deeper than %d levels", maxDepth)
	}
	c, err := p.dec.PeekCode()
	if err != nil {
		return nil, err
	}
	switch {
	case c == msgpcode.Nil:
		return nil, p.dec.DecodeNil()
	case c == msgpcode.True, c == msgpcode.False:
		return p.dec.DecodeBool()
	case c == msgpcode.Float, c == msgpcode.Double:
		return p.dec.DecodeFloat64()
	case c == msgpcode.Uint64:
		return p.dec.DecodeUint64()
	case msgpcode.IsFixedNum(c), c >= msgpcode.Uint8 && c <= msgpcode.Uint32, c >= msgpcode.Int8 && c <= msgpcode.Int64:
		return p.dec.DecodeInt64()
	case msgpcode.IsString(c), msgpcode.IsBin(c):
		return p.str()
	case msgpcode.IsFixedArray(c), c == msgpcode.Array16, c == msgpcode.Array32:
		return p.array(depth)
	case msgpcode.IsFixedMap(c), c == msgpcode.Map16, c == msgpcode.Map32:
		return p.mapping(depth)
	default:
		return nil, fmt.Errorf("unexpected type code 0x%02x", c)
	}
}

func (p parser) str() (string, error) {
	n, err := p.dec.DecodeBytesLen()
	if err != nil {
		return "", err
	}
	if n > p.left() {
		return "", fmt.Errorf("string of %d bytes: %w", n, io.ErrUnexpectedEOF)
	}
	if n <= 0 {
		return "", nil
	}
	b := make([]byte, n)
	if err := p.dec.ReadFull(b); err != nil {
		return "", err
	}
	return string(b), nil
}

func (p parser) array(depth int) ([]any, error) {
	n, err := p.dec.DecodeArrayLen()
	if err != nil {
		return nil, err
	}
	if n > p.left() { // an element is a byte at least
		return nil, fmt.Errorf("array of %d elements: %w", n, io.ErrUnexpectedEOF)
	}
	out := make([]any, n)
	for i := range out {
		if out[i], err = p.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p parser) mapping(depth int) (map[string]any, error) {
	n, err := p.dec.DecodeMapLen()
	if err != nil {
		return nil, err
	}
	if 2*n > p.left() {
		return nil, fmt.Errorf("map of %d entries: %w", n, io.ErrUnexpectedEOF)
	}
	out := make(map[string]any, n)
	for range n {
		c, err := p.dec.PeekCode()
		if err != nil {
			return nil, err
		}
		if !msgpcode.IsString(c) && !msgpcode.IsBin(c) {
			return nil, fmt.Errorf("map key has type code 0x%02x, want a string", c)
		}
		k, err := p.str()
		if err != nil {
			return nil, err
		}
		if out[k], err = p.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}
