// Package taskenv is what a task finds: its environment variables, the
// references that its job may use, its templates and its artifacts.
package taskenv

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Dirs are a task's folders on the host.
type Dirs struct {
	Alloc string // the allocation's own folder
}

// Shared is the folder that the allocation's tasks share.
func (d Dirs) Shared() string { return filepath.Join(d.Alloc, "alloc") }

// Logs is where the tasks' logs are.
func (d Dirs) Logs() string { return filepath.Join(d.Shared(), "logs") }

// Task is the folder of one task.
func (d Dirs) Task(name string) string { return filepath.Join(d.Alloc, name) }

// Local is NOMAD_TASK_DIR.
func (d Dirs) Local(name string) string { return filepath.Join(d.Task(name), "local") }

// Secrets is NOMAD_SECRETS_DIR.
func (d Dirs) Secrets(name string) string { return filepath.Join(d.Task(name), "secrets") }

// Make creates the folders of an allocation.
func (d Dirs) Make(tasks []*api.Task) error {
	type folder struct {
		path string
		mode os.FileMode
	}
	folders := []folder{{d.Alloc, 0o755}, {d.Shared(), 0o777}, {d.Logs(), 0o777},
		{filepath.Join(d.Shared(), "data"), 0o777}, {filepath.Join(d.Shared(), "tmp"), 0o777}}
	for _, t := range tasks {
		folders = append(folders, folder{d.Task(t.Name), 0o777}, folder{d.Local(t.Name), 0o777},
			folder{d.Secrets(t.Name), 0o700}, folder{filepath.Join(d.Task(t.Name), "private"), 0o700},
			folder{filepath.Join(d.Task(t.Name), "tmp"), 0o777})
	}
	for _, f := range folders {
		if err := os.MkdirAll(f.path, f.mode); err != nil {
			return fmt.Errorf("creating allocation folder: %w", err)
		}
		if err := os.Chmod(f.path, f.mode); err != nil { // whatever the umask
			return fmt.Errorf("creating allocation folder: %w", err)
		}
	}
	return nil
}

// Input is what an environment is made of.
type Input struct {
	Node  *api.Node
	Alloc *api.Allocation
	Task  *api.Task
	Dirs  Dirs
	// Host is the agent's environment that the task inherits.
	Host []string
	// Device and Template are the variables of device plugins and of
	// templates with env = true.
	Device   map[string]string
	Template map[string]string
}

// Env is a task's environment.
type Env struct {
	Vars map[string]string
	// Device is the part that came from device plugins.
	Device map[string]string
	attrs  map[string]string
}

// Build makes the environment that Nomad gives a task without file system
// isolation.
func Build(in Input) *Env {
	e := &Env{Vars: map[string]string{}, attrs: nodeAttributes(in.Node)}
	a, t, job := in.Alloc, in.Task, in.Alloc.Job
	tg := groupOf(a)
	set := func(name, value string) {
		if value != "" {
			e.Vars[name] = value
		}
	}
	set("NOMAD_ALLOC_DIR", in.Dirs.Shared())
	set("NOMAD_TASK_DIR", in.Dirs.Local(t.Name))
	set("NOMAD_SECRETS_DIR", in.Dirs.Secrets(t.Name))
	set("NOMAD_MEMORY_LIMIT", strconv.Itoa(*t.Resources.MemoryMB))
	if m := t.Resources.MemoryMaxMB; m != nil && *m > 0 {
		set("NOMAD_MEMORY_MAX_LIMIT", strconv.Itoa(*m))
	}
	set("NOMAD_CPU_LIMIT", strconv.Itoa(*t.Resources.CPU))
	set("NOMAD_ALLOC_ID", a.ID)
	set("NOMAD_SHORT_ALLOC_ID", a.ID[:min(8, len(a.ID))])
	set("NOMAD_ALLOC_NAME", a.Name)
	if i := strings.LastIndexByte(a.Name, '['); i >= 0 {
		set("NOMAD_ALLOC_INDEX", strings.TrimSuffix(a.Name[i+1:], "]"))
	}
	set("NOMAD_TASK_NAME", t.Name)
	set("NOMAD_GROUP_NAME", a.TaskGroup)
	set("NOMAD_JOB_ID", a.JobID)
	set("NOMAD_JOB_NAME", *job.Name)
	if job.ParentID != nil {
		set("NOMAD_JOB_PARENT_ID", *job.ParentID)
	}
	set("NOMAD_DC", in.Node.Datacenter)
	set("NOMAD_REGION", "global")
	set("NOMAD_NAMESPACE", a.Namespace)
	if a.AllocatedResources != nil {
		for _, p := range a.AllocatedResources.Shared.Ports {
			e.addPort(p)
		}
	}
	e.addMeta(job.Meta, tg.Meta, t.Meta)
	for _, kv := range in.Host {
		if k, v, ok := strings.Cut(kv, "="); ok {
			if _, taken := e.Vars[k]; !taken {
				e.Vars[k] = v
			}
		}
	}
	for k, v := range t.Env {
		e.Vars[k] = e.Replace(v)
	}
	for k, v := range in.Device {
		if e.Device == nil {
			e.Device = map[string]string{}
		}
		e.Device[k] = e.Replace(v)
	}
	maps.Copy(e.Vars, e.Device)
	maps.Copy(e.Vars, in.Template)
	clean := make(map[string]string, len(e.Vars))
	for k, v := range e.Vars {
		clean[cleanName(k)] = v
	}
	e.Vars = clean
	return e
}

