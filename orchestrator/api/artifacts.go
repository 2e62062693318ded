package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"path"
	"sort"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/internal/artifact"
)

// Artifacts is the artefact store, as far as the API needs it.
type Artifacts interface {
	PutBlob(ctx context.Context, r io.Reader) (artifact.Digest, int64, error)
	StatBlob(ctx context.Context, d artifact.Digest) (artifact.BlobInfo, error)
	OpenBlob(ctx context.Context, d artifact.Digest) (io.ReadCloser, error)
	Manifest(ctx context.Context, d artifact.Digest) (artifact.Manifest, error)
	Verify(ctx context.Context, d artifact.Digest) error
}

// Artifact is a stored file or folder.
type Artifact struct {
	Digest string `json:"digest"`
	Kind   string `json:"kind" enum:"file,dir"`
	Bytes  int64  `json:"bytes"`
	// Files is a page of the files; FileCount counts all of them.
	Files     []ArtifactFile `json:"files"`
	FileCount int            `json:"file_count"`
	// Next is the path to ask for the next page after; "" on the last page.
	Next string `json:"next,omitempty"`
}

// ArtifactFile is a file of an artefact, or a link.
type ArtifactFile struct {
	Path   string `json:"path" doc:"Path in the artefact; \".\" if the artefact is one file"`
	Bytes  int64  `json:"bytes"`
	Mode   string `json:"mode,omitempty"`
	Digest string `json:"digest,omitempty"`
	Link   string `json:"link,omitempty" doc:"Target, if it is a symbolic link"`
}

// Verification says whether a stored artefact still is what it was.
type Verification struct {
	Digest string `json:"digest"`
	Intact bool   `json:"intact"`
	Reason string `json:"reason,omitempty" doc:"What is wrong, if it is not intact"`
}

// StoredBlob is the answer to an upload.
type StoredBlob struct {
	Digest string `json:"digest"`
	Bytes  int64  `json:"bytes"`
}

// MissingBlobs are those of the digests asked about that the store lacks.
type MissingBlobs struct {
	Missing []string `json:"missing"`
}

const (
	// wholeFile is the path of an artefact's file if it has just one.
	wholeFile = "-"
	// maxManifest is the largest manifest taken, in bytes; some 400,000 files.
	maxManifest = 64 << 20
)

// DigestPath names an artefact or a blob.
type DigestPath struct {
	Digest string `path:"digest" pattern:"^sha256:[0-9a-f]{64}$" doc:"sha256: and 64 hexadecimal digits"`
}

func (s *server) registerArtifacts(api huma.API) {
	binary := &huma.Response{Description: "The content", Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}},
	}}
	huma.Register(api, huma.Operation{
		OperationID: "missing-blobs", Method: http.MethodPost, Path: "/v1/blobs/missing", Tags: []string{"artifacts"},
		Summary:      "Say which blobs the store lacks",
		MaxBodyBytes: 2 << 20, BodyReadTimeout: bodyTimeout,
	}, s.missingBlobs)
	huma.Register(api, huma.Operation{
		OperationID: "put-blob", Method: http.MethodPut, Path: "/v1/blobs/{digest}", Tags: []string{"artifacts"},
		Summary:     "Upload a blob",
		Description: "The body is the blob. It is stored only if it has the digest in the path.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}},
		}},
		Responses: map[string]*huma.Response{"201": {Description: "Stored"}},
	}, s.putBlob)
	huma.Register(api, huma.Operation{
		OperationID: "get-blob", Method: http.MethodGet, Path: "/v1/blobs/{digest}", Tags: []string{"artifacts"},
		Summary:     "Download a blob",
		Description: "An artefact's own digest is that of its manifest, a blob too.",
		Responses:   map[string]*huma.Response{"200": binary},
	}, func(ctx context.Context, in *DigestPath) (*huma.StreamResponse, error) {
		return s.sendBlob(ctx, artifact.Digest(in.Digest), shortName(in.Digest))
	})
	huma.Register(api, huma.Operation{
		OperationID: "put-artifact", Method: http.MethodPut, Path: "/v1/artifacts", Tags: []string{"artifacts"},
		Summary:      "Make an artefact of blobs that are stored already",
		Description:  "The body is the artefact's manifest in canonical JSON. All of its blobs must have been uploaded.",
		MaxBodyBytes: maxManifest, BodyReadTimeout: bodyTimeout, DefaultStatus: http.StatusCreated, SkipValidateBody: true,
	}, s.putArtifact)
	huma.Register(api, huma.Operation{
		OperationID: "get-artifact", Method: http.MethodGet, Path: "/v1/artifacts/{digest}", Tags: []string{"artifacts"},
		Summary: "List an artefact's files",
	}, s.getArtifact)
	huma.Register(api, huma.Operation{
		OperationID: "verify-artifact", Method: http.MethodPost, Path: "/v1/artifacts/{digest}/verify", Tags: []string{"artifacts"},
		Summary: "Read a whole artefact and compare it with its digests",
	}, s.verifyArtifact)
	huma.Register(api, huma.Operation{
		OperationID: "get-artifact-file", Method: http.MethodGet, Path: "/v1/artifacts/{digest}/files/{path...}", Tags: []string{"artifacts"},
		Summary:     "Download a file of an artefact",
		Description: "An artefact that is one file has it under the path -.",
		Responses:   map[string]*huma.Response{"200": binary},
	}, s.getArtifactFile)
}

