package control

import (
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/cronexpr"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/state"
)

func u64(v uint64) string { return strconv.FormatUint(v, 10) }

// nextLaunch is a periodic job's first launch after a time.
func nextLaunch(j *api.Job, after time.Time) (time.Time, error) {
	p := j.Periodic
	zone := time.UTC
	if tz := deref(p.TimeZone); tz != "" {
		var err error
		if zone, err = time.LoadLocation(tz); err != nil {
			return time.Time{}, fmt.Errorf("invalid time zone %q: %w", tz, err)
		}
	}
	specs := p.Specs
	if s := deref(p.Spec); s != "" {
		specs = append([]string{s}, specs...)
	}
	if len(specs) == 0 {
		return time.Time{}, fmt.Errorf("must specify a spec")
	}
	var next time.Time
	for _, spec := range specs {
		e, err := cronexpr.Parse(spec)
		if err != nil {
			return time.Time{}, fmt.Errorf("invalid cron spec %q: %w", spec, err)
		}
		if t := e.Next(after.In(zone)); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next, nil
}

// launchPeriodic launches the periodic jobs that are due. Launches that fell
// due while the cluster was down are made up for once.
func (s *Server) launchPeriodic(now time.Time) (due time.Time, err error) {
	var jobs []*api.Job
	s.store.View(func(r state.Reader) {
		for _, j := range r.Jobs() {
			if !j.IsPeriodic() || *j.Stop || !deref(j.Periodic.Enabled) || j.IsParameterized() {
				continue
			}
			last := time.Unix(0, *j.SubmitTime)
			if h := r.History(*j.Namespace, *j.ID); h.LastLaunch.After(last) {
				last = h.LastLaunch
			}
			next, err := nextLaunch(j, last)
			switch {
			case err != nil || next.IsZero():
			case !next.After(now):
				jobs = append(jobs, j)
			case due.IsZero() || next.Before(due):
				due = next
			}
		}
	})
	for _, j := range jobs {
		if _, _, err := s.launch(*j.Namespace, *j.ID, now, deref(j.Periodic.ProhibitOverlap)); err != nil {
			return due, err
		}
	}
	return due, nil
}

// ForcePeriodic launches a periodic job now.
func (s *Server) ForcePeriodic(namespace, id string) (evalID string, index uint64, err error) {
	return s.launch(namespace, id, time.Now(), false)
}

func (s *Server) launch(namespace, id string, at time.Time, alone bool) (evalID string, index uint64, err error) {
	index, err = s.store.Update(func(tx *state.Tx) error {
		tx.As("JobRegistered")
		parent := tx.Job(namespace, id)
		if parent == nil {
			return notFound("job not found")
		}
		if !parent.IsPeriodic() {
			return refuse("can't force launch non-periodic job")
		}
		h := *tx.History(namespace, id)
		h.LastLaunch = at
		if err := tx.PutHistory(&h); err != nil {
			return err
		}
		if alone && hasRunningChild(tx.Reader, parent) {
			return nil
		}
		child := bare(parent)
		child.ID = ptr(fmt.Sprintf("%s/periodic-%d", id, at.Unix()))
		if tx.Job(namespace, *child.ID) != nil {
			return nil // launched before a restart
		}
		child.Name, child.ParentID, child.Periodic = child.ID, &id, nil
		e, err := s.putChild(tx, child, triggerPeriodic)
		if err == nil {
			evalID = e.ID
		}
		return err
	})
	return evalID, index, err
}

func hasRunningChild(r state.Reader, parent *api.Job) bool {
	for _, j := range r.Jobs() {
		if deref(j.ParentID) == *parent.ID && *j.Namespace == *parent.Namespace && deref(j.Status) != "dead" {
			return true
		}
	}
	return false
}
