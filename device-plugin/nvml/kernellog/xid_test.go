package kernellog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/nvml/pci"
)

func TestParseXid(t *testing.T) {
	i := func(n int) *int { return &n }
	at, _ := pci.Parse("0000:10:00")
	other, _ := pci.Parse("0009:c1:1f")
	tests := []struct {
		name, line string
		want       Line
	}{
		{"as drivers write it", "NVRM: Xid (PCI:0000:10:00): 79, pid=0, GPU has fallen off the bus.", Line{At: at, XID: 79}},
		{"older", "NVRM: Xid (0000:10:00): 31, Ch 0000001b, engmask 00000101, intr 10000000", Line{At: at, XID: 31}},
		{"with a process", "NVRM: Xid (PCI:0000:10:00): 43, pid=1084984, name=pt_main_thread, Ch 00000008", Line{At: at, XID: 43, PID: 1084984}},
		{"unknown process", "NVRM: Xid (PCI:0000:10:00): 94, pid='<unknown>', name=<unknown>, Contained: SM (0x1). RST: No, D-RST: No", Line{At: at, XID: 94}},
		{"quoted process", "NVRM: Xid (PCI:0000:10:00): 13, pid='77', name=x, Graphics Exception", Line{At: at, XID: 13, PID: 77}},
		{"no process", "NVRM: Xid (PCI:0000:10:00): 62, 0a82(2d50) 8503d5ba 01d49ce2", Line{At: at, XID: 62}},
		{"a process in what follows", "NVRM: Xid (PCI:0000:10:00): 45, Ch 8, pid=3", Line{At: at, XID: 45}},
		{"nothing follows", "NVRM: Xid (PCI:0000:10:00): 61", Line{At: at, XID: 61}},
		{"with a function", "NVRM: Xid (PCI:0000:10:00.0): 48, pid=1, x", Line{At: at, XID: 48, PID: 1}},
		{"long domain", "NVRM: Xid (PCI:00000000:10:00): 48, pid=1, x", Line{At: at, XID: 48, PID: 1}},
		{"other domain", "NVRM: Xid (PCI:0009:C1:1f): 48, x", Line{At: other, XID: 48}},
		{"of a slice", "NVRM: Xid (PCI:0000:10:00 GPU-I:05 GPU-CI:00): 45, pid=1818990, name=python3, Ch 00000001", Line{At: at, XID: 45, PID: 1818990, GPUInstance: i(5), ComputeInstance: i(0)}},
		{"of a GPU instance", "NVRM: Xid (PCI:0000:10:00 GPU-I:13): 94, x", Line{At: at, XID: 94, GPUInstance: i(13)}},
		{"after a time", "[Sun Jul 28 09:15:27 2024] NVRM: Xid (PCI:0000:10:00): 79, x", Line{At: at, XID: 79}},
		{"without its code", "NVRM: GPU 0000:10:00.0: GPU has fallen off the bus.", Line{At: at, XID: 79, Inferred: true}},
		{"without its code, older", "NVRM: GPU at PCI:0000:10:00: GPU has fallen off the bus.", Line{At: at, XID: 79, Inferred: true}},
		{"driver is loaded", "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01", Line{}},
		{"board is told", "NVRM: GPU at PCI:0000:10:00: GPU-efbdfde9-5798-a6e7-4c46-12518fa15375", Line{}},
		{"of a switch", "nvidia-nvswitch3: SXid (PCI:0000:c4:00.0): 12028, Non-fatal, Link 50", Line{}},
		{"by another", "fake: Xid (PCI:0000:10:00): 79, pid=0", Line{}},
		{"no code", "NVRM: Xid (PCI:0000:10:00): , pid=0", Line{}},
		{"code 0", "NVRM: Xid (PCI:0000:10:00): 0, x", Line{}},
		{"no slot", "NVRM: Xid (PCI:00:10:00:00): 79, x", Line{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Parse(tt.line)
			if ok != (tt.want.XID != 0) {
				t.Fatalf("found %t: %+v", ok, got)
			}
			if ok {
				tt.want.Text = strings.TrimSpace(tt.line)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(pci.Slot{})); ok && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseXid(f *testing.F) {
	f.Add("NVRM: Xid (PCI:0000:10:00): 79, pid=0, GPU has fallen off the bus.")
	f.Add("NVRM: Xid (0000:10:00): 31, Ch 0000001b")
	f.Add("NVRM: Xid (PCI:0000:3b:00 GPU-I:05 GPU-CI:00): 45, pid='<unknown>', x")
	f.Add("NVRM: GPU 0000:09:00.0: GPU has fallen off the bus.")
	f.Fuzz(func(t *testing.T, line string) {
		x, ok := Parse(line)
		if !ok {
			return
		}
		if x.XID <= 0 || x.XID > 99999 || x.PID < 0 || len(x.Text) > mostText {
			t.Errorf("%q is %+v", line, x)
		}
		if again, ok := pci.Parse(x.At.String()); !ok || again != x.At {
			t.Errorf("slot %v of %q is read as %v", x.At, line, again)
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
