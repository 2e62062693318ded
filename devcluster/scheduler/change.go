package scheduler

import (
	"encoding/json"
	"maps"

	"github.com/hashicorp/nomad/api"
)

// Destructive reports whether going from one version of a group to another
// means that its allocations must be replaced, and not just told.
func Destructive(from, to *api.Job, group string) bool {
	a, b := lookupGroup(from, group), lookupGroup(to, group)
	if a == nil || b == nil || len(a.Tasks) != len(b.Tasks) {
		return true
	}
	if differ(a.EphemeralDisk, b.EphemeralDisk) || differ(a.Networks, b.Networks) || differ(a.Volumes, b.Volumes) {
		return true
	}
	for _, at := range a.Tasks {
		bt := lookupTask(b, at.Name)
		if bt == nil || !maps.Equal(taskMeta(from, a, at), taskMeta(to, b, bt)) {
			return true
		}
		if differ(core(at), core(bt)) {
			return true
		}
	}
	return false
}

// core is what of a task cannot change while it runs.
func core(t *api.Task) any {
	return []any{t.Driver, t.User, t.Config, t.Env, t.Artifacts, t.Vault, t.Consul, t.Secrets, t.Templates,
		t.VolumeMounts, t.Resources, t.Identity, t.Identities, t.Lifecycle, t.Leader, t.DispatchPayload,
		t.LogConfig.Disabled}
}

// differ compares by JSON: empty and absent are the same in a job's fields.
func differ(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 != nil || err2 != nil || string(x) != string(y)
}

func lookupTask(tg *api.TaskGroup, name string) *api.Task {
	for _, t := range tg.Tasks {
		if t.Name == name {
			return t
		}
	}
	return nil
}

func taskMeta(j *api.Job, tg *api.TaskGroup, t *api.Task) map[string]string {
	m := map[string]string{}
	maps.Copy(m, j.Meta)
	maps.Copy(m, tg.Meta)
	maps.Copy(m, t.Meta)
	return m
}
