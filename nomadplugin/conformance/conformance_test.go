package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/sample"
)

// The test binary is also the plugin: a good one, or one that is broken in the
// way that the check named in sabotageEnv is there to find.
const (
	roleEnv     = "DROVER_TEST_PLUGIN"
	sabotageEnv = "DROVER_TEST_SABOTAGE"
)

func TestMain(m *testing.M) {
	role, fault := os.Getenv(roleEnv), os.Getenv(sabotageEnv)
	switch {
	case role == "device" && fault == "":
		device.Serve(sample.NewDevice())
	case role == "driver" && fault == "":
		driver.Serve(sample.NewDriver())
	case role != "":
		serveBroken(role, fault)
	default:
		os.Exit(m.Run())
	}
}

func self(role, fault string) Config {
	return Config{
		Path: os.Args[0],
		Env:  []string{roleEnv + "=" + role, sabotageEnv + "=" + fault},
		Hold: 200 * time.Millisecond,
	}
}

func TestGoodDevicePlugin(t *testing.T) {
	t.Parallel()
	Run(t, self("device", ""))
}

func TestGoodDriverPlugin(t *testing.T) {
	t.Parallel()
	Run(t, self("driver", ""))
}

// Every check finds the fault that it is there for.
func TestEveryCheckCanFail(t *testing.T) {
	t.Parallel()
	type outcome struct {
		result Result
		err    error
	}
	all := checks()
	outcomes := make([]outcome, len(all))
	var g errgroup.Group
	g.SetLimit(8) // they wait, most of the time
	for i, c := range all {
		g.Go(func() error {
			r, err := runSabotaged(t.Context(), c)
			outcomes[i] = outcome{r, err}
			return nil
		})
	}
	_ = g.Wait()
	names := map[string]bool{}
	for i, c := range all {
		if names[c.name] {
			t.Fatalf("two checks are named %s", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			want := StatusFail
			if c.advice {
				want = StatusWarn
			}
			r, err := outcomes[i].result, outcomes[i].err
			if err != nil || r.Status != want || r.Why == "" {
				t.Errorf("got %+v, %v, want %s", r, err, want)
			}
			t.Log(r.Detail)
		})
	}
}

// runSabotaged runs a check on a plugin that is broken in its way.
func runSabotaged(ctx context.Context, c check) (Result, error) {
	role := "device"
	if c.typ == base.TypeDriver {
		role = "driver"
	}
	cfg := self(role, c.name)
	cfg.StartLimit, cfg.Patience = 500*time.Millisecond, 2*time.Second
	s, err := newSession(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	defer s.close()
	return s.runCheck(ctx, c), nil
}

func TestUncheckable(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(notExecutable, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path string }{
		{"no such file", "/no/such/plugin"},
		{"not executable", notExecutable},
		{"no plugin", "/bin/true"},
		{"prints something else", "/bin/ls"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Check(t.Context(), Config{Path: tc.path}, func(Result) { t.Error("reported a result") })
			if err == nil || !strings.Contains(err.Error(), "cannot be checked") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTaskTemplate(t *testing.T) {
	argv := []any{"a", "b", "c"}
	got := fill(map[string]any{"x": "$COMMAND", "y": []any{map[string]any{"z": "$ARGS"}}, "all": "$ARGV", "n": 1, "s": "$OTHER"}, argv)
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"all":["a","b","c"],"n":1,"s":"$OTHER","x":"a","y":[{"z":["b","c"]}]}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
}

func TestCommand(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "conformance")
	if out, err := exec.Command("go", "build", "-o", tool, "./cmd/nomad-plugin-conformance").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	run := func(fault string, args ...string) (string, int) {
		t.Helper()
		cfg := self("device", fault)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, tool, append(args, cfg.Path)...)
		cmd.Env = append(os.Environ(), cfg.Env...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = cmd.Run()
		return out.String(), cmd.ProcessState.ExitCode()
	}
	t.Run("good", func(t *testing.T) {
		out, code := run("", "-run", "device/reserve-nothing,base/info-is")
		want := "PASS  base/info-is-stable\nPASS  device/reserve-nothing\n\n2 passed, 0 failed, 0 warnings, 0 skipped\n"
		if out != want || code != 0 {
			t.Errorf("got status %d and\n%s", code, out)
		}
	})
	t.Run("broken", func(t *testing.T) {
		out, code := run("device/reserve", "-run", "device/reserve-nothing,device/reserve-twice", "-json")
		var r Result
		if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &r); err != nil || code != 1 {
			t.Fatalf("got status %d, %v and\n%s", code, err, out)
		}
		if r.Name != "device/reserve-twice" || r.Status != StatusFail || !strings.Contains(r.Detail, "without a reservation") {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("configured", func(t *testing.T) {
		out, code := run("", "-run", "config-schema", "-config", `{"count": "many"}`)
		if code != 1 || !strings.Contains(out, `"count"`) {
			t.Errorf("got status %d and\n%s", code, out)
		}
	})
	t.Run("misused", func(t *testing.T) {
		if out, code := run("", "-no-such-flag"); code != 2 {
			t.Errorf("got status %d and\n%s", code, out)
		}
	})
}
