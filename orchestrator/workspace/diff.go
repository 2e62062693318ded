package workspace

import "slices"

// Plan is what applying definitions changes.
type Plan struct {
	// Version is what it was made for, or, of what was applied, what there is now.
	Version int64    `json:"version"`
	Changes []Change `json:"changes" doc:"In the order of kinds in a file, then of names"`
	Cuts    []Cut    `json:"cuts,omitempty" doc:"Quotas that become smaller than what is used now"`
}

// Action is what happens to a block.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Change is what happens to a block of the definitions.
type Change struct {
	Action Action        `json:"action" enum:"create,update,delete"`
	Kind   string        `json:"kind" enum:"policy,flavor,priority_class,cohort,workspace"`
	Name   string        `json:"name,omitempty"`
	Fields []FieldChange `json:"fields"`
}

// FieldChange is what happens to a field of a block. Before or After is "" where
// it was not there, or will not be. They are as in a file: text is in quotes.
type FieldChange struct {
	Field  string `json:"field" doc:"With the blocks that it is in, as quota.h100.nominal"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Diff is what makes after of before. It is empty if they mean the same.
func Diff(before, after Definitions) []Change {
	type id struct{ kind, name string }
	old := map[id]block{}
	for _, b := range before.tree() {
		old[id{b.kind, b.name}] = b
	}
	now := map[id]bool{}
	changes := []Change{}
	for _, b := range after.tree() {
		was, there := old[id{b.kind, b.name}]
		now[id{b.kind, b.name}] = true
		c := Change{Action: Update, Kind: b.kind, Name: b.name, Fields: fieldChanges(was, b)}
		if !there {
			c.Action = Create
		}
		if !there || len(c.Fields) > 0 {
			changes = append(changes, c)
		}
	}
	for _, b := range before.tree() {
		if !now[id{b.kind, b.name}] {
			changes = append(changes, Change{Action: Delete, Kind: b.kind, Name: b.name, Fields: fieldChanges(b, block{})})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind) })
	return changes
}

// kinds are the kinds of blocks of a file, in their order.
var kinds = []string{"policy", "flavor", "priority_class", "cohort", "workspace"}

// fieldChanges compares the fields of two blocks: those that after has, as in the
// file, and then those that it has no longer.
func fieldChanges(before, after block) []FieldChange {
	was, is := before.flatten(""), after.flatten("")
	old, now := byName(was), byName(is)
	changes := []FieldChange{}
	for _, f := range is {
		if old[f.name] != f.value {
			changes = append(changes, FieldChange{f.name, old[f.name], f.value})
		}
	}
	for _, f := range was {
		if now[f.name] == "" {
			changes = append(changes, FieldChange{f.name, f.value, ""})
		}
	}
	return changes
}

// byName are the values of attributes, none of which is "".
func byName(attrs []attr) map[string]string {
	m := make(map[string]string, len(attrs))
	for _, a := range attrs {
		m[a.name] = a.value
	}
	return m
}

// flatten is the attributes of b and of the blocks in it, under their paths.
func (b block) flatten(path string) []attr {
	var all []attr
	for _, a := range b.attrs {
		all = append(all, attr{path + a.name, a.value})
	}
	var schedules []string
	for _, inner := range b.blocks {
		at := path + inner.kind + "."
		if inner.name != "" {
			at += inner.name + "."
		}
		all = append(all, inner.flatten(at)...)
		if inner.kind == "schedule" {
			schedules = append(schedules, inner.name)
		}
	}
	if len(schedules) > 1 { // the last one that holds counts
		var order block
		order.texts(path+"order of schedules", schedules)
		all = append(all, order.attrs...)
	}
	return all
}
