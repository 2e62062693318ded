package nvml

import (
	"testing"
	"testing/fstest"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxb200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh200"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

func a100() *nvmltest.Machine { return withLinks(12) }

// withLinks is a DGX A100 whose boards have so many NVLinks to switches.
func withLinks(n int) *nvmltest.Machine { return nvmltest.New(dgxa100.New(), n) }

func h100() *nvmltest.Machine { return nvmltest.New(dgxh100.New(), 18) }
func h200() *nvmltest.Machine { return nvmltest.New(dgxh200.New(), 18) }
func b200() *nvmltest.Machine { return nvmltest.New(dgxb200.New(), 18) }

func sourceOf(t *testing.T, m *nvmltest.Machine) *Source {
	s := New(Config{Library: m, Host: Host{Files: fstest.MapFS{}}})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func idOf(b *nvmltest.Board) gpu.ID { return gpu.ID(b.UUID) }

// cut puts a board in MIG mode with instances.
func cut(t *testing.T, s *Source, b *nvmltest.Board, instances ...mig.Instance) {
	t.Helper()
	if pending, err := s.SetMode(t.Context(), b.UUID, true); err != nil || pending {
		t.Fatalf("MIG mode: pending %t, %v", pending, err)
	}
	for _, in := range instances {
		if err := s.Create(t.Context(), b.UUID, in); err != nil {
			t.Fatal(err)
		}
	}
}

func instanceAt(profile string, start, size int, compute ...int) mig.Instance {
	return mig.Instance{Profile: profile, Placement: mig.Placement{Start: start, Size: size}, Compute: compute}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func n64(v int64) *int64 { return &v }

// lost is an error after which nothing works on a board.
const lost = lib.ERROR_GPU_IS_LOST
