// Package supervisor runs one task in a process of its own, which outlives the
// driver, its upgrades, and the agent.
//
// A supervisor starts the command, is the parent that waits for it, and the
// subreaper of whatever it leaves behind. While the command runs it seals
// checkpoints, copies them to the artefact store and follows the metrics. When
// the command ends it ends the rest of the process tree, stores the outputs,
// writes the result record, and last of all the exit status, from its state
// folder, by which the driver learns that the task has ended.
//
// Nothing but SIGKILL ends a supervisor before its task. SIGUSR1 means that the
// task's time is up: it kills the process tree, and puts a limit on what is
// done after that. If the supervisor itself is killed, the command dies with
// it, the driver kills the rest, and the task counts as failed.
//
// The supervisor of a member of a gang waits for the others before it starts the
// command. SIGUSR2 tells it that the task is being ended: one that still waits
// leaves the gang.
package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/task-driver/gang"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/task"
)

const (
	// TimeUp is the signal that tells a supervisor that its task's time is up.
	TimeUp = syscall.SIGUSR1
	// Ending is the signal that tells the supervisor of a member of a gang that
	// the task is being ended on purpose. It comes before the command's own.
	Ending = syscall.SIGUSR2
)

const (
	// stallGrace is what a stalled task gets between SIGTERM and SIGKILL.
	stallGrace = 30 * time.Second
	// killLimit is how long killed processes may take to vanish, after which
	// the task ends without them: the kernel holds them, as in a read from a
	// dead network file system.
	killLimit = 30 * time.Second
	// finishLimit is how long storing may take once the task's time is up.
	finishLimit = 30 * time.Second
)

type supervisor struct {
	dir     task.Dir
	spec    Spec
	journal *task.Journal
	log     *slog.Logger

	command process.ID
	started time.Time
	exited  chan syscall.WaitStatus // the command's end
	reaped  chan struct{}           // closed when no process of the task is left
	timeUp  chan os.Signal
	ending  chan os.Signal

	gang     *gang.Gang   // nil for a task of its own
	held     net.Listener // the port that was chosen for it, until the command starts
	complete bool         // the command starts, for all are there
}

// Main is the whole life of a supervisor process. It returns the process's exit
// status, which says nothing about the task's.
func Main(stateDir string) int {
	// The thread that starts the command must live as long as it does, see
	// Place.Start.
	runtime.LockOSThread()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	// Caught rather than ignored, for the command would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGQUIT)
	s := &supervisor{
		dir:    task.Dir(stateDir),
		log:    log,
		exited: make(chan syscall.WaitStatus, 1),
		reaped: make(chan struct{}),
		timeUp: make(chan os.Signal, 1),
		ending: make(chan os.Signal, 1),
	}
	signal.Notify(s.timeUp, TimeUp)
	signal.Notify(s.ending, Ending)
	answer := os.NewFile(readyFD, "ready")
	err := s.prepare()
	switch {
	case err != nil:
	case s.spec.Gang != nil:
		err = s.join()
	default:
		err = s.start()
	}
	reply(answer, err)
	if err != nil {
		log.Error("starting the task", "error", err)
		return 1
	}
	s.protect()
	if s.gang != nil {
		if err := s.startTogether(); err != nil {
			return s.endUnstarted(err)
		}
	}
	log.Info("task started", "task", s.spec.TaskID, "pid", s.command.PID)
	return s.run()
}

func reply(w *os.File, err error) {
	var r ready
	var start *StartError
	switch {
	case errors.As(err, &start):
		r = ready{Error: start.Reason, Retry: start.Retry}
	case err != nil:
		r = ready{Error: err.Error(), Retry: true}
	}
	_ = json.NewEncoder(w).Encode(r) // the driver may be gone
	w.Close()
}

// prepare makes sure that the task is this process's, and reads the order.
func (s *supervisor) prepare() (err error) {
	for fd := readyFD; fd < endFD; fd++ {
		unix.CloseOnExec(fd)
	}
	// The driver took the lock; this process has it by the open file.
	if err := syscall.Flock(lockFD, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("holding the task's lock: %w", err)
	}
	if s.spec, err = readSpec(os.Stdin); err != nil {
		return err
	}
	if s.journal, err = s.dir.Journal(); err != nil {
		return err
	}
	// Orphans of the task become this process's children.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the task's subreaper: %w", err)
	}
	return nil
}

