package nvml

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseXid(t *testing.T) {
	i := func(n int) *int { return &n }
	at := slot{bus: 0x10}
	tests := []struct {
		name, line string
		want       xidLine
	}{
		{"as drivers write it", "NVRM: Xid (PCI:0000:10:00): 79, pid=0, GPU has fallen off the bus.", xidLine{at: at, xid: 79}},
		{"older", "NVRM: Xid (0000:10:00): 31, Ch 0000001b, engmask 00000101, intr 10000000", xidLine{at: at, xid: 31}},
		{"with a process", "NVRM: Xid (PCI:0000:10:00): 43, pid=1084984, name=pt_main_thread, Ch 00000008", xidLine{at: at, xid: 43, pid: 1084984}},
		{"unknown process", "NVRM: Xid (PCI:0000:10:00): 94, pid='<unknown>', name=<unknown>, Contained: SM (0x1). RST: No, D-RST: No", xidLine{at: at, xid: 94}},
		{"quoted process", "NVRM: Xid (PCI:0000:10:00): 13, pid='77', name=x, Graphics Exception", xidLine{at: at, xid: 13, pid: 77}},
		{"no process", "NVRM: Xid (PCI:0000:10:00): 62, 0a82(2d50) 8503d5ba 01d49ce2", xidLine{at: at, xid: 62}},
		{"a process in what follows", "NVRM: Xid (PCI:0000:10:00): 45, Ch 8, pid=3", xidLine{at: at, xid: 45}},
		{"nothing follows", "NVRM: Xid (PCI:0000:10:00): 61", xidLine{at: at, xid: 61}},
		{"with a function", "NVRM: Xid (PCI:0000:10:00.0): 48, pid=1, x", xidLine{at: at, xid: 48, pid: 1}},
		{"long domain", "NVRM: Xid (PCI:00000000:10:00): 48, pid=1, x", xidLine{at: at, xid: 48, pid: 1}},
		{"other domain", "NVRM: Xid (PCI:0009:C1:1f): 48, x", xidLine{at: slot{9, 0xC1, 0x1f}, xid: 48}},
		{"of a slice", "NVRM: Xid (PCI:0000:10:00 GPU-I:05 GPU-CI:00): 45, pid=1818990, name=python3, Ch 00000001", xidLine{at: at, xid: 45, pid: 1818990, gpuInstance: i(5), computeInstance: i(0)}},
		{"of a GPU instance", "NVRM: Xid (PCI:0000:10:00 GPU-I:13): 94, x", xidLine{at: at, xid: 94, gpuInstance: i(13)}},
		{"after a time", "[Sun Jul 28 09:15:27 2024] NVRM: Xid (PCI:0000:10:00): 79, x", xidLine{at: at, xid: 79}},
		{"without its code", "NVRM: GPU 0000:10:00.0: GPU has fallen off the bus.", xidLine{at: at, xid: 79, inferred: true}},
		{"without its code, older", "NVRM: GPU at PCI:0000:10:00: GPU has fallen off the bus.", xidLine{at: at, xid: 79, inferred: true}},
		{"driver is loaded", "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01", xidLine{}},
		{"board is told", "NVRM: GPU at PCI:0000:10:00: GPU-efbdfde9-5798-a6e7-4c46-12518fa15375", xidLine{}},
		{"of a switch", "nvidia-nvswitch3: SXid (PCI:0000:c4:00.0): 12028, Non-fatal, Link 50", xidLine{}},
		{"by another", "fake: Xid (PCI:0000:10:00): 79, pid=0", xidLine{}},
		{"no code", "NVRM: Xid (PCI:0000:10:00): , pid=0", xidLine{}},
		{"code 0", "NVRM: Xid (PCI:0000:10:00): 0, x", xidLine{}},
		{"no slot", "NVRM: Xid (PCI:00:10:00:00): 79, x", xidLine{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseXid(tt.line)
			if ok != (tt.want.xid != 0) {
				t.Fatalf("found %t: %+v", ok, got)
			}
			if ok {
				tt.want.text = strings.TrimSpace(tt.line)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(xidLine{}, slot{})); ok && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSlots is that bus IDs from all places are the same slot: NVML's, the
// kernel's, and that of the driver's messages.
func TestSlots(t *testing.T) {
	want := slot{domain: 0, bus: 7, device: 0}
	for _, text := range []string{"00000000:07:00.0", "0000:07:00.0", "0000:07:00", "00000000:07:00", " 0000:07:00.1\n"} {
		if got, ok := parseSlot(text); !ok || got != want {
			t.Errorf("%q is %v, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "07:00.0", "0000:07:00.", "0000:07:00.x", "0000:107:00.0", "100000000:07:00.0", "00000000:07:00.0\x00\x00", "a:b:c:d"} {
		if got, ok := parseSlot(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
	padded := newMachine(t).source()
	inventory(t, padded)
	if id, ok := padded.boardAt(want); !ok || id != "GPU-0" {
		t.Errorf("the board at %v is %q, %t", want, id, ok)
	}
}

func FuzzParseXid(f *testing.F) {
	f.Add("NVRM: Xid (PCI:0000:10:00): 79, pid=0, GPU has fallen off the bus.")
	f.Add("NVRM: Xid (0000:10:00): 31, Ch 0000001b")
	f.Add("NVRM: Xid (PCI:0000:3b:00 GPU-I:05 GPU-CI:00): 45, pid='<unknown>', x")
	f.Add("NVRM: GPU 0000:09:00.0: GPU has fallen off the bus.")
	f.Fuzz(func(t *testing.T, line string) {
		x, ok := parseXid(line)
		if !ok {
			return
		}
		if x.xid <= 0 || x.xid > mostXID || x.pid < 0 || len(x.text) > mostText {
			t.Errorf("%q is %+v", line, x)
		}
		if again, ok := parseSlot(x.at.String()); !ok || again != x.at {
			t.Errorf("slot %v of %q is read as %v", x.at, line, again)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add("6,339,5140900,-;NVRM: loading")
	f.Add("4,1,0,-,caller=T1;x;y\n")
	f.Fuzz(func(t *testing.T, line string) {
		if r, ok := parseRecord(line); ok && (r.since < 0 || !strings.Contains(line, r.text)) {
			t.Errorf("%q is %+v", line, r)
		}
	})
}
