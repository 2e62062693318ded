package queue

import "time"

// Mover is [Places] that know who has to run elsewhere so that a job finds room.
type Mover interface {
	Places
	// Moves is where so many members of j go if some of movable move, and where
	// those go; false: there are no such moves. It changes nothing.
	Moves(movable []Movable, j *Job, option, members int) (Place, []Move, bool)
}

// Movable is a running job that may be stopped and started elsewhere.
type Movable struct {
	Running
	// Lost is the work that it does again then, in any unit that is the same for all.
	Lost float64
}

// Move is to have a job run somewhere else.
type Move struct {
	Job JobID
	To  Place
}

// Consolidate moves running jobs together, so that one starts for which there is
// quota, and room that is in pieces. It is a plan as that of [State.Plan], to be
// asked for when there is nothing else to do, and less often: the search costs more
// than a pass. The plan is empty if nothing would be won, or if somebody is leaving
// already.
//
// It is for jobs with a reservation, who have waited for the policy's preemption
// delay. Who moves may be asked to leave as any victim, of whatever queue, since it
// starts again at once: room is kept for it, too. No other reservation is delayed.
func (s *State) Consolidate(now time.Time) Plan {
	mover, ok := s.ledger.places.(Mover)
	if !ok || len(s.leaving)+len(s.claims) > 0 {
		return Plan{}
	}
	p := s.newPass(now)
	for _, e := range s.promises {
		if !p.isHeld(e.node) && !p.overtaken(e) {
			p.reserve(e)
		}
	}
	var movable []Movable
	for _, running := range s.byNode {
		for _, v := range running {
			if p.mayLeave(v) {
				movable = append(movable, Movable{Running{v.Job, *v.run}, v.lost(now)})
			}
		}
	}
	for _, e := range s.promises {
		sh := p.reserved[s.tree.nodes[e.node].root]
		if sh == nil || sh.holds[0].entry != e || p.fits(e) || e.Queued.Add(s.policy.PreemptionDelay).After(now) {
			continue
		}
		for _, o := range s.ledger.prefer(e) {
			if s.ledger.quota(e, o, e.Min) < e.Min {
				continue
			}
			if place, moves, ok := mover.Moves(movable, &e.Job, o.n, e.Min); ok && p.together(hold{e, o, e.Min, place}, sh, moves) {
				return p.moving(e, moves)
			}
		}
	}
	return Plan{}
}

// together reports whether no reservation but sh, which is h's own, is delayed if h
// starts and others move for it.
func (p *pass) together(h hold, sh *shadow, moves []Move) bool {
	p.unreserve(sh)
	var victims []*entry
	for _, m := range moves {
		victims = append(victims, p.jobs[m.Job])
	}
	late, ok := p.takeIn(h, victims)
	for i := 0; ok && len(late) == 0 && i < len(moves); i++ {
		again := victims[i].held()
		again.place = moves[i].To
		late, ok = p.takeIn(again, nil)
	}
	return ok && len(late) == 0
}

func (p *pass) moving(e *entry, moves []Move) (plan Plan) {
	for _, m := range moves {
		plan.Evict = append(plan.Evict, Evict{m.Job, e.ID, p.jobs[m.Job].lost(p.now) / float64(One), true})
	}
	for _, e := range p.promises { // they stay as they are
		if sh := p.reserved[p.tree.nodes[e.node].root]; sh != nil && sh.holds[0].entry == e {
			plan.Reserve = append(plan.Reserve, Reservation{e.ID, sh.at, sh.firm})
		}
	}
	return plan
}