func (s *server) missingBlobs(ctx context.Context, in *struct {
	Body struct {
		Digests []string `json:"digests" maxItems:"10000"`
	}
}) (*struct{ Body MissingBlobs }, error) {
	var out struct{ Body MissingBlobs }
	out.Body.Missing = []string{}
	var bad []error
	for i, text := range in.Body.Digests {
		d, err := artifact.ParseDigest(text)
		if err != nil {
			bad = append(bad, &huma.ErrorDetail{Location: fmt.Sprintf("body.digests[%d]", i), Message: err.Error(), Value: text})
			continue
		}
		switch _, err := s.cfg.Artifacts.StatBlob(ctx, d); {
		case errors.Is(err, artifact.ErrNotFound):
			out.Body.Missing = append(out.Body.Missing, text)
		case err != nil:
			return nil, s.problem(ctx, err)
		}
	}
	if len(bad) > 0 {
		return nil, invalid("Some digests are malformed.", bad...)
	}
	return &out, nil
}

// putBlob streams: the body is read by the response, after huma is done.
func (s *server) putBlob(_ context.Context, in *DigestPath) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		ctx, w := hc.Context(), hc.BodyWriter().(http.ResponseWriter)
		body := &verifier{r: io.LimitReader(hc.BodyReader(), s.cfg.MaxBlobBytes+1), limit: s.cfg.MaxBlobBytes, hash: sha256.New(), want: in.Digest}
		digest, n, err := s.cfg.Artifacts.PutBlob(ctx, body)
		switch {
		case body.err != nil:
			writeProblem(w, body.status, body.err.Error())
		case err != nil:
			writeError(w, s.problem(ctx, err))
		default:
			writeJSON(w, http.StatusCreated, StoredBlob{Digest: string(digest), Bytes: n})
		}
	}}, nil
}

// verifier reads an upload and fails at its end, before anything is stored, if
// it is too long or is not what its digest says.
type verifier struct {
	r      io.Reader
	limit  int64
	hash   hash.Hash
	want   string
	n      int64
	err    error // what the client did wrong
	status int
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	if v.n > v.limit {
		v.err, v.status = fmt.Errorf("the blob is larger than the limit of %d bytes", v.limit), http.StatusRequestEntityTooLarge
		return 0, v.err
	}
	if err == io.EOF {
		if got := "sha256:" + hex.EncodeToString(v.hash.Sum(nil)); got != v.want {
			v.err, v.status = fmt.Errorf("the body has the digest %s, not %s; did the file change while it was sent?", got, v.want), http.StatusUnprocessableEntity
			return n, v.err
		}
	}
	return n, err
}

func (s *server) putArtifact(ctx context.Context, in *struct {
	RawBody []byte `contentType:"application/json"`
}) (*struct{ Body Artifact }, error) {
	m, err := artifact.ParseManifest(in.RawBody)
	if err != nil {
		return nil, invalid("The manifest is not valid.", &huma.ErrorDetail{Location: "body", Message: err.Error()})
	}
	var missing []error
	for i, f := range m.Files {
		if f.Link != "" {
			continue
		}
		switch _, err := s.cfg.Artifacts.StatBlob(ctx, f.Digest()); {
		case errors.Is(err, artifact.ErrNotFound):
			missing = append(missing, &huma.ErrorDetail{Location: fmt.Sprintf("body.files[%d]", i), Message: "its blob is not stored", Value: f.Digest()})
		case err != nil:
			return nil, s.problem(ctx, err)
		}
	}
	if len(missing) > 0 {
		return nil, newProblem(http.StatusConflict, "Upload the missing blobs first.", missing...)
	}
	digest, _, err := s.cfg.Artifacts.PutBlob(ctx, bytes.NewReader(in.RawBody))
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	a := describe(string(digest), m)
	a.Files = []ArtifactFile{}
	return &struct{ Body Artifact }{a}, nil
}

