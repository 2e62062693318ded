package mltask

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestValidate(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, test := range []struct {
		name   string
		change func(c *Config)
		want   []string // fields of the errors
	}{
		{"smallest", func(*Config) {}, nil},
		{"all", func(c *Config) {
			*c = Config{
				Command: "python", Args: []string{"train.py"}, WorkDir: "local/x", Store: "file:///srv/store", Code: digest,
				Inputs: []Input{
					{Name: "a", Source: digest, SHA256: digest}, {Name: "b", Source: "file:///data/set"}, {Name: "c.csv", Source: "local/c", SHA256: digest},
				},
				Outputs: []Output{{Name: "model"}, {Name: "a", Optional: true}}, Params: `{"lr": 0.1}`,
				Checkpoint: []Checkpoint{{Key: "run/train", Keep: 5}}, Attempt: 3, ResultKey: "run-1/train.1", StallTimeout: "30m",
			}
		}, nil},
		{"no command", func(c *Config) { c.Command = "" }, []string{"command"}},
		{"NUL in an argument", func(c *Config) { c.Args = []string{"ok", "a\x00b"} }, []string{"args[1]"}},
		{"work_dir leads out", func(c *Config) { c.WorkDir = "local/../../x" }, []string{"work_dir"}},
		{"code leads out", func(c *Config) { c.Code = "../other" }, []string{"code"}},
		{"code is absolute", func(c *Config) { c.Code = "/etc" }, []string{"code"}},
		{"store is no URL", func(c *Config) { c.Store = "/srv/store" }, []string{"store"}},
		{"duplicate input", func(c *Config) { c.Inputs = []Input{{Name: "a", Source: digest}, {Name: "a", Source: "local/x"}} }, []string{`input "a"`}},
		{"input name leads out", func(c *Config) { c.Inputs = []Input{{Name: "../a", Source: digest}} }, []string{`input "../a"`}},
		{"input name hidden", func(c *Config) { c.Inputs = []Input{{Name: ".a", Source: digest}} }, []string{`input ".a"`}},
		{"input source empty", func(c *Config) { c.Inputs = []Input{{Name: "a"}} }, []string{`input "a".source`}},
		{"input source leads out", func(c *Config) { c.Inputs = []Input{{Name: "a", Source: "../../etc"}} }, []string{`input "a".source`}},
		{"input source is a bad digest", func(c *Config) { c.Inputs = []Input{{Name: "a", Source: "sha256:xyz"}} }, []string{`input "a".source`}},
		{"input source of another scheme", func(c *Config) { c.Inputs = []Input{{Name: "a", Source: "https://x/y"}} }, []string{`input "a".source`}},
		{"input source is no path", func(c *Config) { c.Inputs = []Input{{Name: "a", Source: "file://host/x"}} }, []string{`input "a".source`}},
		{"bad pin", func(c *Config) { c.Inputs = []Input{{Name: "a", Source: "local/x", SHA256: "abc"}} }, []string{`input "a".sha256`}},
		{"two pins", func(c *Config) {
			c.Inputs = []Input{{Name: "a", Source: digest, SHA256: "sha256:" + strings.Repeat("b", 64)}}
		}, []string{`input "a".sha256`}},
		{"duplicate output", func(c *Config) { c.Outputs = []Output{{Name: "a"}, {Name: "a"}} }, []string{`output "a"`}},
		{"output name is a path", func(c *Config) { c.Outputs = []Output{{Name: "a/b"}} }, []string{`output "a/b"`}},
		{"params are a list", func(c *Config) { c.Params = "[1]" }, []string{"params"}},
		{"two checkpoint blocks", func(c *Config) { c.Checkpoint = make([]Checkpoint, 2) }, []string{"checkpoint"}},
		{"bad checkpoint key", func(c *Config) { c.Checkpoint = []Checkpoint{{Key: "a/../b", Keep: -1}} }, []string{"checkpoint.key", "checkpoint.keep"}},
		{"negative attempt", func(c *Config) { c.Attempt = -1 }, []string{"attempt"}},
		{"bad result key", func(c *Config) { c.ResultKey = "/a" }, []string{"result_key"}},
		{"result key as the store writes it", func(c *Config) { c.ResultKey = "a.json" }, []string{"result_key"}},
		{"stall_timeout is no duration", func(c *Config) { c.StallTimeout = "soon" }, []string{"stall_timeout"}},
		{"stall_timeout too short", func(c *Config) { c.StallTimeout = "1ms" }, []string{"stall_timeout"}},
		{"gang", func(c *Config) {
			c.Gang = []Gang{{Key: "run-1/train/2", Rank: 3, Size: 4, Timeout: "90s"}}
			c.Checkpoint = []Checkpoint{{Key: "run-1/train"}}
		}, nil},
		{"two gangs", func(c *Config) { c.Gang = []Gang{{Key: "a", Size: 1}, {Key: "b", Size: 1}} }, []string{"gang"}},
		{"gang of nobody", func(c *Config) { c.Gang = []Gang{{Key: "a"}} }, []string{"gang.size"}},
		{"gang too large", func(c *Config) { c.Gang = []Gang{{Key: "a", Size: MaxGang + 1}} }, []string{"gang.size"}},
		{"gang without key", func(c *Config) { c.Gang = []Gang{{Size: 2, Rank: 1}} }, []string{"gang.key"}},
		{"gang key leads out", func(c *Config) { c.Gang = []Gang{{Key: "../a", Size: 2}} }, []string{"gang.key"}},
		{"rank beyond the gang", func(c *Config) { c.Gang = []Gang{{Key: "a", Size: 4, Rank: 4}} }, []string{"gang.rank"}},
		{"negative rank", func(c *Config) { c.Gang = []Gang{{Key: "a", Size: 4, Rank: -1}} }, []string{"gang.rank"}},
		{"gang timeout", func(c *Config) { c.Gang = []Gang{{Key: "a", Size: 1, Timeout: "soon"}} }, []string{"gang.timeout"}},
		{"gang timeout too short", func(c *Config) { c.Gang = []Gang{{Key: "a", Size: 1, Timeout: "1ms"}} }, []string{"gang.timeout"}},
		{"checkpoints of a gang without a name", func(c *Config) {
			c.Gang, c.Checkpoint = []Gang{{Key: "a", Size: 1}}, []Checkpoint{{}}
		}, []string{"checkpoint.key"}},
		{"several at once", func(c *Config) { *c = Config{Params: "{", StallTimeout: "x", Attempt: -1} },
			[]string{"command", "params", "attempt", "stall_timeout"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Command: "true"}
			test.change(&c)
			if diff := cmp.Diff(test.want, fields(t, c.Validate())); diff != "" {
				t.Errorf("fields (-want +got):\n%s\n%v", diff, c.Validate())
			}
		})
	}
}

