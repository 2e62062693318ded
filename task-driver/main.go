// Command nomad-driver-ml is a Nomad task driver, named ml, for training,
// inference and batch tasks: it stages inputs, keeps checkpoints and stores
// outputs, and runs each task under a supervisor of its own, so that the task
// outlives the driver and the agent.
package main

import (
	"os"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/internal/version"
	"github.com/drover-ml/drover/nomadplugin/base"
	nomad "github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/driver"
	"github.com/drover-ml/drover/task-driver/supervisor"
)

func main() {
	// A supervisor has nothing to do with the agent and its protocol.
	if len(os.Args) == 3 && os.Args[1] == supervisor.Arg {
		os.Exit(supervisor.Main(os.Args[2]))
	}
	file := &driver.LogFile{}
	log := base.NewLogger(mltask.DriverName, file)
	nomad.Serve(driver.New(version.Version, log, file), base.WithLogger(log))
}
