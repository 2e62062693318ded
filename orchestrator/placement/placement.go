// Package placement decides which node, and which of its GPUs, a task gets.
//
// A Cluster holds what is free. Place takes one task at a time, by a policy
// that is chosen by name; Release gives back what a task held. Decisions are a
// function of the nodes, the calls made so far and the seed: the same calls
// give the same placements. Nothing is ever given out twice.
//
// The scores of a policy are kept for each shape of task and each node, and
// only those of nodes that changed are computed again. Places are the same as
// if every score were computed for every decision.
package placement

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
)

// WholeGPU is all of one GPU, in thousandths.
const WholeGPU = 1000

// MaxGPUs is how many GPUs a node can have.
const MaxGPUs = 64

// MaxAmount bounds CPU and memory, in their units, so that sums of them cannot overflow.
const MaxAmount = 1 << 40

// Node is what a node has when it is empty.
type Node struct {
	Name      string
	CPUMilli  int64 // thousandths of a core
	MemoryMiB int64
	GPUs      int
	// Model is the GPUs' model; "" where there are none or it is not known.
	Model string
}

// Task is what a task asks for, all of it on one node.
type Task struct {
	Name      string
	CPUMilli  int64 // thousandths of a core
	MemoryMiB int64
	// GPUs is how many GPUs; 0 for none.
	GPUs int
	// ShareMilli is the share of each of the GPUs, in thousandths. It is
	// WholeGPU if GPUs is over 1, and 0 if GPUs is 0.
	ShareMilli int
	// Models are those that the task accepts; empty accepts any.
	Models []string
}

// GPUMilli is what the task asks of all its GPUs, in thousandths of a GPU.
func (t Task) GPUMilli() int64 { return int64(t.GPUs) * int64(t.ShareMilli) }

// Place is where a task is.
type Place struct {
	Node int   // the index of the node in what New was given
	GPUs []int // the indexes of the GPUs on it, ascending
}

// Config says how to decide.
type Config struct {
	// Policy is one of Policies; "" means DefaultPolicy.
	Policy string
	// Mix is the tasks that are expected, each shape as often as it is
	// expected. Policies that look ahead, and Fragmented, go by it.
	Mix []Task
	// Seed decides where a policy leaves a choice.
	Seed uint64
}

// Cluster is nodes and what is free on them. It is not safe for concurrent use.
type Cluster struct {
	nodes  []node
	models map[string]int // the number of each model
	expect []Task         // what mix is of
	mix    *mix
	policy policyFunc
	// anyNode leaves the choice among nodes with room to the seed.
	anyNode bool
	random  *rand.Rand

	shapes map[shapeKey]*shape
	// states has a number for the state of each node, another after each change. A
	// shape's scores are up to date but for those of another state than it has seen.
	states []uint64
	state  uint64 // the last number given out
}

// node is a node and what is free on it.
type node struct {
	Node
	model  int  // the number of its model
	gone   bool // it takes nothing new
	cpu    int64
	memory int64
	free   []int32            // of each GPU, in thousandths
	held   [MaxGPUs + 2]int32 // how many tasks of each class
}

// freeMilli is what is free of all GPUs together.
func (n *node) freeMilli() (sum int64) {
	for _, f := range n.free {
		sum += int64(f)
	}
	return sum
}

// class is the index in node.held of a task: the number of its whole GPUs, 0
// for a part of one, and the last for none.
func class(gpus, share int) int {
	switch {
	case gpus == 0:
		return MaxGPUs + 1
	case share < WholeGPU:
		return 0
	default:
		return gpus
	}
}

// shapeKey is what tasks of one shape agree in.
type shapeKey struct {
	cpu, memory int64
	gpus, share int
	models      modelSet
}

// shape is a shape of task with the score of each node for it.
type shape struct {
	shapeKey
	seen   []uint64 // by node
	scores []score
	shared bool // both are those of a clone too
}

// score is how good a node is for a shape, and by which of its GPUs. The
// greatest value is the best; noFit is none at all.
type score struct {
	value float64
	gpus  uint64
}

var noFit = score{value: math.Inf(-1)}

// maxShapes limits how many shapes are kept with their scores.
const maxShapes = 4096

