package gpu

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// facts are attributes of the node's software, in the forms that constraints
// compare: versions are text for the operator `version`, lists are separated
// by commas for `set_contains`, and the driver's branch is a number.
func (s State) facts(members []Device) map[string]device.Attribute {
	facts := make(map[string]device.Attribute)
	text := func(key, v string) {
		if v != "" {
			facts[key] = base.String(v)
		}
	}
	env := s.Environment
	text("driver_version", s.DriverVersion)
	text("cuda_version", s.CUDAVersion)
	if branch, ok := branchOf(s.DriverVersion); ok {
		facts["driver_branch"] = base.Int(branch, "")
		text("cuda_majors", strings.Join(minorCompatible(branch), ","))
		compat := forwardCompatible(branch, s.CUDAVersion, env.ForwardCompat, members)
		text("cuda_compat_packages", strings.Join(compat, ","))
		text("cuda_compat", newest(append(compat, s.CUDAVersion)))
	}
	text("cuda_runtimes", strings.Join(runtimes(env.CUDARuntimes), ","))
	text("container_toolkit", env.ContainerToolkit)
	text("fabric_manager", env.FabricManager)
	if env.OpenKernelModules != nil {
		facts["open_kernel_modules"] = base.Bool(*env.OpenKernelModules)
	}
	facts["mps"] = base.Bool(env.MPSControl != "")
	return facts
}

// branchOf is the branch of a driver: 550 of "550.54.15".
func branchOf(driver string) (int64, bool) {
	major, _, _ := strings.Cut(driver, ".")
	branch, err := strconv.ParseInt(major, 10, 32)
	return branch, err == nil && branch > 0
}

// minorCompatible are the major CUDA versions of which a driver runs programs
// of every minor version, though without the features that need a newer
// driver, and no PTX that a newer compiler made. The least branch of each is
// in NVIDIA's "CUDA Compatibility", table 1 of "Minor Version Compatibility".
func minorCompatible(branch int64) []string {
	var majors []string
	for _, since := range []struct {
		branch int64
		major  string
	}{{450, "11"}, {525, "12"}, {580, "13"}} {
		if branch >= since.branch {
			majors = append(majors, since.major)
		}
	}
	return majors
}

// forwardCompatible are the CUDA versions of the installed compatibility
// packages (cuda-compat-<major>-<minor>) that work with a driver and boards.
//
// A package brings the user-mode driver of its CUDA version. By NVIDIA's "CUDA
// Compatibility" it is for data-centre boards, and only for kernel drivers that
// are older than it; a newer one is used itself. How old the kernel driver may
// be is what NVIDIA's CUDA images demand of it (NVIDIA_REQUIRE_CUDA), which
// name branches from 450 on for CUDA 11, 470 for 12 and 535 from 12.9 on.
func forwardCompatible(branch int64, driverCUDA string, packages []string, members []Device) []string {
	if slices.ContainsFunc(members, func(d Device) bool { return !dataCentre(d.Board.Product) }) {
		return nil
	}
	var usable []string
	for _, p := range packages {
		least := int64(450)
		switch {
		case compareVersions(p, "12.9") >= 0:
			least = 535
		case compareVersions(p, "12.0") >= 0:
			least = 470
		}
		if compareVersions(p, driverCUDA) > 0 && branch >= least {
			usable = append(usable, p)
		}
	}
	slices.SortFunc(usable, compareVersions)
	return slices.Compact(usable)
}

var consumer = regexp.MustCompile(`(?i)\b(GeForce|TITAN|Quadro|RTX|GTX|NVS)\b`)

// dataCentre reports whether a board is of NVIDIA's data-centre line, as far
// as its name tells. Workstation boards that are certified for forward
// compatibility cannot be told from others, and count as those.
func dataCentre(product string) bool { return product != "" && !consumer.MatchString(product) }

// runtimes lists each version, and as "12.4" too if it is "12.4.1", so that a
// job can ask for either.
func runtimes(versions []string) []string {
	var all []string
	for _, v := range versions {
		if parts := strings.Split(v, "."); len(parts) > 2 {
			all = append(all, strings.Join(parts[:2], "."))
		}
		all = append(all, v)
	}
	slices.SortFunc(all, compareVersions)
	return slices.Compact(all)
}

func newest(versions []string) string { return slices.MaxFunc(versions, compareVersions) }

// compareVersions orders versions by their numbers: "12.10" comes after
// "12.9", and "" first.
func compareVersions(a, b string) int { return slices.Compare(numbers(a), numbers(b)) }

func numbers(version string) []int {
	var ns []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return ns
		}
		ns = append(ns, n)
	}
	return ns
}
