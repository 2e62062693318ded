package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/drover-ml/drover/internal/lab"
)

// bin is the folder with the binaries under test.
var bin string

func TestMain(m *testing.M) {
	lab.Main()
	root, err := filepath.Abs("../..")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = filepath.Join(root, "bin")
	for _, name := range []string{"drover", "nomad-driver-ml", "nomad-device-gpu"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			fmt.Fprintf(os.Stderr, "the end-to-end tests need the binaries: run `make build` first (%v)\n", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
