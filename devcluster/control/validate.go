package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
)

// maxTaskCount bounds what one job may ask for.
const maxTaskCount = 50_000

// validate checks a job whose defaults are filled in. It also refuses what a
// devcluster cannot do, rather than leave it out.
func validate(j *api.Job) error {
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if strings.Contains(*j.ID, " ") {
		bad("Job ID contains a space")
	}
	if strings.Contains(*j.ID, "\x00") {
		bad("Job ID contains a null character")
	}
	if strings.Contains(*j.Name, "\x00") {
		bad("Job name contains a null character")
	}
	if *j.Priority < 1 || *j.Priority > 100 {
		bad("Job priority must be between [1, 100]")
	}
	switch *j.Type {
	case scheduler.Service, scheduler.Batch, scheduler.System, scheduler.SysBatch:
	default:
		bad("Invalid job type: %q", *j.Type)
	}
	if len(j.TaskGroups) == 0 {
		bad("Missing job task groups")
	}
	if j.IsPeriodic() {
		if *j.Type != scheduler.Batch && *j.Type != scheduler.SysBatch {
			bad("periodic can only be used with %q or %q scheduler", scheduler.Batch, scheduler.SysBatch)
		}
		if _, err := nextLaunch(j, time.Now()); err != nil {
			bad("%v", err)
		}
	}
	if j.ParameterizedJob != nil && *j.Type != scheduler.Batch && *j.Type != scheduler.SysBatch {
		bad("parameterized job can only be used with %q or %q scheduler", scheduler.Batch, scheduler.SysBatch)
	}
	if j.Multiregion != nil {
		return unsupported("multiregion jobs are not supported by this development cluster")
	}
	seen := map[string]bool{}
	for i, tg := range j.TaskGroups {
		switch name := deref(tg.Name); {
		case name == "":
			bad("Job task group %d missing name", i+1)
		case seen[name]:
			bad("Job task group %d redefines %q from group %d", i+1, name, i)
		default:
			seen[name] = true
		}
		if err := validateGroup(j, tg, bad); err != nil {
			return err
		}
	}
	return problemsError(problems)
}

func problemsError(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	noun := "errors"
	if len(problems) == 1 {
		noun = "error"
	}
	return refuse("%d %s occurred:\n\t* %s\n\n", len(problems), noun, strings.Join(problems, "\n\t* "))
}

