package queue

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// QueueID names a queue.
type QueueID string

// Quota is what a queue or a cohort has of a flavor.
type Quota struct {
	Nominal Amount
	// BorrowingLimit is how much more than Nominal may be used of what others
	// leave unused, LendingLimit how much of Nominal others may use. Nil: all.
	BorrowingLimit, LendingLimit *Amount
}

// maxDepth is how many levels of cohorts there may be.
const maxDepth = 64

// Cohort is a group of queues and cohorts that lend quota to each other.
type Cohort struct {
	Name   string
	Parent string // "": it is at the top
	Quotas map[Flavor]Quota
	Weight int // of its fair share; zero: 1
}

// Queue is what jobs are submitted to; a workspace has one or more.
type Queue struct {
	ID     QueueID
	Cohort string // "": it neither borrows nor lends
	Quotas map[Flavor]Quota
	Weight int // of its fair share; zero: 1
	// Strict stops the queue at the first job that cannot start. Otherwise later
	// ones may go ahead, as long as they do not delay a reservation.
	Strict bool
	// Protected lets what is within the nominal quota of the queue evict work of
	// queues of the tree that are not, whether they are over theirs or not: endpoints
	// go ahead of training where there are less nodes than quotas.
	Protected bool
	// Held keeps all that waits from starting; nil: nothing does.
	Held *Hold
}

// Hold is why nothing new starts in a queue, as a spent budget.
type Hold struct {
	Why   string
	Until time.Time // zero: until the queue is opened without it
}

// tree is the cohorts with the queues as leaves. It does not change.
type tree struct {
	flavors []Flavor
	index   map[Flavor]int
	nodes   []node
	roots   []int
	queues  map[QueueID]int
	below   map[int][]int // the queues of a root
}

// node is a cohort or a queue. Slices are by flavor.
type node struct {
	name      string
	queue     bool
	strict    bool
	protected bool
	hold      *Hold
	parent    int // -1: none
	root      int
	children  []int
	weight    float64
	nominal   []Amount
	borrow    []Amount // -1: no limit
	lend      []Amount // -1: no limit
	// total is the nominal quota of the node and what its children lend it; kept
	// is the part of it that the node does not lend to its parent.
	total, kept []Amount
}

func newTree(snap *Snapshot) (*tree, error) {
	cohorts, queues := snap.Cohorts, snap.Queues
	t := &tree{index: map[Flavor]int{}, queues: map[QueueID]int{}, below: map[int][]int{}}
	if len(cohorts)+len(queues) > MaxJobs {
		return nil, fmt.Errorf("%w: more than %d queues and cohorts", ErrInvalid, MaxJobs)
	}
	t.flavors = flavorsOf(snap)
	for i, f := range t.flavors {
		t.index[f] = i
	}
	byName := map[string]int{}
	for _, c := range slices.SortedFunc(slices.Values(cohorts), func(a, b Cohort) int { return cmp.Compare(a.Name, b.Name) }) {
		if _, twice := byName[c.Name]; twice || c.Name == "" {
			return nil, fmt.Errorf("%w cohort %q: names are not empty, and used once", ErrInvalid, c.Name)
		}
		byName[c.Name] = len(t.nodes)
		if err := t.add(node{name: c.Name}, c.Weight, c.Quotas); err != nil {
			return nil, fmt.Errorf("cohort %q: %w", c.Name, err)
		}
	}
	parents := map[string]string{}
	for _, c := range cohorts {
		parents[c.Name] = c.Parent
	}
	for _, q := range slices.SortedFunc(slices.Values(queues), func(a, b Queue) int { return cmp.Compare(a.ID, b.ID) }) {
		if _, twice := t.queues[q.ID]; twice || q.ID == "" {
			return nil, fmt.Errorf("%w queue %q: names are not empty, and used once", ErrInvalid, q.ID)
		}
		t.queues[q.ID] = len(t.nodes)
		if err := t.add(node{name: string(q.ID), queue: true, strict: q.Strict, protected: q.Protected, hold: q.Held}, q.Weight, q.Quotas); err != nil {
			return nil, fmt.Errorf("queue %q: %w", q.ID, err)
		}
		if err := t.link(len(t.nodes)-1, q.Cohort, byName); err != nil {
			return nil, err
		}
	}
	for name, i := range byName {
		if err := acyclic(name, parents); err != nil {
			return nil, err
		}
		if err := t.link(i, parents[name], byName); err != nil {
			return nil, err
		}
	}
	for i := range t.nodes {
		slices.Sort(t.nodes[i].children)
		if t.nodes[i].parent < 0 {
			t.roots = append(t.roots, i)
			t.sum(i, i)
		}
	}
	return t, nil
}

// flavorsOf are those of all quotas, and those that jobs have from former quotas.
func flavorsOf(snap *Snapshot) []Flavor {
	all := map[Flavor]bool{}
	quotas := func(qs map[Flavor]Quota) {
		for f := range qs {
			all[f] = true
		}
	}
	for _, c := range snap.Cohorts {
		quotas(c.Quotas)
	}
	for _, q := range snap.Queues {
		quotas(q.Quotas)
	}
	job := func(j *Job) {
		for n := range len(j.Or) + 1 {
			for f := range j.Option(n) {
				all[f] = true
			}
		}
	}
	for i := range snap.Waiting {
		job(&snap.Waiting[i])
	}
	for i := range snap.Running {
		job(&snap.Running[i].Job)
	}
	return slices.Sorted(maps.Keys(all))
}

