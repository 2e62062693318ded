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
	var movable []Movable
	for i, running := range s.byNode {
		for _, v := range running {
			if p.mayLeave(v) && !p.isHeld(i) {
				movable = append(movable, Movable{Running{v.Job, *v.run}, v.lost(now)})
			}
		}
	}
	for _, e := range s.promises {
		if p.isHeld(e.node) || p.overtaken(e) || p.fits(e) || e.Queued.Add(s.policy.PreemptionDelay).After(now) {
			continue
		}
		for _, o := range s.ledger.prefer(e) {
			if s.ledger.quota(e, o, e.Min) < e.Min {
				continue
			}
			if place, moves, ok := mover.Moves(movable, &e.Job, o.n, e.Min); ok {
				if plan, ok := s.moving(hold{e, o, e.Min, place}, moves, now); ok {
					return plan
				}
			}
		}
	}
	return Plan{}
}

// moving is the plan in which h starts and others move for it, if quotas let them
// start again and no other reservation is delayed.
func (s *State) moving(h hold, moves []Move, now time.Time) (plan Plan, ok bool) {
	p := s.newPass(now)
	for _, e := range s.promises {
		if e != h.entry && !p.isHeld(e.node) && !p.overtaken(e) {
			p.reserve(e)
		}
	}
	plan.Reserve = p.plan.Reserve // they stay as they are
	l := s.ledger.clone()
	var victims []*entry
	for _, m := range moves {
		v := s.jobs[m.Job]
		victims = append(victims, v)
		l.release(v.held())
		plan.Evict = append(plan.Evict, Evict{v.ID, h.ID, v.lost(now) / float64(One), true})
	}
	l.take(h)
	if late, ok := p.takeIn(h, victims); !ok || len(late) > 0 {
		return Plan{}, false
	}
	for i, m := range moves {
		v := victims[i].held()
		v.place = m.To
		if l.quota(v.entry, v.option, v.members) < v.members {
			return Plan{}, false // it was cut while v ran
		}
		l.take(v)
		if late, ok := p.takeIn(v, nil); !ok || len(late) > 0 {
			return Plan{}, false
		}
	}
	return plan, true
}