func groupOf(a *api.Allocation) *api.TaskGroup {
	for _, tg := range a.Job.TaskGroups {
		if *tg.Name == a.TaskGroup {
			return tg
		}
	}
	return &api.TaskGroup{}
}

func (e *Env) addPort(p api.PortMapping) {
	host, inside := strconv.Itoa(p.Value), strconv.Itoa(p.Value)
	if p.To > 0 {
		inside = strconv.Itoa(p.To)
	}
	addr := net.JoinHostPort(p.HostIP, host)
	for name, v := range map[string]string{
		"ADDR": addr, "HOST_ADDR": addr, "IP": p.HostIP, "HOST_IP": p.HostIP, "PORT": inside, "ALLOC_PORT": inside, "HOST_PORT": host,
	} {
		e.Vars["NOMAD_"+name+"_"+p.Label] = v
	}
}

// addMeta sets NOMAD_META_<key>, as written and in capitals; what is closer
// to the task wins.
func (e *Env) addMeta(levels ...map[string]string) {
	all := map[string]string{}
	for _, m := range levels {
		maps.Copy(all, m)
	}
	for k, v := range all {
		v = e.Replace(v)
		e.Vars["NOMAD_META_"+k] = v
		e.Vars["NOMAD_META_"+strings.ToUpper(k)] = v
	}
}

// notInName keeps dots, as Nomad does, though shells cannot read such names.
var notInName = regexp.MustCompile(`[^a-zA-Z0-9_.]`)

// cleanName makes a legal variable name of one with a label or key in it.
func cleanName(name string) string {
	for _, prefix := range []string{"NOMAD_ADDR_", "NOMAD_IP_", "NOMAD_PORT_", "NOMAD_HOST_PORT_", "NOMAD_META_"} {
		if strings.HasPrefix(name, prefix) {
			return notInName.ReplaceAllString(name, "_")
		}
	}
	return name
}

func nodeAttributes(n *api.Node) map[string]string {
	attrs := map[string]string{"node.unique.id": n.ID, "node.unique.name": n.Name, "node.datacenter": n.Datacenter,
		"node.class": n.NodeClass, "node.pool": n.NodePool, "node.region": "global"}
	for k, v := range n.Attributes {
		attrs["attr."+k] = v
	}
	for k, v := range n.Meta {
		attrs["meta."+k] = v
	}
	return attrs
}

var referenceIn = regexp.MustCompile(`\$\{[^{}]+\}`)

// Replace puts in what ${NAME}, ${env["NAME"]}, ${attr.…}, ${meta.…} and
// ${node.…} stand for. What is not known stays as it is.
func (e *Env) Replace(s string) string {
	if !strings.Contains(s, "${") {
		return s
	}
	return referenceIn.ReplaceAllStringFunc(s, func(ref string) string {
		name := strings.TrimSpace(ref[2 : len(ref)-1])
		if inner, ok := strings.CutPrefix(name, `env["`); ok {
			name = strings.TrimSuffix(inner, `"]`)
		}
		if v, ok := e.Vars[name]; ok {
			return v
		}
		if v, ok := e.attrs[name]; ok {
			return v
		}
		return ref
	})
}

// Variables are all names that a task's config block may refer to.
func (e *Env) Variables() map[string]string {
	vars := maps.Clone(e.attrs)
	for k, v := range e.Vars {
		vars[k] = v
		vars["env."+k] = v
	}
	return vars
}

// List is the environment as NAME=value.
func (e *Env) List() []string {
	list := make([]string, 0, len(e.Vars))
	for k, v := range e.Vars {
		list = append(list, k+"="+v)
	}
	return list
}

// HostEnv is the agent's environment as tasks inherit it: without what is
// secret or means this process alone.
func HostEnv() []string {
	// Nomad's default for env.denylist, and what Drover's own parts use.
	deny := map[string]bool{}
	for _, name := range []string{"CONSUL_TOKEN", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "NOMAD_TOKEN", "VAULT_TOKEN",
		"NOMAD_LICENSE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS",
		"DROVER_TOKEN"} {
		deny[name] = true
	}
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !deny[name] && !strings.HasPrefix(name, "NOMAD_") && !strings.HasPrefix(name, "DROVER_DEVCLUSTER") {
			env = append(env, kv)
		}
	}
	return env
}
