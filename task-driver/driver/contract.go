package driver

import (
	"cmp"
	"maps"
	"path/filepath"
	"strconv"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/stage"
	"github.com/drover-ml/drover/task-driver/task"
)

// taskMark is an environment variable by which the processes of a task are
// known, whatever else they do.
func taskMark(taskID string) string { return "DROVER_TASK_ID=" + taskID }

// environment is the whole environment of a task's command. What the job sets
// wins over what the agent had; the contract and the reserved devices win over
// both.
func environment(c *driver.TaskConfig, m *mltask.Config, s stage.Staged, user *account, agent map[string]string) (map[string]string, error) {
	env := task.WithoutAgent(c.Env, agent)
	if env["PATH"] == "" { // an agent may be told to pass on nothing
		env["PATH"] = cmp.Or(agent["PATH"], "/usr/local/bin:/usr/bin:/bin")
	}
	if user != nil {
		user.setHome(env, agent)
	}
	params, err := mltask.ParamVars(m.Params)
	if err != nil {
		return nil, err
	}
	maps.Copy(env, params)
	distribute(env, c, m)
	env["DROVER_TASK_ID"] = c.ID
	env["DROVER_INPUT_DIR"] = filepath.Join(s.Folder, mltask.InputsDir)
	env["DROVER_OUTPUT_DIR"] = filepath.Join(s.Folder, mltask.OutputsDir)
	env["DROVER_CHECKPOINT_DIR"] = filepath.Join(s.Folder, mltask.CheckpointsDir)
	env["DROVER_METRICS_FILE"] = filepath.Join(s.Folder, mltask.MetricsFile)
	env["DROVER_PARAMS_FILE"] = filepath.Join(s.Folder, mltask.ParamsFile)
	if w := c.Env["NOMAD_META_drover.workspace"]; w != "" { // shells drop variables whose names have dots
		env["DROVER_WORKSPACE"] = w
	}
	setOrUnset(env, "DROVER_RUN", m.Run)
	setOrUnset(env, "DROVER_STEP", m.Step)
	env["DROVER_ATTEMPT"] = strconv.Itoa(m.Attempt)
	env["DROVER_SEED"] = strconv.FormatInt(m.Seed, 10)
	setOrUnset(env, "DROVER_RESUME_FROM", s.Resume)
	task.CloseGPUs(env, c.DeviceEnv)
	return env, nil
}

// distribute tells a process its rank. In a gang nobody else may; where rank 0
// is, the supervisor adds once that is known.
func distribute(env map[string]string, c *driver.TaskConfig, m *mltask.Config) {
	if len(m.Gang) > 0 {
		g := m.Gang[0]
		delete(env, "MASTER_ADDR")
		delete(env, "MASTER_PORT")
		for _, name := range []string{"RANK", "NODE_RANK"} {
			env[name] = strconv.Itoa(g.Rank)
		}
		env["WORLD_SIZE"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"] = strconv.Itoa(g.Size), "0", "1"
		return
	}
	for k, v := range map[string]string{
		"MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0",
	} {
		if env[k] == "" {
			env[k] = v
		}
	}
	if p, ok := masterPort(c); ok && env["MASTER_PORT"] == "" {
		env["MASTER_PORT"] = strconv.Itoa(int(p.Value))
	}
}

// masterPort is the port on which the processes of a distributed training meet.
func masterPort(c *driver.TaskConfig) (driver.Port, bool) {
	for _, p := range c.Resources.Ports {
		if p.Label == mltask.MasterPort {
			return p, true
		}
	}
	return driver.Port{}, false
}

// setOrUnset makes sure that what the contract leaves unset is unset.
func setOrUnset(env map[string]string, name, value string) {
	delete(env, name)
	if value != "" {
		env[name] = value
	}
}