// New makes a cluster of empty nodes. It refuses amounts that make no sense,
// and a policy that does not exist.
func New(nodes []Node, c Config) (*Cluster, error) {
	cl := &Cluster{
		nodes:  make([]node, len(nodes)),
		models: map[string]int{},
		random: rand.New(rand.NewPCG(c.Seed, 0x9e3779b97f4a7c15)),
		shapes: map[shapeKey]*shape{},
		states: make([]uint64, len(nodes)),
	}
	for i, n := range nodes {
		if err := n.Check(); err != nil {
			return nil, fmt.Errorf("node %q: %w", n.Name, err)
		}
		cl.nodes[i] = cl.empty(n)
	}
	for _, t := range c.Mix {
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("expected task %q: %w", t.Name, err)
		}
	}
	cl.expect = c.Mix
	cl.mix = cl.newMix(c.Mix, nil)
	p, ok := policies[cmp.Or(c.Policy, DefaultPolicy)]
	if !ok {
		return nil, fmt.Errorf("no placement policy is named %q; there are %s", c.Policy, strings.Join(Policies(), ", "))
	}
	cl.policy, cl.anyNode = p, c.Policy == "random"
	return cl, nil
}

// Check says what is wrong with n.
func (n Node) Check() error {
	switch {
	case n.CPUMilli < 0 || n.CPUMilli > MaxAmount:
		return fmt.Errorf("CPU of %d thousandths is out of range", n.CPUMilli)
	case n.MemoryMiB < 0 || n.MemoryMiB > MaxAmount:
		return fmt.Errorf("memory of %d MiB is out of range", n.MemoryMiB)
	case n.GPUs < 0 || n.GPUs > MaxGPUs:
		return fmt.Errorf("%d GPUs; a node has 0 to %d", n.GPUs, MaxGPUs)
	}
	return nil
}

// Check says what is wrong with what t asks for.
func (t Task) Check() error {
	switch {
	case t.CPUMilli < 0 || t.CPUMilli > MaxAmount:
		return fmt.Errorf("CPU of %d thousandths is out of range", t.CPUMilli)
	case t.MemoryMiB < 0 || t.MemoryMiB > MaxAmount:
		return fmt.Errorf("memory of %d MiB is out of range", t.MemoryMiB)
	case t.GPUs < 0 || t.GPUs > MaxGPUs:
		return fmt.Errorf("%d GPUs; a node has 0 to %d", t.GPUs, MaxGPUs)
	case t.GPUs == 0 && t.ShareMilli != 0:
		return errors.New("a share of a GPU, but no GPU")
	case t.GPUs > 0 && (t.ShareMilli <= 0 || t.ShareMilli > WholeGPU):
		return fmt.Errorf("%d thousandths of a GPU; a share is 1 to %d", t.ShareMilli, WholeGPU)
	case t.GPUs > 1 && t.ShareMilli != WholeGPU:
		return fmt.Errorf("%d thousandths of each of %d GPUs; several GPUs are whole ones", t.ShareMilli, t.GPUs)
	}
	return nil
}

// empty is n with all of it free.
func (c *Cluster) empty(n Node) node {
	free := make([]int32, n.GPUs)
	for g := range free {
		free[g] = WholeGPU
	}
	model, ok := c.models[n.Model]
	if !ok {
		model = len(c.models)
		c.models[n.Model] = model
	}
	return node{Node: n, model: model, cpu: n.CPUMilli, memory: n.MemoryMiB, free: free}
}

// modelSet is some models by their numbers, a bit each, or all of them if it is
// empty. Sets of the same models are the same text.
type modelSet string

func (s modelSet) has(model int) bool {
	return s == "" || model/8 < len(s) && s[model/8]>>(model%8)&1 != 0
}

// compare orders sets as numbers, the one of all models last.
func (s modelSet) compare(t modelSet) int {
	if s == "" || t == "" {
		return cmp.Compare(len(t), len(s))
	}
	if len(s) != len(t) {
		return cmp.Compare(len(s), len(t))
	}
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != t[i] {
			return cmp.Compare(s[i], t[i])
		}
	}
	return 0
}

