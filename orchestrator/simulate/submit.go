package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// comes lets a job wait, or refuses it. Where quotas have a schedule, what is too
// much now may not be later: it stays outside until they change.
func (r *replay) comes(i int) error {
	j := &r.jobs[i]
	if why := r.tooMany(j); why != "" {
		r.refuse(j, why)
		return nil
	}
	if err := j.Each.Check(); err != nil {
		r.refuse(j, err.Error())
		return nil
	}
	r.describe(j)
	why, err := j.refusal(r.atMost.Check(j.asked))
	if err != nil {
		return err
	}
	if why != "" {
		r.refuse(j, why)
		return nil
	}
	if j.why, err = j.refusal(r.state.Submit(j.asked)); err != nil {
		return err
	}
	if j.why != "" {
		r.outside = append(r.outside, i)
	}
	r.waits(i)
	return nil
}

// refusal is why the queue refused j; err is any other error.
func (j *job) refusal(from error) (why string, err error) {
	var refused *queue.Refusal
	switch {
	case errors.As(from, &refused) && len(refused.Reason.Raise) == 0:
		// It is not about quotas, and the queue does not know what else a member asks for.
		return fmt.Sprintf("needs %s on one node, %d times; empty nodes have room for %d; add larger nodes, or ask for less",
			j.each(), j.Min, refused.Reason.Placeable), nil
	case errors.As(from, &refused):
		return refused.Reason.String(), nil
	case errors.Is(from, queue.ErrInvalid): // amounts out of all proportion, or a flavor that nobody has a quota of
		return from.Error(), nil
	}
	return "", from
}

// each is what a member asks for, in words.
func (j *job) each() string {
	var parts []string
	if gpu := queue.Amount(j.Each.GPUMilli()); gpu > 0 {
		what := gpu.String() + " GPUs"
		if len(j.Each.Models) > 0 {
			what += " of " + strings.Join(j.Each.Models, " or ")
		}
		parts = append(parts, what)
	}
	if j.Each.CPUMilli > 0 {
		parts = append(parts, queue.Amount(j.Each.CPUMilli).String()+" cores")
	}
	if j.Each.MemoryMiB > 0 {
		parts = append(parts, fmt.Sprintf("%d MiB", j.Each.MemoryMiB))
	}
	return strings.Join(parts, ", ")
}

// waits notes that a job waits, and when it may evict others.
func (r *replay) waits(i int) {
	r.jobs[i].waits = true
	r.waiting++
	r.record.waits(&r.jobs[i], 1)
	if d := r.settings.policy.PreemptionDelay; d > 0 {
		r.expect(r.now.Add(d), lookAgain, i)
	}
}

func (r *replay) refuse(j *job, why string) {
	r.refused = append(r.refused, Refused{j.Name, j.Workspace, j.Line, why})
}

// tooMany says why all nodes together have too few GPUs for j; "": they have not.
func (r *replay) tooMany(j *job) string {
	need := queue.Amount(j.Each.GPUMilli()) * queue.Amount(j.Min)
	switch all := r.gpusOf(j.Each.Models); {
	case need > 0 && all == 0 && len(j.Each.Models) > 0:
		return fmt.Sprintf("no node has a GPU of model %s; there are %s", strings.Join(j.Each.Models, " or "), strings.Join(r.models, ", "))
	case need > queue.Amount(all)*queue.One:
		return fmt.Sprintf("needs %s GPUs, and all nodes together have %d that will do; add nodes, or ask for less", need, all)
	}
	return ""
}

// gpusOf is how many GPUs are of models; of any, if there are none.
func (r *replay) gpusOf(models []string) (n int) {
	for _, m := range r.models {
		if len(models) == 0 || slices.Contains(models, m) {
			n += r.gpus[m]
		}
	}
	return n
}

// describe says what j is to the queue.
func (r *replay) describe(j *job) {
	j.asked = queue.Job{
		ID: j.id, Queue: r.Definitions.QueueFor(j.Workspace, false), Submitted: j.submitted,
		Priority: j.Priority, Preemptible: r.Definitions.Preemptible(j.Workspace), Min: j.Min, Max: j.Max, RunTime: cmp.Or(j.RunTime, Declared(j.Duration)),
	}
	if j.Job.Preemptible != nil {
		j.asked.Preemptible = *j.Job.Preemptible
	}
	j.options = r.options(j)
	tasks := make([]placement.Task, len(j.options))
	for i, o := range j.options {
		need := queue.Resources{workspace.CPU: queue.Amount(j.Each.CPUMilli), workspace.Memory: gib(j.Each.MemoryMiB)}
		if j.Each.GPUs > 0 {
			need[o.flavor] = queue.Amount(j.Each.GPUMilli())
		}
		if i == 0 {
			j.asked.Each = need
		} else {
			j.asked.Or = append(j.asked.Or, need)
		}
		tasks[i] = j.Each
		tasks[i].Models = o.models
	}
	j.asked.Shape = r.fleet.shape(tasks)
}

// option is a flavor that will do for a job, and its models; none: any.
type option struct {
	flavor queue.Flavor
	models []string
}

// options are the flavors that will do for a job, in the order of its models, or
// else of the nodes'.
func (r *replay) options(j *job) []option {
	if j.Each.GPUs == 0 {
		return []option{{}}
	}
	models := j.Each.Models
	if len(models) == 0 {
		models = r.models
	}
	var all []option
	for _, m := range models {
		if !slices.Contains(r.models, m) {
			continue
		}
		f := r.flavors[m]
		i := slices.IndexFunc(all, func(o option) bool { return o.flavor == f })
		if i < 0 {
			i = len(all)
			all = append(all, option{flavor: f})
		}
		all[i].models = append(all[i].models, m)
	}
	return all
}
