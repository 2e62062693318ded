package base_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/internal/servetest"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

func TestInfoValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		info base.Info
		want []string // parts of the error
	}{
		{"good", base.Info{Type: base.TypeDevice, Name: "x", Version: "1.2.3"}, nil},
		{"v and pre-release", base.Info{Type: base.TypeDriver, Name: "x", Version: "v0.1.0-rc.1+build.5"}, nil},
		{"one number", base.Info{Type: base.TypeDriver, Name: "x", Version: "1"}, nil},
		{"no version", base.Info{Type: base.TypeDriver, Name: "x"}, []string{"version"}},
		{"word", base.Info{Type: base.TypeDriver, Name: "x", Version: "dev"}, []string{`"dev"`}},
		{"no type", base.Info{Name: "x", Version: "1.0"}, []string{"type"}},
		{"nothing", base.Info{}, []string{"type", "name", "version"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.info.Validate()
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %v", want, err)
				}
			}
		})
	}
}

func TestAttributeValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		attr base.Attribute
		ok   bool
	}{
		{"int", base.Int(1, ""), true},
		{"int with unit", base.Int(1, "GiB"), true},
		{"rate", base.Float(1.5, "MiB/s"), true},
		{"frequency", base.Int(1, "MHz"), true},
		{"power", base.Int(1, "W"), true},
		{"string", base.String(""), true},
		{"bool", base.Bool(false), true},
		{"not a number", base.Float(math.NaN(), ""), false},
		{"infinite", base.Float(math.Inf(1), "W"), false},
		{"percent", base.Int(1, "%"), false},
		{"power rate", base.Int(1, "W/s"), false},
		{"case", base.Int(1, "mib"), false},
		{"string with unit", base.Attribute{Value: "x", Unit: "W"}, false},
		{"no value", base.Attribute{}, false},
		{"other type", base.Attribute{Value: int32(1)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.attr.Validate(); (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

type plugin struct {
	schema *schema.Spec
	set    func(base.Config) error
}

func (plugin) Info() base.Info {
	return base.Info{Type: base.TypeDriver, Name: "x", Version: "1.0.0"}
}
func (p plugin) ConfigSchema() *schema.Spec                       { return p.schema }
func (p plugin) SetConfig(_ context.Context, c base.Config) error { return p.set(c) }

func client(t *testing.T, p plugin) *base.Client {
	return base.NewClient(servetest.Connect(t, func(r grpc.ServiceRegistrar, _ hclog.Logger) { base.Register(r, p) }))
}

func TestSetConfig(t *testing.T) {
	spec := schema.Object(map[string]*schema.Spec{"n": schema.Attr("n", "number", false)})
	config, err := schema.Encode(spec, map[string]any{"n": 7})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		in   base.Config
		want int // the value of n, 5 by default
	}{
		{"none", base.Config{}, 5},
		{"check", base.Config{MsgPack: config}, 7},
		{"real", base.Config{MsgPack: config, Agent: &base.AgentConfig{MinPort: 1, MaxPort: 2}}, 7},
		{"topology", base.Config{Agent: &base.AgentConfig{Topology: &base.Topology{
			NodeIDs: []uint32{0, 1}, Dimension: 2, Distances: []uint32{10, 20, 20, 10},
			Cores:                []base.Core{{Socket: 1, Node: 1, ID: 3, Efficiency: true, Disabled: true, BaseSpeed: 1, MaxSpeed: 2, GuessSpeed: 3}},
			OverrideTotalCompute: 4, OverrideWithheldCompute: 5,
		}}}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got base.Config
			var decoded struct {
				N int `codec:"n"`
			}
			decoded.N = 5
			c := client(t, plugin{set: func(c base.Config) error {
				got = c
				return c.Decode(&decoded)
			}})
			if err := c.SetConfig(t.Context(), tc.in); err != nil {
				t.Fatal(err)
			}
			want := tc.in
			want.APIVersion = base.APIVersion
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if decoded.N != tc.want {
				t.Errorf("n is %d, want %d", decoded.N, tc.want)
			}
		})
	}
}

func TestErrorsKeepTheirText(t *testing.T) {
	c := client(t, plugin{set: func(base.Config) error { return errors.New("store: no such folder") }})
	if err := c.SetConfig(t.Context(), base.Config{}); err == nil || err.Error() != "configuring plugin: store: no such folder" {
		t.Errorf("got %v", err)
	}
	c = client(t, plugin{set: func(base.Config) error { panic("oops") }})
	if err := c.SetConfig(t.Context(), base.Config{}); err == nil || !strings.Contains(err.Error(), "panic in") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Info(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestConfigSchema(t *testing.T) {
	if got, err := client(t, plugin{}).ConfigSchema(t.Context()); got != nil || err != nil {
		t.Errorf("no schema: got %v, %v", got, err)
	}
	broken := schema.Object(map[string]*schema.Spec{"a": nil})
	if _, err := client(t, plugin{schema: broken}).ConfigSchema(t.Context()); err == nil {
		t.Error("a broken schema was sent")
	}
}

// A log goes on to its file when nobody reads stderr any more.
func TestLoggerOutlivesStderr(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	stderr := os.Stderr
	os.Stderr = w
	var file bytes.Buffer
	log := base.NewLogger("x", &file)
	os.Stderr = stderr
	_ = w.Close() // writes fail from now on, as with a broken pipe

	log.Trace("still here", "key", "value")
	var entry map[string]any
	if err := json.Unmarshal(file.Bytes(), &entry); err != nil {
		t.Fatal(err)
	}
	if entry["@message"] != "still here" || entry["@level"] != "trace" || entry["@module"] != "x" || entry["key"] != "value" {
		t.Errorf("got %v", entry)
	}
}
