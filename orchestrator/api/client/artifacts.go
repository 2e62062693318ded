package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/drover-ml/drover/orchestrator/api"
)

// askAtOnce is how many blobs one request asks about.
const askAtOnce = 5000

// MissingBlobs returns those of the digests that the store lacks.
func (c *Client) MissingBlobs(ctx context.Context, digests []string) ([]string, error) {
	var missing []string
	for len(digests) > 0 {
		n := min(len(digests), askAtOnce)
		var out api.MissingBlobs
		body := map[string][]string{"digests": digests[:n]}
		if err := c.do(ctx, request{method: http.MethodPost, path: "/v1/blobs/missing", body: body, again: true}, &out); err != nil {
			return nil, err
		}
		missing = append(missing, out.Missing...)
		digests = digests[n:]
	}
	return missing, nil
}

// PutBlob uploads size bytes as a blob. The server refuses content that does
// not have the digest.
func (c *Client) PutBlob(ctx context.Context, digest string, r io.Reader, size int64) error {
	resp, err := c.sendOnce(ctx, http.MethodPut, "/v1/blobs/"+segment(digest), nil, r, size, "application/octet-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// PutArtifact makes an artefact of blobs that are uploaded, from its manifest.
func (c *Client) PutArtifact(ctx context.Context, manifest []byte) (api.Artifact, error) {
	var a api.Artifact
	err := c.do(ctx, request{method: http.MethodPut, path: "/v1/artifacts", raw: manifest, again: true}, &a)
	return a, err
}

// Artifact describes an artefact, with all of its files.
func (c *Client) Artifact(ctx context.Context, digest string) (api.Artifact, error) {
	var a api.Artifact
	files, err := all(func(q url.Values) ([]api.ArtifactFile, string, error) {
		var page api.Artifact
		err := c.do(ctx, request{method: http.MethodGet, path: artifactPath(digest), query: q}, &page)
		a = page
		return page.Files, page.Next, err
	})
	a.Files, a.Next = files, ""
	return a, err
}

// VerifyArtifact makes the server read an artefact and compare it with its
// digests.
func (c *Client) VerifyArtifact(ctx context.Context, digest string) (api.Verification, error) {
	var v api.Verification
	err := c.do(ctx, request{method: http.MethodPost, path: artifactPath(digest) + "/verify", again: true}, &v)
	return v, err
}

// Blob downloads a blob. The caller closes it, and compares what it read with
// the digest.
func (c *Client) Blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, request{method: http.MethodGet, path: "/v1/blobs/" + segment(digest)})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func artifactPath(digest string) string { return "/v1/artifacts/" + segment(digest) }
