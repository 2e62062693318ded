// Package checkpoint keeps a training task's checkpoints so that whatever
// happens, the newest one that is whole can be found, and no other is used.
//
// The task writes step-120.tmp, a folder or a file, and renames it to
// step-120: from then on it is final. This package then seals it: it hashes
// and syncs the content and writes step-120.seal, a file that appears only
// when all that it vouches for is on disk.
//
//	step-120/              the task's
//	step-120.seal          a Seal, as JSON
//	step-130/              finished, not sealed yet
//	step-140.tmp/          being written
//	set-aside/step-110     was not usable; step-110.json says why
//
// Invariants:
//
//   - A step is resumed from only if its seal verifies, byte for byte. A step
//     without a seal is never resumed from, however good it looks.
//   - A step that does not verify is set aside with the reason, and the one
//     before it is tried. Steps are ordered as numbers.
//   - A death of this process, or of the machine, at any moment leaves every
//     sealed step as it was.
//
// A Dir holds its folder open, so that a task that replaces the folder, or
// anything in it, by a link leads nobody elsewhere.
package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
)

// ErrNone says that there is no checkpoint to resume from.
var ErrNone = errors.New("no sealed checkpoint")

// Seal is the content of a seal file.
type Seal struct {
	Version  int       `json:"version"` // 1
	Step     int64     `json:"step"`
	SealedAt time.Time `json:"sealed_at"`
	// Digest is the step's digest as an artifact, Manifest what it stands for:
	// each file's size and SHA-256.
	Digest   artifact.Digest   `json:"digest"`
	Manifest artifact.Manifest `json:"manifest"`
}

// Bytes is the size of the checkpoint's files.
func (s Seal) Bytes() int64 { return s.Manifest.Bytes() }

// Aside is a checkpoint that was found unusable.
type Aside struct {
	Step   int64  `json:"step"`
	Reason string `json:"reason"`
	// Path is where it was moved to, or "" if it could not be kept or is in
	// the artifact store.
	Path    string    `json:"path,omitempty"`
	FoundAt time.Time `json:"found_at"`
}

// Found is what Scan sees.
type Found struct {
	Sealed   []int64 // ascending
	Unsealed []int64 // finished by the task, not sealed; ascending
	// Odd are names that look meant as steps but are not: worth a warning,
	// because they are not looked at. A step is step- and a number without
	// leading zeros.
	Odd []string
}

const (
	sealVersion  = 1
	stepPrefix   = "step-"
	sealSuffix   = ".seal"
	tempSuffix   = ".tmp"
	asideDir     = "set-aside"
	garbage      = ".drover-" // a prefix of files that are this package's own
	maxSealBytes = artifact.MaxManifestBytes + 4096
)

// Dir is a task's checkpoint folder. It is for one goroutine at a time, but
// for Scan and Export, which may run beside anything.
type Dir struct{ root *os.Root }

// Open opens a checkpoint folder that exists, and that is no link. Close it.
func Open(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening checkpoint folder: %w", err)
	}
	named, err := os.Lstat(path)
	var opened fs.FileInfo
	if err == nil {
		opened, err = root.Stat(".")
	}
	if err == nil && !os.SameFile(named, opened) {
		err = fmt.Errorf("%s is a symbolic link, or was replaced just now", path)
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("opening checkpoint folder: %w", err)
	}
	return &Dir{root: root}, nil
}

// Close lets the folder go.
func (d *Dir) Close() error { return d.root.Close() }

// Path is where a step is, for DROVER_RESUME_FROM.
func (d *Dir) Path(step int64) string { return d.root.Name() + "/" + stepName(step) }

// Scan looks at names only.
func (d *Dir) Scan() (Found, error) {
	f, _, err := d.scan()
	return f, err
}

// scan also returns the names of leftovers: what a task or this package was
// writing when it died, and seals of steps that are gone.
func (d *Dir) scan() (found Found, leftovers []string, err error) {
	names, err := d.names()
	if err != nil {
		return Found{}, nil, err
	}
	for name := range names {
		base, isSeal := strings.CutSuffix(name, sealSuffix)
		base, isTemp := strings.CutSuffix(base, tempSuffix)
		switch step, ok := parseStep(base); {
		case strings.HasPrefix(name, garbage):
			leftovers = append(leftovers, name)
		case !ok && strings.HasPrefix(name, stepPrefix):
			found.Odd = append(found.Odd, name)
		case !ok:
		case isTemp, isSeal && !names[base]:
			leftovers = append(leftovers, name)
		case isSeal:
		case names[base+sealSuffix]:
			found.Sealed = append(found.Sealed, step)
		default:
			found.Unsealed = append(found.Unsealed, step)
		}
	}
	slices.Sort(found.Sealed)
	slices.Sort(found.Unsealed)
	slices.Sort(found.Odd)
	slices.Sort(leftovers)
	return found, leftovers, nil
}

