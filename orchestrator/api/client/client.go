// Package client talks to a Drover server.
//
// Requests that change nothing, and those that may be sent twice, are tried
// again while the server cannot be reached for a moment (it restarts, say),
// until the context ends or ten seconds have passed.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/api"
)

// Defaults of a Config.
const (
	DefaultAddress   = "http://127.0.0.1:4680"
	DefaultWorkspace = "default"
)

// Config says which server a Client talks to. The zero value is the server of
// this machine's drover dev.
type Config struct {
	Address   string // base URL; default DefaultAddress
	Token     string // bearer token, "" for none
	Workspace string // default DefaultWorkspace
	User      string // who the requests are from, for servers without tokens
	// HTTP sends the requests; default: a client without a timeout, since
	// some answers take as long as a run.
	HTTP *http.Client
}

// Client talks to one server about one workspace. It may be used from many
// goroutines.
type Client struct {
	base      *url.URL
	token     string
	user      string
	workspace string
	http      *http.Client
}

// New returns a client. It does not connect yet.
func New(c Config) (*Client, error) {
	if c.Address == "" {
		c.Address = DefaultAddress
	}
	if c.Workspace == "" {
		c.Workspace = DefaultWorkspace
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{}
	}
	base, err := url.Parse(strings.TrimSuffix(c.Address, "/"))
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("server address %q is not a URL like %s", c.Address, DefaultAddress)
	}
	return &Client{base: base, token: c.Token, user: c.User, workspace: c.Workspace, http: c.HTTP}, nil
}

// Address is the server's base URL.
func (c *Client) Address() string { return c.base.String() }

// Error is the server's refusal of a request.
type Error struct {
	Method, Path string
	api.Problem
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%s %s: %s", e.Method, e.Path, http.StatusText(e.Status))
	}
	text := strings.TrimSuffix(e.Detail, ".")
	if len(e.Errors) == 1 && e.Errors[0].Message != e.Detail {
		text += ": " + e.Errors[0].Location + ": " + e.Errors[0].Message
	}
	return text
}

// IsConflict reports whether the request does not fit the present state.
func IsConflict(err error) bool { return statusOf(err) == http.StatusConflict }

func statusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// UnreachableError says that no server answered.
type UnreachableError struct {
	Address string
	Err     error
}

func (e *UnreachableError) Error() string {
	err := e.Err
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Sprintf("no Drover server answers at %s: %v", e.Address, err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// request is one request to the API.
type request struct {
	method string
	path   string
	query  url.Values
	body   any // marshalled as JSON, unless it is raw
	raw    []byte
	again  bool // it may be sent twice
}

// retryFor is how long an unreachable server is tried again.
const retryFor = 10 * time.Second

// do sends r and decodes the answer into out, unless it is nil.
func (c *Client) do(ctx context.Context, r request, out any) error {
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("reading the answer to %s %s: %w", r.method, r.path, err)
	}
	return nil
}

// send sends r and returns an answer that is a success.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	if r.raw == nil && r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("writing the request %s %s: %w", r.method, r.path, err)
		}
		r.raw = b
	}
	var waited time.Duration
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		resp, err := c.sendOnce(ctx, r.method, r.path, r.query, bytes.NewReader(r.raw), int64(len(r.raw)), "application/json")
		var unreachable *UnreachableError
		again := r.again || r.method == http.MethodGet
		if err == nil || !again || !errors.As(err, &unreachable) || waited >= retryFor || ctx.Err() != nil {
			return resp, err
		}
		select {
		case <-time.After(wait):
			waited += wait
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Client) sendOnce(ctx context.Context, method, path string, query url.Values, body io.Reader, size int64, contentType string) (*http.Response, error) {
	target := c.base.String() + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	if size == 0 {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("making the request %s %s: %w", method, path, err)
	}
	req.ContentLength = size
	if size > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.user != "" {
		req.Header.Set(api.UserHeader, c.user)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &UnreachableError{Address: c.Address(), Err: err}
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, problemOf(method, path, resp)
}

// maxProblem limits how much of an error's body is read.
const maxProblem = 16 << 20

func problemOf(method, path string, resp *http.Response) error {
	e := &Error{Method: method, Path: path}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil || json.Unmarshal(body, &e.Problem) != nil || e.Status == 0 {
		// Not Drover's answer: a proxy's, or another program's.
		e.Problem = api.Problem{}
		e.Status = resp.StatusCode
		e.Detail = fmt.Sprintf("%s %s was answered with %s; is %s a Drover server?", method, path, resp.Status, resp.Request.URL.Host)
	}
	return e
}

// inWorkspace adds the workspace to a query.
func (c *Client) inWorkspace(q url.Values) url.Values {
	if q == nil {
		q = url.Values{}
	}
	q.Set("workspace", c.workspace)
	return q
}

func setInt(q url.Values, key string, v int64) {
	if v != 0 {
		q.Set(key, strconv.FormatInt(v, 10))
	}
}

func setText(q url.Values, key, v string) {
	if v != "" {
		q.Set(key, v)
	}
}

// segment escapes a name for use in a path.
func segment(name string) string { return url.PathEscape(name) }

// Health asks whether the server is up, once.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	var h api.Health
	resp, err := c.sendOnce(ctx, http.MethodGet, "/v1/health", nil, nil, 0, "")
	if err != nil {
		return h, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		return h, fmt.Errorf("reading the answer to GET /v1/health: %w", err)
	}
	return h, nil
}
