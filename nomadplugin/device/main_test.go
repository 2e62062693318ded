package device_test

import (
	"os"
	"testing"

	"github.com/drover-ml/drover/nomadplugin/device"
)

// The test binary is also the plugin of the example.
func TestMain(m *testing.M) {
	if os.Getenv("EXAMPLE_PLUGIN") != "" {
		device.Serve(coral{})
		return
	}
	os.Exit(m.Run())
}
