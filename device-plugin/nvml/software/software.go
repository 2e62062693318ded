// Package software finds what software a machine has for its GPUs, beside the
// driver. It reads files only; no program is started.
package software

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Find tells from files alone what software a machine has for its GPUs. The
// files are those of the machine, from its root folder on.
func Find(files fs.FS) gpu.Environment {
	t := tree{files}
	packages := dpkgVersions(t.file("var/lib/dpkg/status"))
	return gpu.Environment{
		OpenKernelModules: openModules(t.file("proc/driver/nvidia/version")),
		CUDARuntimes:      t.cudaRuntimes(),
		ContainerToolkit:  t.containerToolkit(packages),
		FabricManager:     upstream(packages["nvidia-fabricmanager"]),
		MPSControl:        t.mpsControl(),
		ForwardCompat:     t.forwardCompat(),
	}
}

// tree is the machine's files.
type tree struct{ fs.FS }

// maxFileBytes bounds what is read of one file; that of a package manager has
// a few megabytes.
const maxFileBytes = 32 << 20

// file is the content of a file; nil if it cannot be read.
func (t tree) file(path string) []byte {
	f, err := t.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil
	}
	return content
}

func (t tree) exists(path string) bool {
	_, err := fs.Stat(t.FS, path)
	return err == nil
}

func text(content []byte) string { return strings.TrimSpace(string(content)) }

// openModules tells from the driver's own words whether its kernel modules are
// the open ones; nil without a driver.
func openModules(version []byte) *bool {
	line, _, _ := bytes.Cut(version, []byte("\n"))
	if !bytes.Contains(line, []byte("Kernel Module")) {
		return nil
	}
	open := bytes.Contains(line, []byte("Open Kernel Module"))
	return &open
}

// cudaRuntimes are the versions of the toolkits below /usr/local, each once.
func (t tree) cudaRuntimes() []string {
	var versions []string
	for _, dir := range t.cudaFolders() {
		var manifest struct {
			CUDA struct {
				Version string `json:"version"`
			} `json:"cuda"`
		}
		version := ""
		if json.Unmarshal(t.file(path.Join(dir, "version.json")), &manifest) == nil {
			version = manifest.CUDA.Version
		}
		if version == "" { // before CUDA 11.1
			version, _ = strings.CutPrefix(text(t.file(path.Join(dir, "version.txt"))), "CUDA Version ")
		}
		if isVersion(version) {
			versions = append(versions, version)
		}
	}
	return sorted(versions)
}

// cudaFolders are those of the toolkits, one of them by two names as a rule.
func (t tree) cudaFolders() []string {
	dirs, err := fs.Glob(t.FS, "usr/local/cuda*")
	if err != nil {
		return nil
	}
	return dirs
}

// forwardCompat are the CUDA versions whose compatibility packages are
// installed: libraries by which programs for a newer CUDA run on the driver.
func (t tree) forwardCompat() []string {
	var versions []string
	for _, dir := range t.cudaFolders() {
		version, ok := strings.CutPrefix(path.Base(dir), "cuda-")
		if ok && isVersion(version) && t.exists(path.Join(dir, "compat/libcuda.so.1")) {
			versions = append(versions, version)
		}
	}
	return sorted(versions)
}

// containerToolkit is the version of NVIDIA's container toolkit: the
// package's, or that in the name of its library.
func (t tree) containerToolkit(packages map[string]string) string {
	if v := upstream(packages["nvidia-container-toolkit"]); v != "" {
		return v
	}
	var versions []string
	for _, pattern := range []string{"usr/lib/*/libnvidia-container.so.*", "usr/lib64/libnvidia-container.so.*"} {
		names, err := fs.Glob(t.FS, pattern)
		if err != nil {
			continue
		}
		for _, name := range names {
			_, version, _ := strings.Cut(path.Base(name), ".so.")
			if isVersion(version) && strings.Contains(version, ".") {
				versions = append(versions, version)
			}
		}
	}
	if versions = sorted(versions); len(versions) > 0 {
		return versions[len(versions)-1]
	}
	return ""
}

func (t tree) mpsControl() string {
	for _, dir := range []string{"usr/bin", "usr/local/bin", "run/nvidia/driver/usr/bin"} {
		if p := path.Join(dir, "nvidia-cuda-mps-control"); t.exists(p) {
			return "/" + p
		}
	}
	return ""
}

// dpkgVersions are the versions of NVIDIA's packages that Debian's package
// manager has installed, by name; nvidia-fabricmanager-550 goes without its
// branch.
func dpkgVersions(status []byte) map[string]string {
	versions := make(map[string]string)
	lines := bufio.NewScanner(bytes.NewReader(status))
	lines.Buffer(nil, 1<<20)
	name, installed := "", false
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "Package":
			name, installed = value, false
			if strings.HasPrefix(name, "nvidia-fabricmanager") {
				name = "nvidia-fabricmanager"
			}
		case "Status":
			installed = strings.HasSuffix(value, " installed")
		case "Version":
			if installed && (name == "nvidia-fabricmanager" || name == "nvidia-container-toolkit") {
				versions[name] = value
			}
		}
	}
	return versions
}

var versionForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+){0,3}$`)

func isVersion(text string) bool { return len(text) <= 32 && versionForm.MatchString(text) }

// upstream is a Debian version without epoch and revision.
func upstream(version string) string {
	if _, after, ok := strings.Cut(version, ":"); ok {
		version = after
	}
	version, _, _ = strings.Cut(version, "-")
	if !isVersion(version) {
		return ""
	}
	return version
}

// sorted orders versions by their numbers, each once.
func sorted(versions []string) []string {
	slices.SortFunc(versions, func(a, b string) int {
		x, y := strings.Split(a, "."), strings.Split(b, ".")
		for i := range min(len(x), len(y)) {
			m, _ := strconv.Atoi(x[i])
			n, _ := strconv.Atoi(y[i])
			if c := cmp.Compare(m, n); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(x), len(y))
	})
	return slices.Compact(versions)
}
