package device_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/internal/servetest"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// scripted is a plugin whose calls are the test's.
type scripted struct {
	fingerprint func(context.Context, func([]device.Group) error) error
	reserve     func([]string) (*device.Reservation, error)
	stats       func(context.Context, time.Duration, func([]device.GroupStats) error) error
}

func (scripted) Info() base.Info                              { return base.Info{} }
func (scripted) ConfigSchema() *schema.Spec                   { return nil }
func (scripted) SetConfig(context.Context, base.Config) error { return nil }

func (s scripted) Fingerprint(ctx context.Context, publish func([]device.Group) error) error {
	return s.fingerprint(ctx, publish)
}

func (s scripted) Reserve(_ context.Context, ids []string) (*device.Reservation, error) {
	return s.reserve(ids)
}

func (s scripted) Stats(ctx context.Context, d time.Duration, publish func([]device.GroupStats) error) error {
	return s.stats(ctx, d, publish)
}

func client(t *testing.T, s scripted) *device.Client {
	return device.NewClient(servetest.Connect(t, func(r grpc.ServiceRegistrar, log hclog.Logger) {
		device.Register(r, s, log)
	}))
}

func groups(devices ...device.Device) []device.Group {
	return []device.Group{{Vendor: "v", Type: "t", Name: "n", Devices: devices}}
}