// add appends n with its quotas, checked.
func (t *tree) add(n node, weight int, quotas map[Flavor]Quota) error {
	if weight < 0 || weight > 1_000_000 {
		return fmt.Errorf("%w weight %d: weights are 0 to 1000000", ErrInvalid, weight)
	}
	n.parent, n.weight = -1, float64(max(weight, 1))
	for _, s := range []*[]Amount{&n.nominal, &n.borrow, &n.lend, &n.total, &n.kept} {
		*s = make([]Amount, len(t.flavors))
	}
	for i, f := range t.flavors {
		q := quotas[f]
		n.nominal[i], n.borrow[i], n.lend[i] = q.Nominal, -1, -1
		for _, a := range []struct {
			what string
			of   *Amount
			to   *Amount
		}{{"nominal quota", &q.Nominal, &n.nominal[i]}, {"borrowing limit", q.BorrowingLimit, &n.borrow[i]}, {"lending limit", q.LendingLimit, &n.lend[i]}} {
			if a.of == nil {
				continue
			}
			if *a.of < 0 || *a.of > MaxAmount {
				return fmt.Errorf("%w %s %s of %s: amounts are 0 to %s", ErrInvalid, a.what, *a.of, f, MaxAmount)
			}
			*a.to = *a.of
		}
	}
	t.nodes = append(t.nodes, n)
	return nil
}

func (t *tree) link(child int, cohort string, byName map[string]int) error {
	if cohort == "" {
		return nil
	}
	p, ok := byName[cohort]
	if !ok {
		return fmt.Errorf("%w %q: there is no cohort %q", ErrInvalid, t.nodes[child].name, cohort)
	}
	t.nodes[child].parent = p
	t.nodes[p].children = append(t.nodes[p].children, child)
	return nil
}

// acyclic follows name to the top. A cohort that reaches itself is refused with
// the way around; so is one above which others go round.
func acyclic(name string, parents map[string]string) error {
	way := []string{name}
	for at := parents[name]; at != ""; at = parents[at] {
		if i := slices.Index(way, at); i >= 0 {
			return fmt.Errorf("%w: cohorts in a cycle: %s; give one of them another parent", ErrInvalid, strings.Join(append(way[i:], at), " -> "))
		}
		if way = append(way, at); len(way) > maxDepth {
			return fmt.Errorf("%w cohort %q: it is more than %d levels deep", ErrInvalid, name, maxDepth)
		}
	}
	return nil
}

// sum fills in totals from the leaves up.
func (t *tree) sum(i, root int) {
	n := &t.nodes[i]
	n.root = root
	if n.queue {
		t.below[root] = append(t.below[root], i)
	}
	copy(n.total, n.nominal)
	for _, c := range n.children {
		t.sum(c, root)
		for f := range n.total {
			n.total[f] += t.nodes[c].total[f] - t.nodes[c].kept[f]
		}
	}
	for f := range n.total {
		if n.parent >= 0 && n.lend[f] >= 0 {
			n.kept[f] = max(0, n.total[f]-n.lend[f])
		}
	}
}

// usage is what is used, by node and flavor. A cohort's is what its children use
// beyond what they keep for themselves.
type usage []Amount

func (t *tree) newUsage() usage { return make(usage, len(t.nodes)*len(t.flavors)) }

func (t *tree) at(i, f int) int { return i*len(t.flavors) + f }

// beyond is how much more a node takes from its parent when its usage goes from u
// to u+a.
func beyond(u, a, kept Amount) Amount { return max(0, u+a-kept) - max(0, u-kept) }

// charge adds a, which may be negative, to node i and to those above it.
func (t *tree) charge(u usage, i, f int, a Amount) {
	for i >= 0 && a != 0 {
		n := &t.nodes[i]
		at := t.at(i, f)
		up := beyond(u[at], a, n.kept[f])
		u[at] += a
		i, a = n.parent, up
	}
}

// available is how much more node i may use: what it keeps for itself, and what
// the nodes above it have within its borrowing limit. It is negative by what has
// to be given back first, where quotas were cut or others' work exceeds them.
func (t *tree) available(u usage, i, f int) Amount {
	n := &t.nodes[i]
	used := u[t.at(i, f)]
	if n.parent < 0 {
		return n.total[f] - used
	}
	above := t.available(u, n.parent, f)
	if n.borrow[f] >= 0 {
		above = min(above, n.total[f]-n.kept[f]+n.borrow[f]-max(0, used-n.kept[f]))
	}
	if own := n.kept[f] - used; own > 0 {
		return own + max(0, above)
	}
	return above
}

// ceiling is the most that node i can ever use, and the node that limits it.
func (t *tree) ceiling(i, f int) (most Amount, limit int) {
	n := &t.nodes[i]
	if n.parent < 0 {
		return n.total[f], i
	}
	above, limit := t.ceiling(n.parent, f)
	if own := n.total[f] - n.kept[f] + n.borrow[f]; n.borrow[f] >= 0 && own < above {
		above, limit = own, i
	}
	return n.kept[f] + above, limit
}

// over reports whether node i uses more of f than it was given.
func (t *tree) over(u usage, i, f int) bool { return u[t.at(i, f)] > t.nodes[i].total[f] }

// within reports whether node i would stay within what it was given if the node
// from, at or below it, used a more of f.
func (t *tree) within(u usage, i, from, f int, a Amount) bool {
	for ; from != i; from = t.nodes[from].parent {
		a = beyond(u[t.at(from, f)], a, t.nodes[from].kept[f])
	}
	return u[t.at(i, f)]+a <= t.nodes[i].total[f]
}
