// Package sample holds two small but complete plugins, for tests and examples:
// a device plugin with pretend devices and a driver that runs commands.
package sample

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Device is a device plugin with pretend devices, four unless configured.
type Device struct {
	mu     sync.Mutex
	config deviceConfig
}

type deviceConfig struct {
	Count int `codec:"count"`
}

// NewDevice returns a device plugin as it is before SetConfig.
func NewDevice() *Device { return &Device{config: deviceConfig{Count: 4}} }

// Info implements base.Plugin.
func (d *Device) Info() base.Info {
	return base.Info{Type: base.TypeDevice, Name: "sample-device", Version: "0.1.0"}
}

// ConfigSchema implements base.Plugin.
func (d *Device) ConfigSchema() *schema.Spec {
	return schema.Object(map[string]*schema.Spec{
		"count": schema.Default(schema.Attr("count", "number", false), "4"),
	})
}

// SetConfig implements base.Plugin.
func (d *Device) SetConfig(_ context.Context, c base.Config) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	cfg := d.config
	if err := c.Decode(&cfg); err != nil {
		return err
	}
	if cfg.Count < 0 || cfg.Count > 64 {
		return fmt.Errorf("count: want 0 to 64, got %d", cfg.Count)
	}
	d.config = cfg
	return nil
}

func (d *Device) ids() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := make([]string, d.config.Count)
	for i := range ids {
		ids[i] = fmt.Sprintf("sample-%02d", i)
	}
	return ids
}

// Fingerprint implements device.Plugin.
func (d *Device) Fingerprint(ctx context.Context, publish func([]device.Group) error) error {
	g := device.Group{
		Vendor: "drover", Type: "gpu", Name: "Sample 1000",
		Attributes: map[string]device.Attribute{
			"memory":         base.Int(16384, "MiB"),
			"power":          base.Float(72.5, "W"),
			"driver_version": base.String("1.0"),
			"simulated":      base.Bool(true),
		},
	}
	for i, id := range d.ids() {
		g.Devices = append(g.Devices, device.Device{ID: id, Healthy: true, PCIBusID: fmt.Sprintf("0000:%02x:00.0", i+1)})
	}
	if err := publish([]device.Group{g}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// Reserve implements device.Plugin.
func (d *Device) Reserve(_ context.Context, ids []string) (*device.Reservation, error) {
	known := d.ids()
	for _, id := range ids {
		if !slices.Contains(known, id) {
			return nil, fmt.Errorf("no device %q", id)
		}
	}
	sorted := slices.Sorted(slices.Values(ids)) // agents send them in any order
	return &device.Reservation{
		Env:     map[string]string{"SAMPLE_VISIBLE_DEVICES": strings.Join(sorted, ",")},
		Devices: []device.Node{{TaskPath: "/dev/null", HostPath: "/dev/null", Permissions: "rw"}},
	}, nil
}

// Stats implements device.Plugin.
func (d *Device) Stats(ctx context.Context, interval time.Duration, publish func([]device.GroupStats) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		g := device.GroupStats{Vendor: "drover", Type: "gpu", Name: "Sample 1000", Instances: map[string]device.InstanceStats{}}
		for i, id := range d.ids() {
			used, total := int64(100*i), int64(16384)
			memory := device.Stat{Int: &used, IntDenominator: &total, Unit: "MiB", Description: "memory in use"}
			g.Instances[id] = device.InstanceStats{Summary: &memory, Stats: map[string]device.Stat{"memory": memory}, Time: time.Now()}
		}
		if err := publish([]device.GroupStats{g}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
