package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/artifact"
)

const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestManifestHasOneEncoding(t *testing.T) {
	m := artifact.Manifest{
		Version: 1, Kind: artifact.KindDir, Dirs: []string{"void"},
		Files: []artifact.Entry{
			{Path: "a<b>&.txt", Size: 3, Mode: artifact.ModeFile, SHA256: sum},
			{Path: "bin/run", Mode: artifact.ModeExec, SHA256: sum},
			{Path: "latest", Link: "bin/run"},
		},
	}
	got, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"kind":"dir","files":[` +
		`{"path":"a<b>&.txt","size":3,"mode":"0644","sha256":"` + sum + `"},` +
		`{"path":"bin/run","size":0,"mode":"0755","sha256":"` + sum + `"},` +
		`{"path":"latest","link":"bin/run"}],"dirs":["void"]}`
	if string(got) != want {
		t.Errorf("Encode:\n got %s\nwant %s", got, want)
	}
	if _, err := artifact.ParseManifest(got); err != nil {
		t.Error(err)
	}
	// Of a folder with nothing in it, too.
	empty, err := artifact.Manifest{Version: 1, Kind: artifact.KindDir}.Encode()
	if err != nil || string(empty) != `{"version":1,"kind":"dir","files":[]}` {
		t.Errorf("empty folder: %s, %v", empty, err)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	file := func(p string) string { return `{"path":"` + p + `","size":0,"mode":"0644","sha256":"` + sum + `"}` }
	link := func(p, to string) string { return `{"path":"` + p + `","link":"` + to + `"}` }
	dir := func(entries ...string) string {
		return `{"version":1,"kind":"dir","files":[` + strings.Join(entries, ",") + `]}`
	}
	tests := map[string]string{
		"nothing":             ``,
		"not JSON":            `{`,
		"more after it":       dir() + ` {}`,
		"spaces":              `{"version":1, "kind":"dir","files":[]}`,
		"order of fields":     `{"kind":"dir","version":1,"files":[]}`,
		"unknown field":       `{"version":1,"kind":"dir","files":[],"x":1}`,
		"escaped text":        dir(file(`\u0061`)),
		"null files":          `{"version":1,"kind":"dir","files":null}`,
		"version":             `{"version":2,"kind":"dir","files":[]}`,
		"kind":                `{"version":1,"kind":"tree","files":[]}`,
		"file with a path":    `{"version":1,"kind":"file","files":[` + file("a") + `]}`,
		"file of two":         `{"version":1,"kind":"file","files":[` + file(".") + `,` + file(".") + `]}`,
		"file of none":        `{"version":1,"kind":"file","files":[]}`,
		"file that is a link": `{"version":1,"kind":"file","files":[` + link(".", "a") + `]}`,
		"absolute":            dir(file("/etc/passwd")),
		"parent":              dir(file("../x")),
		"inner parent":        dir(file("a/../../x")),
		"dot":                 dir(file(".")),
		"empty path":          dir(file("")),
		"double slash":        dir(file("a//b")),
		"trailing slash":      dir(file("a/")),
		"NUL":                 dir(file(`a\u0000b`)),
		"long name":           dir(file(strings.Repeat("a", 256))),
		"long path":           dir(file(strings.Repeat("a/", 3000) + "a")),
		"not sorted":          dir(file("b"), file("a")),
		"twice":               dir(file("a"), file("a")),
		"below a file":        dir(file("a"), file("a/b")),
		"below a file, apart": dir(file("a"), file("a.b"), file("a/b")),
		"below a link":        dir(link("a", "b"), file("a/x"), file("b/y")),
		"below an empty dir":  `{"version":1,"kind":"dir","files":[` + file("a/b") + `],"dirs":["a"]}`,
		"dir twice":           `{"version":1,"kind":"dir","files":[],"dirs":["a","a"]}`,
		"dir a file":          `{"version":1,"kind":"dir","files":[` + file("a") + `],"dirs":["a"]}`,
		"dir escapes":         `{"version":1,"kind":"dir","files":[],"dirs":["../a"]}`,
		"empty dirs":          `{"version":1,"kind":"dir","files":[],"dirs":[]}`,
		"link escapes":        dir(link("a/b", "../../x")),
		"link absolute":       dir(link("a", "/etc/passwd")),
		"link by a detour":    dir(link("a/b", "c/../../x")),
		"link with a size":    dir(`{"path":"a","size":1,"mode":"","sha256":"","link":"b"}`),
		"negative size":       dir(strings.Replace(file("a"), `"size":0`, `"size":-1`, 1)),
		"size not a number":   dir(strings.Replace(file("a"), `"size":0`, `"size":1.5`, 1)),
		"mode":                dir(strings.Replace(file("a"), "0644", "4755", 1)),
		"sum too short":       dir(strings.Replace(file("a"), sum, sum[1:], 1)),
		"sum in capitals":     dir(strings.Replace(file("a"), sum, strings.ToUpper(sum), 1)),
		"sum that is a path":  dir(strings.Replace(file("a"), sum, "../../../../etc/passwd", 1)),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if m, err := artifact.ParseManifest([]byte(text)); err == nil {
				t.Errorf("accepted: %+v", m)
			} else if len(err.Error()) > 500 {
				t.Errorf("message of %d bytes", len(err.Error()))
			}
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"kind":"dir","files":[{"path":"a/b","link":"../c"}],"dirs":["c"]}`))
	f.Add([]byte(`{"version":1,"kind":"file","files":[{"path":".","size":0,"mode":"0755","sha256":"` + sum + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := artifact.ParseManifest(data)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted a second encoding (%v):\n%s\n%s", err, data, again)
		}
		for _, e := range m.Files {
			if m.Kind == artifact.KindDir && !filepath.IsLocal(e.Path) || e.Link != "" && !filepath.IsLocal(path.Join(path.Dir(e.Path), e.Link)) {
				t.Fatalf("accepted an entry that leads out: %+v", e)
			}
		}
	})
}

