package artifact_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/drover-ml/drover/internal/artifact"
)

func Example() {
	ctx := context.Background()
	tmp, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "model.json"), []byte("{}"), 0o644); err != nil {
		log.Fatal(err)
	}

	store, err := artifact.Open("file://" + tmp + "/store")
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	digest, manifest, err := store.Put(ctx, filepath.Join(tmp, "model.json"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(digest.Short(), manifest.Kind, manifest.Bytes(), "bytes")

	if err := store.Fetch(ctx, digest, filepath.Join(tmp, "copy.json"), artifact.ReadOnly()); err != nil {
		log.Fatal(err)
	}
	copied, err := os.ReadFile(filepath.Join(tmp, "copy.json"))
	fmt.Println(string(copied), err)
	// Output:
	// 4974b2bded23 file 2 bytes
	// {} <nil>
}
