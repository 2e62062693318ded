package metrics

import (
	"cmp"
	"slices"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
)

// maxTasks bounds the tasks that are shown, counted once for each board or
// slice that they use.
const maxTasks = 512

// use is who is on a board or slice.
type use struct {
	processes int
	foreign   int // processes of no task
	computing int // those of them that do more than draw
	tasks     []taskUse
}

// taskUse is what one task has of a board or slice.
type taskUse struct {
	task      attribution.Task
	processes int
	memoryMiB total
	percent   total
	labels    []byte
}

// same reports whether two accounts are of one task. They may differ in what
// they know of it.
func same(a, b attribution.Task) bool { return a.Alloc == b.Alloc && a.Task == b.Task }

// total is a sum that is known only if all of its parts are.
type total struct {
	sum     int64
	unknown bool
}

func (t *total) add(v *int64) {
	if v == nil {
		t.unknown = true
		return
	}
	t.sum += *v
}

// only is the task that uses a unit, if it is the only one and no stranger
// computes there too.
func (u use) only() (attribution.Task, bool) {
	if len(u.tasks) != 1 || u.computing > 0 {
		return attribution.Task{}, false
	}
	return u.tasks[0].task, true
}

// usesOf adds up processes by the device that the driver says they are on, and
// the task that they are of. untold are tasks left out for the bound.
func usesOf(processes []gpu.Process, tasks map[int]attribution.Task) (uses map[gpu.ID]use, untold int) {
	type key struct {
		device      gpu.ID
		alloc, task string
	}
	hidden := make(map[key]bool)
	uses = make(map[gpu.ID]use)
	shown := 0
	for _, p := range merged(processes) {
		u, known := uses[p.Device]
		if !known && len(uses) == maxUnits {
			continue
		}
		u.processes++
		t, ok := tasks[p.PID]
		i := slices.IndexFunc(u.tasks, func(o taskUse) bool { return same(o.task, t) })
		switch {
		case !ok:
			u.foreign++
			if p.Kind != gpu.ProcessGraphics {
				u.computing++
			}
		case t == attribution.Task{}: // a helper
		case i >= 0:
			u.tasks[i].add(p, t)
		case shown == maxTasks:
			hidden[key{p.Device, t.Alloc, t.Task}] = true
		default:
			shown++
			var first taskUse
			first.add(p, t)
			u.tasks = append(u.tasks, first)
		}
		uses[p.Device] = u
	}
	for _, u := range uses {
		for i := range u.tasks {
			u.tasks[i].labels = taskLabels(u.tasks[i].task)
		}
		slices.SortFunc(u.tasks, func(a, b taskUse) int {
			return cmp.Or(cmp.Compare(a.task.Alloc, b.task.Alloc), cmp.Compare(a.task.Task, b.task.Task))
		})
	}
	return uses, len(hidden)
}

func (t *taskUse) add(p gpu.Process, of attribution.Task) {
	t.task = t.task.With(of)
	t.processes++
	t.memoryMiB.add(p.MemoryMiB)
	t.percent.add(p.GPUPercent)
}

// merged has each process once for each device: the driver lists one that both
// computes and draws twice, with the same memory.
func merged(processes []gpu.Process) []gpu.Process {
	type key struct {
		device gpu.ID
		pid    int
	}
	at := make(map[key]int, len(processes))
	list := make([]gpu.Process, 0, len(processes))
	for _, p := range processes {
		k := key{p.Device, p.PID}
		i, listed := at[k]
		if !listed {
			at[k] = len(list)
			list = append(list, p)
			continue
		}
		l := &list[i]
		l.MemoryMiB, l.GPUPercent = cmp.Or(l.MemoryMiB, p.MemoryMiB), cmp.Or(l.GPUPercent, p.GPUPercent)
		if p.Kind != gpu.ProcessGraphics {
			l.Kind = p.Kind
		}
	}
	return list
}

// writeTasks writes what is known by process.
func (p *page) writeTasks(t *text) {
	if !p.fresh("processes", p.ages.Processes) {
		return
	}
	for _, f := range []field[use]{
		{"drover_gpu_processes", gauge, "Processes that have the GPU or slice open.",
			func(u use) (float64, bool) { return float64(u.processes), true }},
		{"drover_gpu_foreign_processes", gauge, "Processes on the GPU or slice that are of no Nomad task.",
			func(u use) (float64, bool) { return float64(u.foreign), true }},
	} {
		t.family(f.name, f.kind, f.help)
		for _, u := range p.units {
			// None on a broken GPU, or on one whose slices are used, says
			// nothing.
			use, some := p.use[u.id]
			if v, ok := f.read(use); ok && (some || u.offered && u.fault.OK()) {
				t.series(u.labels)
				t.value(v)
			}
		}
	}
	for _, f := range []field[taskUse]{
		{"drover_gpu_task_processes", gauge, "Processes of the task on the GPU or slice.",
			func(u taskUse) (float64, bool) { return float64(u.processes), true }},
		{"drover_gpu_task_memory_used_bytes", gauge, "GPU memory that the task's processes hold on the GPU or slice.",
			func(u taskUse) (float64, bool) { return float64(u.memoryMiB.sum << 20), !u.memoryMiB.unknown }},
		{"drover_gpu_task_utilization_ratio", gauge, "Share of the last sample period during which the task's kernels ran.",
			func(u taskUse) (float64, bool) { return float64(u.percent.sum) / 100, !u.percent.unknown }},
	} {
		t.family(f.name, f.kind, f.help)
		for _, unit := range p.units {
			for _, u := range p.use[unit.id].tasks {
				if v, ok := f.read(u); ok {
					t.series(unit.labels, u.labels)
					t.value(v)
				}
			}
		}
	}
	t.family("drover_gpu_tasks_not_shown", gauge, "Tasks on GPUs beyond the number that is shown.")
	t.series()
	t.value(float64(p.untold))
}
