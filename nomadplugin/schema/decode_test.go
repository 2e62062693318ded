package schema_test

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/nomadplugin/schema"
)

type embedded struct {
	Shared string `codec:"shared"`
}

type nested struct {
	A  string            `codec:"a"`
	RO *bool             `codec:"ro"`
	M  map[string]string `codec:"m"`
}

type everything struct {
	embedded
	S        string            `codec:"s"`
	B        bool              `codec:"b"`
	I        int               `codec:"i"`
	I8       int8              `codec:"i8"`
	U        uint64            `codec:"u"`
	F        float64           `codec:"f"`
	D        time.Duration     `codec:"d"`
	L        []string          `codec:"l"`
	M        map[string]string `codec:"m"`
	One      *nested           `codec:"one"`
	Many     []nested          `codec:"many"`
	By       map[string]nested `codec:"by"`
	Any      any               `codec:"any"`
	Raw      []byte            `codec:"raw"`
	Addr     netip.Addr        `codec:"addr"`
	Skipped  string            `codec:"-"`
	Untagged string
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := msgpack.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type m = map[string]any

func TestDecode(t *testing.T) {
	yes := true
	for _, tc := range []struct {
		name string
		in   any
		want everything
	}{
		{"nothing set keeps defaults", m{"s": nil, "i": nil, "one": nil}, everything{S: "default", I: 7}},
		{"nil value", nil, everything{S: "default", I: 7}},
		{"unknown keys", m{"other": 1}, everything{S: "default", I: 7}},
		{"plain", m{"s": "x", "b": true, "i": 1, "Untagged": "u"}, everything{S: "x", B: true, I: 1, Untagged: "u"}},
		{"empty string is set", m{"s": ""}, everything{S: "", I: 7}},
		{"skipped", m{"-": "x", "Skipped": "x"}, everything{S: "default", I: 7}},
		{"integers from floats", m{"i": 3.0}, everything{S: "default", I: 3}},
		{"integers from strings", m{"i": "12", "u": "18446744073709551615"}, everything{S: "default", I: 12, U: math.MaxUint64}},
		{"big unsigned", m{"u": uint64(math.MaxUint64)}, everything{S: "default", I: 7, U: math.MaxUint64}},
		{"floats from strings", m{"f": "0.1"}, everything{S: "default", I: 7, F: 0.1}},
		{"floats from integers", m{"f": 3}, everything{S: "default", I: 7, F: 3}},
		{"duration", m{"d": "1m30s"}, everything{S: "default", I: 7, D: 90 * time.Second}},
		{"list", m{"l": []string{"a", "b"}}, everything{S: "default", I: 7, L: []string{"a", "b"}}},
		{"map", m{"m": m{"a": "b"}}, everything{S: "default", I: 7, M: map[string]string{"a": "b"}}},
		{"map from blocks", m{"m": []m{{"a": "b"}, {"a": "c", "d": "e"}}}, everything{S: "default", I: 7, M: map[string]string{"a": "c", "d": "e"}}},
		{"block", m{"one": m{"a": "x", "ro": true}}, everything{S: "default", I: 7, One: &nested{A: "x", RO: &yes}}},
		{"block as a list of one", m{"one": []m{{"a": "x"}}}, everything{S: "default", I: 7, One: &nested{A: "x"}}},
		{"block list", m{"many": []m{{"a": "x"}, {"a": "y", "m": []m{{"k": "v"}}}}}, everything{S: "default", I: 7, Many: []nested{{A: "x"}, {A: "y", M: map[string]string{"k": "v"}}}}},
		{"block map", m{"by": m{"l": m{"a": "x"}}}, everything{S: "default", I: 7, By: map[string]nested{"l": {A: "x"}}}},
		{"any", m{"any": m{"a": []any{1, "b"}}}, everything{S: "default", I: 7, Any: map[string]any{"a": []any{int64(1), "b"}}}},
		{"bytes", m{"raw": "xyz"}, everything{S: "default", I: 7, Raw: []byte("xyz")}},
		{"text", m{"addr": "127.0.0.1"}, everything{S: "default", I: 7, Addr: netip.MustParseAddr("127.0.0.1")}},
		{"embedded", m{"shared": "x"}, everything{S: "default", I: 7, embedded: embedded{"x"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := everything{S: "default", I: 7}
			if err := schema.Decode(encode(t, tc.in), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(everything{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   any
		want string
	}{
		{"string", m{"s": 1}, "s: want a string, got a number"},
		{"bool", m{"b": "true"}, "b: want a bool, got a string"},
		{"fraction", m{"i": 1.5}, "i: want a whole number, got 1.5"},
		{"no number", m{"i": "many"}, `i: want a whole number, got "many"`},
		{"number from a list", m{"f": []any{}}, "f: want a number, got a list"},
		{"overflow", m{"i8": 300}, "i8: 300 does not fit a int8"},
		{"negative unsigned", m{"u": -1}, "u: -1 does not fit a uint64"},
		{"infinite", m{"i": math.Inf(1)}, "i: want a whole number"},
		{"duration without unit", m{"d": "5"}, `d: want a duration such as "1m30s", got "5"`},
		{"duration from a number", m{"d": 5}, "d: want a duration"},
		{"path", m{"many": []any{m{}, m{"m": []any{m{"k": 1}}}}}, "many[1].m.k: want a string, got a number"},
		{"block", m{"one": "x"}, "one: want a block, got a string"},
		{"map", m{"m": []any{"x"}}, "m[0]: want a map, got a string"},
		{"text", m{"addr": "nowhere"}, "addr: "},
		{"root", "x", "configuration: want a block, got a string"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := everything{}
			err := schema.Decode(encode(t, tc.in), &got)
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		if err := schema.Decode(nil, &everything{}); !errors.Is(err, schema.ErrEmpty) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no pointer", func(t *testing.T) {
		if err := schema.Decode([]byte{0x80}, everything{}); err == nil {
			t.Error("accepted")
		}
	})
}

func TestDecodeHostileBytes(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   []byte
	}{
		{"huge array", []byte{0xdd, 0xff, 0xff, 0xff, 0xff}},
		{"huge map", []byte{0xdf, 0xff, 0xff, 0xff, 0xff}},
		{"huge string", []byte{0xdb, 0xff, 0xff, 0xff, 0xff}},
		{"deep", []byte(strings.Repeat("\x91", 1_000_000))},
		{"reserved code", []byte{0xc1}},
		{"extension", []byte{0xd4, 0x01, 0x00}},
		{"number as key", []byte{0x81, 0x01, 0x01}},
		{"trailing bytes", []byte{0x80, 0x80}},
		{"cut off", []byte{0x81, 0xa1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var v any
			if err := schema.Decode(tc.in, &v); err == nil {
				t.Errorf("accepted as %v", v)
			}
		})
	}
}

// Whatever a schema takes comes out of Decode as it went in.
func TestDecodeReversesEncode(t *testing.T) {
	spec := schema.Object(map[string]*schema.Spec{
		"s":    schema.Attr("s", "string", false),
		"b":    schema.Attr("b", "bool", false),
		"i":    schema.Attr("i", "number", false),
		"f":    schema.Attr("f", "number", false),
		"l":    schema.Attr("l", "list(string)", false),
		"m":    schema.BlockAttrs("m", "string", false),
		"many": schema.BlockList("many", 0, 0, schema.Object(map[string]*schema.Spec{"a": schema.Attr("a", "string", true)})),
	})
	type config struct {
		S    string            `codec:"s" json:"s"`
		B    bool              `codec:"b" json:"b"`
		I    int32             `codec:"i" json:"i"`
		F    float64           `codec:"f" json:"f"`
		L    []string          `codec:"l" json:"l"`
		M    map[string]string `codec:"m" json:"m"`
		Many []struct {
			A string `codec:"a" json:"a"`
		} `codec:"many" json:"many"`
	}
	text := rapid.StringMatching(`[ -~]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		want := config{
			S: text.Draw(t, "s"), B: rapid.Bool().Draw(t, "b"), I: rapid.Int32().Draw(t, "i"),
			F: rapid.Float64Range(-1e15, 1e15).Draw(t, "f"),
			L: rapid.SliceOfN(text, 1, 4).Draw(t, "l"),
			M: rapid.MapOfN(rapid.StringMatching(`[a-z]{1,5}`), text, 1, 3).Draw(t, "m"),
		}
		in := m{"s": want.S, "b": want.B, "i": want.I, "f": want.F, "l": want.L, "m": want.M}
		b, err := schema.Encode(spec, in)
		if err != nil {
			t.Fatal(err)
		}
		var got config
		if err := schema.Decode(b, &got); err != nil {
			t.Fatal(err)
		}
		got.Many = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, v := range []any{
		m{"s": "x", "i": 1, "f": "0.1", "d": "1m", "l": []string{"a"}, "one": m{"a": "x"}, "many": []m{{"a": "x"}}, "m": []m{{"a": "b"}}},
		nil, "x", []any{1},
	} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v everything
		_ = schema.Decode(data, &v)
		var tree any
		if schema.Decode(data, &tree) != nil {
			return
		}
		again, err := msgpack.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		var same any
		if err := schema.Decode(again, &same); err != nil {
			t.Errorf("decoded, but not again: %v", err)
		}
	})
}