// watch collects sets until it has n, then checks that no more come and the
// stream stays open.
func watch(t *testing.T, c *device.Client, n int) [][]device.Group {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got [][]device.Group
	quiet := time.AfterFunc(time.Hour, cancel)
	defer quiet.Stop()
	err := c.Fingerprint(ctx, func(g []device.Group) error {
		if got = append(got, g); len(got) == n {
			quiet.Reset(100 * time.Millisecond)
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended by itself: %v", err)
	}
	return got
}

func TestFingerprintStaysOpen(t *testing.T) {
	healthy := groups(device.Device{ID: "a", Healthy: true, PCIBusID: "0000:01:00.0"})
	stopped := func(why string) []device.Group {
		return groups(device.Device{ID: "a", HealthDescription: "device plugin stopped watching: " + why, PCIBusID: "0000:01:00.0"})
	}
	for _, tc := range []struct {
		name string
		run  func(context.Context, func([]device.Group) error) error
		want [][]device.Group
	}{
		{"returned at once", func(context.Context, func([]device.Group) error) error { return nil },
			[][]device.Group{{}}},
		{"failed at once", func(context.Context, func([]device.Group) error) error { return errors.New("no library") },
			[][]device.Group{{}}},
		{"returned after a set", func(_ context.Context, publish func([]device.Group) error) error { return publish(healthy) },
			[][]device.Group{healthy}},
		{"failed after a set", func(_ context.Context, publish func([]device.Group) error) error {
			return errors.Join(publish(healthy), errors.New("lost"))
		}, [][]device.Group{healthy, stopped("lost")}},
		{"panicked after a set", func(_ context.Context, publish func([]device.Group) error) error {
			_ = publish(healthy)
			panic("oops")
		}, [][]device.Group{healthy, stopped("panic in Fingerprint: oops (the plugin logged its stack)")}},
		{"published nonsense", func(ctx context.Context, publish func([]device.Group) error) error {
			if err := publish(groups(device.Device{})); err == nil {
				return errors.New("it was accepted")
			}
			_ = publish(healthy)
			<-ctx.Done()
			return nil
		}, [][]device.Group{healthy}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := watch(t, client(t, scripted{fingerprint: tc.run}), len(tc.want))
			for _, gs := range got {
				for i := range gs {
					gs[i].Attributes = nil
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPublishIsConcurrent(t *testing.T) {
	c := client(t, scripted{fingerprint: func(ctx context.Context, publish func([]device.Group) error) error {
		for range 20 {
			go func() { _ = publish(groups()) }()
		}
		<-ctx.Done()
		return publish(groups()) // must not crash after the end
	}})
	if got := watch(t, c, 20); len(got) != 20 {
		t.Errorf("got %d sets, want 20", len(got))
	}
}

func TestReserve(t *testing.T) {
	full := &device.Reservation{
		Env:     map[string]string{"A": "b"},
		Mounts:  []device.Mount{{TaskPath: "/t", HostPath: "/h", ReadOnly: true}},
		Devices: []device.Node{{TaskPath: "/dev/t", HostPath: "/dev/h", Permissions: "rw"}},
	}
	for _, tc := range []struct {
		name    string
		reply   *device.Reservation
		err     error
		panics  bool
		want    *device.Reservation
		wantErr string
	}{
		{name: "full", reply: full, want: full},
		{name: "empty", reply: &device.Reservation{}, want: &device.Reservation{}},
		{name: "nil", wantErr: "returned no reservation"},
		{name: "error", err: errors.New("no device a"), wantErr: "no device a"},
		{name: "panic", panics: true, wantErr: "panic in /hashicorp.nomad.plugins.device.DevicePlugin/Reserve: oops"},
		{name: "permissions", reply: &device.Reservation{Devices: []device.Node{{Permissions: "rwx"}}}, wantErr: "subset of rwm"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client(t, scripted{reserve: func(ids []string) (*device.Reservation, error) {
				if tc.panics {
					panic("oops")
				}
				return tc.reply, tc.err
			}})
			got, err := c.Reserve(t.Context(), []string{"a"})
			if (err != nil) != (tc.wantErr != "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got error %v, want %q", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStats(t *testing.T) {
	n, f, s, b := int64(1), 2.5, "x", true
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	full := []device.GroupStats{{Vendor: "v", Type: "t", Name: "n", Instances: map[string]device.InstanceStats{
		"a": {
			Summary: &device.Stat{Int: &n, IntDenominator: &n, Unit: "MiB", Description: "d"},
			Stats:   map[string]device.Stat{"f": {Float: &f, FloatDenominator: &f}, "s": {String: &s}, "b": {Bool: &b}},
			Nested:  map[string]map[string]device.Stat{"in": {"s": {String: &s}}},
			Time:    at,
		},
	}}}
	bad := func(st device.Stat) []device.GroupStats {
		return []device.GroupStats{{Instances: map[string]device.InstanceStats{"a": {Stats: map[string]device.Stat{"x": st}}}}}
	}
	intervals, refused := make(chan time.Duration, 1), make(chan error, 3)
	c := client(t, scripted{stats: func(ctx context.Context, d time.Duration, publish func([]device.GroupStats) error) error {
		intervals <- d
		for _, st := range []device.Stat{{}, {Int: &n, String: &s}, {String: &s, IntDenominator: &n}} {
			refused <- publish(bad(st))
		}
		_ = publish(full)
		return publish([]device.GroupStats{{Instances: map[string]device.InstanceStats{"a": {}}}})
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got [][]device.GroupStats
	stop := errors.New("stop")
	err := c.Stats(ctx, 0, func(g []device.GroupStats) error {
		if got = append(got, g); len(got) == 2 {
			return stop
		}
		return nil
	})
	if err != stop {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full, got[0]); diff != "" {
		t.Error(diff)
	}
	if at := got[1][0].Instances["a"].Time; time.Since(at) > time.Minute {
		t.Errorf("a reading without time got %v", at)
	}
	if d := <-intervals; d != time.Second {
		t.Errorf("interval 0 arrived as %v, want an agent's second", d)
	}
	for range 3 {
		if err := <-refused; err == nil {
			t.Error("a statistic without exactly one value was accepted")
		}
	}
}

func TestValidateGroups(t *testing.T) {
	with := func(edit func(*device.Group)) []device.Group {
		g := groups(device.Device{ID: "a"})
		edit(&g[0])
		return g
	}
	attr := func(a device.Attribute) []device.Group {
		return with(func(g *device.Group) { g.Attributes = map[string]device.Attribute{"x": a} })
	}
	for _, tc := range []struct {
		name   string
		groups []device.Group
		want   string // "" is valid
	}{
		{"nothing", nil, ""},
		{"no devices", groups(), ""},
		{"plain", groups(device.Device{ID: "a"}), ""},
		{"no vendor", with(func(g *device.Group) { g.Vendor = "" }), "must not be empty"},
		{"no type", with(func(g *device.Group) { g.Type = "" }), "must not be empty"},
		{"no name", with(func(g *device.Group) { g.Name = "" }), "must not be empty"},
		{"no ID", groups(device.Device{}), "has no ID"},
		{"same ID", groups(device.Device{ID: "a"}, device.Device{ID: "a"}), `"a" is there twice`},
		{"same group", append(groups(), groups()...), "v/t/n is there twice"},
		{"unit", attr(base.Int(1, "MiB")), ""},
		{"unit a second", attr(base.Float(1, "GB/s")), ""},
		{"power", attr(base.Int(1, "mW")), ""},
		{"percent", attr(base.Int(1, "%")), `unit "%"`},
		{"frequency a second", attr(base.Int(1, "MHz/s")), `unit "MHz/s"`},
		{"unit of a string", attr(base.Attribute{Value: "1", Unit: "MiB"}), "only numbers"},
		{"no value", attr(base.Attribute{}), "attribute \"x\": value is a <nil>"},
		{"plain int", attr(base.Attribute{Value: 1}), "value is a int"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := device.ValidateGroups(tc.groups)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
