package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// bench is a plugin on a machine that a test can change.
type bench struct {
	*plugin
	src *changingSource
	log *bytes.Buffer
}

func newBench(t *testing.T, config map[string]any) bench {
	t.Helper()
	config = maps.Clone(config)
	if config == nil {
		config = map[string]any{}
	}
	config["state_dir"] = t.TempDir()
	log := &bytes.Buffer{}
	b := bench{
		plugin: newPlugin(hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Debug})),
		src:    &changingSource{changes: make(chan struct{}, 1), inv: boards("GPU-0", "GPU-1")},
		log:    log,
	}
	b.open = func(settings) gpu.Source { return b.src }
	t.Cleanup(func() { _ = b.Close() })
	if err := b.SetConfig(t.Context(), encoded(t, config)); err != nil {
		t.Fatal(err)
	}
	return b
}

// indifferent makes the plugin's node, with a judge that has no opinion: what
// is published is what the inventory tells.
func (b bench) indifferent(t *testing.T) bench {
	t.Helper()
	n, err := b.current()
	if err != nil {
		t.Fatal(err)
	}
	n.health = noJudge{}
	return b
}

type noJudge struct{}

func (noJudge) ObserveInventory(gpu.Inventory) {}
func (noJudge) ObserveFailure(error)           {}
func (noJudge) Faults() map[gpu.ID]gpu.Fault   { return nil }
func (noJudge) Report() health.Report          { return health.Report{} }
func (noJudge) Run(ctx context.Context) error  { <-ctx.Done(); return nil }
func (noJudge) Keep(ctx context.Context) error { <-ctx.Done(); return nil }

func encoded(t *testing.T, config map[string]any) base.Config {
	t.Helper()
	packed, err := schema.Encode(configSchema(), config)
	if err != nil {
		t.Fatal(err)
	}
	return base.Config{MsgPack: packed}
}

func boards(ids ...gpu.ID) gpu.Inventory {
	inv := gpu.Inventory{DriverVersion: "1"}
	for i, id := range ids {
		inv.Boards = append(inv.Boards, gpu.Board{ID: id, Index: i, Product: "A100"})
	}
	return inv
}

// changingSource answers with what was set last.
type changingSource struct {
	changes chan struct{}

	mu   sync.Mutex
	inv  gpu.Inventory
	err  error
	asks int
}

func (s *changingSource) set(inv gpu.Inventory, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inv, s.err = inv, err
}

func (s *changingSource) Inventory(context.Context) (gpu.Inventory, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks++
	return s.inv, s.err
}

func (s *changingSource) Sample(_ context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	samples := map[gpu.ID]gpu.Sample{}
	for _, id := range ids {
		samples[id] = gpu.Sample{Time: time.Now()}
	}
	return samples, nil
}

func (s *changingSource) Changes() <-chan struct{} { return s.changes }
func (s *changingSource) Close() error             { return nil }

// described prints a fingerprint: "GPU-0 ok, GPU-1 lost", with what becomes of
// the work.
func described(groups []device.Group) string {
	var parts []string
	for _, g := range groups {
		for _, d := range g.Devices {
			state := "ok"
			if !d.Healthy {
				state = d.HealthDescription
			}
			parts = append(parts, d.ID+" "+state)
		}
	}
	return strings.Join(parts, ", ")
}

// watch runs Fingerprint until the test ends and delivers what it publishes.
func (b bench) watch(ctx context.Context) <-chan []device.Group {
	published := make(chan []device.Group, 100)
	go func() {
		defer close(published)
		if err := b.Fingerprint(ctx, func(g []device.Group) error { published <- g; return nil }); err != nil {
			panic(err)
		}
	}()
	return published
}

func TestFingerprintPublishesChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil).indifferent(t)
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		published := b.watch(ctx)
		expect := func(when, want string) {
			t.Helper()
			synctest.Wait()
			select {
			case g := <-published:
				if got := described(g); got != want {
					t.Errorf("%s: published %q, want %q", when, got, want)
				}
			default:
				if want != "-" {
					t.Errorf("%s: nothing published, want %q", when, want)
				}
			}
		}
		expect("at once", "GPU-0 ok, GPU-1 ok")
		if !time.Now().Equal(start) {
			t.Errorf("the first fingerprint took %s", time.Since(start))
		}
		time.Sleep(10 * time.Minute)
		expect("nothing changed", "-")

		lost := boards("GPU-0")
		lost.Lost = []gpu.Lost{{Index: 1, Reason: "lost"}}
		b.src.set(lost, nil)
		time.Sleep(time.Minute)
		expect("health changed", "GPU-0 ok, GPU-1 lost; running work is ended")

		b.src.set(boards("GPU-0", "GPU-1"), nil)
		b.src.changes <- struct{}{}
		expect("hint of a recovery", "GPU-0 ok, GPU-1 ok")

		newer := boards("GPU-0", "GPU-1")
		newer.DriverVersion = "2"
		b.src.set(newer, nil)
		time.Sleep(time.Minute)
		expect("an attribute changed", "GPU-0 ok, GPU-1 ok")

		b.src.set(gpu.Inventory{}, errors.New("version mismatch"))
		time.Sleep(time.Minute)
		expect("driver failed", "GPU-0 version mismatch; running work may finish, GPU-1 version mismatch; running work may finish")
		b.src.set(newer, nil)
		time.Sleep(retryPause)
		expect("driver recovered, retried soon", "GPU-0 ok, GPU-1 ok")

		cancel()
		_ = b.Close()
		synctest.Wait()
		if _, open := <-published; open {
			t.Error("published after its end")
		}
		for line, want := range map[string]int{
			"found GPU": 2, "GPU is unhealthy": 1 + 1, "GPU is healthy again": 1 + 2, "GPUs cannot be read": 1, "can be read again": 1,
		} {
			if n := strings.Count(b.log.String(), line); n != want {
				t.Errorf("%q is logged %d times, want %d:\n%s", line, n, want, b.log)
			}
		}
	})
}

func TestFingerprintWithoutDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.src.set(gpu.Inventory{}, fmt.Errorf("%w: no library", gpu.ErrNoDriver))
		ctx, cancel := context.WithCancel(t.Context())
		published := b.watch(ctx)
		if g := <-published; len(g) != 0 {
			t.Errorf("published %v", g)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		b.src.set(boards("GPU-0"), nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if g := <-published; described(g) != "GPU-0 ok" {
			t.Errorf("after a driver was installed: %s", described(g))
		}
		cancel()
		synctest.Wait()
		if n := strings.Count(b.log.String(), "offering no GPUs"); n != 1 {
			t.Errorf("the log says %d times that there are no GPUs:\n%s", n, b.log)
		}
		if strings.Contains(b.log.String(), "[ERROR]") {
			t.Errorf("a machine without GPUs logs errors:\n%s", b.log)
		}
	})
}

func TestDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, map[string]any{"enabled": false})
		ctx, cancel := context.WithCancel(t.Context())
		published := b.watch(ctx)
		if g := <-published; len(g) != 0 {
			t.Errorf("published %v", g)
		}
		go func() {
			if err := b.Stats(ctx, time.Second, func([]device.GroupStats) error { panic("statistics") }); err != nil {
				panic(err)
			}
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case g, open := <-published:
			t.Errorf("ended or published %v (%v); an agent never restarts an ended stream", g, open)
		default:
		}
		if b.src.asks != 0 {
			t.Errorf("the driver was asked %d times", b.src.asks)
		}
		if _, err := b.Reserve(ctx, []string{"GPU-0"}); err == nil || !strings.Contains(err.Error(), "disabled") {
			t.Errorf("reserving: %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestReserve(t *testing.T) {
	b := newBench(t, map[string]any{"ignored_gpu_ids": []any{"GPU-1"}})
	r, err := b.Reserve(t.Context(), []string{"GPU-0"}) // the first call there is
	if err != nil || r.Env["CUDA_VISIBLE_DEVICES"] != "GPU-0" {
		t.Errorf("as the first call: %+v, %v", r, err)
	}
	if r, err := b.Reserve(t.Context(), nil); err != nil || r == nil {
		t.Errorf("no IDs: %v, %v", r, err)
	}
	if _, err := b.Reserve(t.Context(), []string{"GPU-1"}); !errors.Is(err, gpu.ErrHiddenGPU) {
		t.Errorf("ignored: %v", err)
	}
	if _, err := b.Reserve(t.Context(), []string{"GPU-9"}); !errors.Is(err, gpu.ErrUnknownGPU) {
		t.Errorf("unknown: %v", err)
	}

	b.src.set(gpu.Inventory{}, errors.New("version mismatch"))
	_, err = b.Reserve(t.Context(), []string{"GPU-9"})
	if !errors.Is(err, gpu.ErrUnknownGPU) || !strings.Contains(err.Error(), "version mismatch") {
		t.Errorf("unknown while the driver fails: %v", err)
	}
	if _, err := b.Reserve(t.Context(), []string{"GPU-0"}); !errors.Is(err, gpu.ErrUnhealthyGPU) {
		t.Errorf("unhealthy: %v", err)
	}
	b.src.set(boards("GPU-0"), nil)
	if _, err := b.Reserve(t.Context(), []string{"GPU-0"}); err != nil {
		t.Errorf("recovered since the last fingerprint: %v", err)
	}
}

// TestReserveVanished: a GPU that is gone since the last look is not promised
// to anybody.
func TestReserveVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		<-b.watch(ctx)
		time.Sleep(30 * time.Second)
		b.src.set(boards("GPU-0"), nil)
		if _, err := b.Reserve(ctx, []string{"GPU-1"}); !errors.Is(err, gpu.ErrUnhealthyGPU) || !strings.Contains(err.Error(), "no longer lists") {
			t.Errorf("reserving a GPU that is gone: %v", err)
		}
		cancel()
		_ = b.Close()
		synctest.Wait()
	})
}

func TestReserveShared(t *testing.T) {
	block := map[string]any{"device": "index:0", "mode": "mps", "replicas": 4}
	b := newBench(t, map[string]any{"simulate": "h100", "sharing": []any{block, map[string]any{"device": "index:7", "mode": "time-slicing", "replicas": 2}}})
	inv := boards("GPU-0", "GPU-1")
	memory := int64(40960)
	inv.Boards[0].Specs.MemoryMiB = &memory
	b.src.set(inv, nil)
	r, err := b.Reserve(t.Context(), []string{"GPU-0::3"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Env["CUDA_VISIBLE_DEVICES"] != "GPU-0" || r.Env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] != "0=10240M" || r.Env["DROVER_GPU_SHARING"] != "mps" {
		t.Errorf("environment %v", r.Env)
	}
	if _, err := b.Reserve(t.Context(), []string{"GPU-0::3", "GPU-0::1"}); err == nil || !strings.Contains(err.Error(), "one MPS replica") {
		t.Errorf("two MPS replicas: %v", err)
	}
	if _, err := b.Reserve(t.Context(), []string{"GPU-0"}); !errors.Is(err, gpu.ErrHiddenGPU) {
		t.Errorf("the board of the replicas: %v", err)
	}
	if !strings.Contains(b.log.String(), "a sharing block matches no GPU of this node, so it does nothing: device=index:7") {
		t.Errorf("a block that matches nothing is not told:\n%s", b.log)
	}
}

func TestStatsBeforeFingerprint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, map[string]any{"ignored_gpu_ids": []any{"GPU-1"}})
		ctx, cancel := context.WithCancel(t.Context())
		var times []time.Time
		go func() {
			_ = b.Stats(ctx, 0, func(s []device.GroupStats) error {
				if len(s) != 1 || len(s[0].Instances) != 1 || s[0].Instances["GPU-0"].Time.IsZero() {
					panic(fmt.Sprintf("statistics %+v", s))
				}
				times = append(times, time.Now())
				return nil
			})
		}()
		time.Sleep(3500 * time.Millisecond)
		cancel()
		synctest.Wait()
		if len(times) != 4 {
			t.Errorf("published at %v, want at once and each second", times)
		}
	})
}

