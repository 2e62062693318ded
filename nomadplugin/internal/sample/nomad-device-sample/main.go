// Command nomad-device-sample is a device plugin with pretend devices.
package main

import (
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/internal/sample"
)

func main() { device.Serve(sample.NewDevice()) }