func describe(digest string, m artifact.Manifest) Artifact {
	a := Artifact{Digest: digest, Kind: string(m.Kind), Bytes: m.Bytes(), FileCount: len(m.Files), Files: make([]ArtifactFile, len(m.Files))}
	for i, f := range m.Files {
		a.Files[i] = ArtifactFile{Path: f.Path, Bytes: f.Size, Mode: string(f.Mode), Link: f.Link}
		if f.Link == "" {
			a.Files[i].Digest = string(f.Digest())
		}
	}
	return a
}

func (s *server) getArtifact(ctx context.Context, in *struct {
	DigestPath
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000" doc:"Files a page"`
	After string `query:"after" maxLength:"4096" doc:"Give the files after this path"`
}) (*struct{ Body Artifact }, error) {
	m, err := s.cfg.Artifacts.Manifest(ctx, artifact.Digest(in.Digest))
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	a := describe(in.Digest, m)
	if in.After != "" {
		a.Files = a.Files[sort.Search(len(a.Files), func(i int) bool { return a.Files[i].Path > in.After }):]
	}
	if len(a.Files) > in.Limit {
		a.Files = a.Files[:in.Limit]
		a.Next = a.Files[in.Limit-1].Path
	}
	return &struct{ Body Artifact }{a}, nil
}

func (s *server) verifyArtifact(ctx context.Context, in *DigestPath) (*struct{ Body Verification }, error) {
	out := &struct{ Body Verification }{Verification{Digest: in.Digest}}
	err := s.cfg.Artifacts.Verify(ctx, artifact.Digest(in.Digest))
	var corrupt *artifact.CorruptError
	switch {
	case err == nil:
		out.Body.Intact = true
	case errors.As(err, &corrupt):
		out.Body.Reason = corrupt.Error()
	default:
		return nil, s.problem(ctx, err)
	}
	return out, nil
}

func (s *server) getArtifactFile(ctx context.Context, in *struct {
	DigestPath
	Path string `path:"path" maxLength:"4096" doc:"Path in the artefact"`
}) (*huma.StreamResponse, error) {
	m, err := s.cfg.Artifacts.Manifest(ctx, artifact.Digest(in.Digest))
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	name := in.Path
	if m.Kind == artifact.KindFile && name == wholeFile {
		name = "." // a dot would be cleaned out of a URL
	}
	i := sort.Search(len(m.Files), func(i int) bool { return m.Files[i].Path >= name })
	if i == len(m.Files) || m.Files[i].Path != name || m.Files[i].Link != "" {
		return nil, newProblem(http.StatusNotFound, fmt.Sprintf("The artefact has no file %q; get /v1/artifacts/%s lists them.", in.Path, in.Digest))
	}
	return s.sendBlob(ctx, m.Files[i].Digest(), path.Base(in.Path))
}

// shortName is what a blob is called where it is saved.
func shortName(digest string) string { return artifact.Digest(digest).Hex()[:12] }

// sendBlob answers with a blob's content.
func (s *server) sendBlob(ctx context.Context, d artifact.Digest, name string) (*huma.StreamResponse, error) {
	info, err := s.cfg.Artifacts.StatBlob(ctx, d)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	blob, err := s.cfg.Artifacts.OpenBlob(ctx, d)
	if err != nil {
		return nil, s.problem(ctx, err)
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer blob.Close()
		hc.SetHeader("Content-Type", "application/octet-stream")
		hc.SetHeader("X-Content-Type-Options", "nosniff")
		hc.SetHeader("Content-Length", strconv.FormatInt(info.Size, 10))
		hc.SetHeader("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
		hc.SetHeader("ETag", strconv.Quote(d.Hex()))
		if _, err := io.Copy(hc.BodyWriter(), blob); err != nil {
			if hc.Context().Err() == nil {
				s.cfg.Logger.Warn("sending a blob", "digest", d, "error", err)
			}
			panic(http.ErrAbortHandler) // the client must not take it for whole
		}
	}}, nil
}
