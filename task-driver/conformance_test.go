package main

import (
	"testing"

	"github.com/drover-ml/drover/nomadplugin/conformance"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Config{Path: binary, Plugin: map[string]any{"state_dir": t.TempDir()}})
}
