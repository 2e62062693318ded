package queue

import (
	"slices"
	"time"
)

// Plan is what to do now.
type Plan struct {
	Start []Start
	Evict []Evict
	// Reserve is when the first waiting jobs start at the latest, by declared run
	// times; one a tree of cohorts.
	Reserve []Reservation
}

// Start is to start a job with so many members, there.
type Start struct {
	Job     JobID
	Members int
	// Option is which of its alternatives it gets; see [Job.Option].
	Option int
	Place  Place
}

// Evict is to let a job checkpoint, stop and wait again, so that another starts.
type Evict struct {
	Job, For JobID
	// LostSeconds is the work done since its checkpoint: devices times seconds.
	LostSeconds float64
	// Moves is set if it starts again elsewhere as soon as it is gone: room is kept.
	Moves bool
}

// Reservation is a start that nothing behind it may delay.
type Reservation struct {
	Job JobID
	At  time.Time
	// Firm is unset while the job would borrow: it then gives way to those that
	// need what is their own.
	Firm bool
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Start) == 0 && len(p.Evict) == 0 }

// Decide is one decision on a snapshot.
func Decide(snap Snapshot, places Places, now time.Time) (Plan, error) {
	s, err := Open(snap, places)
	if err != nil {
		return Plan{}, err
	}
	return s.Plan(now), nil
}

// pass is the making of one plan. What it starts is taken from the state's ledger
// and given back at its end.
type pass struct {
	*State
	now time.Time
	// lateSince is when a job was submitted that has waited for the policy's patience.
	lateSince time.Time
	plan      Plan
	order     order
	started   []hold
	gone      map[*entry]bool // asked to leave by this plan
	applied   bool

	// What is reserved.
	after    *shadow // nil: nobody leaves, and there is no claim
	shadows  []*shadow
	reserved map[int]*shadow // by root
	walks    map[int]int     // in vain, by root
	gaveWay  JobID           // whose reservation was taken back last
	// decidedFirst are those with a reservation, decided on before the order; true:
	// they wait. due are the needs of those that come in their turn.
	decidedFirst map[*entry]bool
	due          map[*need]bool

	// Why jobs wait for another reason than their kind. One without a code is found
	// when somebody asks.
	reasons map[*entry]Reason

	// What need not be tried again.
	found     map[ask]found
	vainly    map[int]bool     // by queue: rules do not allow to evict enough
	inVain    map[needKey]bool // evicting would delay a reservation
	evictable map[int][]*entry // by queue, who may be asked to leave
}

func (s *State) newPass(now time.Time) *pass {
	return &pass{State: s, now: now, lateSince: now.Add(-s.policy.Patience), gone: map[*entry]bool{},
		reserved: map[int]*shadow{}, walks: map[int]int{}, decidedFirst: map[*entry]bool{}, due: map[*need]bool{},
		reasons: map[*entry]Reason{},
		found:   map[ask]found{}, vainly: map[int]bool{}, inVain: map[needKey]bool{}, evictable: map[int][]*entry{}}
}

// found is what was found for at most so many members of a shape after so many
// starts of the pass.
type found struct {
	place          Place
	members, after int
}

// Plan decides what to do at now. It changes nothing; Apply does. [State.Why] tells
// of the last plan, until something is applied.
func (s *State) Plan(now time.Time) Plan {
	s.passes++
	p := s.newPass(now)
	if len(s.leaving) > 0 {
		p.foresee()
	}
	for _, e := range s.claims {
		p.considerClaim(e)
	}
	for _, v := range s.leaving {
		if v.run.Moving {
			p.keepRoom(v)
		}
	}
	for _, e := range s.promises {
		p.keepPromise(e)
	}
	p.startOrder()
	for e := p.head(); e != nil; e = p.head() {
		p.consider(e)
	}
	for _, h := range p.started {
		s.ledger.release(h)
	}
	s.last = p
	p.order, p.found, p.evictable = order{}, nil, nil
	return p.plan
}

// considerClaim decides on a job that others make room for.
func (p *pass) considerClaim(e *entry) {
	if p.isHeld(e.node) {
		p.reasons[e] = p.heldUp(e.node)
		return
	}
	if p.start(e) {
		return
	}
	after := p.foresee()
	if h, ok := after.first(e, after.prefer(e)); ok {
		after.hold(h)
		p.reasons[e] = Reason{Code: Evicting}
		return
	}
	// What was promised went to somebody who was not asked for it, or broke.
	if !p.evict(e) {
		p.reasons[e] = p.waits(e)
	}
}

// keepRoom keeps room for a job that is leaving to start again elsewhere.
func (p *pass) keepRoom(v *entry) {
	after := p.foresee()
	if place, n := after.find(v, v.held().option, v.Min); n > 0 {
		after.hold(hold{v, v.held().option, n, place})
	}
}

// keepPromise decides on a job with a reservation. If it would borrow, it keeps the
// reservation until its turn comes, behind those that do not.
func (p *pass) keepPromise(e *entry) {
	if p.isHeld(e.node) || p.overtaken(e) {
		return
	}
	if p.borrows(e) {
		if p.reserve(e) != nil {
			p.due[e.kind.need] = true
		}
		return
	}
	p.decidedFirst[e] = !p.start(e) && !p.evict(e)
	if p.decidedFirst[e] {
		p.reasons[e] = p.waits(e)
	}
}

