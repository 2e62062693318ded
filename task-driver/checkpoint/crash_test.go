package checkpoint_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// A test that needs a process of its own starts this binary again with
// CHECKPOINT_TEST_ROLE naming what to be.
func TestMain(m *testing.M) {
	role, ok := map[string]func() error{"train": trainForever, "seal-limited": sealLimited}[os.Getenv("CHECKPOINT_TEST_ROLE")]
	if !ok {
		os.Exit(m.Run())
	}
	if err := role(); err != nil {
		fmt.Println("error:", err)
		os.Exit(3)
	}
	os.Exit(0)
}

func startRole(t *testing.T, role string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CHECKPOINT_TEST_ROLE="+role, "CHECKPOINT_TEST_ARGS="+strings.Join(args, "\n"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewReader(out)
}

func roleArgs() []string { return strings.Split(os.Getenv("CHECKPOINT_TEST_ARGS"), "\n") }

// weights is what a step's files hold: a function of the step, so that a
// resumed step can be told from any other.
func weights(step int64) string { return strings.Repeat(strconv.FormatInt(step, 10)+" ", 40_000) }

// trainForever is a task and its supervisor in one: it resumes, writes, seals
// and prunes, and says each step that is sealed.
func trainForever() error {
	ctx := context.Background()
	path := roleArgs()[0]
	d, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	at, _, err := d.Newest(ctx)
	if err != nil && !errors.Is(err, checkpoint.ErrNone) {
		return err
	}
	if err == nil {
		got, err := os.ReadFile(filepath.Join(d.Path(at.Step), "w"))
		if err != nil || string(got) != weights(at.Step) {
			return fmt.Errorf("step %d is not what was written (%w)", at.Step, err)
		}
	}
	for step := at.Step + 1; ; step++ {
		temp := d.Path(step) + ".tmp"
		if err := os.Mkdir(temp, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(temp, "w"), []byte(weights(step)), 0o600); err != nil {
			return err
		}
		if err := os.Rename(temp, d.Path(step)); err != nil {
			return err
		}
		if _, err := d.Seal(ctx, step); err != nil {
			return err
		}
		fmt.Println(step)
		if _, err := d.Prune(2); err != nil {
			return err
		}
	}
}

func TestKilledAtAnyMomentTheLastSealedStepIsFound(t *testing.T) {
	dir := t.TempDir()
	var last int64
	for round := range 20 {
		cmd, out := startRole(t, "train", dir)
		timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		for {
			line, err := out.ReadString('\n')
			if err != nil {
				break
			}
			step, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			if err != nil {
				t.Fatalf("round %d: %s", round, line)
			}
			if step <= last {
				t.Fatalf("round %d went on at step %d, though step %d was sealed", round, step, last)
			}
			last = step
			timer.Reset(time.Duration(rand.Int64N(int64(15 * time.Millisecond))))
		}
		_ = cmd.Wait()
	}
	if last < 20 {
		t.Errorf("only got to step %d", last)
	}
}

func sealLimited() error {
	args := roleArgs()
	d, err := checkpoint.Open(args[0])
	if err != nil {
		return err
	}
	limit, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	if args[2] == "error" {
		signal.Ignore(syscall.SIGXFSZ)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	_, err = d.Seal(context.Background(), 200)
	return err
}

// TestASealThatIsNotWholeIsNone ends the writing of a seal at each of its
// bytes, by a death and by an error as a full disk gives it.
func TestASealThatIsNotWholeIsNone(t *testing.T) {
	whole := newFixture(t)
	whole.sealed(200, twoShards)
	seal, err := os.ReadFile(whole.file("step-200.seal"))
	if err != nil {
		t.Fatal(err)
	}
	// The time in it makes its length vary a little.
	sure := len(seal) - 10
	for _, how := range []string{"error", "death"} {
		for limit := 0; limit <= sure; limit += 1 + sure/12 {
			t.Run(fmt.Sprintf("%s after %d bytes", how, limit), func(t *testing.T) {
				f := newFixture(t)
				f.sealed(100, twoShards)
				f.step(200, twoShards)
				cmd, out := startRole(t, "seal-limited", f.path, strconv.Itoa(limit), how)
				said, _ := io.ReadAll(out)
				if err := cmd.Wait(); err == nil {
					t.Fatalf("sealed within %d bytes: %s", limit, said)
				}
				if got, reasons := f.newest(); got != 100 || !strings.Contains(reasons[200], "not sealed") {
					t.Errorf("Newest = %d, %v", got, reasons)
				}
				f.sealed(200, twoShards)
				if got, _ := f.newest(); got != 200 {
					t.Errorf("written and sealed again: Newest = %d", got)
				}
			})
		}
	}
}