func fields(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var list []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var f *FieldError
		if !errors.As(e, &f) {
			t.Fatalf("error %v is not about a field", e)
		}
		list = append(list, f.Field)
	}
	return list
}

func TestStall(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "90s": 90 * time.Second, "1h": time.Hour} {
		if got, err := (&Config{StallTimeout: text}).Stall(); err != nil || got != want {
			t.Errorf("stall %q = %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestGangErrors(t *testing.T) {
	incomplete, broken := GangIncomplete("rank 2 was missing").Error(), GangBroken("rank 2 failed").Error()
	for _, test := range []struct {
		text               string
		incomplete, broken bool
	}{
		{incomplete, true, false},
		{broken, false, true},
		{"Exit Message: " + incomplete, true, false},
		{"Exit Message: " + broken, false, true},
		{"it exited with code 1", false, false},
		{"", false, false},
	} {
		if IsGangIncomplete(test.text) != test.incomplete || IsGangBroken(test.text) != test.broken {
			t.Errorf("%q: incomplete %v, broken %v", test.text, IsGangIncomplete(test.text), IsGangBroken(test.text))
		}
	}
}

func TestRankKey(t *testing.T) {
	for rank, want := range map[int]string{0: "run/train/1", 1: "run/train/1/rank-1", 12: "run/train/1/rank-12"} {
		if got := RankKey("run/train/1", rank); got != want {
			t.Errorf("rank %d: %q, want %q", rank, got, want)
		}
	}
}

func TestParamVars(t *testing.T) {
	for _, test := range []struct {
		name, params string
		want         map[string]string
		err          string
	}{
		{"none", "", map[string]string{}, ""},
		{"empty", " {} ", map[string]string{}, ""},
		{"scalars as they are written", `{"lr": 1e-4, "big": 12345678901234567890, "on": true, "off": null, "s": "a \"b\" ü"}`,
			map[string]string{"LR": "1e-4", "BIG": "12345678901234567890", "ON": "true", "OFF": "", "S": `a "b" ü`}, ""},
		{"lists and objects as JSON", `{"l": [1, "x"], "o": {"a": 1}}`, map[string]string{"L": `[1, "x"]`, "O": `{"a": 1}`}, ""},
		{"names", `{"net.work-2 ü": 1}`, map[string]string{"NET_WORK_2__": "1"}, ""},
		{"one variable for two", `{"a-b": 1, "a.b": 2}`, nil, `"a-b" and "a.b"`},
		{"a list", `[]`, nil, "not a JSON object"},
		{"null", `null`, nil, "not a JSON object"},
		{"malformed", `{"a":`, nil, "not a JSON object"},
		{"more than one", `{} {}`, nil, "more follows"},
		{"NUL", `{"a": "x\u0000y"}`, nil, "NUL"},
		{"value too long", `{"a": "` + strings.Repeat("x", 200_000) + `"}`, nil, "limit"},
		{"all too long", `{"a": "` + strings.Repeat("x", 2<<20) + `"}`, nil, "limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParamVars(test.params)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error = %v, want %q in it", err, test.err)
				}
				return
			}
			want := map[string]string{}
			for k, v := range test.want {
				want["DROVER_PARAM_"+k] = v
			}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("error %v, variables (-want +got):\n%s", err, diff)
			}
		})
	}
}

