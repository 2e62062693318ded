package artifact_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
)

// What a small step pays: its code and outputs are a few small files. For
// large ones see the benchmark of package checkpoint.

func smallFolder(b *testing.B, unique int) string {
	dir := filepath.Join(b.TempDir(), fmt.Sprint("src", unique))
	for i := range 5 {
		writeTree(b, dir, map[string]string{fmt.Sprintf("f%d.py", i): fmt.Sprint("content ", unique, i)})
	}
	return dir
}

func BenchmarkPutNewFolder(b *testing.B) {
	s, _ := openStore(b)
	for i := range b.N {
		b.StopTimer()
		dir := smallFolder(b, i)
		b.StartTimer()
		if _, _, err := s.Put(context.Background(), dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutKnownFolder(b *testing.B) {
	s, _ := openStore(b)
	dir := smallFolder(b, 0)
	for b.Loop() {
		if _, _, err := s.Put(context.Background(), dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFetchFolder(b *testing.B) {
	for name, opts := range map[string][]artifact.FetchOption{"plain": nil, "durable": {artifact.Durable()}} {
		b.Run(name, func(b *testing.B) {
			s, _ := openStore(b)
			d, _, err := s.Put(context.Background(), smallFolder(b, 0))
			if err != nil {
				b.Fatal(err)
			}
			top := b.TempDir()
			for i := 0; b.Loop(); i++ {
				if err := s.Fetch(context.Background(), d, filepath.Join(top, fmt.Sprint(i)), opts...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHas(b *testing.B) {
	s, _ := openStore(b)
	d, _, err := s.Put(context.Background(), smallFolder(b, 0))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if ok, err := s.Has(context.Background(), d); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkPutRecord(b *testing.B) {
	s, _ := openStore(b)
	for i := 0; b.Loop(); i++ {
		if err := s.PutRecord(context.Background(), fmt.Sprint("results/", i), i); err != nil {
			b.Fatal(err)
		}
	}
}
