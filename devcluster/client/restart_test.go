package client

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/driver"
)

func ptr[T any](v T) *T { return &v }

func TestRestartDecisions(t *testing.T) {
	policy := func(attempts int, mode string) *api.RestartPolicy {
		return &api.RestartPolicy{Attempts: &attempts, Mode: &mode, Interval: ptr(time.Minute), Delay: ptr(time.Duration(0))}
	}
	ok, bad := &driver.ExitResult{}, &driver.ExitResult{ExitCode: 1}
	type end struct {
		exit *driver.ExitResult
		err  error
		at   time.Duration
	}
	tests := []struct {
		name      string
		policy    *api.RestartPolicy
		onSuccess bool
		ends      []end
		want      decision
	}{
		{"success of a batch", policy(3, "fail"), false, []end{{exit: ok}}, decision{reason: reasonUnnecessary}},
		{"success of a batch without restarts", policy(0, "fail"), false, []end{{exit: ok}}, decision{}},
		{"success of a service", policy(1, "fail"), true, []end{{exit: ok}}, decision{again: true, reason: reasonWithinPolicy}},
		{"failure within the policy", policy(1, "fail"), false, []end{{exit: bad}}, decision{again: true, reason: reasonWithinPolicy}},
		{"failure without restarts", policy(0, "fail"), false, []end{{exit: bad}}, decision{failed: true, reason: reasonNotAllowed}},
		{"one failure too many", policy(1, "fail"), false, []end{{exit: bad}, {exit: bad, at: time.Second}},
			decision{failed: true, reason: `Exceeded allowed attempts 1 in interval 1m0s and mode is "fail"`}},
		{"one failure too many, with delay", policy(1, "delay"), false, []end{{exit: bad}, {exit: bad, at: 10 * time.Second}},
			decision{again: true, delay: 50 * time.Second, reason: reasonDelay}},
		{"a new interval counts anew", policy(1, "fail"), false, []end{{exit: bad}, {exit: bad, at: 2 * time.Minute}},
			decision{again: true, reason: reasonWithinPolicy}},
		{"a start that may be tried again", policy(1, "fail"), false, []end{{err: driver.Recoverable(errors.New("x"))}},
			decision{again: true, reason: reasonWithinPolicy}},
		{"a start that may not", policy(1, "fail"), false, []end{{err: errors.New("x")}}, decision{failed: true, reason: reasonUnrecoverable}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := restarts{policy: tt.policy, onSuccess: tt.onSuccess}
			var got decision
			for _, e := range tt.ends {
				got = r.next(e.exit, e.err, time.Unix(1000, 0).Add(e.at))
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
