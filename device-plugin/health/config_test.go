package health_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// TestBlock sends the block through Nomad's schema, as an agent does.
func TestBlock(t *testing.T) {
	type plugin struct {
		Health health.Config `codec:"health"`
	}
	decode := func(config map[string]any) health.Config {
		t.Helper()
		packed, err := schema.Encode(schema.Object(map[string]*schema.Spec{"health": health.Spec()}), config)
		if err != nil {
			t.Fatal(err)
		}
		c := plugin{Health: health.DefaultConfig()}
		if err := schema.Decode(packed, &c); err != nil {
			t.Fatal(err)
		}
		if err := c.Health.Check(); err != nil {
			t.Fatal(err)
		}
		return c.Health
	}
	none := decode(map[string]any{})
	if diff := cmp.Diff(health.DefaultConfig(), none); diff != "" {
		t.Errorf("without a block (-want +got):\n%s", diff)
	}
	empty := decode(map[string]any{"health": map[string]any{}})
	empty.XID, empty.Signal, empty.ValidateCommand = nil, nil, nil // empty is as good as nil
	if diff := cmp.Diff(health.DefaultConfig(), empty); diff != "" {
		t.Errorf("an empty block (-want +got):\n%s", diff)
	}
	got := decode(map[string]any{"health": map[string]any{
		"hold_down": "0s", "max_attempts": 5, "breaker_share": 0.25, "validate_command": []any{"/usr/bin/dcgmi", "diag"},
		"xid":    map[string]any{"69": map[string]any{"severity": "unhealthy", "action": "keep"}, "unknown": map[string]any{"severity": "record"}},
		"signal": map[string]any{"nvlink-down": map[string]any{"severity": "degraded"}},
	}})
	want := health.DefaultConfig()
	want.HoldDown, want.MaxAttempts, want.BreakerShare = 0, 5, 0.25
	want.ValidateCommand = []string{"/usr/bin/dcgmi", "diag"}
	want.XID = map[string]health.Override{"69": {Severity: "unhealthy", Action: "keep"}, "unknown": {Severity: "record"}}
	want.Signal = map[string]health.Override{"nvlink-down": {Severity: "degraded"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a full block (-want +got):\n%s", diff)
	}
	if got.HoldDown != 0 || got.VitalsPeriod != 15*time.Second {
		t.Errorf("hold-down %s, period %s", got.HoldDown, got.VitalsPeriod)
	}
}
