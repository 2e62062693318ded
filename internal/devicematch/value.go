package devicematch

import (
	"cmp"
	"math/big"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Value is what a constraint compares: a number with an optional unit, a
// boolean or a string.
type Value struct {
	num    *big.Rat // in the base unit of its dimension
	dim    string   // "bytes", "bytes/s", "hertz", "watt"; "" without unit
	flag   *bool
	str    string
	isText bool
}

// units gives each unit's factor to the base unit of its dimension.
var units = buildUnits()

type unit struct {
	factor *big.Rat
	dim    string
}

func buildUnits() map[string]unit {
	u := map[string]unit{
		"MHz": {ratio(1e6, 1), "hertz"}, "GHz": {ratio(1e9, 1), "hertz"},
		"mW": {ratio(1, 1000), "watt"}, "W": {ratio(1, 1), "watt"}, "kW": {ratio(1e3, 1), "watt"},
		"MW": {ratio(1e6, 1), "watt"}, "GW": {ratio(1e9, 1), "watt"},
	}
	factor := func(base, power int64) *big.Rat {
		f := big.NewInt(base)
		return new(big.Rat).SetInt(f.Exp(f, big.NewInt(power), nil))
	}
	add := func(name string, f *big.Rat) {
		u[name] = unit{f, "bytes"}
		u[name+"/s"] = unit{f, "bytes/s"}
	}
	for i, prefix := range []string{"K", "M", "G", "T", "P", "E"} {
		add(prefix+"iB", factor(1024, int64(i+1)))
		add(prefix+"B", factor(1000, int64(i+1)))
	}
	add("kB", factor(1000, 1))
	return u
}

func ratio(a, b int64) *big.Rat { return big.NewRat(a, b) }

// ParseValue reads a literal of a job file: "10 GiB", "3.5", "true", "abc".
func ParseValue(s string) Value {
	if flag, err := strconv.ParseBool(s); err == nil && (s == "true" || s == "false") {
		return Value{flag: &flag}
	}
	text := strings.TrimSpace(s)
	end := strings.LastIndexAny(text, "0123456789.") + 1
	number, suffix := text[:end], strings.TrimSpace(text[end:])
	if len(number) > 0 && len(number) <= 64 && !strings.ContainsAny(number, "/eEpPxX_") {
		if num, ok := new(big.Rat).SetString(number); ok {
			if suffix == "" {
				return Value{num: num}
			}
			if u, ok := units[suffix]; ok {
				return Value{num: num.Mul(num, u.factor), dim: u.dim}
			}
		}
	}
	return Value{str: s, isText: true}
}

// Integer is a number without unit; ok is false for anything else, and for one
// that is not whole.
func (v Value) Integer() (n int64, ok bool) {
	if v.num == nil || v.dim != "" || !v.num.IsInt() || !v.num.Num().IsInt64() {
		return 0, false
	}
	return v.num.Num().Int64(), true
}

// Bytes is an amount of bytes, rounded down; ok is false for anything else.
func (v Value) Bytes() (n int64, ok bool) {
	if v.num == nil || v.dim != "bytes" || v.num.Sign() < 0 {
		return 0, false
	}
	whole := new(big.Int).Quo(v.num.Num(), v.num.Denom())
	return whole.Int64(), whole.IsInt64()
}

func textValue(s string) Value { return Value{str: s, isText: true} }

// FromAttribute reads a device attribute; ok is false for one without a value.
func FromAttribute(a *api.Attribute) (v Value, ok bool) {
	switch {
	case a == nil:
		return Value{}, false
	case a.IntVal != nil:
		v.num = new(big.Rat).SetInt64(*a.IntVal)
	case a.FloatVal != nil:
		if v.num = new(big.Rat).SetFloat64(*a.FloatVal); v.num == nil {
			return Value{}, false
		}
	case a.BoolVal != nil:
		return Value{flag: a.BoolVal}, true
	case a.StringVal != nil:
		return textValue(*a.StringVal), true
	default:
		return Value{}, false
	}
	if u, known := units[a.Unit]; known {
		v.num.Mul(v.num, u.factor)
		v.dim = u.dim
	}
	return v, true
}

// text is the string that a set or pattern operand sees.
func (v Value) text() (string, bool) { return v.str, v.isText }

// Compare orders two values; ok is false if they cannot be compared. Booleans
// are only equal or not.
func (v Value) Compare(w Value) (order int, ok bool) {
	switch {
	case v.num != nil && w.num != nil:
		return v.num.Cmp(w.num), v.dim == w.dim
	case v.flag != nil && w.flag != nil:
		if *v.flag == *w.flag {
			return 0, true
		}
		return 1, true
	case v.isText && w.isText:
		return cmp.Compare(v.str, w.str), true
	default:
		return 0, false
	}
}
