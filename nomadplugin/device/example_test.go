package device_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// coral is a whole device plugin. Its main is device.Serve(coral{}).
type coral struct{}

func (coral) Info() base.Info {
	return base.Info{Type: base.TypeDevice, Name: "coral", Version: "1.0.0"}
}

func (coral) ConfigSchema() *schema.Spec { return nil } // takes no configuration

func (coral) SetConfig(context.Context, base.Config) error { return nil }

func (coral) Fingerprint(ctx context.Context, publish func([]device.Group) error) error {
	return publish([]device.Group{{
		Vendor: "google", Type: "tpu", Name: "Edge TPU",
		Devices:    []device.Device{{ID: "tpu-0", Healthy: true}},
		Attributes: map[string]device.Attribute{"memory": base.Int(8, "MiB")},
	}})
}

func (coral) Reserve(_ context.Context, ids []string) (*device.Reservation, error) {
	for _, id := range ids {
		if id != "tpu-0" {
			return nil, fmt.Errorf("there is no device %q", id)
		}
	}
	return &device.Reservation{
		Env:     map[string]string{"TPU_VISIBLE_DEVICES": strings.Join(ids, ",")},
		Devices: []device.Node{{TaskPath: "/dev/apex_0", HostPath: "/dev/apex_0", Permissions: "rw"}},
	}, nil
}

func (coral) Stats(ctx context.Context, _ time.Duration, _ func([]device.GroupStats) error) error {
	<-ctx.Done() // it measures nothing
	return nil
}

// A device plugin, and what an agent does with it.
func Example() {
	ctx := context.Background()
	p, err := host.Launch(ctx, host.Config{Path: os.Args[0], Env: []string{"EXAMPLE_PLUGIN=coral"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Shutdown()

	enough := errors.New("enough")
	_ = p.Device().Fingerprint(ctx, func(groups []device.Group) error {
		for _, g := range groups {
			fmt.Printf("%s/%s/%s: %d device, memory %d %s\n", g.Vendor, g.Type, g.Name,
				len(g.Devices), g.Attributes["memory"].Value, g.Attributes["memory"].Unit)
		}
		return enough
	})
	r, err := p.Device().Reserve(ctx, []string{"tpu-0"})
	fmt.Println(r.Env, r.Devices, err)
	_, err = p.Device().Reserve(ctx, []string{"tpu-1"})
	fmt.Println(err)

	// Output:
	// google/tpu/Edge TPU: 1 device, memory 8 MiB
	// map[TPU_VISIBLE_DEVICES:tpu-0] [{/dev/apex_0 /dev/apex_0 rw}] <nil>
	// reserving devices ["tpu-1"]: there is no device "tpu-1"
}