// overtaken reports whether e's reservation is another's now: one waits that is
// before it in its queue.
func (p *pass) overtaken(e *entry) bool {
	return slices.ContainsFunc(p.queues[e.node], func(n *need) bool {
		return slices.ContainsFunc(n.kinds, func(k *kind) bool { return p.first(k.jobs[0], e) })
	})
}

// borrows reports whether e borrows whatever its option.
func (p *pass) borrows(e *entry) bool {
	own, _ := p.ledger.own(e)
	return len(own) == 0
}

// isHeld reports whether nothing new starts in queue i.
func (p *pass) isHeld(i int) bool {
	h := p.tree.nodes[i].hold
	return h != nil && (h.Until.IsZero() || h.Until.After(p.now))
}

// consider decides on the first job that is not decided on.
func (p *pass) consider(e *entry) {
	if waits, ok := p.decidedFirst[e]; ok {
		if waits && p.tree.nodes[e.node].strict {
			p.stopQueue(e.node, e)
		} else {
			p.decided(e.node, false)
		}
		return
	}
	root := p.tree.nodes[e.node].root
	open := !p.closed(root)
	sh := p.reserved[root]
	promised := sh != nil && sh.holds[0].entry == e
	if promised && !p.fits(e) && !p.mayEvict(e) {
		p.letWait(e, Reason{Until: sh.at})
		return
	}
	if promised {
		p.unreserve(sh)
	}
	if p.start(e) || p.evict(e) {
		p.decided(e.node, false)
		if promised { // whoever waited behind it may have the next reservation
			p.startNode(root)
			p.arrangeRoot(root)
		}
		return
	}
	p.letWait(e, p.waits(e))
	if open && p.closed(root) {
		p.arrangeRoot(root)
	}
}

// letWait lets e and those that it stands for wait.
func (p *pass) letWait(e *entry, r Reason) {
	if p.tree.nodes[e.node].strict {
		p.reasons[e] = r
		p.stopQueue(e.node, e)
	} else {
		e.kind.reason = r
		p.decided(e.node, true)
	}
}

// closed reports whether nobody else gets a reservation in a tree. Then those that
// can neither start nor evict are passed over.
func (p *pass) closed(root int) bool { return p.reserved[root] != nil || p.walks[root] >= vain }

// passOver reports whether all of n's are hopeless.
func (p *pass) passOver(n *need) bool {
	if n.pass != p.passes {
		n.pass, n.hopeless = p.passes, !p.due[n] && p.hopeless(n.quick.jobs[0], n.strong.jobs[0])
	}
	return n.hopeless
}

// hopeless reports whether e can not start in this pass, and strong, which needs
// the same, not evict: room and quota only become less in it, but for what it
// evicts itself, which is for the next one to use.
func (p *pass) hopeless(e, strong *entry) bool {
	fits := false
	for _, o := range e.options {
		if p.ledger.quota(e, o, e.Min) < e.Min {
			continue
		}
		a := ask{e.shape, o.n, e.Min}
		if f, ok := p.found[a]; ok && f.members < e.Min {
			continue
		}
		if !slices.ContainsFunc(p.shadows, func(sh *shadow) bool { return p.refuses(sh, e, o, a) }) {
			return false
		}
		fits = true
	}
	if fits {
		return true // it waits for a reservation, not for room
	}
	return !p.mayEvict(strong)
}

// start starts e if there is quota and room for it, and nothing reserved is
// delayed.
func (p *pass) start(e *entry) bool {
	for _, o := range p.ledger.prefer(e) {
		for _, most := range []int{e.Max, e.Min} {
			place, n := p.find(e, o, most)
			if n == 0 {
				break
			}
			h := hold{e, o, n, place}
			if late, ok := p.admit(h); ok {
				p.ledger.take(h)
				if p.after != nil && len(p.after.holds) == 0 { // it bound nobody, and so has not taken it
					p.after.take(h)
				}
				p.started = append(p.started, h)
				delete(p.reasons, e) // it might have waited for what gave way since
				p.plan.Start = append(p.plan.Start, Start{e.ID, n, o.n, place})
				p.renew(late)
				return true
			}
			if n == e.Min {
				break
			}
		}
	}
	return false
}

// find is [ledger.find] in the pass's ledger, which finds the same for jobs of one
// shape until something starts, and never more.
func (p *pass) find(e *entry, o *option, most int) (Place, int) {
	n := p.ledger.quota(e, o, most)
	if n < e.Min {
		return nil, 0
	}
	key := ask{e.shape, o.n, n}
	f, ok := p.found[key]
	if !ok || f.members >= e.Min && f.after < len(p.started) {
		place, n := p.ledger.places.Find(&e.Job, o.n, n)
		f = found{place, n, len(p.started)}
		p.found[key] = f
	}
	if f.members < e.Min {
		return nil, 0
	}
	return f.place, f.members
}

// fits reports whether there is quota and room for e.
func (p *pass) fits(e *entry) bool {
	return slices.ContainsFunc(e.options, func(o *option) bool {
		_, n := p.find(e, o, e.Min)
		return n > 0
	})
}
