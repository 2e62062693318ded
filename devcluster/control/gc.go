package control

import (
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// Ages from which what has ended is collected.
const (
	evalAge = time.Hour
	jobAge  = 4 * time.Hour
)

// collectGarbage forgets what ended long ago, every now and then.
func (s *Server) collectGarbage(now time.Time) (due time.Time, err error) {
	const every = 5 * time.Minute
	if due := s.collected.Add(every); now.Before(due) {
		return due, nil
	}
	s.collected = now
	return now.Add(every), s.collect(now, false)
}

// CollectNow forgets everything that has ended.
func (s *Server) CollectNow() error { return s.collect(time.Now(), true) }

func (s *Server) collect(now time.Time, all bool) error {
	old := func(t int64, age time.Duration) bool { return all || now.Sub(time.Unix(0, t)) > age }
	_, err := s.store.Update(func(tx *state.Tx) error {
		for _, j := range tx.Jobs() {
			if deref(j.Status) != "dead" || !old(*j.SubmitTime, jobAge) || !s.collectable(tx, j, old) {
				continue
			}
			if err := s.collectJob(tx, j); err != nil {
				return err
			}
		}
		for _, a := range tx.Allocs() {
			job := tx.Job(a.Namespace, a.JobID)
			stale := job == nil || *job.CreateIndex != *a.Job.CreateIndex || *job.Version != *a.Job.Version
			if stale && scheduler.ClientTerminal(a) && old(a.ModifyTime, evalAge) && (job == nil || a.NextAllocation != "" || scheduler.ServerTerminal(a)) {
				if err := tx.DeleteAlloc(a.ID); err != nil {
					return err
				}
			}
		}
		for _, e := range tx.Evals() {
			if e.Status != evalPending && e.Status != evalBlocked && old(e.ModifyTime, evalAge) && tx.Job(e.Namespace, e.JobID) == nil {
				if err := tx.DeleteEval(e.ID); err != nil {
					return err
				}
			}
		}
		for _, d := range tx.Deployments() {
			if !active(d) && old(d.ModifyTime, evalAge) && tx.Job(d.Namespace, d.JobID) == nil {
				if err := tx.DeleteDeployment(d.ID); err != nil {
					return err
				}
			}
		}
		return s.collectVersions(tx)
	})
	return err
}

// collectable reports whether all of a dead job has ended long enough ago.
// Parents that may launch again, and jobs that may be scheduled again, stay.
func (s *Server) collectable(tx *state.Tx, j *api.Job, old func(int64, time.Duration) bool) bool {
	if *j.Type == scheduler.Service && !*j.Stop {
		return false
	}
	for _, a := range tx.AllocsOfJob(*j.Namespace, *j.ID) {
		if !scheduler.ClientTerminal(a) || !old(a.ModifyTime, jobAge) {
			return false
		}
	}
	for _, e := range tx.EvalsOfJob(*j.Namespace, *j.ID) {
		if e.Status == evalPending || e.Status == evalBlocked || !old(e.ModifyTime, jobAge) {
			return false
		}
	}
	return true
}

func (s *Server) collectJob(tx *state.Tx, j *api.Job) error {
	for _, a := range tx.AllocsOfJob(*j.Namespace, *j.ID) {
		if err := tx.DeleteAlloc(a.ID); err != nil {
			return err
		}
	}
	for _, e := range tx.EvalsOfJob(*j.Namespace, *j.ID) {
		if err := tx.DeleteEval(e.ID); err != nil {
			return err
		}
	}
	for _, d := range tx.DeploymentsOfJob(*j.Namespace, *j.ID) {
		if err := tx.DeleteDeployment(d.ID); err != nil {
			return err
		}
	}
	return tx.DeleteJob(j)
}

// collectVersions forgets versions of jobs that are gone and run nowhere.
func (s *Server) collectVersions(tx *state.Tx) error {
	type incarnation struct {
		key     string
		created uint64
	}
	used := map[incarnation]bool{}
	for _, a := range tx.Allocs() {
		used[incarnation{state.Key(a.Namespace, a.JobID), *a.Job.CreateIndex}] = true
	}
	for _, j := range tx.Jobs() {
		used[incarnation{state.Key(*j.Namespace, *j.ID), *j.CreateIndex}] = true
	}
	for _, v := range tx.AllJobVersions() {
		if !used[incarnation{state.Key(*v.Namespace, *v.ID), *v.CreateIndex}] {
			if err := tx.DeleteJobVersion(v); err != nil {
				return err
			}
		}
	}
	return nil
}
