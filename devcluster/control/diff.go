package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Kinds of difference.
const (
	diffNone    = "None"
	diffAdded   = "Added"
	diffDeleted = "Deleted"
	diffEdited  = "Edited"
)

// diffJobs compares two versions field by field. old may be nil. Nested
// blocks are given as fields with dotted names, where Nomad nests objects.
func diffJobs(old, job *api.Job) *api.JobDiff {
	d := &api.JobDiff{Type: diffNone, ID: *job.ID}
	if old == nil {
		d.Type = diffAdded
	}
	before := map[string]string{}
	if old != nil {
		before = flatten(withoutGroups(old))
	}
	d.Fields = diffFields(before, flatten(withoutGroups(job)))
	for _, tg := range job.TaskGroups {
		var was *api.TaskGroup
		if old != nil {
			was = groupNamed(old, *tg.Name)
		}
		d.TaskGroups = append(d.TaskGroups, diffGroups(was, tg))
	}
	if old != nil {
		for _, was := range old.TaskGroups {
			if groupNamed(job, *was.Name) == nil {
				d.TaskGroups = append(d.TaskGroups, &api.TaskGroupDiff{Type: diffDeleted, Name: *was.Name})
			}
		}
	}
	if d.Type == diffNone && (len(d.Fields) > 0 || slices.ContainsFunc(d.TaskGroups, func(g *api.TaskGroupDiff) bool { return g.Type != diffNone })) {
		d.Type = diffEdited
	}
	return d
}

func withoutGroups(j *api.Job) map[string]any {
	c := bare(j)
	c.TaskGroups = nil
	return object(c)
}

func diffGroups(was, tg *api.TaskGroup) *api.TaskGroupDiff {
	d := &api.TaskGroupDiff{Type: diffNone, Name: *tg.Name}
	before := map[string]string{}
	if was == nil {
		d.Type = diffAdded
	} else {
		before = flatten(groupWithoutTasks(was))
	}
	d.Fields = diffFields(before, flatten(groupWithoutTasks(tg)))
	for _, t := range tg.Tasks {
		td := &api.TaskDiff{Type: diffNone, Name: t.Name}
		taskBefore := map[string]string{}
		var old *api.Task
		if was != nil {
			for _, o := range was.Tasks {
				if o.Name == t.Name {
					old = o
				}
			}
		}
		if old == nil {
			td.Type = diffAdded
		} else {
			taskBefore = flatten(object(old))
		}
		td.Fields = diffFields(taskBefore, flatten(object(t)))
		if td.Type == diffNone && len(td.Fields) > 0 {
			td.Type = diffEdited
		}
		d.Tasks = append(d.Tasks, td)
	}
	if d.Type == diffNone && (len(d.Fields) > 0 || slices.ContainsFunc(d.Tasks, func(t *api.TaskDiff) bool { return t.Type != diffNone })) {
		d.Type = diffEdited
	}
	return d
}

func groupWithoutTasks(tg *api.TaskGroup) map[string]any {
	c := *tg
	c.Tasks = nil
	return object(&c)
}

func diffFields(before, after map[string]string) []*api.FieldDiff {
	var fields []*api.FieldDiff
	for name, now := range after {
		was, had := before[name]
		switch {
		case !had:
			fields = append(fields, &api.FieldDiff{Type: diffAdded, Name: name, New: now})
		case was != now:
			fields = append(fields, &api.FieldDiff{Type: diffEdited, Name: name, Old: was, New: now})
		}
	}
	for name, was := range before {
		if _, still := after[name]; !still {
			fields = append(fields, &api.FieldDiff{Type: diffDeleted, Name: name, Old: was})
		}
	}
	slices.SortFunc(fields, func(a, b *api.FieldDiff) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

func object(v any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("control: part of a stored job cannot be encoded: %v", err))
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		panic(fmt.Sprintf("control: part of a stored job cannot be decoded: %v", err))
	}
	return m
}

// flatten turns nested values into dotted names; what is empty is left out.
func flatten(v map[string]any) map[string]string {
	out := map[string]string{}
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case nil:
		case map[string]any:
			for k, e := range v {
				walk(strings.TrimPrefix(name+"."+k, "."), e)
			}
		case []any:
			for i, e := range v {
				walk(fmt.Sprintf("%s[%d]", name, i), e)
			}
		case string:
			if v != "" {
				out[name] = v
			}
		default:
			out[name] = fmt.Sprint(v)
		}
	}
	walk("", v)
	return out
}
