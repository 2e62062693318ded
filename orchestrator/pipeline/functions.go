package pipeline

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// functions are what expressions may call: all pure, so that parsing a file
// again gives the same graph. None reads files, the environment or the clock.
var functions = sync.OnceValue(func() map[string]function.Function {
	all := map[string]function.Function{
		"can": tryfunc.CanFunc,
		"try": tryfunc.TryFunc,
	}
	for _, group := range []map[string]function.Function{numbers(), texts(), collections(), conversions()} {
		maps.Copy(all, group)
	}
	return all
})

func numbers() map[string]function.Function {
	return map[string]function.Function{
		"abs":      stdlib.AbsoluteFunc,
		"ceil":     stdlib.CeilFunc,
		"floor":    stdlib.FloorFunc,
		"int":      stdlib.IntFunc,
		"log":      notNaN(stdlib.LogFunc, func(x, base float64) float64 { return math.Log(x) / math.Log(base) }),
		"max":      stdlib.MaxFunc,
		"min":      stdlib.MinFunc,
		"parseint": stdlib.ParseIntFunc,
		"pow":      notNaN(stdlib.PowFunc, math.Pow),
		"signum":   stdlib.SignumFunc,
	}
}

func texts() map[string]function.Function {
	return map[string]function.Function{
		"chomp":        stdlib.ChompFunc,
		"endswith":     affixFunc(strings.HasSuffix),
		"format":       boundedFormat(stdlib.FormatFunc),
		"formatlist":   boundedFormat(stdlib.FormatListFunc),
		"indent":       stdlib.IndentFunc,
		"join":         stdlib.JoinFunc,
		"lower":        stdlib.LowerFunc,
		"regex":        stdlib.RegexFunc,
		"regexall":     stdlib.RegexAllFunc,
		"regexreplace": stdlib.RegexReplaceFunc,
		"replace":      stdlib.ReplaceFunc,
		"split":        stdlib.SplitFunc,
		"startswith":   affixFunc(strings.HasPrefix),
		"strlen":       stdlib.StrlenFunc,
		"substr":       stdlib.SubstrFunc,
		"title":        stdlib.TitleFunc,
		"trim":         stdlib.TrimFunc,
		"trimprefix":   stdlib.TrimPrefixFunc,
		"trimspace":    stdlib.TrimSpaceFunc,
		"trimsuffix":   stdlib.TrimSuffixFunc,
		"upper":        stdlib.UpperFunc,
	}
}

func collections() map[string]function.Function {
	return map[string]function.Function{
		"alltrue":         foldFunc(cty.Bool, cty.True, stdlib.And),
		"anytrue":         foldFunc(cty.Bool, cty.False, stdlib.Or),
		"chunklist":       stdlib.ChunklistFunc,
		"coalesce":        stdlib.CoalesceFunc,
		"coalescelist":    stdlib.CoalesceListFunc,
		"compact":         stdlib.CompactFunc,
		"concat":          stdlib.ConcatFunc,
		"contains":        stdlib.ContainsFunc,
		"distinct":        stdlib.DistinctFunc,
		"element":         stdlib.ElementFunc,
		"flatten":         stdlib.FlattenFunc,
		"keys":            stdlib.KeysFunc,
		"length":          stdlib.LengthFunc,
		"lookup":          stdlib.LookupFunc,
		"merge":           stdlib.MergeFunc,
		"range":           stdlib.RangeFunc,
		"reverse":         stdlib.ReverseListFunc,
		"setintersection": stdlib.SetIntersectionFunc,
		"setproduct":      boundedProduct(),
		"setsubtract":     stdlib.SetSubtractFunc,
		"setunion":        stdlib.SetUnionFunc,
		"slice":           stdlib.SliceFunc,
		"sort":            stdlib.SortFunc,
		"sum":             foldFunc(cty.Number, cty.Zero, stdlib.Add),
		"values":          stdlib.ValuesFunc,
		"zipmap":          stdlib.ZipmapFunc,
	}
}

func conversions() map[string]function.Function {
	return map[string]function.Function{
		"csvdecode":  stdlib.CSVDecodeFunc,
		"jsondecode": stdlib.JSONDecodeFunc,
		"jsonencode": stdlib.JSONEncodeFunc,

		"tobool":   stdlib.MakeToFunc(cty.Bool),
		"tolist":   fromTuple(stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), cty.List, cty.ListVal),
		"tomap":    stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)),
		"tonumber": stdlib.MakeToFunc(cty.Number),
		"toset":    fromTuple(stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)), cty.Set, cty.SetVal),
		"tostring": stdlib.MakeToFunc(cty.String),
	}
}

