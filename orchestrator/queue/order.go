package queue

import "slices"

// rank is where a queue or cohort stands among its siblings: that of the first job
// below it that was not decided on yet.
type rank struct {
	head *entry // nil: there is none
	// late: it has waited longer than the policy's patience.
	late bool
	// borrows: it would take the node over its quota.
	borrows bool
	// share is the node's dominant share by its weight: of all flavors the greatest
	// part of the tree's quota that it uses and has used.
	share float64
}

// before is the order of siblings. IDs break ties, so it is total.
func (r rank) before(o rank, p *pass) bool {
	if r.head == nil || o.head == nil {
		return r.head != nil
	}
	if r.late != o.late {
		return r.late
	}
	if !r.late {
		if r.borrows != o.borrows {
			return o.borrows
		}
		if r.share != o.share {
			return r.share < o.share
		}
	}
	return p.first(r.head, o.head)
}

// first is the order of jobs of a queue: late ones by age, others by priority with
// aging, then by age.
func (p *pass) first(a, b *entry) bool {
	la, lb := p.late(a), p.late(b)
	if la != lb {
		return la
	}
	if pa, pb := p.priority(a), p.priority(b); !la && pa != pb {
		return pa > pb
	}
	return older(a, b) < 0
}

func (p *pass) late(e *entry) bool { return !e.Submitted.After(p.lateSince) }

func (p *pass) priority(e *entry) int {
	if p.policy.Aging == 0 {
		return e.Priority
	}
	return e.Priority + int(max(0, p.now.Sub(e.Submitted)/p.policy.Aging))
}

// rankOf is the rank of a node whose first undecided job is head.
func (p *pass) rankOf(i int, head *entry) rank {
	if head == nil {
		return rank{}
	}
	r := rank{head: head, late: p.late(head)}
	r.borrows = true
	for _, o := range head.options {
		r.borrows = r.borrows && !p.ledger.within(head, o, i)
	}
	r.share = p.shareOf(i)
	return r
}

// share is a node's dominant share by its weight after so many starts.
type share struct {
	of    float64
	after int
}

func (p *pass) shareOf(i int) float64 {
	s := &p.order.shares[i]
	if s.after == len(p.started)+1 {
		return s.of
	}
	*s = share{0, len(p.started) + 1}
	n := &p.tree.nodes[i]
	for f, all := range p.tree.nodes[n.root].total {
		if all > 0 {
			at := p.tree.at(i, f)
			s.of = max(s.of, (float64(p.ledger.usage[at])+p.mean(at, p.now))/float64(all)/n.weight)
		}
	}
	return s.of
}

// A heap keeps its first element first. Only the first ever changes.
func heapify[T any](h []T, before func(a, b T) bool) {
	for i := len(h)/2 - 1; i >= 0; i-- {
		sink(h, i, before)
	}
}

// sink puts h[i] where it belongs below.
func sink[T any](h []T, i int, before func(a, b T) bool) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if before(h[c], h[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// order is who is next: a heap of children in each cohort, one of kinds in each
// queue.
type order struct {
	ranks    []rank
	shares   []share
	children [][]int // by cohort; the last is the roots
	kinds    [][]*kind
}

func (p *pass) startOrder() {
	t := p.tree
	p.order = order{make([]rank, len(t.nodes)), make([]share, len(t.nodes)), make([][]int, len(t.nodes)+1), make([][]*kind, len(t.nodes))}
	for _, i := range t.roots {
		p.startNode(i)
		p.arrange(i)
	}
	p.order.children[len(t.nodes)] = append([]int(nil), t.roots...)
	heapify(p.order.children[len(t.nodes)], p.beforeNode)
}

func (p *pass) startNode(i int) {
	n := &p.tree.nodes[i]
	for _, c := range n.children {
		p.startNode(c)
	}
	p.order.children[i] = slices.Clone(n.children)
	if !n.queue || p.isHeld(i) {
		return
	}
	p.order.kinds[i] = nil
	pick := p.closed(n.root) && !n.strict
	for _, need := range p.queues[i] {
		if pick && p.passOver(need) {
			continue
		}
		for _, k := range need.kinds {
			if p.touch(k); k.next < len(k.jobs) {
				p.order.kinds[i] = append(p.order.kinds[i], k)
			}
		}
	}
}

// touch forgets what an earlier pass found.
func (p *pass) touch(k *kind) {
	if k.pass != p.passes {
		k.pass, k.next, k.reason = p.passes, 0, Reason{}
	}
}

// arrange orders all that is undecided at or below node i. In a closed tree, what is
// hopeless is decided on; but not in a strict queue, where it stops the others.
func (p *pass) arrange(i int) {
	n := &p.tree.nodes[i]
	for _, c := range n.children {
		p.arrange(c)
	}
	if p.closed(n.root) && !n.strict {
		p.order.kinds[i] = slices.DeleteFunc(p.order.kinds[i], func(k *kind) bool {
			return !p.due[k.need] && (p.passOver(k.need) || p.hopeless(k.jobs[k.next], k.jobs[k.next]))
		})
	}
	heapify(p.order.kinds[i], p.beforeKind)
	heapify(p.order.children[i], p.beforeNode)
	p.order.ranks[i] = p.rankOf(i, p.headOf(i))
}

// arrangeRoot arranges the first tree.
func (p *pass) arrangeRoot(root int) {
	p.arrange(root)
	sink(p.order.children[len(p.tree.nodes)], 0, p.beforeNode)
}

func (p *pass) beforeNode(a, b int) bool { return p.order.ranks[a].before(p.order.ranks[b], p) }

func (p *pass) beforeKind(a, b *kind) bool { return p.first(a.jobs[a.next], b.jobs[b.next]) }

// headOf is the first undecided job at or below i.
func (p *pass) headOf(i int) *entry {
	if !p.tree.nodes[i].queue {
		if c := p.order.children[i]; len(c) > 0 {
			return p.order.ranks[c[0]].head
		}
		return nil
	}
	if k := p.order.kinds[i]; len(k) > 0 {
		return k[0].jobs[k[0].next]
	}
	return nil
}

// head is the first undecided job of all; nil: there is none.
func (p *pass) head() *entry {
	if r := p.order.children[len(p.tree.nodes)]; len(r) > 0 {
		return p.order.ranks[r[0]].head
	}
	return nil
}

// decided goes on after the head of queue i was decided on. With the whole kind,
// the jobs behind it are as well.
func (p *pass) decided(i int, whole bool) {
	h := p.order.kinds[i]
	if k := h[0]; whole || k.next+1 == len(k.jobs) {
		if !whole {
			k.next++
		}
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
	} else {
		k.next++
	}
	if len(h) > 0 {
		sink(h, 0, p.beforeKind)
	}
	p.order.kinds[i] = h
	p.rise(i)
}

// stopQueue decides on all jobs of queue i: they are behind one that waits.
func (p *pass) stopQueue(i int, behind *entry) {
	for _, k := range p.order.kinds[i] {
		k.reason = Reason{Code: BehindHead, Subject: string(behind.ID)}
	}
	p.order.kinds[i] = nil
	p.rise(i)
}

// rise ranks node i, which is the first of its siblings, and those above anew.
func (p *pass) rise(i int) {
	for ; i >= 0; i = p.tree.nodes[i].parent {
		p.order.ranks[i] = p.rankOf(i, p.headOf(i))
		up := p.tree.nodes[i].parent
		if up < 0 {
			up = len(p.tree.nodes)
		}
		sink(p.order.children[up], 0, p.beforeNode)
		if up == len(p.tree.nodes) {
			return
		}
	}
}