// place is where and as whom the command runs.
func (s *supervisor) place() Place {
	return Place{Group: s.spec.Group, User: s.spec.User, NetNS: s.spec.NetNS, WorkDir: s.spec.WorkDir, Env: s.spec.Env}
}

// start starts the command and stores that it runs.
func (s *supervisor) start() error {
	stdout, stderr := os.NewFile(stdoutFD, "stdout"), os.NewFile(stderrFD, "stderr")
	place := s.place()
	cmd, err := place.Command(s.spec.Argv)
	if err != nil {
		return &StartError{Reason: err.Error()}
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := place.Start(cmd); err != nil {
		return &StartError{Reason: fmt.Sprintf("starting %q: %v", s.spec.Argv[0], err), Retry: errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM)}
	}
	stdout.Close()
	stderr.Close()
	s.started = time.Now().UTC()
	// Not reaped yet, it keeps its PID even if it has ended.
	s.command, err = process.Of(cmd.Process.Pid)
	go s.reap(cmd.Process.Pid)
	if err == nil {
		err = s.setRunning()
	}
	if err != nil {
		return errors.Join(err, s.endTree())
	}
	return nil
}

func (s *supervisor) setRunning() error {
	self, err := process.Of(os.Getpid())
	if err != nil {
		return err
	}
	started := s.started
	if started.IsZero() { // it waits for its gang
		started = time.Now().UTC()
	}
	var member *task.Gang
	if g := s.spec.Gang; g != nil {
		member = &task.Gang{Store: s.spec.Store, Key: g.Key, Rank: g.Rank}
	}
	return s.dir.SetRunning(task.Running{
		TaskID:     s.spec.TaskID,
		Supervisor: self,
		Command:    s.command,
		Group:      s.spec.Group,
		WorkDir:    s.spec.WorkDir,
		User:       s.spec.User,
		NetNS:      s.spec.NetNS,
		Started:    started,
		Gang:       member,
	})
}

// protect makes the supervisor the last to be killed when the machine runs out
// of memory. It holds the log's FIFOs open for reading, too: then a task whose
// log collector restarts waits for the next one rather than dies of SIGPIPE.
func (s *supervisor) protect() {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0); err != nil {
		s.log.Info("the supervisor is not protected from running out of memory", "error", err)
	}
	for _, path := range []string{s.spec.Stdout, s.spec.Stderr} {
		info, err := os.Stat(path)
		if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
			continue
		}
		// Never closed: the process's end does that.
		if _, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			s.log.Warn("holding the log open", "path", path, "error", err)
		}
	}
}

// reap collects the children of this process: the command, and every orphan of
// its tree.
func (s *supervisor) reap(command int) {
	defer close(s.reaped)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD: nobody is left
			return
		case pid == command:
			s.exited <- status
		}
	}
}

// run sees the task through.
func (s *supervisor) run() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	work := s.startWork(ctx)
	end := s.awaitCommand(work)
	s.blameGPU(&end)
	if err := s.endTree(); err != nil {
		s.log.Error("ending the process tree", "error", err)
		end.addError(err)
	}
	if end.oom = s.spec.Group.OOMKills() > 0; end.oom {
		s.event("oom", oomMessage, nil)
	}
	return s.conclude(ctx, cancel, work, end)
}

// conclude does what is left once no process of the task is. From now on time
// being up limits that, by cancel.
func (s *supervisor) conclude(ctx context.Context, cancel context.CancelFunc, work *work, end ending) int {
	if end.timeUp {
		time.AfterFunc(finishLimit, cancel)
	} else {
		go func() {
			<-s.timeUp
			time.AfterFunc(finishLimit, cancel)
		}()
	}
	s.finish(ctx, work, &end)
	s.tellGang(end)
	code := s.writeExit(end)
	if !s.dir.Exists() { // no driver will find the group
		ctx, cancel := context.WithTimeout(context.Background(), killLimit)
		defer cancel()
		if err := s.spec.Group.Remove(ctx); err != nil {
			s.log.Error("removing the task's control group", "error", err)
		}
	}
	return code
}

