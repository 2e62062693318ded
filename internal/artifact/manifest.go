package artifact

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Kind says what an artifact is once it is fetched.
type Kind string

// The kinds of artifact.
const (
	KindFile Kind = "file"
	KindDir  Kind = "dir"
)

// File modes that an artifact keeps. Any other mode becomes the nearest.
const (
	ModeFile Mode = "0644"
	ModeExec Mode = "0755"
)

// Mode is a file's permission, in octal as text.
type Mode string

const (
	manifestVersion = 1
	// MaxManifestBytes bounds what is read into memory for one manifest: some
	// two million files.
	MaxManifestBytes = 256 << 20
	maxPathBytes     = 4096
	maxNameBytes     = 255
)

// Manifest describes an artifact. Its one encoding is stored as a blob, and
// that blob's digest is the artifact's:
//
//	{"version":1,"kind":"dir","files":[
//	 {"path":"bin/run","size":12,"mode":"0755","sha256":"…"},
//	 {"path":"latest","link":"bin/run"}],"dirs":["empty"]}
//
// Files are sorted by path, byte by byte, and so are Dirs, which holds only
// folders with nothing in them. An artifact of kind "file" has one entry, with
// path ".".
type Manifest struct {
	Version int      `json:"version"`
	Kind    Kind     `json:"kind"`
	Files   []Entry  `json:"files"`
	Dirs    []string `json:"dirs,omitempty"`
}

// Entry is a file of an artifact, or a symbolic link if Link is set.
type Entry struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Mode   Mode   `json:"mode"`
	SHA256 string `json:"sha256"` // hexadecimal
	// Link is the target of a symbolic link. It is relative and stays inside
	// the artifact. The other fields but Path are then empty.
	Link string `json:"link"`
}

// MarshalJSON writes the fields that the kind of entry has, and no others.
func (e Entry) MarshalJSON() ([]byte, error) {
	if e.Link != "" {
		return encodeJSON(struct {
			Path string `json:"path"`
			Link string `json:"link"`
		}{e.Path, e.Link})
	}
	return encodeJSON(struct {
		Path   string `json:"path"`
		Size   int64  `json:"size"`
		Mode   Mode   `json:"mode"`
		SHA256 string `json:"sha256"`
	}{e.Path, e.Size, e.Mode, e.SHA256})
}

// Digest is the digest of the file's content.
func (e Entry) Digest() Digest { return Digest(digestPrefix + e.SHA256) }

// Bytes is the size of all files.
func (m Manifest) Bytes() int64 {
	var n int64
	for _, e := range m.Files {
		n += e.Size
	}
	return n
}

// Encode returns the canonical encoding.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	if m.Files == nil {
		m.Files = []Entry{}
	}
	return encodeJSON(m)
}

// Digest is the artifact's digest.
func (m Manifest) Digest() (Digest, error) {
	b, err := m.Encode()
	if err != nil {
		return "", err
	}
	return digestOfBytes(b), nil
}

