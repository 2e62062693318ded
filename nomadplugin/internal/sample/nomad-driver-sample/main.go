// Command nomad-driver-sample is a task driver that runs commands.
package main

import (
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/internal/sample"
)

func main() { driver.Serve(sample.NewDriver()) }
