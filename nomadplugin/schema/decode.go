package schema

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Decode fills the struct that v points to with a configuration as Nomad
// sends it (MessagePack), by `codec:"name"` tags; untagged exported fields go
// by their name, and `codec:"-"` is left out.
//
//   - A nil value is an unset attribute and leaves its field untouched, so set
//     defaults before the call (or declare them in the schema).
//   - Numbers are taken in every form the wire has for them: integer, float
//     or decimal string. One that does not fit its field is an error.
//   - A time.Duration is read from a string such as "1m30s".
//   - A map field also accepts a list of maps, which is how a map written as a
//     block arrives; later entries win.
//   - A struct field, or a pointer to one, is a nested block; a slice is a list
//     or a block list. Types with UnmarshalText read strings.
//   - Keys without a field are ignored: the schema has already refused what
//     the plugin does not know.
//
// Errors name the attribute: `gpu[2].memory: want a number, got a string`.
func Decode(data []byte, v any) error {
	dst := reflect.ValueOf(v)
	if dst.Kind() != reflect.Pointer || dst.IsNil() {
		return fmt.Errorf("decoding configuration: need a non-nil pointer, got %T", v)
	}
	if len(data) == 0 {
		return ErrEmpty
	}
	src, err := parse(data)
	if err != nil {
		return err
	}
	if src == nil {
		return nil
	}
	return assign(path{}, dst.Elem(), src)
}

// ErrEmpty is returned by Decode for no bytes at all. In RecoverTask that is
// the normal case after an agent restart: the agent does not store the task's
// configuration, so keep what you need in the handle's DriverState.
var ErrEmpty = errors.New("decoding configuration: there is none (an agent sends none to RecoverTask after a restart; use the handle's DriverState)")

// path names the value at hand in errors.
type path []string

func (p path) field(name string) path { return append(slices.Clip(p), "."+name) }
func (p path) index(i int) path       { return append(slices.Clip(p), "["+strconv.Itoa(i)+"]") }

func (p path) errorf(format string, args ...any) error {
	name := strings.TrimPrefix(strings.Join(p, ""), ".")
	if name == "" {
		name = "configuration"
	}
	return fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...))
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func assign(at path, dst reflect.Value, src any) error {
	if src == nil {
		return nil
	}
	if dst.Kind() == reflect.Pointer {
		elem := reflect.New(dst.Type().Elem())
		if !dst.IsNil() {
			elem.Elem().Set(dst.Elem())
		}
		if err := assign(at, elem.Elem(), src); err != nil {
			return err
		}
		dst.Set(elem)
		return nil
	}
	if dst.Type() == durationType {
		return assignDuration(at, dst, src)
	}
	if s, ok := src.(string); ok && reflect.PointerTo(dst.Type()).Implements(textUnmarshaler) {
		if err := dst.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			return at.errorf("%w", err)
		}
		return nil
	}
	switch dst.Kind() {
	case reflect.Interface:
		if dst.NumMethod() > 0 {
			return at.errorf("cannot decode into %s", dst.Type())
		}
		dst.Set(reflect.ValueOf(src))
		return nil
	case reflect.Struct:
		return assignStruct(at, dst, src)
	case reflect.Map:
		return assignMap(at, dst, src)
	case reflect.Slice:
		return assignSlice(at, dst, src)
	default:
		return assignScalar(at, dst, src)
	}
}

func assignDuration(at path, dst reflect.Value, src any) error {
	s, ok := src.(string)
	if !ok {
		return at.errorf(`want a duration such as "1m30s", got %s`, describe(src))
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return at.errorf(`want a duration such as "1m30s", got %q`, s)
	}
	dst.SetInt(int64(d))
	return nil
}

