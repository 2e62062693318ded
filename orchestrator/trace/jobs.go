package trace

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/placement"
)

// Job is a job of a trace: one task, or a gang of equal ones.
type Job struct {
	Name      string
	Workspace string
	// Submitted is when it came, after the trace's beginning.
	Submitted time.Duration
	// Duration is how long it runs with Max members.
	Duration time.Duration
	// Min and Max are how many members it starts with, at least and at most.
	Min, Max int
	// Each is what a member asks for.
	Each     placement.Task
	Priority int
	// Preemptible is whether it may be evicted; nil: it does not say.
	Preemptible *bool
	// Checkpoint is how often it seals a checkpoint; zero: never.
	Checkpoint time.Duration
	// RunTime is what it declares to run at most; zero: it declares nothing.
	RunTime time.Duration
	// Line is its line in the file.
	Line int
}

// Limits of a job.
const (
	MaxMembers  = 100_000
	MaxPriority = 1_000_000
	// MaxTime bounds all times of a trace.
	MaxTime = 10 * 365 * 24 * time.Hour
)

// DefaultWorkspace is that of jobs that name none.
const DefaultWorkspace = "default"

// Columns of a trace. The first four must be there; so must all of openbColumns in
// openb's format, which is told from ours by its creation_time.
var (
	jobColumns   = []string{"name", "submitted", "duration", "gpus", "workspace", "members", "models", "cpu", "memory", "priority", "preemptible", "checkpoint_interval", "run_time"}
	openbColumns = []string{"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "creation_time", "deletion_time", "qos", "scheduled_time", "gpu_spec"}
)

// ReadJobs reads a trace of jobs, in Drover's format or in openb's; file is what
// errors call it. Drover's has the columns
//
//	name                 of the job, used once
//	submitted            seconds since the trace's beginning
//	duration             seconds that it runs with all its members
//	gpus                 of a member: a whole number, or a part of one as 0.5
//	workspace            "" is "default"
//	members              a number, or least and most as 2-8; "" is 1
//	models               of GPUs that will do, with | between them; "" is any
//	cpu                  cores of a member, as 0.5; "" is none
//	memory               MiB of a member; "" is none
//	priority             a whole number; "" is 0
//	preemptible          true or false; "" leaves it to the workspace
//	checkpoint_interval  seconds; "" is never
//	run_time             seconds that it declares to run at most; "" is nothing
//
// of which the first four must be there, and no others may. Seconds may have up to
// three decimals.
//
// In openb's format a task is a job of one member. It comes at creation_time and
// runs from scheduled_time, or if it never was, from creation_time, until
// deletion_time. Its qos is its workspace; "BE", best effort, is preemptible,
// and nothing else is.
//
// The jobs are in the order of the file.
func ReadJobs(file string, r io.Reader) ([]Job, error) {
	var jobs []Job
	names := map[string]int{}
	each := func(row *row, read func(*row) Job) {
		j := read(row)
		j.Name = row.name("name")
		j.Line, _ = row.csv.FieldPos(0)
		if line, twice := names[j.Name]; twice {
			row.fail("name", fmt.Errorf("a second job named %.100q; the first is in line %d", j.Name, line))
		}
		names[j.Name] = j.Line
		jobs = append(jobs, j)
	}
	err := readAs(file, r, func(header []string) format {
		if slices.Contains(header, "creation_time") {
			return format{openbColumns, 7, false, func(r *row) { each(r, openbJob) }}
		}
		return format{jobColumns, 4, true, func(r *row) { each(r, droverJob) }}
	})
	if err != nil {
		return nil, err
	}
	return jobs, nil
}

func droverJob(r *row) Job {
	j := Job{
		Submitted: r.seconds("submitted", 0), Duration: r.seconds("duration", 0),
		Workspace: r.workspace("workspace"), Priority: int(r.whole("priority", -MaxPriority, MaxPriority)),
		Preemptible: r.truth("preemptible"),
		// A checkpoint each millisecond is a mistake, and would take for ever.
		Checkpoint: r.optional("checkpoint_interval", time.Second), RunTime: r.optional("run_time", time.Millisecond),
	}
	j.Min, j.Max = r.members()
	j.Each = placement.Task{CPUMilli: r.thousandths("cpu"), MemoryMiB: r.whole("memory", 0, placement.MaxAmount), Models: r.models("models")}
	switch gpus := r.thousandths("gpus"); {
	case r.text("gpus") == "":
		r.fail("gpus", errors.New("gpus is empty; write 0 for none"))
	case gpus > placement.MaxGPUs*placement.WholeGPU:
		r.fail("gpus", fmt.Errorf("gpus is %.40q; a member has at most %d", r.text("gpus"), placement.MaxGPUs))
	case gpus > placement.WholeGPU && gpus%placement.WholeGPU != 0:
		r.fail("gpus", fmt.Errorf("gpus is %.40q; more than one are whole ones", r.text("gpus")))
	case gpus > 0:
		j.Each.GPUs, j.Each.ShareMilli = max(1, int(gpus/placement.WholeGPU)), int(min(gpus, placement.WholeGPU))
	}
	return j
}

func openbJob(r *row) Job {
	j := Job{Submitted: r.seconds("creation_time", 0), Min: 1, Max: 1, Workspace: r.workspace("qos")}
	j.Preemptible = new(j.Workspace == "BE")
	since := j.Submitted
	if r.text("scheduled_time") != "" {
		since = r.seconds("scheduled_time", 0)
	}
	if j.Duration = r.seconds("deletion_time", 0) - since; j.Duration < 0 {
		r.fail("deletion_time", fmt.Errorf("deletion_time is %s, before it began", r.text("deletion_time")))
	}
	j.Each = placement.Task{
		CPUMilli: r.number("cpu_milli"), MemoryMiB: r.number("memory_mib"),
		GPUs: int(r.number("num_gpu")), ShareMilli: int(r.number("gpu_milli")), Models: r.models("gpu_spec"),
	}
	if err := j.Each.Check(); err != nil {
		r.fail("num_gpu", err)
	}
	return j
}

var workspaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// workspace is a name as workspaces have; "" is the default.
func (r *row) workspace(column string) string {
	name := r.text(column)
	if name == "" {
		return DefaultWorkspace
	}
	if !workspaceName.MatchString(name) {
		r.fail(column, fmt.Errorf("%s is %.40q; a name has 1 to 63 letters, digits, _ and -, the first a letter or digit", column, name))
	}
	return strings.Clone(name)
}

// models are the accepted ones of a task.
func (r *row) models(column string) []string {
	models := r.text(column)
	if models == "" {
		return nil
	}
	all := strings.Split(strings.Clone(models), "|")
	if slices.Contains(all, "") {
		r.fail(column, fmt.Errorf("%s is %.100q, with an empty name in it", column, models))
	}
	return all
}

// optional is a time of at least least, or zero if the field is empty.
func (r *row) optional(column string, least time.Duration) time.Duration {
	if r.text(column) == "" {
		return 0
	}
	return r.seconds(column, least)
}

// seconds is a time of at least least.
func (r *row) seconds(column string, least time.Duration) time.Duration {
	milli, ok := decimal(r.text(column))
	// MaxTime in milliseconds is far from overflowing.
	if !ok || milli > MaxTime.Milliseconds() || time.Duration(milli)*time.Millisecond < least {
		r.fail(column, fmt.Errorf("%s is %.40q, not a number of seconds from %v to %.0f with at most three decimals",
			column, r.text(column), least.Seconds(), MaxTime.Seconds()))
		return 0
	}
	return time.Duration(milli) * time.Millisecond
}

// thousandths is a number with at most three decimals; "" is 0.
func (r *row) thousandths(column string) int64 {
	s := r.text(column)
	if s == "" {
		return 0
	}
	n, ok := decimal(s)
	if !ok || n > placement.MaxAmount {
		r.fail(column, fmt.Errorf("%s is %.40q, not a number from 0 to %d with at most three decimals", column, s, placement.MaxAmount/1000))
		return 0
	}
	return n
}

// decimal is a number that is not negative, in thousandths.
func decimal(s string) (int64, bool) {
	whole, frac, dot := strings.Cut(s, ".")
	if whole == "" || (dot && frac == "") || len(frac) > 3 || strings.Trim(whole+frac, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(whole+frac+"000"[len(frac):], 10, 64)
	return n, err == nil && n < math.MaxInt64
}

// whole is a whole number; "" is 0.
func (r *row) whole(column string, least, most int64) int64 {
	s := r.text(column)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		r.fail(column, fmt.Errorf("%s is %.40q, not a whole number from %d to %d", column, s, least, most))
		return 0
	}
	return n
}

// truth is true or false; "" is nil.
func (r *row) truth(column string) *bool {
	switch s := r.text(column); s {
	case "":
		return nil
	case "true", "false":
		return new(s == "true")
	default:
		r.fail(column, fmt.Errorf("%s is %.40q, neither true nor false", column, s))
		return nil
	}
}

// members are a number or two, least and most; "" is 1.
func (r *row) members() (least, most int) {
	s := r.text("members")
	if s == "" {
		return 1, 1
	}
	low, high, two := strings.Cut(s, "-")
	if !two {
		high = low
	}
	a, aerr := strconv.ParseUint(low, 10, 32)
	b, berr := strconv.ParseUint(high, 10, 32)
	if aerr != nil || berr != nil || a < 1 || b < a || b > MaxMembers {
		r.fail("members", fmt.Errorf("members is %.40q, not a number from 1 to %d, or two as 2-8", s, MaxMembers))
		return 1, 1
	}
	return int(a), int(b)
}
