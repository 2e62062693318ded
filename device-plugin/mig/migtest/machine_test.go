package migtest

import (
	"testing"

	"github.com/drover-ml/drover/device-plugin/mig"
)

func TestMachine(t *testing.T) {
	Suite(t, func(*testing.T) mig.Controller { return NewMachine("NVIDIA A100-SXM4-40GB", 2) })
}