func TestIgnoredThatMatchesNothingIsReportedOnce(t *testing.T) {
	b := newBench(t, map[string]any{"ignored_gpu_ids": []any{"GPU", "GPU-x", "GPU-1"}})
	for range 3 {
		if _, err := b.Reserve(t.Context(), []string{"GPU-9"}); err == nil {
			t.Fatal("reserved an unknown GPU")
		}
	}
	for _, want := range []string{"entry=GPU meant=GPU-0", "option=ignored_gpu_ids[1] entry=GPU-x"} {
		if n := strings.Count(b.log.String(), want); n != 1 {
			t.Errorf("%q is logged %d times:\n%s", want, n, b.log)
		}
	}
	if strings.Contains(b.log.String(), "entry=GPU-1") {
		t.Errorf("an entry that matches is reported:\n%s", b.log)
	}
}

func TestConfig(t *testing.T) {
	tests := []struct {
		name   string
		config map[string]any
		errs   []string
	}{
		{name: "none"},
		{name: "of nomad-device-nvidia", config: map[string]any{"enabled": true, "ignored_gpu_ids": []any{"GPU-0"}, "fingerprint_period": "5s"}},
		{name: "simulated", config: map[string]any{"simulate": "dgx-h100", "simulate_node": "n", "simulate_faults": "/none.hcl"}},
		{
			name:   "every problem",
			config: map[string]any{"fingerprint_period": "1ms", "ignored_gpu_ids": []any{"a", ""}, "simulate": "dgx-9"},
			errs:   []string{"fingerprint_period is 1ms; it must be at least 100ms", "ignored_gpu_ids[1]: empty", `simulate: unknown GPU preset "dgx-9"`},
		},
		{name: "everything", config: map[string]any{
			"mig_strategy": "single", "include": []any{"model:NVIDIA*"}, "exclude": []any{"index:0"}, "cdi_spec_dir": "/run/cdi", "state_dir": "/var/lib/x",
			"sharing": []any{map[string]any{"device": "model:*L4", "mode": "time-slicing", "replicas": 4}},
		}},
		{
			name: "wrong everywhere",
			config: map[string]any{
				"mig_strategy": "some", "exclude": []any{"gpu7"}, "cdi_spec_dir": "cdi", "state_dir": "x",
				"sharing": []any{map[string]any{"device": "index:0", "mode": "mps", "replicas": 1}},
			},
			errs: []string{`mig_strategy is "some"; use one of ["mixed" "single" "none"]`, `exclude[0]: "gpu7"`, `cdi_spec_dir is "cdi"`, `state_dir is "x"`, "sharing[0].replicas"},
		},
		{name: "period", config: map[string]any{"fingerprint_period": "soon"}, errs: []string{"fingerprint_period"}},
		{name: "simulation of nothing", config: map[string]any{"simulate_node": "n"}, errs: []string{"need simulate"}},
		{name: "missing file", config: map[string]any{"simulate": "/does/not/exist.hcl"}, errs: []string{"/does/not/exist.hcl"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlugin(hclog.NewNullLogger())
			for range 2 { // an agent sets it twice
				err := p.SetConfig(t.Context(), encoded(t, tt.config))
				if (err != nil) != (len(tt.errs) > 0) {
					t.Fatalf("error is %v", err)
				}
				for _, want := range tt.errs {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("no %q in: %v", want, err)
					}
				}
			}
			if p.node != nil {
				t.Error("SetConfig opened the GPUs")
			}
		})
	}
	p := newPlugin(hclog.NewNullLogger())
	if err := p.SetConfig(t.Context(), base.Config{}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(time.Minute, p.settings.period); diff != "" {
		t.Error(diff)
	}
}
