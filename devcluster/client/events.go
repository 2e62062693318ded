package client

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/driver"
)

// keptEvents is how many events of a task are kept, as in Nomad.
const keptEvents = 10

func newEvent(kind, message string) *api.TaskEvent {
	return &api.TaskEvent{Type: kind, Time: time.Now().UnixNano(), Message: message, DisplayMessage: message, Details: map[string]string{}}
}

func messageEvent(kind, message string) *api.TaskEvent {
	e := newEvent(kind, message)
	e.Details["message"] = message
	return e
}

func receivedEvent() *api.TaskEvent {
	e := newEvent(api.TaskReceived, "")
	e.DisplayMessage = "Task received by client"
	return e
}

func startedEvent() *api.TaskEvent {
	e := newEvent(api.TaskStarted, "")
	e.DisplayMessage = "Task started by client"
	return e
}

func driverFailureEvent(err error) *api.TaskEvent {
	e := newEvent(api.TaskDriverFailure, "")
	e.DriverError, e.DisplayMessage = err.Error(), err.Error()
	e.Details["driver_error"] = err.Error()
	return e
}

func setupFailureEvent(err error) *api.TaskEvent {
	e := newEvent(api.TaskSetupFailure, "")
	e.SetupError, e.DisplayMessage, e.FailsTask = err.Error(), err.Error(), true
	e.Details["setup_error"], e.Details["fails_task"] = err.Error(), "true"
	return e
}

func artifactFailureEvent(err error) *api.TaskEvent {
	e := newEvent(api.TaskArtifactDownloadFailed, "")
	e.DownloadError, e.DisplayMessage = err.Error(), err.Error()
	e.Details["download_error"] = err.Error()
	return e
}

func hookFailedEvent(hook string, err error) *api.TaskEvent {
	return messageEvent("Task hook failed", fmt.Sprintf("%s: %v", hook, err))
}

func terminatedEvent(x *driver.ExitResult) *api.TaskEvent {
	e := newEvent(api.TaskTerminated, "")
	e.ExitCode, e.Signal = x.ExitCode, x.Signal
	e.Details["exit_code"] = strconv.Itoa(x.ExitCode)
	e.Details["signal"] = strconv.Itoa(x.Signal)
	e.Details["oom_killed"] = strconv.FormatBool(x.OOMKilled)
	parts := []string{fmt.Sprintf("Exit Code: %d", x.ExitCode)}
	if x.Signal != 0 {
		parts = append(parts, fmt.Sprintf("Signal: %d", x.Signal))
	}
	message := ""
	if x.Err != nil {
		message = x.Err.Error()
	} else if x.OOMKilled {
		message = "OOM Killed"
	}
	if message != "" {
		e.Message = message
		e.Details["exit_message"] = message
		parts = append(parts, fmt.Sprintf("Exit Message: %q", message))
	}
	e.DisplayMessage = strings.Join(parts, ", ")
	return e
}

func restartingEvent(d decision) *api.TaskEvent {
	e := newEvent(api.TaskRestarting, "")
	e.StartDelay, e.RestartReason = int64(d.delay), d.reason
	e.Details["start_delay"], e.Details["restart_reason"] = strconv.FormatInt(int64(d.delay), 10), d.reason
	e.DisplayMessage = fmt.Sprintf("Task restarting in %v", d.delay)
	if d.reason != reasonWithinPolicy && d.reason != "" {
		e.DisplayMessage = d.reason + " - " + e.DisplayMessage
	}
	return e
}

func notRestartingEvent(d decision) *api.TaskEvent {
	e := newEvent(api.TaskNotRestarting, "")
	e.RestartReason, e.DisplayMessage, e.FailsTask = d.reason, d.reason, d.failed
	e.Details["restart_reason"] = d.reason
	if d.failed {
		e.Details["fails_task"] = "true"
	}
	return e
}

func restartSignalEvent(reason string) *api.TaskEvent {
	e := newEvent(api.TaskRestartSignal, "")
	e.RestartReason, e.DisplayMessage = reason, reason
	e.Details["restart_reason"] = reason
	return e
}

func killingEvent(reason string, timeout time.Duration) *api.TaskEvent {
	e := newEvent(api.TaskKilling, "")
	e.KillTimeout, e.KillReason = timeout, reason
	e.Details["kill_timeout"] = timeout.String()
	e.DisplayMessage = fmt.Sprintf("Sent interrupt. Waiting %v before force killing", timeout)
	if reason != "" {
		e.Details["kill_reason"] = reason
		e.DisplayMessage = reason
	}
	return e
}

func killedEvent() *api.TaskEvent {
	e := newEvent(api.TaskKilled, "")
	e.DisplayMessage = "Task successfully killed"
	return e
}

func siblingFailedEvent(task string) *api.TaskEvent {
	e := newEvent(api.TaskSiblingFailed, "")
	e.FailedSibling, e.DisplayMessage = task, fmt.Sprintf("Task's sibling %q failed", task)
	e.Details["failed_sibling"] = task
	return e
}

func leaderDeadEvent() *api.TaskEvent {
	e := newEvent(api.TaskLeaderDead, "")
	e.DisplayMessage = "Leader Task in Group dead"
	return e
}

func mainDeadEvent() *api.TaskEvent {
	e := newEvent("Main Tasks Dead", "")
	e.DisplayMessage = "Main tasks in the group died"
	return e
}

func signalingEvent(signal, reason string) *api.TaskEvent {
	e := newEvent(api.TaskSignaling, "")
	e.TaskSignal, e.TaskSignalReason = signal, reason
	e.Details["task_signal"], e.Details["task_signal_reason"] = signal, reason
	e.DisplayMessage = fmt.Sprintf("Task being sent signal %s: %s", signal, reason)
	return e
}

func driverEvent(ev driver.TaskEvent) *api.TaskEvent {
	e := newEvent(api.TaskDriverMessage, "")
	e.DriverMessage, e.DisplayMessage = ev.Message, ev.Message
	e.Details["driver_message"] = ev.Message
	for k, v := range ev.Annotations {
		e.Details[k] = v
	}
	if !ev.Time.IsZero() {
		e.Time = ev.Time.UnixNano()
	}
	return e
}
