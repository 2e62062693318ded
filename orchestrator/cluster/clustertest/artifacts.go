package clustertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/drover-ml/drover/internal/artifact"
)

// Artifacts is an artefact store in memory, where an artefact is a text.
type Artifacts struct {
	mu      sync.Mutex
	texts   map[artifact.Digest]string
	files   map[artifact.Digest]bool
	records map[string][]byte
}

// NewArtifacts returns an empty store.
func NewArtifacts() *Artifacts {
	return &Artifacts{texts: map[artifact.Digest]string{}, files: map[artifact.Digest]bool{}, records: map[string][]byte{}}
}

// Put stores a text.
func (s *Artifacts) Put(text string) artifact.Digest {
	sum := sha256.Sum256([]byte(text))
	d := artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
	s.mu.Lock()
	s.texts[d] = text
	s.mu.Unlock()
	return d
}

// PutFile stores a text as a file; others count as folders.
func (s *Artifacts) PutFile(text string) artifact.Digest {
	d := s.Put(text)
	s.mu.Lock()
	s.files[d] = true
	s.mu.Unlock()
	return d
}

// Manifest says whether an artefact is a file or a folder.
func (s *Artifacts) Manifest(_ context.Context, d artifact.Digest) (artifact.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.texts[d]; !ok {
		return artifact.Manifest{}, artifact.ErrNotFound
	}
	if s.files[d] {
		return artifact.Manifest{Kind: artifact.KindFile}, nil
	}
	return artifact.Manifest{Kind: artifact.KindDir}, nil
}

// Text is a stored text.
func (s *Artifacts) Text(d string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.texts[artifact.Digest(d)]
}

// Delete removes a text.
func (s *Artifacts) Delete(d string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.texts, artifact.Digest(d))
}

// PutRecord stores a record.
func (s *Artifacts) PutRecord(key string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding record %q: %v", key, err))
	}
	s.mu.Lock()
	s.records[key] = b
	s.mu.Unlock()
}

// Has reports whether a text is there.
func (s *Artifacts) Has(_ context.Context, d artifact.Digest) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.texts[d]
	return ok, nil
}

// GetRecord decodes a record into v.
func (s *Artifacts) GetRecord(_ context.Context, key string, v any) error {
	s.mu.Lock()
	b, ok := s.records[key]
	s.mu.Unlock()
	if !ok {
		return artifact.ErrNotFound
	}
	return json.Unmarshal(b, v)
}

// ListRecords lists the keys below a folder.
func (s *Artifacts) ListRecords(_ context.Context, folder string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.records {
		if strings.HasPrefix(key, folder+"/") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// OpenBlob opens a text.
func (s *Artifacts) OpenBlob(_ context.Context, d artifact.Digest) (io.ReadCloser, error) {
	s.mu.Lock()
	text, ok := s.texts[d]
	s.mu.Unlock()
	if !ok {
		return nil, artifact.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader([]byte(text))), nil
}
