package run

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/drover-ml/drover/internal/mltask"
)

// outcome is how an attempt ended.
type outcome struct {
	Phase  Phase
	Reason string
	// Free failures take nothing from the retry budget; Final ones are not
	// retried at all.
	Free, Final bool
	ExitCode    *int
	Signal      int
	OOM         bool
	LogTail     string
	Record      *mltask.Result
	Points      []MetricPoint
	// Incomplete tells that a gang did not come together.
	Incomplete bool
	// Loss tells that it ended because of its device.
	Loss *loss
}

// judge says how an attempt ended, from its last allocation (nil if none was
// seen), its result record (nil if there is none), and why it was stopped, if
// it was. The record of a success is proof, whatever happened after. gone
// tells that the job is not in the cluster any more.
func judge(alloc *Alloc, record *mltask.Result, stopping string, cancelled, gone bool) outcome {
	o := outcome{Phase: Failed, Record: record}
	if record.Succeeded() {
		o.Phase, o.ExitCode = Succeeded, new(0)
		return o
	}
	if alloc != nil {
		o.ExitCode, o.Signal, o.OOM = alloc.ExitCode, alloc.Signal, alloc.OOM
	}
	if record != nil && (alloc == nil || record.AllocID == alloc.ID) {
		o.ExitCode, o.Signal, o.OOM = new(record.ExitCode), record.Signal, o.OOM || record.OOM
	} else {
		record = nil // of an allocation before this one
	}
	switch {
	case stopping != "":
		o.Reason = stopping
		if cancelled {
			o.Phase = Cancelled
		}
	case alloc == nil && record == nil:
		o.Reason = "its job was removed from the cluster before it ran"
		if !gone {
			o.Reason = "its job was stopped from outside Drover before it ran"
		}
	case alloc != nil && alloc.Client == "lost":
		o.Free = true
		o.Reason = fmt.Sprintf("node %s was lost", alloc.NodeName)
	case alloc != nil && alloc.Preempted:
		o.Free = true
		o.Reason = "it was preempted by a job of higher priority"
	default:
		o.Reason = exitReason(o, alloc, record)
	}
	return o
}

// exitReason says why a task that ended by itself has failed.
func exitReason(o outcome, alloc *Alloc, record *mltask.Result) string {
	switch {
	case o.OOM:
		return "it ran out of memory and was killed: raise resources.memory"
	case o.Signal != 0:
		return fmt.Sprintf("it was killed by signal %d (%s)", o.Signal, signalName(o.Signal))
	case o.ExitCode != nil && *o.ExitCode != 0:
		reason := fmt.Sprintf("it exited with code %d", *o.ExitCode)
		if record != nil && record.Error != "" {
			reason += ": " + record.Error
		}
		return reason
	case record != nil && record.Error != "":
		return record.Error
	case alloc != nil && alloc.Problem != "":
		return alloc.Problem
	case alloc != nil && alloc.Desired != "run" && record == nil && o.ExitCode == nil:
		return "it was stopped from outside Drover"
	case o.ExitCode != nil:
		return "it exited with code 0 but left no result record in the artefact store: has the node the same store as the server?"
	case alloc != nil && alloc.Description != "":
		return alloc.Description
	}
	return "it ended, and the cluster does not say why"
}

var signalNames = map[int]string{
	1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
	9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ",
}

func signalName(n int) string {
	if s := signalNames[n]; s != "" {
		return s
	}
	return syscall.Signal(n).String()
}

// tailLines is how much of a failed attempt's log is kept.
const tailLines = 20

// lastLines is the end of a log, "" if it is blank.
func lastLines(log string) string {
	log = strings.TrimRight(log, "\n\r \t")
	if strings.TrimSpace(log) == "" {
		return ""
	}
	lines := strings.Split(log, "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	return strings.ToValidUTF8(strings.Join(lines, "\n"), "\uFFFD") + "\n"
}
