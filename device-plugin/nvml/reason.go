package nvml

import (
	"fmt"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// concernsDriver tells the errors that are of the driver as a whole, not of
// one GPU.
func concernsDriver(ret lib.Return) bool {
	switch ret {
	case lib.ERROR_UNINITIALIZED, lib.ERROR_DRIVER_NOT_LOADED, lib.ERROR_LIB_RM_VERSION_MISMATCH:
		return true
	}
	return false
}

// concernsBoard tells the errors after which nothing works on a GPU.
func concernsBoard(ret lib.Return) bool {
	return ret == lib.ERROR_GPU_IS_LOST || ret == lib.ERROR_RESET_REQUIRED
}

// reason is an error for people, with what to do about it. It does not ask the
// library, which may lack the function for it.
func reason(ret lib.Return) string {
	switch ret {
	case lib.ERROR_UNINITIALIZED:
		return "NVML lost its connection to the driver"
	case lib.ERROR_NO_PERMISSION:
		return "no permission to use the GPU; run the agent as root"
	case lib.ERROR_INSUFFICIENT_POWER:
		return "the GPU has no external power; check its power cables"
	case lib.ERROR_DRIVER_NOT_LOADED:
		return "the NVIDIA kernel module is not loaded; run nvidia-smi to see why"
	case lib.ERROR_TIMEOUT:
		return "the GPU did not answer in time"
	case lib.ERROR_IRQ_ISSUE:
		return "the kernel has an interrupt problem with the GPU; see dmesg"
	case lib.ERROR_CORRUPTED_INFOROM:
		return "the GPU's infoROM is corrupted"
	case lib.ERROR_GPU_IS_LOST:
		return "GPU is lost: it has fallen off the bus or cannot be reached; reset it or restart the node"
	case lib.ERROR_RESET_REQUIRED:
		return "the GPU needs a reset: nvidia-smi --gpu-reset"
	case lib.ERROR_OPERATING_SYSTEM:
		return "the operating system blocked the driver; see dmesg"
	case lib.ERROR_LIB_RM_VERSION_MISMATCH:
		return "driver/library version mismatch: the NVIDIA kernel module is not of the installed library's version; reload the module or restart the node"
	case lib.ERROR_MEMORY:
		return "the driver is out of memory"
	case lib.ERROR_NOT_FOUND:
		return "the driver does not find the GPU"
	case lib.ERROR_NOT_SUPPORTED:
		return "not supported by the driver"
	case lib.ERROR_UNKNOWN:
		return "unknown error of the NVIDIA driver; see dmesg"
	}
	return fmt.Sprintf("NVML error %d", int(ret))
}
