package checkpoint_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// What a supervisor does when the task has finished a step, and before the
// task is started again.
func Example() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	for _, step := range []string{"step-90", "step-100"} { // the task's
		if err := os.WriteFile(filepath.Join(folder, step), []byte("weights"), 0o644); err != nil {
			log.Fatal(err)
		}
	}

	dir, err := checkpoint.Open(folder)
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Close()
	found, err := dir.Scan()
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range found.Unsealed {
		if _, err := dir.Seal(ctx, step); err != nil {
			log.Fatal(err)
		}
	}

	// Something goes wrong with the newest.
	if err := os.Truncate(filepath.Join(folder, "step-100"), 3); err != nil {
		log.Fatal(err)
	}
	newest, asides, err := dir.Newest(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("resume from", newest.Step)
	for _, a := range asides {
		fmt.Println("set aside", a.Step, "because", a.Reason)
	}
	// Output:
	// resume from 90
	// set aside 100 because the file has 3 bytes, 7 were sealed
}
