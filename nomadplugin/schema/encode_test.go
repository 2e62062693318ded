package schema_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/nomadplugin/schema"
)

// probeSpec is the schema of testdata/nomad-2.0.5.json.
func probeSpec() *schema.Spec {
	object := schema.Object
	type attrs = map[string]*schema.Spec
	return object(attrs{
		"id":    schema.Attr("id", "string", true),
		"args":  schema.Attr("args", "list(string)", false),
		"m":     schema.Attr("m", "list(map(string))", false),
		"ms":    schema.Attr("ms", "map(string)", false),
		"num":   schema.Attr("num", "number", false),
		"flag":  schema.Default(schema.Attr("flag", "bool", false), "false"),
		"attrs": schema.BlockAttrs("attrs", "string", false),
		"any":   schema.Attr("any", "any", false),
		"one": schema.Block("one", false, object(attrs{
			"a": schema.Attr("a", "string", false),
			"m": schema.Attr("m", "list(map(string))", false),
		})),
		"mount": schema.BlockList("mount", 0, 2, object(attrs{
			"src": schema.Attr("src", "string", true),
			"ro":  schema.Default(schema.Attr("ro", "bool", false), "true"),
			"m":   schema.Attr("m", "list(map(string))", false),
		})),
		"bset": schema.BlockSet("bset", 0, 0, object(attrs{"src": schema.Attr("src", "string", true)})),
		"bm":   schema.BlockMap("bm", []string{"n"}, object(attrs{"a": schema.Attr("a", "string", false)})),
	})
}

// The file holds task configurations and what a Nomad 2.0.5 agent passed to a
// driver with probeSpec for them, or that it refused them.
func TestEncodesAsNomad(t *testing.T) {
	raw, err := os.ReadFile("testdata/nomad-2.0.5.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Config  map[string]any `json:"config"`
		MsgPack string         `json:"msgpack"`
		Refused bool           `json:"refused"`
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	for _, tc := range cases {
		id := tc.Config["id"].(string)
		name, _ := json.Marshal(tc.Config)
		t.Run(string(name), func(t *testing.T) {
			got, err := schema.EncodeTemplates(probeSpec(), tc.Config, map[string]string{
				"NOMAD_TASK_NAME": "t", "NOMAD_JOB_NAME": "probe" + id, "NOMAD_META_a_b": "m", "FOO": "foo",
				"attr.driver.sample-driver": "1", "attr.driver.sample-driver.version": "0.1.0",
			})
			if (err != nil) != tc.Refused {
				t.Fatalf("got error %v, Nomad refused: %v", err, tc.Refused)
			}
			if hex.EncodeToString(got) != tc.MsgPack {
				var ours, theirs any
				want, _ := hex.DecodeString(tc.MsgPack)
				_ = schema.Decode(got, &ours)
				_ = schema.Decode(want, &theirs)
				t.Error("got other bytes than Nomad: ", cmp.Diff(theirs, ours))
			}
		})
	}
}

func TestEncodeErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spec   *schema.Spec
		config map[string]any
		want   []string
	}{
		{"unknown key", probeSpec(), map[string]any{"id": "x", "agrs": 1}, []string{`"agrs"`}},
		{"missing", probeSpec(), map[string]any{}, []string{`"id" is required`}},
		{"wrong type", probeSpec(), map[string]any{"id": "x", "num": true}, []string{`"num"`, "number required"}},
		{"all at once", probeSpec(), map[string]any{"num": "x", "other": 1}, []string{`"num"`, `"other"`, `"id"`}},
		{"no schema", nil, map[string]any{"a": 1}, []string{`"a"`, "takes none"}},
		{"nil node", schema.Object(map[string]*schema.Spec{"a": nil}), nil, []string{`"a"`, "nil"}},
		{"bad type", schema.Object(map[string]*schema.Spec{"a": schema.Attr("a", "lisst(string)", false)}), nil, []string{"a:", "lisst"}},
		{"bad default", schema.Object(map[string]*schema.Spec{"a": schema.Default(schema.Attr("a", "string", false), "1m")}), nil, []string{"a:", `"1m"`}},
		{"name missing in default", schema.Object(map[string]*schema.Spec{"a": schema.Default(schema.Attr("", "string", false), "true")}), nil, []string{"a:", "no name"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := schema.Encode(tc.spec, tc.config)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not contain %q", err, want)
				}
			}
		})
	}
}

func TestEncodeWithoutSchema(t *testing.T) {
	if got, err := schema.Encode(nil, nil); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestEncodeTakesStringsAsTheyAre(t *testing.T) {
	want := "${HOME} $${x} %{if}"
	b, err := schema.Encode(probeSpec(), map[string]any{"id": want})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ID string `codec:"id"`
	}
	if err := schema.Decode(b, &got); err != nil || got.ID != want {
		t.Errorf("got %q, %v", got.ID, err)
	}
}

func TestSpecOverTheWire(t *testing.T) {
	spec := probeSpec()
	data, err := spec.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got schema.Spec
	if err := got.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	again, err := got.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(data, again); diff != "" {
		t.Error(diff)
	}
	config := map[string]any{"id": "x", "mount": map[string]any{"src": "a"}, "bm": map[string]any{"n": map[string]any{"a": "b"}}}
	before, err := schema.Encode(spec, config)
	if err != nil {
		t.Fatal(err)
	}
	after, err := schema.Encode(&got, config)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

func TestValidate(t *testing.T) {
	deep := schema.Object(nil)
	for range 100 {
		deep = schema.Object(map[string]*schema.Spec{"b": schema.Block("b", false, deep)})
	}
	for _, tc := range []struct {
		name string
		spec *schema.Spec
		ok   bool
	}{
		{"every kind", probeSpec(), true},
		{"array", schema.Object(map[string]*schema.Spec{"a": schema.Array(schema.Attr("x", "number", false), schema.Literal(`upper("a")`))}), true},
		{"nil", nil, false},
		{"zero", &schema.Spec{}, false},
		{"root is no object", schema.Attr("a", "string", false), false},
		{"too deep", deep, false},
		{"block without nested", schema.Object(map[string]*schema.Spec{"a": schema.Block("a", false, nil)}), false},
		{"map without labels", schema.Object(map[string]*schema.Spec{"a": schema.BlockMap("a", nil, schema.Object(nil))}), false},
		{"limit out of range", schema.Object(map[string]*schema.Spec{"a": schema.BlockList("a", 1<<62, 0, schema.Object(nil))}), false},
		{"unknown function", schema.Object(map[string]*schema.Spec{"a": schema.Literal(`file("x")`)}), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.spec.Validate(); (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzUnmarshalSpec(f *testing.F) {
	data, err := probeSpec().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var s schema.Spec
		if s.UnmarshalBinary(data) != nil {
			return
		}
		if _, err := s.MarshalBinary(); err != nil {
			t.Errorf("decoded, but does not encode: %v", err)
		}
		_ = s.Validate()
	})
}
