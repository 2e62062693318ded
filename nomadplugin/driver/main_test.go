package driver_test

import (
	"os"
	"testing"

	"github.com/drover-ml/drover/nomadplugin/driver"
)

// The test binary is also the plugin of the example.
func TestMain(m *testing.M) {
	if os.Getenv("EXAMPLE_PLUGIN") != "" {
		driver.Serve(&timers{})
		return
	}
	os.Exit(m.Run())
}
