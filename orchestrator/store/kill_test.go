package store

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// victimEnv makes the test binary a process that moves an alias to and fro and
// counts what tasks use, and says so after each time, until it is killed.
const victimEnv = "DROVER_TEST_STORE_VICTIM"

func TestMain(m *testing.M) {
	if path := os.Getenv(victimEnv); path != "" {
		if err := moveForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// A check makes and opens files: by default there are fewer of them than
	// rapid makes. -rapid.checks still says otherwise.
	flag.Set("rapid.checks", "20")
	flag.Parse()
	os.Exit(m.Run())
}

func moveForever(path string) error {
	db, err := Open(context.Background(), path)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		m := registry.AliasMove{Workspace: "default", Model: "digits", Alias: "champion", To: 1 + i%2, By: "victim", Reason: strconv.Itoa(i)}
		if _, err := db.MoveAlias(context.Background(), m); err != nil {
			return err
		}
		if err := db.AddUsage(context.Background(), victimCharges(i)); err != nil {
			return err
		}
		if _, err := fmt.Println(i); err != nil {
			return err
		}
	}
}

// victimCharges are what three tasks have used after a number of seconds.
func victimCharges(seconds int) []workspace.Charge {
	var charges []workspace.Charge
	for i := range 3 {
		charges = append(charges, workspace.Charge{
			Job: queue.JobID(strconv.Itoa(i)), Attempt: 1, Workspace: "default", Flavor: "h100", Amount: queue.One,
			From: noon, To: noon.Add(time.Duration(seconds) * time.Second),
		})
	}
	return charges
}

// After a kill -9 the store opens again, with every move that was confirmed,
// one champion, and a history that leads to it.
func TestKilledProcessLosesNothing(t *testing.T) {
	path := temp(t)
	db := open(t, path)
	for _, id := range []string{"r1", "r2"} {
		if _, err := db.AddVersion(t.Context(), version("digits", id), "champion"); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, confirmed := range []int{1, 7, 50} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), victimEnv+"="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := 0
		s := bufio.NewScanner(out)
		for s.Scan() && last < confirmed {
			last, _ = strconv.Atoi(s.Text())
		}
		cmd.Process.Kill()
		for s.Scan() { // what it said before it died counts, too
			if n, err := strconv.Atoi(s.Text()); err == nil {
				last = n
			}
		}
		cmd.Wait()
		if last < confirmed {
			t.Fatalf("the process ended by itself after %d moves: %s", last, stderr.String())
		}
		db := open(t, path)
		checkAfterKill(t, db, last)
		db.Close()
	}
}

func checkAfterKill(t *testing.T, db *DB, last int) {
	t.Helper()
	models, err := db.Models(t.Context(), "default")
	if err != nil || len(models) != 1 || len(models[0].Aliases) != 1 {
		t.Fatalf("models = %+v, %v; want one with one alias", models, err)
	}
	moves, err := db.AliasMoves(t.Context(), "default", "digits")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := moves[0].To, models[0].Aliases["champion"]; got != want {
		t.Errorf("the history leads to version %d, the alias points at %d", got, want)
	}
	if n, _ := strconv.Atoi(moves[0].Reason); n < last {
		t.Errorf("move %d was confirmed, and the newest is %d", last, n)
	}
	uses, err := db.Usage(t.Context(), noon)
	if err != nil || len(uses) != 1 {
		t.Fatalf("%+v, %v", uses, err)
	}
	// Each victim counts from the first second on, and what was counted counts once.
	if n := uses[0].Seconds / (3 * queue.One); n < queue.Amount(last) || uses[0].Seconds%(3*queue.One) != 0 {
		t.Errorf("%d thousandths of a second are counted, %d seconds of three tasks were confirmed", uses[0].Seconds, last)
	}
	if err := db.AddUsage(t.Context(), victimCharges(int(uses[0].Seconds/(3*queue.One)))); err != nil {
		t.Fatal(err)
	}
	if again, err := db.Usage(t.Context(), noon); err != nil || again[0] != uses[0] {
		t.Errorf("told again, it is counted again: %+v, %v", again, err)
	}
	for i := 1; i < len(moves); i++ {
		if moves[i-1].From != moves[i].To {
			t.Errorf("a move starts from version %d, the one before led to %d", moves[i-1].From, moves[i].To)
		}
	}
}