// genName makes names that collide often.
var genName = rapid.StringOfN(rapid.SampledFrom([]rune("ab.")), 1, 2, -1)

func genPath(t *rapid.T) string {
	return path.Join(rapid.SliceOfN(genName, 1, 4).Draw(t, "path")...)
}

func TestWhateverManifestIsAcceptedStaysInItsFolder(t *testing.T) {
	ctx := context.Background()
	s, _ := openStore(t)
	if _, _, err := s.PutBlob(ctx, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		m := artifact.Manifest{Version: 1, Kind: artifact.KindDir}
		for i := range rapid.IntRange(1, 6).Draw(rt, "entries") {
			e := artifact.Entry{Path: genPath(rt)}
			if rapid.Bool().Draw(rt, fmt.Sprint("link", i)) {
				up := strings.Repeat("../", rapid.IntRange(0, 3).Draw(rt, "up"))
				e.Link = up + strings.Join(rapid.SliceOfN(rapid.OneOf(genName, rapid.Just("..")), 1, 4).Draw(rt, "to"), "/")
			} else {
				e.Mode, e.SHA256 = artifact.ModeFile, sum
			}
			m.Files = append(m.Files, e)
		}
		slices.SortFunc(m.Files, func(a, b artifact.Entry) int { return strings.Compare(a.Path, b.Path) })
		enc, err := m.Encode()
		if err != nil {
			return
		}
		accepted++
		d, _, err := s.PutBlob(ctx, bytes.NewReader(enc))
		if err != nil {
			rt.Fatal(err)
		}
		top, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		dest := filepath.Join(top, "dest")
		if err := s.Fetch(ctx, d, dest); err != nil {
			rt.Fatal(err)
		}
		for _, e := range m.Files {
			real, err := filepath.EvalSymlinks(filepath.Join(dest, e.Path))
			if err == nil && real != dest && !strings.HasPrefix(real, dest+"/") {
				rt.Fatalf("%q leads to %s, out of %s; manifest %s", e.Path, real, dest, enc)
			}
		}
	})
	if accepted < 10 {
		t.Errorf("only %d manifests were accepted: the test proves nothing", accepted)
	}
}

func TestAnyFolderComesBackAsItWas(t *testing.T) {
	ctx := context.Background()
	s, _ := openStore(t)
	rapid.Check(t, func(rt *rapid.T) {
		top, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		src, dest := filepath.Join(top, "src"), filepath.Join(top, "dest")
		if err := os.Mkdir(src, 0o755); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(0, 25).Draw(rt, "files") {
			file := filepath.Join(src, genPath(rt))
			if !strings.HasPrefix(file, src+"/") {
				continue
			}
			// Names that are in each other's way fail, which is fine.
			if os.MkdirAll(filepath.Dir(file), 0o755) == nil {
				mode := rapid.SampledFrom([]os.FileMode{0o600, 0o644, 0o700, 0o755}).Draw(rt, "mode")
				_ = os.WriteFile(file, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(rt, "content"), mode)
			}
		}
		d, _, err := s.Put(ctx, src)
		if err != nil {
			rt.Fatal(err)
		}
		if err := errors.Join(s.Verify(ctx, d), s.Fetch(ctx, d, dest)); err != nil {
			rt.Fatal(err)
		}
		for _, dir := range []string{src, dest} {
			if got, _, err := artifact.DigestOf(ctx, dir, artifact.SyncSource()); err != nil || got != d {
				rt.Fatalf("%s: %v, %v; want %v", dir, got, err, d)
			}
		}
	})
}
