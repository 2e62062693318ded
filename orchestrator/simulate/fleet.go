package simulate

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// fleet is nodes as the queue asks for room on them: [queue.Places] over a
// placement policy. A job's Shape names its tasks, one an option.
type fleet struct {
	*layout
	cluster *placement.Cluster
}

// layout is what clones of a fleet share.
type layout struct {
	nodes []placement.Node
	index map[queue.NodeID]int
	tasks map[string][]placement.Task // by shape and option
}

func newFleet(nodes []placement.Node, config placement.Config) (*fleet, error) {
	c, err := placement.New(nodes, config)
	if err != nil {
		return nil, err
	}
	l := &layout{nodes: nodes, index: make(map[queue.NodeID]int, len(nodes)), tasks: map[string][]placement.Task{}}
	for i, n := range nodes {
		if _, twice := l.index[queue.NodeID(n.Name)]; twice {
			return nil, fmt.Errorf("two nodes are named %q", n.Name)
		}
		l.index[queue.NodeID(n.Name)] = i
	}
	return &fleet{l, c}, nil
}

// Find is as [queue.Places] says. Members go one after the other to the node that
// the policy likes best.
func (f *fleet) Find(j *queue.Job, option, most int) (queue.Place, int) {
	found, err := f.cluster.Find(f.tasks[j.Shape][option], most)
	if err != nil {
		panic(err) // tasks were checked when their shape was made
	}
	var place queue.Place
	at := map[int]int{} // spots by node
	for _, p := range found {
		i, ok := at[p.Node]
		if !ok {
			i = len(place)
			at[p.Node] = i
			place = append(place, queue.Spot{Node: queue.NodeID(f.nodes[p.Node].Name)})
		}
		place[i].Members++
		for _, g := range p.GPUs {
			place[i].Devices = append(place[i].Devices, strconv.Itoa(g))
		}
	}
	return place, len(found)
}

// Free is as [queue.Places] says.
func (f *fleet) Free(j *queue.Job, option int, place queue.Place) bool {
	task := f.tasks[j.Shape][option]
	taken := 0
	places := f.places(task, place)
	for _, p := range places {
		if !f.cluster.Fits(task, p) {
			break
		}
		f.cluster.Take(task, p)
		taken++
	}
	for _, p := range places[:taken] {
		f.release(task, p)
	}
	return taken == len(places)
}

// Take is as [queue.Places] says.
func (f *fleet) Take(j *queue.Job, option int, place queue.Place) {
	task := f.tasks[j.Shape][option]
	for _, p := range f.places(task, place) {
		f.cluster.Take(task, p)
	}
}

// Release is as [queue.Places] says.
func (f *fleet) Release(j *queue.Job, option int, place queue.Place) {
	task := f.tasks[j.Shape][option]
	for _, p := range f.places(task, place) {
		f.release(task, p)
	}
}

func (f *fleet) release(task placement.Task, p placement.Place) {
	if err := f.cluster.Release(task, p); err != nil {
		panic(fmt.Sprintf("releasing node %q: %v", f.nodes[p.Node].Name, err)) // the queue releases what it took
	}
}

// Clone is as [queue.Places] says.
func (f *fleet) Clone() queue.Places { return f.clone() }

func (f *fleet) clone() *fleet { return &fleet{f.layout, f.cluster.Clone()} }

// places are where the members of a task are, one by one.
func (f *fleet) places(task placement.Task, place queue.Place) []placement.Place {
	var all []placement.Place
	for _, s := range place {
		for m := range s.Members {
			p := placement.Place{Node: f.index[s.Node]}
			for _, d := range s.Devices[m*task.GPUs : (m+1)*task.GPUs] {
				g, err := strconv.Atoi(d)
				if err != nil {
					panic(err) // Find wrote it
				}
				p.GPUs = append(p.GPUs, g)
			}
			all = append(all, p)
		}
	}
	return all
}

// shape names the tasks of a job by option.
func (f *fleet) shape(options []placement.Task) string {
	name := ""
	for i := range options {
		options[i].Name = ""
		slices.Sort(options[i].Models)
		name += fmt.Sprintf("%d %d %d %d %q;", options[i].CPUMilli, options[i].MemoryMiB, options[i].GPUs, options[i].ShareMilli, options[i].Models)
	}
	if _, ok := f.tasks[name]; !ok {
		f.tasks[name] = options
	}
	return name
}