// ParseManifest reads a manifest. It accepts canonical encodings only, so
// that no artifact has two digests, and no path or link that could lead out
// of the folder in which the artifact is fetched.
func ParseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if len(b) > MaxManifestBytes {
		return m, fmt.Errorf("manifest of %d bytes exceeds the limit of %d", len(b), MaxManifestBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("reading manifest: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Manifest{}, errors.New("reading manifest: more follows its end")
	}
	canonical, err := m.Encode()
	if err != nil {
		return Manifest{}, err
	}
	if !bytes.Equal(canonical, b) {
		return Manifest{}, errors.New("reading manifest: not in canonical form")
	}
	return m, nil
}

func (m Manifest) validate() error {
	if m.Version != manifestVersion {
		return fmt.Errorf("manifest version %d is not known; this program knows version %d", m.Version, manifestVersion)
	}
	switch m.Kind {
	case KindFile:
		if len(m.Files) != 1 || m.Files[0].Path != "." || m.Files[0].Link != "" || len(m.Dirs) != 0 {
			return errors.New(`manifest of kind "file" must have one file with path "."`)
		}
		return m.Files[0].validateContent()
	case KindDir:
		return m.validateTree()
	}
	return fmt.Errorf("manifest kind %q is not known", clip(string(m.Kind)))
}

func (m Manifest) validateTree() error {
	names := make([]string, 0, len(m.Files)+len(m.Dirs))
	for _, e := range m.Files {
		if err := validatePath(e.Path); err != nil {
			return err
		}
		check := e.validateContent
		if e.Link != "" {
			check = e.validateLink
		}
		if err := check(); err != nil {
			return err
		}
		names = append(names, e.Path)
	}
	if !slices.IsSorted(names) {
		return errors.New("manifest files are not sorted by path")
	}
	for _, d := range m.Dirs {
		if err := validatePath(d); err != nil {
			return err
		}
	}
	if !slices.IsSorted(m.Dirs) {
		return errors.New("manifest dirs are not sorted")
	}
	return validateNoOverlap(append(names, m.Dirs...))
}

// validateNoOverlap refuses two entries of one name, and an entry below
// another: only folders that the entries themselves imply have children, so
// nothing is ever written through a link.
func validateNoOverlap(names []string) error {
	// With "/" sorted before all else, a parent is next to its first child.
	slices.SortFunc(names, func(a, b string) int {
		return slices.CompareFunc([]byte(a), []byte(b), func(x, y byte) int {
			return cmp.Compare(pathRank(x), pathRank(y))
		})
	})
	for i := 1; i < len(names); i++ {
		prev, name := names[i-1], names[i]
		if name == prev || strings.HasPrefix(name, prev+"/") {
			return fmt.Errorf("manifest entries %q and %q overlap", clip(prev), clip(name))
		}
	}
	return nil
}

func pathRank(c byte) int {
	if c == '/' {
		return -1
	}
	return int(c)
}

func validatePath(p string) error {
	if len(p) > maxPathBytes {
		return fmt.Errorf("path %q is longer than %d bytes", clip(p), maxPathBytes)
	}
	if !utf8.ValidString(p) || strings.ContainsRune(p, 0) {
		return fmt.Errorf("path %q is not valid UTF-8 text", clip(p))
	}
	for name := range strings.SplitSeq(p, "/") {
		switch {
		case name == "" || name == "." || name == "..":
			return fmt.Errorf("path %q is not a clean relative path", clip(p))
		case len(name) > maxNameBytes:
			return fmt.Errorf("path %q has a name longer than %d bytes", clip(p), maxNameBytes)
		}
	}
	return nil
}

func (e Entry) validateContent() error {
	switch {
	case e.Size < 0:
		return fmt.Errorf("file %q has a negative size", clip(e.Path))
	case e.Mode != ModeFile && e.Mode != ModeExec:
		return fmt.Errorf("file %q has mode %q; want %s or %s", clip(e.Path), clip(string(e.Mode)), ModeFile, ModeExec)
	case !isHexSum(e.SHA256):
		return fmt.Errorf("file %q has no valid SHA-256", clip(e.Path))
	}
	return nil
}

// validateLink makes sure that following the link stays inside the artifact.
// ".." may only lead the target: then it climbs real folders, for no entry is
// below a link, and what follows descends. A ".." after a name could climb
// from wherever that name, itself a link, leads.
func (e Entry) validateLink() error {
	if e.Size != 0 || e.Mode != "" || e.SHA256 != "" {
		return fmt.Errorf("link %q has fields of a file", clip(e.Path))
	}
	if len(e.Link) > maxPathBytes || !utf8.ValidString(e.Link) || strings.ContainsRune(e.Link, 0) {
		return fmt.Errorf("link %q has a target that is too long or not valid UTF-8 text", clip(e.Path))
	}
	depth, descended := strings.Count(e.Path, "/"), false
	for name := range strings.SplitSeq(e.Link, "/") {
		switch name {
		case "", ".":
		case "..":
			depth--
			if descended || depth < 0 {
				return linkError(e)
			}
		default:
			descended = true
		}
	}
	if path.IsAbs(e.Link) {
		return linkError(e)
	}
	return nil
}

func linkError(e Entry) error {
	return fmt.Errorf("link %q leads to %q, outside the artifact or by a detour: use a relative target inside it", clip(e.Path), clip(e.Link))
}

func digestOfBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(digestPrefix + hex.EncodeToString(sum[:]))
}

// encodeJSON is json.Marshal without the escaping of <, > and &.
func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