func (d *Dir) names() (map[string]bool, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("reading checkpoint folder: %w", err)
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("reading checkpoint folder: %w", err)
	}
	names := make(map[string]bool, len(list))
	for _, n := range list {
		names[n] = true
	}
	return names, nil
}

// Seal makes a finished step durable and vouches for it. It reads the step
// once, while its data goes to disk. Sealing a sealed step returns its seal.
//
// An error that is not the context's means that the step cannot be sealed as
// it is, for example because it holds a link that leads out of it.
func (d *Dir) Seal(ctx context.Context, step int64) (Seal, error) {
	if s, err := d.readSeal(step); err == nil {
		return s, nil
	}
	s, err := d.seal(ctx, step)
	if err != nil {
		return Seal{}, fmt.Errorf("sealing checkpoint step %d: %w", step, err)
	}
	return s, nil
}

func (d *Dir) seal(ctx context.Context, step int64) (Seal, error) {
	// The name first: a step of which it is lost was never finished.
	if err := d.sync(); err != nil {
		return Seal{}, err
	}
	digest, m, err := artifact.DigestAt(ctx, d.root, stepName(step), artifact.SyncSource())
	if err != nil {
		return Seal{}, err
	}
	return d.writeSeal(Seal{Step: step, Digest: digest, Manifest: m})
}

func (d *Dir) writeSeal(s Seal) (Seal, error) {
	s.Version, s.SealedAt = sealVersion, time.Now().UTC()
	data, err := json.Marshal(s)
	if err != nil {
		return Seal{}, err
	}
	name := stepName(s.Step) + sealSuffix
	if err := d.writeFile(name, append(data, '\n')); err != nil {
		return Seal{}, err
	}
	return s, nil
}

// writeFile writes a file that appears whole and durable, or not at all.
func (d *Dir) writeFile(name string, data []byte) (err error) {
	temp := garbage + strings.ReplaceAll(name, "/", "-")
	defer func() {
		if err != nil {
			_ = d.root.Remove(temp)
		}
	}()
	// One that a dead process left may be anything; never write through it.
	if err := d.root.RemoveAll(temp); err != nil {
		return err
	}
	f, err := d.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		return err
	}
	return d.sync()
}

func (d *Dir) readSeal(step int64) (Seal, error) {
	f, err := d.root.Open(stepName(step) + sealSuffix)
	if err != nil {
		return Seal{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSealBytes+1))
	if err != nil {
		return Seal{}, err
	}
	return ParseSeal(data, step)
}

// ParseSeal reads the seal of a step and checks that it agrees with itself.
func ParseSeal(data []byte, step int64) (Seal, error) {
	var s Seal
	if len(data) > maxSealBytes {
		return Seal{}, errors.New("the seal is too large")
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return Seal{}, fmt.Errorf("the seal is damaged: %w", err)
	}
	if s.Version != sealVersion {
		return Seal{}, fmt.Errorf("the seal has version %d; this program knows version %d", s.Version, sealVersion)
	}
	if s.Step != step {
		return Seal{}, fmt.Errorf("the seal is of step %d", s.Step)
	}
	digest, err := s.Manifest.Digest()
	if err != nil {
		return Seal{}, fmt.Errorf("the seal is damaged: %w", err)
	}
	if digest != s.Digest {
		return Seal{}, errors.New("the seal is damaged: its digest is not that of its manifest")
	}
	return s, nil
}

func (d *Dir) sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func stepName(step int64) string { return stepPrefix + strconv.FormatInt(step, 10) }

func parseStep(name string) (int64, bool) {
	digits, ok := strings.CutPrefix(name, stepPrefix)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || n > math.MaxInt64 || stepName(int64(n)) != name {
		return 0, false
	}
	return int64(n), true
}

func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }
