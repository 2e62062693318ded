package cgroup

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const procDevices = `Character devices:
  1 mem
  4 /dev/vc/0
195 nvidia
195 nvidia-modeset
195 nvidiactl
234 nvidia-uvm
237 nvidia-caps
 bad line
Block devices:
  7 loop
`

func TestParseMajors(t *testing.T) {
	got, err := parseMajors(strings.NewReader(procDevices))
	if err != nil {
		t.Fatal(err)
	}
	want := []Major{{1, "mem"}, {4, "/dev/vc/0"}, {195, "nvidia"}, {195, "nvidia-modeset"}, {195, "nvidiactl"}, {234, "nvidia-uvm"}, {237, "nvidia-caps"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("majors (-want +got):\n%s", diff)
	}
}

func FuzzParseMajors(f *testing.F) {
	f.Add(procDevices)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseMajors(strings.NewReader(text)) })
}

// memMajor is of /dev/null and its like, which every machine has.
const memMajor = 1

// hideAllButNull hides what the memory driver has but /dev/null, and reads
// from a device of each kind.
func hideAllButNull(t *testing.T, g Group) {
	t.Helper()
	null, err := DeviceAt("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Hide(Devices{}); err != nil {
		t.Fatal(err)
	}
	if err := g.Hide(Devices{Hidden: []uint32{memMajor}, Shown: []Device{null}}); err != nil {
		t.Fatal(err)
	}
	script := `cat /dev/null || exit 10
head -c1 /dev/zero >/dev/null 2>&1 && exit 11
mknod "$PWD/made" c 1 5 2>/dev/null && head -c1 "$PWD/made" >/dev/null 2>&1 && exit 12
: < /dev/ptmx || exit 13
exit 0`
	cmd := startIn(t, g, "cd "+t.TempDir()+"; "+script)
	if err := cmd.Wait(); err != nil {
		t.Errorf("10: the shown device is hidden; 11: a hidden one can be opened; 12: a made one; 13: another major is hidden: %v", err)
	}
}

func TestHiddenDevices(t *testing.T) {
	g := realGroup(t, Limits{})
	if _, ok := g.Dirs["devices"]; g.Version == 1 && !ok {
		t.Skip("needs the devices controller")
	}
	hideAllButNull(t, g)
	hideAllButNull(t, g) // as after a restart of the task
}

// Version 2's own way, on machines that have its hierarchy beside version 1.
func TestHiddenDevicesOfVersion2(t *testing.T) {
	m, ok := Detect().mounts[unified]
	if !ok || writable(m.point) != nil {
		t.Skip("needs control groups of version 2")
	}
	g := Group{Version: 2, Dirs: map[string]string{unified: filepath.Join(m.point, "cgroup-test-devices")}}
	if err := mkdir(g.Dirs[unified]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	hideAllButNull(t, g)
	hideAllButNull(t, g)
}

func TestDeviceAt(t *testing.T) {
	if _, err := DeviceAt("/etc/passwd"); err == nil || !strings.Contains(err.Error(), "not a character device") {
		t.Errorf("a file is a device: %v", err)
	}
	if d, err := DeviceAt("/dev/zero"); err != nil || d != (Device{1, 5}) {
		t.Errorf("/dev/zero = %v, %v", d, err)
	}
}
