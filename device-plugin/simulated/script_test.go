package simulated

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseScriptProblems(t *testing.T) {
	tests := []struct {
		name string
		src  string
		errs []string
	}{
		{"syntax", "fault \"0\" {\n  reason = \n}", []string{"faults.hcl:2:"}},
		{"unknown block", `flaut "0" {}`, []string{"faults.hcl:1:1: Unsupported block type"}},
		{"unknown attribute", "fault \"0\" {\n  xdi = 79\n}", []string{"faults.hcl:2:3: Unsupported argument"}},
		{"nothing", `fault "0" {}`, []string{"faults.hcl:1:7: a fault has a reason, gone = true, xid = 79 or another effect"}},
		{
			"times", `
fault "0" {
  xid = 79
  at  = "soon"
}
fault "0" {
  gone = true
  for  = "-5s"
}
fault "0" {
  gone  = true
  for   = "5s"
  every = "5s"
}
fault "0" {
  gone  = true
  every = "5s"
}
fault "0" {
  xid   = 31
  times = 2
}
fault "0" {
  xid   = 31
  every = "1ms"
}
fault "0" {
  xid   = 31
  every = "1s"
  times = 0
}
`, []string{
				`faults.hcl:4:9: at is "soon"; it is a duration such as "500ms", "5s" or "1m30s"`,
				"faults.hcl:8:10: for is -5s; it is at least 1ms",
				"faults.hcl:12:11: for is 5s, which is not over before the next time: it must be less than every (5s)",
				"faults.hcl:17:11: what comes back has to end in between: set for",
				"faults.hcl:21:11: times needs every",
				"faults.hcl:25:11: every is 1ms; it is at least 10ms",
				"faults.hcl:30:11: times is 0; it is at least 1",
			},
		},
		{
			"readings", `
fault "0" {
  xid             = 1000
  temperature_c   = 1000
  power_w         = -1
  throttle        = ["hot"]
  pcie_generation = 9
  pcie_width      = 3
  nvlinks         = [99]
  recovery_action = "hope"
  pcie_replays    = -1
}
fault "0" {
  text = "NVRM: Xid"
  gone = true
}
`, []string{
				"faults.hcl:3:21: xid is 1000; it is 1 to 999",
				"faults.hcl:4:21: temperature_c is 1000; it is -50 to 150",
				"faults.hcl:5:21: power_w is -1; it is 0 to 10000",
				`faults.hcl:6:21: throttle reason "hot" is unknown; use idle, application-clocks, sw-power-cap`,
				"faults.hcl:7:21: pcie_generation is 9; it is 1 to 7",
				"faults.hcl:8:21: pcie_width is 3; it is 1, 2, 4, 8 or 16",
				"faults.hcl:9:21: there is no NVLink 99; links are 0 to 63",
				"faults.hcl:9:21: nvlinks goes with nvlink_down or the counters of NVLink errors",
				`faults.hcl:10:21: recovery_action is "hope"; it is none, reset, reboot, drain, drain-and-reset`,
				"faults.hcl:11:21: pcie_replays is -1; it is what is added, and cannot be negative",
				"faults.hcl:14:10: text and pid need xid",
			},
		},
		{
			"targets", `
fault "64" { gone = true }
fault "" { gone = true }
fault "MIG-1" { lost = true }
reset "MIG-1" {}
mig "MIG-1" { needs_reset = true }
`, []string{
				`faults.hcl:2:7: "64" is no board: a machine has boards 0 to 63 at most`,
				`faults.hcl:3:7: the label is a board's index, the ID of a board or slice, or "*" for all boards`,
				"faults.hcl:4:7: of a slice a fault can have reason, gone, stalled and xid; the rest is of boards",
				"faults.hcl:5:7: a reset is of a board, not of a slice",
				"faults.hcl:6:5: a mig block is about a board, not a slice",
			},
		},
		{
			"driver", `
driver {
  error = "x"
  hang  = true
}
driver {
  reload = true
}
driver {
  delay = "1h"
}
`, []string{
				"faults.hcl:2:8: a driver block has one of error, hang, reload and delay",
				"faults.hcl:6:8: a reload has for: how long the driver is unloaded",
				"faults.hcl:10:11: delay is 1h0m0s; it is up to 10m0s",
			},
		},
		{
			"MIG and processes", `
mig "0" {}
mig "0" {
  call  = "make"
  nth   = 0
  error = "x"
}
process "0" { kind = "game" }
process "0" { pid = -1 }
process "0" { memory_mib = -1 }
process "0" { gpu_percent = 101 }
process "0" { every = "5s" }
`, []string{
				"faults.hcl:2:5: a mig block has error, delay or needs_reset = true",
				`faults.hcl:4:11: call is "make"; it is mode, create, destroy`,
				"faults.hcl:5:11: nth is 0; the first call is 1",
				`faults.hcl:8:22: kind is "game"; it is compute, graphics, mps`,
				"faults.hcl:9:21: pid is -1; it is positive",
				"faults.hcl:10:28: memory_mib is -1; it cannot be negative",
				"faults.hcl:11:29: gpu_percent is 101; it is 0 to 100",
				"faults.hcl:12:23: what comes back has to end in between: set for",
			},
		},
		{"too many", strings.Repeat("process \"0\" {}\n", maxSteps+1), []string{"faults.hcl:1:1: a script has at most 1000 blocks, not 1001"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseScript("faults.hcl", []byte(tt.src))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.errs {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in:\n%v", want, err)
				}
			}
			if tt.name != "syntax" && strings.Count(err.Error(), "\n")+1 != len(tt.errs) {
				t.Errorf("want %d problems:\n%v", len(tt.errs), err)
			}
		})
	}
}

// TestStepKeys: a block is recognised by what it says, not by how or where it
// is written.
func TestStepKeys(t *testing.T) {
	a := script(t, `
fault "3" { xid = 79 }
process "0" {}
fault "3" { xid = 79 }
`)
	b := script(t, `
driver { hang = true }
# reformatted
fault "3" {
  xid = 79
}
`)
	keys := map[string]bool{}
	for _, s := range a.steps {
		if keys[s.key] {
			t.Errorf("two blocks have the key %q", s.key)
		}
		keys[s.key] = true
	}
	known := 0
	for _, s := range b.steps {
		if keys[s.key] {
			known++
		}
	}
	if known != 1 {
		t.Errorf("%d blocks are recognised, want the fault only", known)
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add("fault \"3\" {\n reason = \"Xid 79\"\n}\nfault \"0\" {\n gone = true\n every = \"3s\"\n for = \"1s\"\n}")
	f.Add("driver_error = \"mismatch\"\ndriver {\n reload = true\n for = \"2s\"\n}\nreset \"*\" { at = \"3s\" }")
	f.Add("mig \"0\" {\n call = \"create\"\n nth = 2\n error = \"x\"\n}\nprocess \"*\" { gpu_percent = 3 }")
	f.Add("fault \"0\" {\n nvlink_crc_errors = 3\n nvlinks = [1]\n throttle = [\"hw-thermal\"]\n times = 3\n every = \"1s\"\n}")
	m, err := Preset("a100-40gb/all-balanced")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, src string) {
		s, err := ParseScript("faults.hcl", []byte(src))
		if err != nil {
			if !strings.Contains(err.Error(), "faults.hcl") {
				t.Errorf("error does not name the file: %v", err)
			}
			return
		}
		begin := time.Unix(0, 0)
		tl := timeline{booted: begin}
		for _, st := range s.steps {
			tl.steps = append(tl.steps, placedStep{st, begin})
		}
		board := subject{m.idOf(0), 0}
		now := begin
		for range 20 {
			if c := tl.condition(board, now); c.volatile.eccUncorrected > c.aggregate.eccUncorrected || c.loaded.After(now) {
				t.Fatalf("condition %+v", c)
			}
			tl.driver(now)
			next, ok := tl.next(now)
			if !ok {
				break
			}
			if !next.After(now) {
				t.Fatalf("after %v comes %v", now, next)
			}
			now = next
		}
		_ = s.Unmatched(m.inventory(m.described()))
	})
}

func TestUnmatched(t *testing.T) {
	m := machine(t, "2xa100-40gb/all-balanced")
	inv := m.inventory(m.described())
	s := script(t, fmt.Sprintf(`
fault "2" { gone = true }
fault "1" { gone = true }
fault "*" { xid = 31 }
fault %q { gone = true }
fault "MIG-none" { gone = true }
reset %q {}
driver { hang = true }
`, inv.Boards[0].Slices[0].ID, inv.Boards[1].ID))
	want := []string{
		`faults.hcl:2:7: this machine has no board or slice "2"`,
		`faults.hcl:6:7: this machine has no board or slice "MIG-none"`,
	}
	if diff := cmp.Diff(want, s.Unmatched(inv)); diff != "" {
		t.Errorf("unmatched (-want +got):\n%s", diff)
	}
}
