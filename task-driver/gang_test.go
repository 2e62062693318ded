package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/mltask"
	nomad "github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/task"
)

// meeting is what ranks do that are to show that they started: each leaves its
// environment and runs until it is let go.
const meeting = `env -0 > env.new; mv env.new env; echo ran >> marker; while [ ! -e go ]; do sleep 0.02; done`

// rank makes a member of a gang. Its key is one of the test.
func (n *node) rank(rank, size int, timeout time.Duration, script string, more map[string]any) *nomad.TaskConfig {
	n.t.Helper()
	config := with(shell(script), map[string]any{
		"result_key": mltask.RankKey("run/train/1", rank),
		"gang": []any{map[string]any{
			"key": "run/train/1", "rank": rank, "size": size, "timeout": timeout.String(),
		}},
	})
	return n.task(with(config, more))
}

// neverRan checks that a task's command was not started, and its result.
func (n *node) neverRan(s *artifact.Store, c *nomad.TaskConfig, rank int, reason string) {
	n.t.Helper()
	exit := n.wait(c)
	if exit.ExitCode == 0 || exit.Err == nil || !mltask.IsGangIncomplete(exit.Err.Error()) || !strings.Contains(exit.Err.Error(), reason) {
		n.t.Errorf("rank %d: exit = %+v, want %q", rank, exit, reason)
	}
	if exists(file(c, "local/env")) || exists(file(c, "local/marker")) {
		n.t.Errorf("rank %d: its command was started", rank)
	}
	r := n.result(s, mltask.RankKey("run/train/1", rank))
	if r.Succeeded() || !mltask.IsGangIncomplete(r.Error) || !strings.Contains(r.Error, reason) || !r.Started.IsZero() || r.AllocID != c.AllocID {
		n.t.Errorf("rank %d: record %+v, want %q", rank, r, reason)
	}
}

// waiting waits until a member waits for its gang.
func (n *node) waiting(c *nomad.TaskConfig) {
	n.t.Helper()
	n.shown(c, "Waiting for the gang")
}

func TestGangStartsTogether(t *testing.T) {
	t.Parallel()
	n, s := newStoreNode(t)
	const size = 4
	members := make([]*nomad.TaskConfig, size)
	for rank := range size {
		c := n.rank(rank, size, patience, meeting, map[string]any{"output": []any{map[string]any{"name": "model", "optional": true}}})
		if rank == 0 {
			c.Resources.Ports = []nomad.Port{{Label: "master", Value: 23456, HostIP: "10.1.2.3"}}
		}
		c.Env["WORLD_SIZE"], c.Env["MASTER_ADDR"] = "99", "nowhere" // the job's word does not count
		members[rank] = c
	}
	for rank, c := range members[:size-1] {
		n.start(c)
		n.waiting(c)
		if exists(file(c, "local/env")) {
			t.Fatalf("rank %d started before the gang was complete", rank)
		}
	}
	n.start(members[size-1])
	for rank, c := range members {
		started(t, c)
		env := task.EnvMap(strings.Split(read(t, file(c, "local/env")), "\x00"))
		want := map[string]string{
			"RANK": strconv.Itoa(rank), "NODE_RANK": strconv.Itoa(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1",
			"MASTER_ADDR": "10.1.2.3", "MASTER_PORT": "23456",
		}
		for name := range want {
			if env[name] != want[name] {
				t.Errorf("rank %d: %s = %q, want %q", rank, name, env[name], want[name])
			}
		}
		n.shown(c, fmt.Sprintf("Gang complete: rank %d of 4", rank))
		command, _ := n.pids(c)
		if !alive(command) {
			t.Errorf("rank %d: the command is not known", rank)
		}
		if x, err := n.driver().ExecTask(n.ctx(), c.ID, []string{"sh", "-c", "echo $RANK"}, patience); err != nil || string(bytes.TrimSpace(x.Stdout)) != strconv.Itoa(rank) {
			t.Errorf("rank %d: exec = %+v, %v", rank, x, err)
		}
	}
	for rank, c := range members {
		release(t, c)
		if exit := n.wait(c); exit.ExitCode != 0 {
			t.Errorf("rank %d: exit = %+v, want 0", rank, exit)
		}
		ranOnce(t, c)
		if r := n.result(s, mltask.RankKey("run/train/1", rank)); r.AllocID != c.AllocID || !r.Succeeded() || r.Started.IsZero() {
			t.Errorf("rank %d: record %+v", rank, r)
		}
	}
}

// Four ranks and three slots: nothing runs, and the slots are free by the
// deadline.
func TestGangIsNotComplete(t *testing.T) {
	t.Parallel()
	n, s := newStoreNode(t)
	const size, timeout = 4, 3 * time.Second
	var members []*nomad.TaskConfig
	began := time.Now()
	for _, rank := range []int{0, 1, 3} {
		c := n.rank(rank, size, timeout, meeting, nil)
		n.start(c)
		members = append(members, c)
	}
	for i, rank := range []int{0, 1, 3} {
		n.neverRan(s, members[i], rank, "gang: 3 of 4 members were there within 3s: rank 2 was missing")
	}
	if took := time.Since(began); took < timeout {
		t.Errorf("the gang was given up after %v", took)
	}
	// Who comes later does not start either.
	c := n.rank(2, size, timeout, meeting, nil)
	n.start(c)
	n.neverRan(s, c, 2, "rank 2 was missing")
	for _, c := range append(members, c) {
		if err := n.driver().DestroyTask(n.ctx(), c.ID, false); err != nil {
			t.Error(err)
		}
	}
}

// A member that is stopped while it waits ends the wait of all.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	n, s := newStoreNode(t)
	a, b := n.rank(0, 3, 10*time.Minute, meeting, nil), n.rank(1, 3, 10*time.Minute, meeting, nil)
	for _, c := range []*nomad.TaskConfig{a, b} {
		n.start(c)
		n.waiting(c)
		if err := n.driver().SignalTask(n.ctx(), c.ID, "SIGUSR1"); err == nil || !strings.Contains(err.Error(), "waits for the other members") {
			t.Errorf("signal while waiting: %v", err)
		}
		if _, err := n.driver().ExecTask(n.ctx(), c.ID, []string{"true"}, patience); err == nil || !strings.Contains(err.Error(), "waits for the other members") {
			t.Errorf("exec while waiting: %v", err)
		}
	}
	began := time.Now()
	if err := n.driver().StopTask(n.ctx(), b.ID, patience, "SIGINT"); err != nil {
		t.Fatal(err)
	}
	n.neverRan(s, b, 1, "rank 1 left while it waited: it was stopped")
	n.neverRan(s, a, 0, "rank 1 left while it waited: it was stopped")
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the end of the wait took %v", took)
	}
}