// awaitCommand returns when the command has ended, having killed it if its time
// was up or it stalled, or is to be killed by the caller.
func (s *supervisor) awaitCommand(work *work) ending {
	var end ending
	var kill, leave <-chan time.Time
	stalled, broken := work.stalled, work.broken
	for {
		select {
		case status := <-s.exited:
			end.take(status)
			return end
		case f := <-work.faults:
			grace, later := s.loseGPU(f, &end)
			if grace > 0 {
				kill = time.After(grace)
			}
			if later > 0 {
				leave = time.After(later)
			}
		case <-leave:
			if f, still := s.worstFault(); still && f.Action != gpustatus.Keep {
				f.Action = gpustatus.End
				grace, _ := s.loseGPU(f, &end)
				kill = time.After(grace)
			}
		case <-s.timeUp:
			end.timeUp = true
			s.log.Info("time is up, killing the task")
			if err := s.endTree(); err != nil {
				s.log.Error("killing the task", "error", err)
			}
			kill = time.After(killLimit)
		case <-work.forgotten:
			s.log.Error("the task's state folder was removed: nobody can stop the task any more, killing it")
			return ending{timeUp: true, code: 128 + int(syscall.SIGKILL), signal: int(syscall.SIGKILL)}
		case <-stalled:
			stalled = nil
			end.addError(fmt.Errorf("stalled: the metrics file has not grown for %v", s.spec.StallTimeout))
			s.event("stalled", fmt.Sprintf("Stalled: the metrics file has not grown for %v; ending the task", s.spec.StallTimeout), nil)
			_ = s.command.SignalGroup(syscall.SIGTERM)
			kill = time.After(stallGrace)
		case <-s.ending:
			end.asked, broken = true, nil
		case reason := <-broken:
			broken = nil
			s.loseGang(reason, &end)
			kill = time.After(stallGrace)
		case <-kill:
			kill = nil
			if err := s.endTree(); err != nil {
				s.log.Error("killing the task", "error", err)
				end.addError(err)
				end.code, end.signal = 128+int(syscall.SIGKILL), int(syscall.SIGKILL)
				return end
			}
		}
	}
}

// endTree kills every process of the task and returns when none is left.
func (s *supervisor) endTree() error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if err := s.spec.Group.Kill(ctx); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		select {
		case <-s.reaped:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("processes of the task were killed but are still there after %v", killLimit)
		case <-time.After(pause):
		}
		// Without a group, the tree is what is below this process; with one,
		// these are processes that have left it.
		for _, pid := range process.Descendants(os.Getpid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// writeExit stores the exit status. Without it the task would count as lost, so
// a full disk is waited out.
func (s *supervisor) writeExit(end ending) int {
	exit := task.Exit{ExitCode: end.code, Signal: end.signal, OOM: end.oom, Error: end.err, Finished: time.Now().UTC()}
	for pause, tries := 100*time.Millisecond, 0; ; tries++ {
		err := s.dir.SetExit(exit)
		if err == nil {
			s.log.Info("task ended", "exit_code", end.code, "signal", end.signal, "oom", end.oom, "error", end.err)
			return 0
		}
		s.log.Error("storing the exit status", "error", err)
		const most = 200
		if tries == most || !s.dir.Exists() {
			return 1
		}
		time.Sleep(pause)
		pause = min(2*pause, 10*time.Second)
	}
}

func (s *supervisor) event(key, message string, details map[string]string) {
	if err := s.journal.Add(key, message, details); err != nil {
		s.log.Error("writing an event", "event", message, "error", err)
	}
}

// ending is how a task ends, as far as is known.
type ending struct {
	code, signal int
	oom          bool
	timeUp       bool
	asked        bool // a member of a gang was told to end
	err          string
}

func (e *ending) take(status syscall.WaitStatus) {
	if status.Signaled() {
		e.signal = int(status.Signal())
		e.code = 128 + e.signal
		return
	}
	e.code = status.ExitStatus()
}

// addError notes what went wrong. A task with an error never succeeds.
func (e *ending) addError(err error) {
	if e.err != "" {
		e.err += "; "
	}
	e.err += err.Error()
}

// settle makes an error show in the exit code.
func (e *ending) settle() {
	if e.err != "" && e.code == 0 {
		e.code = 1
	}
}

func (e *ending) succeeded() bool { return e.code == 0 && e.err == "" }
