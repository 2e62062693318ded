package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, script string) (*exec.Cmd, ID) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "PROCESS_TEST="+t.Name())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, id
}

func TestIdentity(t *testing.T) {
	_, id := start(t, "sleep 1000")
	if !id.Alive() || id.Vanished() {
		t.Fatal("a living process counts as dead")
	}
	otherStart, otherBoot, nobody := id, id, id
	otherStart.Start++
	otherBoot.Boot = "another"
	nobody.PID = 1 << 30
	for name, id := range map[string]ID{"other start time": otherStart, "other boot": otherBoot, "no such PID": nobody, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			if id.Alive() {
				t.Error("counts as alive")
			}
			if got, want := id.Vanished(), name == "no such PID"; got != want {
				t.Errorf("Vanished = %v, want %v", got, want)
			}
			if err := id.Signal(syscall.SIGKILL); !errors.Is(err, ErrGone) {
				t.Errorf("Signal = %v", err)
			}
			if err := id.SignalGroup(syscall.SIGKILL); !errors.Is(err, ErrGone) {
				t.Errorf("SignalGroup = %v", err)
			}
			if err := id.Wait(t.Context()); err != nil {
				t.Errorf("Wait = %v", err)
			}
		})
	}
	if !id.Alive() {
		t.Error("a signal to another process reached this one")
	}
}

func TestWait(t *testing.T) {
	_, id := start(t, "sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- id.Wait(ctx) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want the context's error", err)
	}
	go func() { ended <- id.Wait(t.Context()) }()
	if err := id.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// It is a zombie now, for nobody has reaped it yet.
	if err := <-ended; err != nil {
		t.Errorf("Wait = %v", err)
	}
	if id.Alive() || !id.Vanished() {
		t.Error("a zombie counts as alive")
	}
}

func TestSignalGroup(t *testing.T) {
	cmd, id := start(t, "sleep 1000 & sleep 1000 & wait")
	below := func() []int { return Descendants(cmd.Process.Pid) }
	for deadline := time.Now().Add(10 * time.Second); len(below()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("descendants = %v, want two", below())
		}
	}
	marked := WithEnv("PROCESS_TEST=" + t.Name())
	if want := append(below(), cmd.Process.Pid); len(marked) != len(want) {
		t.Errorf("processes with the mark = %v, want %v", marked, want)
	}
	if !slices.Contains(Environ(cmd.Process.Pid), "PROCESS_TEST="+t.Name()) {
		t.Error("the mark is not in the environment")
	}
	if u := UsageOf(append(below(), 1<<30)); u.RSSBytes == 0 {
		t.Error("two processes use no memory")
	}
	if err := id.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if left := WithEnv("PROCESS_TEST=" + t.Name()); slices.ContainsFunc(left, func(pid int) bool {
		id, err := Of(pid)
		return err == nil && id.Alive()
	}) {
		t.Errorf("processes left = %v", left)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " 5 1 5 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 1 0 12345 1000000 250 18446744073709551615"
	for _, test := range []struct {
		name, line string
		want       stat
		fails      bool
	}{
		{"plain", "7 (sh) S" + rest, stat{state: 'S', parent: 5, start: 12345, user: 70, system: 30, rssPages: 250}, false},
		{"spaces and parentheses", "7 (a) R 9 (b) Z" + rest, stat{state: 'Z', parent: 5, start: 12345, user: 70, system: 30, rssPages: 250}, false},
		{"cut short", "7 (sh) S 1 2 3", stat{}, true},
		{"no name", "7 sh S" + rest, stat{}, true},
		{"empty", "", stat{}, true},
		{"no number", "7 (sh) S x" + rest, stat{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat(test.line)
			if (err != nil) != test.fails || !test.fails && got != test.want {
				t.Errorf("parseStat = %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	if b, err := os.ReadFile("/proc/self/stat"); err == nil {
		f.Add(string(b))
	}
	f.Add("7 (a) R 9 (b) Z" + strings.Repeat(" 1", 60))
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := parseStat(line); err == nil && s.state == 0 {
			t.Errorf("no state in %q", line)
		}
	})
}
