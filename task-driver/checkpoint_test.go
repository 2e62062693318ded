package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/mltask"
	nomad "github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// train counts to $DROVER_PARAM_STEPS, with a checkpoint at every step, goes on
// from where it is to, and leaves what it counted.
const train = `
step=0; sum=0; pause=$DROVER_PARAM_PAUSE; hang=$DROVER_PARAM_HANG
if [ -n "$DROVER_RESUME_FROM" ]; then read step sum < "$DROVER_RESUME_FROM/state"; echo "resumed $step"; fi
while [ $step -lt $DROVER_PARAM_STEPS ]; do
	step=$((step + 1)); sum=$((sum + step))
	echo "{\"step\": $step, \"metrics\": {\"sum\": $sum}}" >> "$DROVER_METRICS_FILE"
	d="$DROVER_CHECKPOINT_DIR/step-$step"
	rm -rf "$d.tmp"; mkdir "$d.tmp"; echo "$step $sum" > "$d.tmp/state"; head -c 100000 /dev/zero > "$d.tmp/pad"; mv "$d.tmp" "$d"
	[ -z "$pause" ] || sleep "$pause"
	if [ "$step" = "$hang" ]; then touch "$NOMAD_TASK_DIR/hanging"; exec sleep 1000; fi
done
echo $sum > "$DROVER_OUTPUT_DIR/sum"`

// training is a config block. Key "" is the driver's own.
func training(params, key string) map[string]any {
	c := map[string]any{"keep": 3}
	if key != "" {
		c["key"] = key
	}
	return with(shell(train), map[string]any{
		"params": params, "result_key": "result", "checkpoint": []any{c}, "output": []any{map[string]any{"name": "sum"}},
	})
}

func (n *node) trainTask(config map[string]any) *nomad.TaskConfig {
	c := n.task(config)
	c.Env["NOMAD_TASK_DIR"] = file(c, "local")
	return c
}

func metricsSteps(t *testing.T, c *nomad.TaskConfig) []int64 {
	t.Helper()
	var steps []int64
	for line := range strings.Lines(read(t, inFolder(c, "metrics.jsonl"))) {
		l, err := mltask.ParseMetricsLine([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, l.Step)
	}
	return steps
}

// A node is lost in the middle of a training. Another goes on from the last
// sealed checkpoint, and ends as if nothing had happened.
func TestResumeElsewhere(t *testing.T) {
	t.Parallel()
	first, store := newStoreNode(t)
	c := first.trainTask(training(`{"steps": 5, "hang": 3}`, "run/train"))
	first.start(c)
	eventually(t, "the copy of step 3", func() bool {
		steps, err := checkpoint.Exported(first.ctx(), store, "run/train")
		return err == nil && len(steps) > 0 && steps[len(steps)-1] == 3
	})
	eventually(t, "the copy of the metrics", func() bool {
		var m mltask.CheckpointMetrics
		return store.GetRecord(first.ctx(), mltask.CheckpointMetricsKey("run/train"), &m) == nil
	})
	_, supervisor := first.pids(c)
	first.crash()
	_ = syscall.Kill(supervisor, syscall.SIGKILL)

	second := newNode(t, map[string]any{"store": store.URL()})
	c = second.trainTask(training(`{"steps": 5}`, "run/train"))
	second.start(c)
	if exit := second.wait(c); exit.ExitCode != 0 {
		t.Fatalf("exit = %+v\n%s", exit, second.log(c))
	}
	second.shown(c, "Resumed from step 3")
	if got := second.stdout(c); got != "resumed 3\n" {
		t.Errorf("stdout = %q", got)
	}
	if got := read(t, inFolder(c, "outputs/sum")); got != "15\n" {
		t.Errorf("sum = %q, want 15", got)
	}
	if got, want := fmt.Sprint(metricsSteps(t, c)), "[1 2 3 4 5]"; got != want {
		t.Errorf("metrics of steps %v, want %v", got, want)
	}
	r := second.result(store, "result")
	if r.ResumedFrom == nil || *r.ResumedFrom != 3 || r.LastSealed == nil || *r.LastSealed != 5 {
		t.Errorf("result = %s", asJSON(t, r))
	}
	if steps, _ := checkpoint.Exported(second.ctx(), store, "run/train"); fmt.Sprint(steps) != "[3 4 5]" {
		t.Errorf("checkpoints in the store = %v, want the newest three", steps)
	}
}

// B20: what is not whole is set aside, with a reason, and the newest that is
// whole is used. B21: by number.
func TestBadCheckpoints(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func(dir string) error
		want   string // the step resumed from
		aside  string // the reason, "" for none
	}{
		{"none", func(string) error { return nil }, "10", ""},
		{"truncated", func(d string) error { return os.Truncate(filepath.Join(d, "step-10/pad"), 10) }, "9", "bytes"},
		{"empty", func(d string) error { return os.Truncate(filepath.Join(d, "step-10/state"), 0) }, "9", "bytes"},
		{"flipped byte", func(d string) error { return flip(filepath.Join(d, "step-10/pad")) }, "9", "SHA-256"},
		{"missing file", func(d string) error { return os.Remove(filepath.Join(d, "step-10/state")) }, "9", "missing"},
		{"unsealed", func(d string) error { return os.Remove(filepath.Join(d, "step-10.seal")) }, "9", "not sealed"},
		{"damaged seal", func(d string) error { return os.WriteFile(filepath.Join(d, "step-10.seal"), []byte("{"), 0o644) }, "9", "seal"},
		{"all", func(d string) error {
			return func() error {
				for _, s := range []string{"step-8", "step-9", "step-10"} {
					if err := os.Remove(filepath.Join(d, s, "state")); err != nil {
						return err
					}
				}
				return nil
			}()
		}, "", "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, nil)
			c := n.trainTask(training(`{"steps": 12, "hang": 10}`, ""))
			n.start(c)
			n.shown(c, "Checkpoint 10 sealed")
			eventually(t, "the task to hang", func() bool { return exists(file(c, "local/hanging")) })
			if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
				t.Fatal(err)
			}
			if err := test.damage(inFolder(c, "checkpoints")); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(inFolder(c, "checkpoints/step-11.tmp"), 0o755); err != nil {
				t.Fatal(err)
			}
			n.configure(c, training(`{"steps": 12}`, ""))
			n.next(c)
			n.start(c)
			if exit := n.wait(c); exit.ExitCode != 0 {
				t.Fatalf("exit = %+v\n%s", exit, n.log(c))
			}
			want := ""
			if test.want != "" {
				want = "resumed " + test.want + "\n"
				n.shown(c, "Resumed from step "+test.want)
			}
			if got := n.stdout(c); got != want {
				t.Errorf("stdout = %q, want %q", got, want)
			}
			if test.aside != "" {
				n.shown(c, "Checkpoint 10 set aside: ")
				n.shown(c, test.aside)
			}
			if got := read(t, inFolder(c, "outputs/sum")); got != "78\n" {
				t.Errorf("sum = %q, want 78", got)
			}
			if got := len(metricsSteps(t, c)); got != 12 {
				t.Errorf("metrics of %d steps, want 12", got)
			}
		})
	}
}

