package placement

import (
	"fmt"
	"slices"
)

// Find is where want tasks like t would go, one after the other as Place puts
// them, and fewer of them if there is no room for more. It takes nothing.
func (c *Cluster) Find(t Task, want int) ([]Place, error) {
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("task %q: %w", t.Name, err)
	}
	s := c.shape(t)
	var found []Place
	var before []uint64 // the states of the nodes that were found
	for len(found) < want {
		p, ok := c.best(s)
		if !ok {
			break
		}
		found = append(found, p)
		if want > 1 {
			before = append(before, c.states[p.Node])
			c.apply(t, p, -1)
		}
	}
	for i := len(before) - 1; i >= 0; i-- {
		c.apply(t, found[i], 1)
		c.states[found[i].Node] = before[i] // scores of then hold again
	}
	return found, nil
}

// Fits reports whether there is room for t at p.
func (c *Cluster) Fits(t Task, p Place) bool {
	if p.Node < 0 || p.Node >= len(c.nodes) || len(p.GPUs) != t.GPUs {
		return false
	}
	n := &c.nodes[p.Node]
	if n.cpu < t.CPUMilli || n.memory < t.MemoryMiB {
		return false
	}
	for _, g := range p.GPUs {
		if g < 0 || g >= len(n.free) || int(n.free[g]) < t.ShareMilli {
			return false
		}
	}
	return true
}

// Take takes what t asks for at p, as Place does where it finds room. It panics
// if p is not of this cluster, and gives out more than there is if there is no
// room: ask Fits, or Find.
func (c *Cluster) Take(t Task, p Place) { c.apply(t, p, -1) }

// Clone is a copy that goes its own way. A policy that leaves choices to the seed
// shares them with c.
func (c *Cluster) Clone() *Cluster {
	d := *c
	d.nodes = slices.Clone(c.nodes)
	gpus := 0
	for i := range c.nodes {
		gpus += len(c.nodes[i].free)
	}
	free := make([]int32, 0, gpus)
	for i := range d.nodes {
		from := len(free)
		free = append(free, d.nodes[i].free...)
		d.nodes[i].free = free[from:len(free):len(free)]
	}
	d.states = slices.Clone(c.states)
	d.shapes = make(map[shapeKey]*shape, len(c.shapes))
	copies := make([]shape, 0, len(c.shapes))
	for key, s := range c.shapes {
		s.shared = true
		copies = append(copies, *s)
		d.shapes[key] = &copies[len(copies)-1]
	}
	return &d
}
