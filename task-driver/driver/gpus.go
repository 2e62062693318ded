package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/task"
)

// checkGPUs refuses a start on GPUs that are out of service. Nomad asks the
// device plugin once for each allocation: a task that is restarted in place
// would get a GPU back that has failed meanwhile.
func checkGPUs(c *driver.TaskConfig) error {
	path := c.DeviceEnv[gpustatus.Variable]
	if path == "" {
		return nil
	}
	status, err := gpustatus.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, id := range task.Devices(c.DeviceEnv) {
		if f, ok := status.Find(id); ok {
			return gpustatus.TaskError(f)
		}
	}
	return nil
}

// hiddenGPUs are the device files of GPUs that a task must not open: all but
// those that were reserved for it. It is an error if it can't be known which
// those are.
func hiddenGPUs(c *driver.TaskConfig, majors []cgroup.Major) (cgroup.Devices, error) {
	var d cgroup.Devices
	for _, m := range majors {
		if strings.HasPrefix(m.Name, "nvidia") {
			d.Hidden = append(d.Hidden, m.Number)
		}
	}
	if len(d.Hidden) == 0 || len(task.Devices(c.DeviceEnv)) == 0 {
		return d, nil
	}
	nodes := strings.FieldsFunc(c.DeviceEnv[gpustatus.NodesVariable], func(r rune) bool { return r == ',' })
	if _, told := c.DeviceEnv[gpustatus.NodesVariable]; !told {
		for _, n := range c.Devices {
			nodes = append(nodes, n.HostPath)
		}
		if len(nodes) == 0 {
			return cgroup.Devices{}, errors.New("the device plugin does not tell which device files belong to the task's GPUs")
		}
	}
	for _, n := range nodes {
		device, err := cgroup.DeviceAt(n)
		if err != nil {
			return cgroup.Devices{}, fmt.Errorf("the task's GPU: %w", err)
		}
		d.Shown = append(d.Shown, device)
	}
	return d, nil
}

// hideGPUs keeps the task from the GPUs of others.
func hideGPUs(c *driver.TaskConfig, g cgroup.Group) error {
	majors, err := cgroup.CharacterMajors()
	if err != nil {
		return err
	}
	devices, err := hiddenGPUs(c, majors)
	if err != nil {
		return err
	}
	return g.Hide(devices)
}