// accepted is the models of the cluster that a task accepts.
func (c *Cluster) accepted(t Task) modelSet {
	if t.GPUs == 0 || len(t.Models) == 0 {
		return ""
	}
	bits := []byte{0} // of none, too, it is not empty
	for _, m := range t.Models {
		if i, ok := c.models[m]; ok {
			for len(bits) <= i/8 {
				bits = append(bits, 0)
			}
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return modelSet(bits)
}

// fits reports whether n has room for s.
func (n *node) fits(s *shape) bool {
	if n.gone || n.cpu < s.cpu || n.memory < s.memory {
		return false
	}
	if s.gpus == 0 {
		return true
	}
	return s.models.has(n.model) && n.room(s.gpus, s.share)
}

// room reports whether gpus GPUs have share free, each.
func (n *node) room(gpus, share int) bool {
	for _, f := range n.free {
		if int(f) >= share {
			if gpus--; gpus <= 0 {
				return true
			}
		}
	}
	return gpus <= 0
}

// Place finds the best node for t and takes what t asks for there. It reports
// false, and changes nothing, if t fits nowhere; an error if t makes no sense.
func (c *Cluster) Place(t Task) (Place, bool, error) {
	if err := t.Check(); err != nil {
		return Place{}, false, fmt.Errorf("task %q: %w", t.Name, err)
	}
	p, ok := c.best(c.shape(t))
	if ok {
		c.apply(t, p, -1)
	}
	return p, ok, nil
}

// best is the best place for s; false: there is none.
func (c *Cluster) best(s *shape) (Place, bool) {
	c.refresh(s)
	// Of nodes that are equally good the first one is taken, as in the published
	// simulator. It matters: it fills nodes one after the other.
	at, best := -1, noFit.value
	for i := range s.scores {
		if v := s.scores[i].value; v > best {
			at, best = i, v
		}
	}
	if at < 0 {
		return Place{}, false
	}
	if c.anyNode {
		at = c.randomNode(s)
	}
	gpus := s.scores[at].gpus
	if gpus == anyGPU && s.share < WholeGPU {
		gpus = c.randomGPU(&c.nodes[at], s.share)
	}
	return Place{Node: at, GPUs: indexes(gpus)}, true
}

// randomNode is one of the nodes with room for s, of which there must be one.
func (c *Cluster) randomNode(s *shape) int {
	at, seen := -1, 0
	for i := range s.scores {
		if s.scores[i] != noFit {
			if seen++; c.random.IntN(seen) == 0 {
				at = i
			}
		}
	}
	return at
}

// ErrNotHeld means that a place does not hold what was to be released.
var ErrNotHeld = errors.New("the place does not hold that task")

// Release gives back what t held at p. It returns ErrNotHeld, and changes
// nothing, if more would be free than there is.
func (c *Cluster) Release(t Task, p Place) error {
	if err := t.Check(); err != nil {
		return fmt.Errorf("task %q: %w", t.Name, err)
	}
	if p.Node < 0 || p.Node >= len(c.nodes) || len(p.GPUs) != t.GPUs {
		return ErrNotHeld
	}
	n := &c.nodes[p.Node]
	if n.cpu+t.CPUMilli > n.CPUMilli || n.memory+t.MemoryMiB > n.MemoryMiB || n.held[class(t.GPUs, t.ShareMilli)] == 0 {
		return ErrNotHeld
	}
	last := -1
	for _, g := range p.GPUs {
		if g <= last || g >= len(n.free) || int(n.free[g])+t.ShareMilli > WholeGPU {
			return ErrNotHeld
		}
		last = g
	}
	c.apply(t, p, 1)
	return nil
}

// apply takes (sign -1) or gives back (sign 1) what t asks for at p.
func (c *Cluster) apply(t Task, p Place, sign int) {
	n := &c.nodes[p.Node]
	n.cpu += int64(sign) * t.CPUMilli
	n.memory += int64(sign) * t.MemoryMiB
	for _, g := range p.GPUs {
		n.free[g] += int32(sign * t.ShareMilli)
	}
	n.held[class(t.GPUs, t.ShareMilli)] -= int32(sign)
	c.state++
	c.states[p.Node] = c.state
}

// shape is the shape of t, with the scores kept for it.
func (c *Cluster) shape(t Task) *shape {
	key := shapeKey{cpu: t.CPUMilli, memory: t.MemoryMiB, gpus: t.GPUs, share: t.ShareMilli, models: c.accepted(t)}
	if s, ok := c.shapes[key]; ok {
		return s
	}
	if len(c.shapes) == maxShapes {
		clear(c.shapes)
	}
	s := &shape{shapeKey: key}
	c.shapes[key] = s
	return s
}

// refresh brings the scores of s up to date.
func (c *Cluster) refresh(s *shape) {
	if s.scores == nil {
		s.seen, s.scores = slices.Clone(c.states), make([]score, len(c.nodes))
		for i := range s.scores {
			s.scores[i] = c.score(&c.nodes[i], s)
		}
		return
	}
	for i, state := range c.states {
		if s.seen[i] == state {
			continue
		}
		if s.shared {
			s.seen, s.scores, s.shared = slices.Clone(s.seen), slices.Clone(s.scores), false
		}
		s.seen[i], s.scores[i] = state, c.score(&c.nodes[i], s)
	}
}

func (c *Cluster) score(n *node, s *shape) score {
	if !n.fits(s) {
		return noFit
	}
	return c.policy(c, n, s)
}

// indexes are the bits of set, ascending.
func indexes(set uint64) []int {
	var out []int
	for ; set != 0; set &= set - 1 {
		out = append(out, bits.TrailingZeros64(set))
	}
	return out
}