// functionNames are the names of functions, sorted.
func functionNames() []string { return slices.Sorted(maps.Keys(functions())) }

func affixFunc(has func(s, affix string) bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "str", Type: cty.String}, {Name: "affix", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(has(args[0].AsString(), args[1].AsString())), nil
		},
	})
}

// fromTuple is tolist or toset, in linear time for what is mostly given: a
// tuple whose elements are all of one type. The conversion itself compares the
// types of all elements with each other, which takes seconds for 10,000.
func fromTuple(f function.Function, of func(cty.Type) cty.Type, make func([]cty.Value) cty.Value) function.Function {
	element := func(v cty.Value) (cty.Type, bool) {
		if !v.IsKnown() || v.IsNull() || !v.Type().IsTupleType() || v.LengthInt() == 0 {
			return cty.NilType, false
		}
		types := v.Type().TupleElementTypes()
		for _, ty := range types {
			if !ty.Equals(types[0]) || !ty.IsPrimitiveType() {
				return cty.NilType, false
			}
		}
		return types[0], true
	}
	return function.New(&function.Spec{
		Params: f.Params(),
		Type: func(args []cty.Value) (cty.Type, error) {
			if ty, ok := element(args[0]); ok {
				return of(ty), nil
			}
			return f.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if _, ok := element(args[0]); ok {
				return make(args[0].AsValueSlice()), nil
			}
			return f.Call(args)
		},
	})
}

// foldFunc takes the elements of a list together, beginning with zero.
func foldFunc(element cty.Type, zero cty.Value, with func(a, b cty.Value) (cty.Value, error)) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.List(element)}},
		Type:   function.StaticReturnType(element),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			result := zero
			for i, v := range args[0].AsValueSlice() {
				if v.IsNull() {
					return cty.NilVal, function.NewArgErrorf(0, "element %d is null", i)
				}
				var err error
				if result, err = with(result, v); err != nil {
					return cty.NilVal, err
				}
			}
			return result, nil
		},
	})
}

// maxFormatWidth bounds the width and precision that format pads to.
const maxFormatWidth = 1000

// boundedFormat is format or formatlist without widths that fill memory.
func boundedFormat(f function.Function) function.Function {
	return bounded(f, func(args []cty.Value) error {
		if len(args) == 0 || !args[0].IsKnown() || args[0].IsNull() || args[0].Type() != cty.String {
			return nil
		}
		number := 0
		for _, r := range args[0].AsString() {
			if r < '0' || r > '9' {
				number = 0
				continue
			}
			if number = number*10 + int(r-'0'); number > maxFormatWidth {
				return function.NewArgErrorf(0, "a number in the format is larger than %d", maxFormatWidth)
			}
		}
		return nil
	})
}

// boundedProduct is setproduct without results that fill memory.
func boundedProduct() function.Function {
	return bounded(stdlib.SetProductFunc, func(args []cty.Value) error {
		size := 1
		for _, arg := range args {
			if !arg.IsKnown() || arg.IsNull() || !arg.CanIterateElements() {
				return nil
			}
			if size *= arg.LengthInt(); size > maxInstances {
				return fmt.Errorf("the product has more than %d elements", maxInstances)
			}
		}
		return nil
	})
}

// notNaN is a function of two numbers that refuses arguments for which it has
// no value.
func notNaN(f function.Function, of func(x, y float64) float64) function.Function {
	return bounded(f, func(args []cty.Value) error {
		for _, arg := range args {
			if !arg.IsKnown() || arg.IsNull() || arg.Type() != cty.Number {
				return nil
			}
		}
		x, _ := args[0].AsBigFloat().Float64()
		y, _ := args[1].AsBigFloat().Float64()
		if math.IsNaN(of(x, y)) {
			return fmt.Errorf("there is no such number for %v and %v", x, y)
		}
		return nil
	})
}

// bounded is f, called only if check finds nothing wrong with its arguments.
func bounded(f function.Function, check func(args []cty.Value) error) function.Function {
	return function.New(&function.Spec{
		Params:   f.Params(),
		VarParam: f.VarParam(),
		Type: func(args []cty.Value) (cty.Type, error) {
			if err := check(args); err != nil {
				return cty.DynamicPseudoType, err
			}
			return f.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return f.Call(args)
		},
	})
}

// convertTo converts a value; its error says what is wrong with it, without
// the name of what it is for.
func convertTo(v cty.Value, want cty.Type) (cty.Value, error) {
	return convert.Convert(v, want)
}