func validateGroup(j *api.Job, tg *api.TaskGroup, bad func(string, ...any)) error {
	name := deref(tg.Name)
	if *tg.Count < 0 {
		bad("task group %s: count can't be negative", name)
	}
	if *tg.Count > maxTaskCount {
		bad("task group %s: count is more than %d", name, maxTaskCount)
	}
	if len(tg.Tasks) == 0 {
		bad("task group %s: missing tasks for task group", name)
	}
	if tg.Disconnect != nil {
		return unsupported("task group %s: the disconnect block is not supported by this development cluster", name)
	}
	for _, nw := range tg.Networks {
		if nw.Mode != "" && nw.Mode != "host" && nw.Mode != "none" {
			return unsupported("task group %s: network mode %q is not supported by this development cluster, only host", name, nw.Mode)
		}
	}
	for _, v := range tg.Volumes {
		if v.Type != "host" {
			return unsupported("task group %s: volumes of type %q are not supported by this development cluster", name, v.Type)
		}
	}
	services := tg.Services
	leaders, tasks := 0, map[string]bool{}
	for _, t := range tg.Tasks {
		if t.Name == "" {
			bad("task group %s: task is missing a name", name)
		} else if tasks[t.Name] {
			bad("task group %s: task %s defined twice", name, t.Name)
		}
		if strings.ContainsAny(t.Name, `/\`) {
			bad("task %s: name cannot include slashes", t.Name)
		}
		tasks[t.Name] = true
		if t.Driver == "" {
			bad("task group %s: task %s: missing task driver", name, t.Name)
		}
		if t.Leader {
			leaders++
		}
		if err := validateTask(t, bad); err != nil {
			return err
		}
		services = append(services, t.Services...)
	}
	if leaders > 1 {
		bad("task group %s: only one task may be marked as leader", name)
	}
	for _, svc := range services {
		if svc.Provider != "nomad" {
			return unsupported("service %q: provider %q is not supported by this development cluster: use provider = \"nomad\"", svc.Name, svc.Provider)
		}
		if svc.Connect != nil {
			return unsupported("service %q: connect is not supported by this development cluster", svc.Name)
		}
		for _, c := range svc.Checks {
			if c.Type != "http" && c.Type != "tcp" {
				bad("service %q: check type %q is not valid with provider nomad: only http and tcp are", svc.Name, c.Type)
			}
		}
	}
	validatePolicies(j, tg, bad)
	return nil
}

func validateTask(t *api.Task, bad func(string, ...any)) error {
	if *t.Resources.CPU < 1 {
		bad("task %s: minimum CPU value is 1; got %d", t.Name, *t.Resources.CPU)
	}
	if *t.Resources.MemoryMB < 10 {
		bad("task %s: minimum MemoryMB value is 10; got %d", t.Name, *t.Resources.MemoryMB)
	}
	if *t.KillTimeout < 0 {
		bad("task %s: KillTimeout must be a positive value", t.Name)
	}
	for _, d := range t.Resources.Devices {
		if d.Count != nil && *d.Count == 0 {
			bad("task %s: device %q: count must be at least one", t.Name, d.Name)
		}
	}
	what := ""
	switch {
	case t.Vault != nil:
		what = "the vault block"
	case t.Consul != nil:
		what = "the consul block"
	case t.Schedule != nil:
		what = "the schedule block"
	case len(t.Secrets) > 0:
		what = "the secret block"
	case t.CSIPluginConfig != nil:
		what = "the csi_plugin block"
	case len(t.Resources.Networks) > 0:
		what = "a network block in a task (use the group's)"
	case t.Resources.Cores != nil && *t.Resources.Cores > 0:
		what = "reserved cores"
	}
	if what != "" {
		return unsupported("task %s: %s is not supported by this development cluster", t.Name, what)
	}
	return nil
}

func validatePolicies(j *api.Job, tg *api.TaskGroup, bad func(string, ...any)) {
	if p := tg.RestartPolicy; p != nil {
		if *p.Mode != "fail" && *p.Mode != "delay" {
			bad("task group %s: unsupported restart mode: %q", *tg.Name, *p.Mode)
		}
		if *p.Interval < 5*time.Second && *p.Attempts > 0 {
			bad("task group %s: Interval can not be less than 5s (got %v)", *tg.Name, *p.Interval)
		}
	}
	if p := tg.ReschedulePolicy; p != nil && (*p.Unlimited || *p.Attempts > 0) {
		switch *p.DelayFunction {
		case "constant", "exponential", "fibonacci":
		default:
			bad("task group %s: invalid delay function %q, must be one of [constant exponential fibonacci]", *tg.Name, *p.DelayFunction)
		}
		if *p.Unlimited && *p.Attempts > 0 {
			bad("task group %s: Reschedule Policy with Attempts = %d, Interval = %v, and Unlimited = true is ambiguous", *tg.Name, *p.Attempts, *p.Interval)
		}
		if *p.Delay < 5*time.Second {
			bad("task group %s: delay cannot be less than 5s (got %v)", *tg.Name, *p.Delay)
		}
	}
	if u := tg.Update; u != nil && *j.Type == scheduler.Service {
		if *u.MaxParallel < 0 {
			bad("task group %s: update max parallel can not be less than zero: %d < 0", *tg.Name, *u.MaxParallel)
		}
		if *u.Canary < 0 {
			bad("task group %s: canary count can not be less than zero: %d < 0", *tg.Name, *u.Canary)
		}
		if *u.AutoPromote && *u.Canary == 0 {
			bad("task group %s: auto promote requires a Canary count greater than zero", *tg.Name)
		}
	}
}

// Validate reports what is wrong with a job that is to be registered.
func Validate(j *api.Job) error {
	_, err := prepare(j)
	return err
}