// A GPU that goes out of service while its member waits ends the wait of all.
// Only that member has lost a GPU.
func TestGPUFailsWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, action := range []gpustatus.Action{gpustatus.End, gpustatus.Move} {
		t.Run(string(action), func(t *testing.T) {
			n, s := newStoreNode(t)
			g := gpuNode{node: n, status: t.TempDir() + "/status.json"}
			g.report()
			a, b := n.rank(0, 3, 10*time.Minute, meeting, nil), n.rank(1, 3, 10*time.Minute, meeting, nil)
			for gpu, c := range map[string]*nomad.TaskConfig{"GPU-a": a, "GPU-b": b} {
				c.DeviceEnv = map[string]string{"NVIDIA_VISIBLE_DEVICES": gpu, gpustatus.Variable: g.status, gpustatus.NodesVariable: ""}
				n.start(c)
				n.waiting(c)
			}
			g.report(gpustatus.Device{ID: "GPU-b", Reason: "Xid 79", Action: action})
			for rank, c := range []*nomad.TaskConfig{a, b} {
				n.neverRan(s, c, rank, "rank 1 left while it waited: GPU-b is out of service")
			}
			if got := n.result(s, mltask.RankKey("run/train/1", 1)).Error; gpustatus.IsTaskError(got) != (action == gpustatus.End) {
				t.Errorf("rank 1: %q", got)
			}
			if got := n.result(s, "run/train/1").Error; gpustatus.IsTaskError(got) {
				t.Errorf("rank 0: %q", got)
			}
		})
	}
}

// A member that fails takes the others with it.
func TestMemberFails(t *testing.T) {
	t.Parallel()
	n, s := newStoreNode(t)
	a := n.rank(0, 2, patience, `trap 'echo asked > asked; exit 3' TERM; `+meeting+` & wait`, nil)
	b := n.rank(1, 2, patience, slow, nil)
	for _, c := range []*nomad.TaskConfig{a, b} {
		n.start(c)
	}
	started(t, a)
	started(t, b)
	release(t, b)
	if exit := n.wait(b); exit.ExitCode != 42 || exit.Err != nil {
		t.Errorf("rank 1: exit = %+v, want 42", exit)
	}
	exit := n.wait(a)
	if exit.Err == nil || !mltask.IsGangBroken(exit.Err.Error()) || !strings.Contains(exit.Err.Error(), "rank 1 exited with code 42") || !exists(file(a, "local/asked")) {
		t.Errorf("rank 0: exit = %+v, asked %v", exit, exists(file(a, "local/asked")))
	}
	if r := n.result(s, "run/train/1"); !mltask.IsGangBroken(r.Error) || r.Started.IsZero() {
		t.Errorf("rank 0: record %+v", r)
	}
}