func FuzzParamVars(f *testing.F) {
	f.Add(`{"lr": 0.1, "s": "x", "l": [1], "n": null}`)
	f.Add(`{"a": {"b": "\u0000"}}`)
	f.Fuzz(func(t *testing.T, params string) {
		vars, err := ParamVars(params)
		if err != nil {
			return
		}
		for k, v := range vars {
			if strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
				t.Errorf("variable %q = %q", k, v)
			}
		}
	})
}

func TestParseMetricsLine(t *testing.T) {
	for _, test := range []struct {
		line string
		want MetricsLine
		ok   bool
	}{
		{`{"step": 120, "epoch": 1.5, "time": 7.5, "metrics": {"loss": 0.31}}`, MetricsLine{120, 1.5, 7.5, map[string]float64{"loss": 0.31}}, true},
		{`{"step": 1, "metrics": {}, "other": "x"}` + "\n", MetricsLine{Step: 1, Metrics: map[string]float64{}}, true},
		{`{"step": 1}`, MetricsLine{}, false},
		{`{"step": 1, "metrics": null}`, MetricsLine{}, false},
		{`{"step": 1, "metrics": {"loss": NaN}}`, MetricsLine{}, false},
		{`{"step": 1.5, "metrics": {}}`, MetricsLine{}, false},
		{`{"step": 1, "metrics": {"loss": "low"}}`, MetricsLine{}, false},
		{``, MetricsLine{}, false},
		{`[]`, MetricsLine{}, false},
		{fmt.Sprintf(`{"step": 1, "metrics": {"%s": 1}}`, strings.Repeat("x", MaxMetricsLine)), MetricsLine{}, false},
	} {
		name := test.line
		if len(name) > 40 {
			name = name[:40]
		}
		t.Run(name, func(t *testing.T) {
			got, err := ParseMetricsLine([]byte(test.line))
			if (err == nil) != test.ok {
				t.Fatalf("error = %v", err)
			}
			if diff := cmp.Diff(test.want, got); test.ok && diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseMetricsLine(f *testing.F) {
	f.Add([]byte(`{"step": 120, "epoch": 1.5, "metrics": {"loss": 0.31}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if l, err := ParseMetricsLine(line); err == nil && l.Metrics == nil {
			t.Error("a line without metrics")
		}
	})
}
