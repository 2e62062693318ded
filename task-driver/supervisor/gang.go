package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/gang"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/task"
)

// join stores that this supervisor has the task, whose command is to start with
// those of its gang. What is wrong with the command is told before the wait.
func (s *supervisor) join() error {
	if _, err := s.place().Command(s.spec.Argv); err != nil {
		return &StartError{Reason: err.Error()}
	}
	machine, err := process.BootID()
	if err != nil {
		return err
	}
	order := s.spec.Gang
	g := &gang.Gang{
		Key: order.Key, Timeout: order.Timeout, Open: func() (*artifact.Store, error) { return s.openStore() },
		Self: gang.Member{
			Rank: order.Rank, Size: order.Size, AllocID: s.spec.AllocID, TaskID: s.spec.TaskID,
			NodeName: s.spec.NodeName, Machine: machine, Address: order.Address, Port: order.Port,
			ResumedFrom: s.spec.ResumedFrom,
		},
	}
	if g.Self.Address == "" {
		address, port, l, err := gang.Listen()
		if err != nil {
			return err
		}
		g.Self.Address, g.Self.Port, s.held = address, port, l
	}
	if err := s.setRunning(); err != nil {
		return err
	}
	s.gang = g
	return nil
}

// startTogether waits for the gang and starts the command.
func (s *supervisor) startTogether() error {
	g := s.spec.Gang
	s.event("gang-wait", fmt.Sprintf("Waiting for the gang: rank %d of %d", g.Rank, g.Size), map[string]string{
		"rank": strconv.Itoa(g.Rank), "size": strconv.Itoa(g.Size),
	})
	members, err := s.meet()
	if s.held != nil {
		s.held.Close()
	}
	if err != nil {
		return err
	}
	s.complete = true
	meeting := gang.Environment(members)
	s.event("gang", fmt.Sprintf("Gang complete: rank %d of %d, on %s", g.Rank, g.Size, strings.Join(gang.Hosts(members), ", ")), meeting)
	env := task.EnvMap(s.spec.Env)
	maps.Copy(env, meeting)
	s.spec.Env = task.Environ(env)
	return s.start()
}

// meet returns the members of the gang once it is complete. It leaves the gang
// if the task is to end before that.
func (s *supervisor) meet() ([]gang.Member, error) {
	ctx, leave := context.WithCancelCause(context.Background())
	defer leave(nil)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watchWait(watching, leave) })
	members, err := s.gang.Meet(ctx)
	stop()
	watcher.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil {
		return nil, s.gang.Leave(cause)
	}
	return members, err
}

// watchWait makes the task leave its gang when it is to end.
func (s *supervisor) watchWait(ctx context.Context, leave context.CancelCauseFunc) {
	faults, forgotten := make(chan gpustatus.Device), make(chan struct{})
	var watchers sync.WaitGroup
	defer watchers.Wait()
	watchers.Go(func() { s.watchGPUs(ctx, faults) })
	watchers.Go(func() { s.watchState(ctx, forgotten) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ending:
			leave(errors.New("it was stopped"))
		case <-s.timeUp:
			leave(errors.New("it was stopped"))
		case <-forgotten:
			leave(errors.New("its state folder was removed"))
		case f := <-faults:
			if f.Action != gpustatus.Keep { // else the gang would start on it only to be moved
				leave(fmt.Errorf("%s is out of service", f.ID))
			}
		}
	}
}

// endUnstarted ends a task whose command was never started.
func (s *supervisor) endUnstarted(err error) int {
	s.log.Info("the task does not start", "reason", err)
	var end ending
	end.addError(err)
	end.settle()
	s.blameGPU(&end)
	s.event("gang-failed", "Task failed: "+end.err, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return s.conclude(ctx, cancel, &work{metrics: newMetrics(s.spec.Folder), stop: func() {}}, end)
}

// watchGang sends the reason once another member has failed.
func (s *supervisor) watchGang(ctx context.Context, failed chan<- string) {
	if s.gang == nil {
		return
	}
	reason, err := s.gang.Broken(ctx)
	if err != nil {
		return // the command has ended
	}
	select {
	case failed <- reason:
	case <-ctx.Done():
	}
}

// loseGang begins to end a task whose gang has lost another member.
func (s *supervisor) loseGang(reason string, end *ending) {
	end.addError(mltask.GangBroken(reason))
	s.event("gang-broken", "The gang is broken: "+reason+"; ending the task", nil)
	_ = s.command.SignalGroup(syscall.SIGTERM)
}

// tellGang tells the other members of a failure, unless they are being ended,
// too, by whoever has ended this one.
func (s *supervisor) tellGang(end ending) {
	if s.gang == nil || !s.complete || end.succeeded() || end.asked || end.timeUp {
		return
	}
	select {
	case <-s.ending: // it came with the signal that has ended the command
		return
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordLimit)
	defer cancel()
	if err := s.gang.Break(ctx, fmt.Sprintf("rank %d %s", s.spec.Gang.Rank, end.text())); err != nil {
		s.log.Error("telling the gang of the failure", "error", err)
	}
}

// text says how a failed task has ended, as in "rank 2 was killed by signal 9".
func (e *ending) text() string {
	switch {
	case gpustatus.IsTaskError(e.err): // which is told of this member alone
		return "lost one of its GPUs"
	case e.err != "":
		return "failed: " + e.err
	case e.oom:
		return "ran out of memory"
	case e.signal != 0:
		return fmt.Sprintf("was killed by signal %d", e.signal)
	}
	return fmt.Sprintf("exited with code %d", e.code)
}
