package gpustatus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDescription(t *testing.T) {
	for _, a := range []Action{Keep, Move, End} {
		reason, got := ParseDescription(Describe("Xid 79: fallen off the bus; reset it", a))
		if reason != "Xid 79: fallen off the bus; reset it" || got != a {
			t.Errorf("%s came back as %q, %s", a, reason, got)
		}
	}
	if reason, a := ParseDescription("broken"); reason != "broken" || a != Move {
		t.Errorf("another plugin's description = %q, %s; want it whole, and to move", reason, a)
	}
}

func TestTaskError(t *testing.T) {
	err := TaskError(Device{ID: "GPU-a", Reason: "gone"})
	if err.Error() != "GPU failed: GPU-a: gone" || !IsTaskError("Exit Message: "+err.Error()) || IsTaskError("no GPU") {
		t.Errorf("error = %q", err)
	}
	device, reason, ok := ParseTaskError("Exit Message: " + TaskError(Device{ID: "MIG-a::1", Reason: "Xid 79: gone"}).Error())
	if device != "MIG-a::1" || reason != "Xid 79: gone" || !ok {
		t.Errorf("the error's device = %q, reason = %q, %v", device, reason, ok)
	}
	if _, _, ok := ParseTaskError("it exited with code 1"); ok {
		t.Error("another error is taken for a GPU's")
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.json")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	now := time.Now().UTC().Round(0)
	want := Status{Version: 1, Updated: now, Devices: []Device{{ID: "GPU-a", Reason: "gone", Action: End, Since: now}}}
	if err := Write(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".status-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for name, content := range map[string]string{
		"cut short": `{"version":1,"dev`, "another version": `{"version":2}`, "too large": strings.Repeat(" ", maxBytes+1),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := Write(filepath.Join(path, "below", "a", "file"), want); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"version":1,"devices":[{"id":"GPU-a","reason":"gone","action":"end"}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(dir, "status.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Read(path)
	})
}