func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o644)
}

// The command is killed at random moments, also inside a checkpoint, and ends
// as if it had not been.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	c := n.trainTask(training(`{"steps": 40, "pause": 0.05}`, "run/random"))
	for kills := 0; ; kills++ {
		if kills > 100 {
			t.Fatal("no progress in 100 starts")
		}
		h := n.start(c)
		ended := make(chan struct{})
		go func() { // one of three: the command, the plugin, both at once
			defer close(ended)
			time.Sleep(time.Duration(rand.Int64N(int64(500 * time.Millisecond)))) // the moment is the test's subject
			st, err := n.driver().InspectTask(n.ctx(), c.ID)
			if err != nil {
				return
			}
			var pid int
			_, _ = fmt.Sscan(st.Attributes["pid"], &pid)
			if kills%3 != 1 {
				_ = syscall.Kill(-pid, syscall.SIGKILL)
			}
			if kills%3 != 0 {
				n.crash()
			}
		}()
		<-ended
		if kills%3 != 0 {
			n.launch()
			if err := n.recover(h); err != nil {
				t.Fatal(err)
			}
		}
		exit := n.wait(c)
		if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
			t.Fatal(err)
		}
		if exit.ExitCode == 0 {
			t.Logf("succeeded at start %d", kills+1)
			break
		}
		n.next(c)
	}
	if got := read(t, inFolder(c, "outputs/sum")); got != "820\n" {
		t.Errorf("sum = %q, want 820", got)
	}
	if got := metricsSteps(t, c); len(got) != 40 {
		t.Errorf("metrics of steps %v, want 1 to 40, each once", got)
	}
	if r := n.result(store, "result"); r.ExitCode != 0 || r.Last["sum"] != 820 {
		t.Errorf("result = %+v", r)
	}
}

// A training under the driver's own key that has succeeded is complete: the
// next one starts from the beginning.
func TestCompleteTrainingIsNotResumed(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	for range 2 {
		c := n.trainTask(training(`{"steps": 3}`, ""))
		if exit := n.run(c); exit.ExitCode != 0 {
			t.Fatalf("exit = %+v", exit)
		}
		if got := n.stdout(c); got != "" {
			t.Errorf("stdout = %q, want no resume", got)
		}
	}
	if keys, err := store.ListRecords(n.ctx(), "checkpoints"); err != nil || len(keys) != 0 {
		t.Errorf("records left = %v, %v", keys, err)
	}
}

// A store that fails for a while costs no task: checkpoints are copied when it
// is back.
func TestStoreFailsForAWhile(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	dir := strings.TrimPrefix(store.URL(), "file://")
	c := n.trainTask(training(`{"steps": 2, "hang": 2}`, "run/away"))
	n.start(c)
	eventually(t, "the task to hang", func() bool { return exists(file(c, "local/hanging")) })
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil { // a mount point without its mount
		t.Fatal(err)
	}
	step := inFolder(c, "checkpoints/step-7")
	if err := os.Mkdir(step, 0o755); err != nil {
		t.Fatal(err)
	}
	n.shown(c, "Checkpoint 7 sealed")
	n.shown(c, "can't be copied")
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("something was written to the empty mount point: %v", entries)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the copy of step 7", func() bool {
		steps, err := checkpoint.Exported(n.ctx(), store, "run/away")
		return err == nil && len(steps) > 0 && steps[len(steps)-1] == 7
	})
	if err := n.driver().StopTask(n.ctx(), c.ID, time.Second, ""); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(c); exit.Signal != 15 {
		t.Errorf("exit = %+v", exit)
	}
}