func assignStruct(at path, dst reflect.Value, src any) error {
	m, ok := src.(map[string]any)
	if !ok {
		// A block that may be given once can arrive as a list of one.
		if l, isList := src.([]any); isList && len(l) == 1 {
			m, ok = l[0].(map[string]any)
		}
		if !ok {
			return at.errorf("want a block, got %s", describe(src))
		}
	}
	t := dst.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Tag.Get("codec") == "" && f.Type.Kind() == reflect.Struct {
			if err := assignStruct(at, dst.Field(i), src); err != nil {
				return err
			}
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("codec"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if err := assign(at.field(name), dst.Field(i), m[name]); err != nil {
			return err
		}
	}
	return nil
}

func assignMap(at path, dst reflect.Value, src any) error {
	t := dst.Type()
	if t.Key().Kind() != reflect.String {
		return at.errorf("cannot decode into %s: its keys are not strings", t)
	}
	var parts []any
	switch s := src.(type) {
	case map[string]any:
		parts = []any{s}
	case []any:
		parts = s
	default:
		return at.errorf("want a map, got %s", describe(src))
	}
	out := reflect.MakeMap(t)
	for i, part := range parts {
		m, ok := part.(map[string]any)
		if !ok {
			return at.index(i).errorf("want a map, got %s", describe(part))
		}
		for k, v := range m {
			elem := reflect.New(t.Elem()).Elem()
			if err := assign(at.field(k), elem, v); err != nil {
				return err
			}
			out.SetMapIndex(reflect.ValueOf(k).Convert(t.Key()), elem)
		}
	}
	dst.Set(out)
	return nil
}

func assignSlice(at path, dst reflect.Value, src any) error {
	if s, ok := src.(string); ok && dst.Type().Elem().Kind() == reflect.Uint8 {
		dst.SetBytes([]byte(s))
		return nil
	}
	l, ok := src.([]any)
	if !ok {
		return at.errorf("want a list, got %s", describe(src))
	}
	out := reflect.MakeSlice(dst.Type(), len(l), len(l))
	for i, v := range l {
		if err := assign(at.index(i), out.Index(i), v); err != nil {
			return err
		}
	}
	dst.Set(out)
	return nil
}

func assignScalar(at path, dst reflect.Value, src any) error {
	switch dst.Kind() {
	case reflect.String:
		s, ok := src.(string)
		if !ok {
			return at.errorf("want a string, got %s", describe(src))
		}
		dst.SetString(s)
	case reflect.Bool:
		b, ok := src.(bool)
		if !ok {
			return at.errorf("want a bool, got %s", describe(src))
		}
		dst.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := integer(at, src)
		if err != nil {
			return err
		}
		if !n.IsInt64() || dst.OverflowInt(n.Int64()) {
			return at.errorf("%s does not fit a %s", n, dst.Kind())
		}
		dst.SetInt(n.Int64())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := integer(at, src)
		if err != nil {
			return err
		}
		if !n.IsUint64() || dst.OverflowUint(n.Uint64()) {
			return at.errorf("%s does not fit a %s", n, dst.Kind())
		}
		dst.SetUint(n.Uint64())
	case reflect.Float32, reflect.Float64:
		f, err := float(at, src)
		if err != nil {
			return err
		}
		if dst.OverflowFloat(f) {
			return at.errorf("%v does not fit a %s", f, dst.Kind())
		}
		dst.SetFloat(f)
	default:
		return at.errorf("cannot decode into %s", dst.Type())
	}
	return nil
}

// integer reads a whole number, exactly.
func integer(at path, src any) (*big.Int, error) {
	switch n := src.(type) {
	case int64:
		return big.NewInt(n), nil
	case uint64:
		return new(big.Int).SetUint64(n), nil
	case float64:
		if n != math.Trunc(n) || math.IsInf(n, 0) {
			return nil, at.errorf("want a whole number, got %v", n)
		}
		i, _ := big.NewFloat(n).Int(nil)
		return i, nil
	case string:
		// Bounded: big numbers with an exponent would take memory by the value.
		if i, ok := new(big.Int).SetString(n, 10); ok && len(n) <= 64 {
			return i, nil
		}
		return nil, at.errorf("want a whole number, got %q", n)
	default:
		return nil, at.errorf("want a number, got %s", describe(src))
	}
}

func float(at path, src any) (float64, error) {
	switch n := src.(type) {
	case int64:
		return float64(n), nil
	case uint64:
		return float64(n), nil
	case float64:
		return n, nil
	case string:
		f, err := strconv.ParseFloat(n, 64)
		if err != nil {
			return 0, at.errorf("want a number, got %q", n)
		}
		return f, nil
	default:
		return 0, at.errorf("want a number, got %s", describe(src))
	}
}

func describe(src any) string {
	switch src.(type) {
	case string:
		return "a string"
	case bool:
		return "a bool"
	case int64, uint64, float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a map or block"
	default:
		return "nothing"
	}
}
