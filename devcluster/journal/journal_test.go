package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func open(t *testing.T, path string) (*Journal, []Record) {
	t.Helper()
	var got []Record
	j, err := Open(path, func(r Record) error { got = append(got, r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, got
}

func record(i uint64, value string) Record {
	return Record{Index: i, Changes: []Change{{Table: "t", Key: fmt.Sprint(i), Value: json.RawMessage(value)}}}
}

func TestAppendedRecordsAreReplayed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _ := open(t, path)
	for i := uint64(1); i <= 3; i++ {
		if err := j.Append(record(i, `{"a":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	_, got := open(t, path)
	if len(got) != 3 || got[2].Index != 3 || string(got[2].Changes[0].Value) != `{"a":1}` {
		t.Fatalf("got %+v", got)
	}
}

func TestEveryTornEndIsDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _ := open(t, path)
	for i := uint64(1); i <= 2; i++ {
		if err := j.Append(record(i, `"value"`)); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(whole, '\n') + 1
	for cut := first; cut < len(whole); cut++ {
		torn := filepath.Join(t.TempDir(), "torn")
		if err := os.WriteFile(torn, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, got := open(t, torn)
		if len(got) != 1 {
			t.Fatalf("cut at %d: %d records, want 1", cut, len(got))
		}
		if err := j.Append(record(9, `"next"`)); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if _, got = open(t, torn); len(got) != 2 || got[1].Index != 9 {
			t.Fatalf("cut at %d: after an append: %+v", cut, got)
		}
	}
}

func TestDamageInTheMiddleIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _ := open(t, path)
	for i := uint64(1); i <= 2; i++ {
		if err := j.Append(record(i, `"value"`)); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	b, _ := os.ReadFile(path)
	b[20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, func(Record) error { return nil }); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("got %v, want ErrCorrupt", err)
	}
}

func TestRewriteReplacesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _ := open(t, path)
	for i := uint64(1); i <= 100; i++ {
		if err := j.Append(record(i, `"value"`)); err != nil {
			t.Fatal(err)
		}
	}
	before := j.Size()
	if err := j.Rewrite(slices.Values([]Record{record(100, `"last"`)})); err != nil {
		t.Fatal(err)
	}
	if j.Size() >= before {
		t.Fatalf("size %d, was %d", j.Size(), before)
	}
	if err := j.Append(record(101, `"more"`)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if _, got := open(t, path); len(got) != 2 || got[1].Index != 101 {
		t.Fatalf("got %+v", got)
	}
}

func FuzzOpen(f *testing.F) {
	line, err := encode(record(1, `"v"`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, err := read(bytes.NewReader(b), func(Record) error { return nil })
		if err == nil && size > int64(len(b)) {
			t.Fatalf("size %d of %d bytes", size, len(b))
		}
	})
}
