package task

import (
	"slices"
	"strings"
)

// inherited are variables of the agent that a task gets although it may find
// the same value in the agent's environment.
var inherited = []string{"PATH", "HOME", "LANG", "TZ", "TMPDIR"}

// nomadRuntime are the variables, or beginnings of their names if they end in
// "_", by which Nomad tells a task about itself. Others that begin with NOMAD_,
// such as NOMAD_TOKEN, configure clients of Nomad.
var nomadRuntime = []string{
	"NOMAD_ALLOC_", "NOMAD_SHORT_ALLOC_ID", "NOMAD_TASK_", "NOMAD_SECRETS_DIR", "NOMAD_GROUP_", "NOMAD_JOB_",
	"NOMAD_DC", "NOMAD_REGION", "NOMAD_NAMESPACE", "NOMAD_CPU_", "NOMAD_MEMORY_", "NOMAD_PARENT_CGROUP", "NOMAD_META_",
	"NOMAD_IP_", "NOMAD_PORT_", "NOMAD_ADDR_", "NOMAD_HOST_", "NOMAD_UPSTREAM_",
}

// WithoutAgent returns env without what came from the agent's own environment.
//
// Nomad puts that environment, secrets included, under the environment of every
// task whose driver works on the host's file system, and doesn't say which
// variable came from where. So a variable is taken for the agent's if the
// driver, which inherited the agent's environment, has it with the same value,
// unless it is one of PATH, HOME, LANG, TZ and TMPDIR or one by which Nomad
// tells a task about itself. A job that sets another variable to exactly the
// value that the agent has it at loses it.
func WithoutAgent(env, agent map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range env {
		if have, ok := agent[k]; ok && have == v && !slices.Contains(inherited, k) && !isNomadRuntime(k) {
			continue
		}
		kept[k] = v
	}
	return kept
}

func isNomadRuntime(name string) bool {
	return slices.ContainsFunc(nomadRuntime, func(n string) bool {
		if strings.HasSuffix(n, "_") {
			return strings.HasPrefix(name, n)
		}
		return name == n
	})
}

// hint begins the names of what a device plugin only recommends, to NCCL.
const hint = "NCCL_"

// CloseGPUs makes env show exactly the GPUs that were reserved: what a device
// plugin set wins over what the job set, but for its recommendations, and
// without a reservation there are none. Left unset, these variables would mean
// all GPUs of the machine.
func CloseGPUs(env, device map[string]string) {
	for k, v := range device {
		if _, chosen := env[k]; !chosen || !strings.HasPrefix(k, hint) {
			env[k] = v
		}
	}
	nvidia, cuda := device["NVIDIA_VISIBLE_DEVICES"], device["CUDA_VISIBLE_DEVICES"]
	switch {
	case nvidia == "" && cuda == "":
		nvidia = "void"
	case nvidia == "":
		nvidia = cuda
	case cuda == "" && nvidia != "void" && nvidia != "none":
		cuda = nvidia
	}
	env["NVIDIA_VISIBLE_DEVICES"], env["CUDA_VISIBLE_DEVICES"] = nvidia, cuda
}

// Devices lists the device IDs of a reservation, sorted.
func Devices(device map[string]string) []string {
	ids := device["NVIDIA_VISIBLE_DEVICES"]
	if ids == "" {
		ids = device["CUDA_VISIBLE_DEVICES"]
	}
	if ids == "" || ids == "void" || ids == "none" {
		return nil
	}
	list := strings.Split(ids, ",")
	slices.Sort(list)
	return list
}

// Environ is env in the form that processes get it in, sorted.
func Environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}

// EnvMap is the opposite of Environ.
func EnvMap(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	return env
}
