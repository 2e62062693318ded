package queue

// Sound reports whether no node holds more than it has.
func (c *Counting) Sound() bool {
	for _, p := range c.pools {
		for _, a := range p.free {
			if a < 0 {
				return false
			}
		}
	}
	return true
}

// Borrows reports whether a waiting job borrows with its first option.
func (s *State) Borrows(id JobID) bool {
	e := s.jobs[id]
	return s.ledger.borrows(e, e.options[0])
}
