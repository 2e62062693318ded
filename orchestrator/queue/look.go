package queue

// Has reports whether a job waits or runs.
func (s *State) Has(id JobID) bool { return s.jobs[id] != nil }

// HasQueue reports whether there is a queue.
func (s *State) HasQueue(id QueueID) bool {
	_, ok := s.tree.queues[id]
	return ok
}

// Memory is what a snapshot has beside its jobs and quotas.
func (s *State) Memory() (claims, promises []JobID, served []Served) {
	for _, e := range s.claims {
		claims = append(claims, e.ID)
	}
	for _, e := range s.promises {
		promises = append(promises, e.ID)
	}
	for _, h := range s.served {
		if !h.At.IsZero() {
			served = append(served, h)
		}
	}
	return claims, promises, served
}

// Check returns a *Refusal for a job that could not start were nothing running. It
// changes nothing.
func (s *State) Check(j Job) error {
	e, err := s.newEntry(j)
	if err != nil {
		return err
	}
	if r, ok := s.tooLarge(e); ok {
		return &Refusal{j.ID, r}
	}
	return nil
}

// Policy is that of the snapshot, with its defaults.
func (s *State) Policy() Policy { return s.policy }