// So does one whose supervisor is killed, for which the plugin speaks.
func TestSupervisorOfAMemberIsKilled(t *testing.T) {
	t.Parallel()
	n, _ := newStoreNode(t)
	a, b := n.rank(0, 2, patience, meeting, nil), n.rank(1, 2, patience, meeting, nil)
	for _, c := range []*nomad.TaskConfig{a, b} {
		n.start(c)
	}
	started(t, a)
	started(t, b)
	_, supervisor := n.pids(b)
	if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(b); exit.Err == nil || !strings.Contains(exit.Err.Error(), "supervisor") {
		t.Errorf("rank 1: exit = %+v", exit)
	}
	if exit := n.wait(a); exit.Err == nil || !mltask.IsGangBroken(exit.Err.Error()) || !strings.Contains(exit.Err.Error(), "rank 1 was killed with its supervisor") {
		t.Errorf("rank 0: exit = %+v", exit)
	}
}

// One that is stopped does not: whoever stops it deals with the others.
func TestMemberIsStopped(t *testing.T) {
	t.Parallel()
	n, s := newStoreNode(t)
	a, b := n.rank(0, 2, patience, meeting, nil), n.rank(1, 2, patience, meeting, nil)
	for _, c := range []*nomad.TaskConfig{a, b} {
		n.start(c)
	}
	started(t, a)
	started(t, b)
	if err := n.driver().StopTask(n.ctx(), b.ID, patience, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(b); exit.Signal != int(syscall.SIGTERM) {
		t.Errorf("rank 1: exit = %+v, want SIGTERM", exit)
	}
	if keys, err := s.ListRecords(n.ctx(), "gangs"); err != nil || slices.Contains(keys, "gangs/run/train/1/broken") {
		t.Errorf("records %v, %v: the gang was told of a stop", keys, err)
	}
	release(t, a)
	if exit := n.wait(a); exit.ExitCode != 0 {
		t.Errorf("rank 0: exit = %+v, want 0", exit)
	}
}

// The plugin is killed while all wait: the wait goes on, and each command starts
// once.
func TestPluginKilledInTheBarrier(t *testing.T) {
	t.Parallel()
	n, _ := newStoreNode(t)
	const size = 3
	members := make([]*nomad.TaskConfig, size)
	handles := make([]*nomad.Handle, size)
	for rank := range size {
		members[rank] = n.rank(rank, size, 10*time.Minute, meeting, nil)
	}
	for rank := range size - 1 {
		handles[rank] = n.start(members[rank])
		n.waiting(members[rank])
	}
	n.crash()
	n.launch()
	if err := n.recover(handles[0]); err != nil {
		t.Fatal(err)
	}
	n.start(members[1]) // as an agent does that was killed before it stored the handle
	n.start(members[size-1])
	for rank, c := range members {
		started(t, c)
		release(t, c)
		if exit := n.wait(c); exit.ExitCode != 0 {
			t.Errorf("rank %d: exit = %+v, want 0", rank, exit)
		}
		ranOnce(t, c)
	}
}

// The plugin is killed at any moment of the members' start, and the agent asks
// again: the gang starts, and each command once.
func TestPluginKilledWhileAGangStarts(t *testing.T) {
	t.Parallel()
	for range 6 {
		n, _ := newStoreNode(t)
		const size = 3
		members := make([]*nomad.TaskConfig, size)
		for rank := range size {
			members[rank] = n.rank(rank, size, 10*time.Minute, meeting, nil)
		}
		var asked sync.WaitGroup
		for _, c := range members {
			asked.Go(func() { _, _, _ = n.driver().StartTask(n.ctx(), c) })
		}
		time.Sleep(time.Duration(rand.Int64N(int64(500 * time.Millisecond)))) // the moment is the test's subject
		n.crash()
		asked.Wait()
		n.launch()
		for _, c := range members {
			n.start(c)
		}
		for _, c := range members {
			started(t, c)
			release(t, c)
		}
		for rank, c := range members {
			if exit := n.wait(c); exit.ExitCode != 0 {
				t.Errorf("rank %d: exit = %+v, want 0", rank, exit)
			}
			ranOnce(t, c)
		}
	}
}

// The supervisor of a member is killed while it waits. The gang does not start
// without it, and starts with its next start.
func TestSupervisorKilledInTheBarrier(t *testing.T) {
	t.Parallel()
	for _, rank := range []int{0, 1} {
		t.Run(fmt.Sprintf("rank %d", rank), func(t *testing.T) {
			n, _ := newStoreNode(t)
			const size = 3
			members := make([]*nomad.TaskConfig, size)
			for r := range size {
				members[r] = n.rank(r, size, 10*time.Minute, meeting, nil)
			}
			for _, c := range members[:size-1] {
				n.start(c)
				n.waiting(c)
			}
			victim := members[rank]
			_, supervisor := n.pids(victim)
			if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if exit := n.wait(victim); exit.Err == nil || !strings.Contains(exit.Err.Error(), "supervisor") {
				t.Errorf("exit = %+v, want a failure that names the supervisor", exit)
			}
			n.start(members[size-1])
			n.waiting(members[size-1])
			n.next(victim)
			n.start(victim)
			for r, c := range members {
				started(t, c)
				release(t, c)
				if exit := n.wait(c); exit.ExitCode != 0 {
					t.Errorf("rank %d: exit = %+v, want 0", r, exit)
				}
				ranOnce(t, c)
			}
		})
	}
}

// All resume from the checkpoints of rank 0, and those of others are not kept.
func TestCheckpointsOfAGang(t *testing.T) {
	t.Parallel()
	n, s := newStoreNode(t)
	script := func(step int) string {
		return fmt.Sprintf(`echo "${DROVER_RESUME_FROM##*/}" > from; d="$DROVER_CHECKPOINT_DIR/step-%d"; mkdir "$d.tmp"; echo "$RANK" > "$d.tmp/rank"; mv "$d.tmp" "$d"`, step)
	}
	more := map[string]any{"checkpoint": []any{map[string]any{"key": "run/train", "keep": 2}}}
	round := func(attempt, step int, from string) {
		t.Helper()
		members := make([]*nomad.TaskConfig, 2)
		for rank := range members {
			c := n.rank(rank, 2, patience, script(step), maps.Clone(more))
			n.configure(c, with(shell(script(step)), with(maps.Clone(more), map[string]any{
				"gang": []any{map[string]any{"key": fmt.Sprintf("run/train/%d", attempt), "rank": rank, "size": 2}},
			})))
			members[rank] = c
			n.start(c)
		}
		for rank, c := range members {
			if exit := n.wait(c); exit.ExitCode != 0 {
				t.Fatalf("rank %d: exit = %+v", rank, exit)
			}
			if got := strings.TrimSpace(read(t, file(c, "local/from"))); got != from {
				t.Errorf("attempt %d, rank %d went on from %q, want %q", attempt, rank, got, from)
			}
		}
	}
	round(1, 10, "")
	round(2, 20, "step-10")
	keys, err := s.ListRecords(n.ctx(), "checkpoints")
	const folder = "checkpoints/run/train/"
	if err != nil || !slices.Equal(keys, []string{folder + "metrics", folder + "step-10", folder + "step-20"}) {
		t.Fatalf("checkpoints %v, %v", keys, err)
	}
	var rec mltask.CheckpointRecord
	if err := s.GetRecord(n.ctx(), folder+"step-20", &rec); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/step"
	if err := s.Fetch(n.ctx(), artifact.Digest(rec.Digest), dir); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir+"/rank"); got != "0\n" {
		t.Errorf("the checkpoint is rank %q's", got)
	}
}

func TestGangsThatAreRefused(t *testing.T) {
	t.Parallel()
	bare := newNode(t, nil)
	stored, _ := newStoreNode(t)
	for _, test := range []struct {
		name   string
		n      *node
		change func(*nomad.TaskConfig)
		want   string
	}{
		{"no store", bare, func(*nomad.TaskConfig) {}, "artifact store"},
		{"a port mapped to another", stored, func(c *nomad.TaskConfig) {
			c.Resources.Ports = []nomad.Port{{Label: "master", Value: 23456, To: 29500}}
		}, "to = -1"},
		{"no port in a network of its own", stored, func(c *nomad.TaskConfig) {
			c.Network = &nomad.NetworkIsolation{Path: "/var/run/netns/none"}
		}, `port "master"`},
		{"no such command", stored, func(c *nomad.TaskConfig) {
			stored.configure(c, map[string]any{"command": "no-such-command", "gang": []any{map[string]any{"key": "a", "rank": 0, "size": 2}}})
		}, "no-such-command"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.n.rank(0, 2, time.Minute, "true", nil)
			test.change(c)
			if _, _, err := test.n.driver().StartTask(test.n.ctx(), c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q in it", err, test.want)
			}
		})
	}
}
