package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
	"github.com/drover-ml/drover/orchestrator/run"
)

// handler is the API over a world and an artefact store of its own.
func handler(t testing.TB, w *apitest.World, change ...func(*api.Config)) http.Handler {
	t.Helper()
	store, err := artifact.Open("file://" + filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	cfg := api.Config{
		Runs: w, History: w, Models: w, Endpoints: w, Incidents: w, Queue: w, Artifacts: store,
		Gateway: "http://127.0.0.1:4681", Version: "test", Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	return api.New(cfg)
}

func call(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in the answer %s", err, w.Body)
	}
	return v
}

const goodFile = `pipeline "tiny" {}
step "hello" { command = ["true"] }
`

func submission(source string, more ...string) string {
	s := run.Submission{Workspace: "default", Filename: "pipeline.hcl", Source: source, Uploads: map[string]string{}}
	if len(more) > 0 {
		s.Key = more[0]
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestErrorsAreProblems(t *testing.T) {
	h := handler(t, (&apitest.World{}).Add(run.Run{ID: "ended", Workspace: "default", Phase: run.Succeeded}))
	tests := map[string]struct {
		method, path, body string
		status             int
		detail             string   // part of it
		fields             []string // locations
	}{
		"no such path":       {"GET", "/v1/nothing", "", 404, "/docs", nil},
		"no such run":        {"GET", "/v1/runs/zzz", "", 404, `no run "zzz"`, nil},
		"ended already":      {"POST", "/v1/runs/ended/cancel", "", 409, "ended already", nil},
		"malformed run":      {"GET", "/v1/runs/..%2Fx", "", 422, "", []string{"path.id"}},
		"not JSON":           {"POST", "/v1/runs", "{", 400, "", []string{"body"}},
		"missing fields":     {"POST", "/v1/runs", "{}", 422, "", []string{"body", "body", "body", "body"}},
		"unknown field":      {"POST", "/v1/runs", `{"workspace":"default","filename":"f","source":"x","uploads":{},"vras":{}}`, 422, "", []string{"body.vras"}},
		"wrong type":         {"POST", "/v1/runs", `{"workspace":"default","filename":"f","source":"x","uploads":{},"vars":{"a":1}}`, 422, "", []string{"body.vars.a"}},
		"the engine's field": {"POST", "/v1/runs", `{"workspace":"default","filename":"f","source":"","uploads":{}}`, 422, "", []string{"body.source"}},
		"limit too high":     {"GET", "/v1/runs?limit=100000", "", 422, "", []string{"query.limit"}},
		"unknown query":      {"GET", "/v1/runs?limt=1", "", 422, "", []string{"query.limt"}},
		"workspace":          {"GET", "/v1/models?workspace=../x", "", 422, "", []string{"query.workspace"}},
		"no such model":      {"GET", "/v1/models/none", "", 404, `no model "none"`, nil},
		"no such endpoint":   {"DELETE", "/v1/endpoints/none", "", 404, `no endpoint "none"`, nil},
		"version zero":       {"PUT", "/v1/models/m/aliases/champion", `{"version":0}`, 422, "", []string{"body.version"}},
		"digest":             {"GET", "/v1/artifacts/sha256:xyz", "", 422, "", []string{"path.digest"}},
		"wait":               {"GET", "/v1/runs/ended/events?wait=soon", "", 422, "", []string{"query.wait"}},
		"no such artefact":   {"GET", "/v1/artifacts/sha256:" + strings.Repeat("0", 64), "", 404, "No such artefact", nil},
		"digests":            {"POST", "/v1/blobs/missing", `{"digests":["sha256:1","x"]}`, 422, "malformed", []string{"body.digests[0]", "body.digests[1]"}},
		"manifest":           {"PUT", "/v1/artifacts", `{"version":1,"kind":"dir","files":[{"path":"../x","size":1,"mode":"0644","sha256":"` + strings.Repeat("0", 64) + `"}]}`, 422, "", []string{"body"}},
		"log of no run":      {"GET", "/v1/runs/zzz/logs?node=step.a", "", 404, "no run", nil},
		"log of a step":      {"GET", "/v1/runs/ended/logs?node=step.a", "", 404, "not started", nil},
		"method not allowed": {"PATCH", "/v1/runs", "", 405, "takes GET, POST", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := call(h, test.method, test.path, test.body)
			if w.Code != test.status {
				t.Fatalf("status %d, want %d: %s", w.Code, test.status, w.Body)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type %q", ct)
			}
			p := decode[api.Problem](t, w)
			if p.Status != test.status || !strings.Contains(p.Detail, test.detail) {
				t.Errorf("problem is %d %q, want %d %q", p.Status, p.Detail, test.status, test.detail)
			}
			var fields []string
			for _, e := range p.Errors {
				fields = append(fields, e.Location)
			}
			if diff := cmp.Diff(test.fields, fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s%s", diff, w.Body)
			}
		})
	}
}

func TestPipelineProblemsHavePlaces(t *testing.T) {
	const bad = "pipeline \"p\" {}\nstep \"a\" {\n  command = [\"true\"]\n  depends_on = [step.b, step.c]\n}\n"
	w := call(handler(t, &apitest.World{}), "POST", "/v1/runs", submission(bad))
	if w.Code != http.StatusUnprocessableEntity {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	p := decode[api.Problem](t, w)
	if len(p.Diagnostics) != 2 {
		t.Fatalf("%d diagnostics, want one for each unknown step: %s", len(p.Diagnostics), w.Body)
	}
	d := p.Diagnostics[0]
	if d.File != "pipeline.hcl" || d.Start == nil || d.Start.Line != 4 || !strings.Contains(d.Snippet, "depends_on") {
		t.Errorf("diagnostic without its place: %+v", d)
	}
}

func TestInternalErrorsStayInside(t *testing.T) {
	w := call(handler(t, &apitest.World{Fail: errors.New("disk at /secret is full")}), "GET", "/v1/runs", "")
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = call(handler(t, &apitest.World{Fail: problem.New(problem.Unavailable, "Nomad does not answer")}), "GET", "/v1/runs", "")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "Nomad does not answer") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestSubmitTwiceWithOneKey(t *testing.T) {
	h := handler(t, &apitest.World{})
	first := call(h, "POST", "/v1/runs", submission(goodFile, "k"))
	second := call(h, "POST", "/v1/runs", submission(goodFile, "k"))
	if first.Code != http.StatusCreated || second.Code != http.StatusOK {
		t.Fatalf("statuses %d and %d: %s", first.Code, second.Code, first.Body)
	}
	if a, b := decode[run.Run](t, first), decode[run.Run](t, second); a.ID != b.ID {
		t.Errorf("two runs, %s and %s", a.ID, b.ID)
	}
}

func TestRunsComeInPages(t *testing.T) {
	w := &apitest.World{}
	for i := range 5 {
		w.Add(run.Run{ID: run.ID(fmt.Sprintf("r%d", i)), Workspace: "default", Phase: run.Succeeded})
	}
	w.Add(run.Run{ID: "other", Workspace: "other", Phase: run.Succeeded})
	h := handler(t, w)
	var got []string
	pages := 0
	for next := ""; ; pages++ {
		page := decode[api.RunPage](t, call(h, "GET", "/v1/runs?limit="+[]string{"2", "2", "1"}[pages]+"&before="+next, ""))
		for _, r := range page.Runs {
			got = append(got, string(r.ID))
		}
		if next = page.Next; next == "" {
			break
		}
	}
	if want := []string{"r4", "r3", "r2", "r1", "r0"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestModelsComeInPages(t *testing.T) {
	w := &apitest.World{}
	for _, name := range []string{"a", "b", "c"} {
		w.AddModel(registry.Model{Workspace: "default", Name: name})
	}
	h := handler(t, w)
	first := decode[api.ModelPage](t, call(h, "GET", "/v1/models?limit=2", ""))
	last := decode[api.ModelPage](t, call(h, "GET", "/v1/models?limit=2&after="+first.Next, ""))
	if len(first.Models) != 2 || first.Next != "b" || len(last.Models) != 1 || last.Models[0].Name != "c" || last.Next != "" {
		t.Errorf("pages %+v and %+v", first, last)
	}
}

func TestEventsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handler(t, (&apitest.World{}).Add(run.Run{ID: "r", Workspace: "default", Phase: run.Running}))
		start := time.Now()
		w := call(h, "GET", "/v1/runs/r/events?wait=20s", "")
		if page := decode[api.EventPage](t, w); w.Code != 200 || len(page.Events) != 0 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if waited := time.Since(start); waited != 20*time.Second {
			t.Errorf("waited %v, want 20s", waited)
		}
	})
}

func TestLogsArePlainText(t *testing.T) {
	w := (&apitest.World{LogText: map[pipeline.NodeID]string{"step.a": "one\ntwo\n"}}).Add(run.Run{ID: "r", Workspace: "default", Phase: run.Running})
	got := call(handler(t, w), "GET", "/v1/runs/r/logs?node=step.a", "")
	if got.Code != 200 || got.Body.String() != "one\ntwo\n" || !strings.HasPrefix(got.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("%d %s %q", got.Code, got.Header(), got.Body)
	}
}

func TestHealthTellsWithoutAToken(t *testing.T) {
	h := handler(t, &apitest.World{}, func(c *api.Config) { c.Tokens = tokens(t, "alice") })
	if w := call(h, "GET", "/v1/health", ""); w.Code != 200 {
		t.Errorf("health: %d", w.Code)
	}
}

// tokens makes a token file with the names' tokens, which are kept in secrets.
func tokens(t testing.TB, names ...string) *api.Tokens {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	text := "# who may\n\n"
	for _, name := range names {
		secret, line, err := api.NewToken(name)
		if err != nil {
			t.Fatal(err)
		}
		secrets[name] = secret
		text += line + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.ReadTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

var secrets = map[string]string{}

func TestTokens(t *testing.T) {
	h := handler(t, &apitest.World{}, func(c *api.Config) { c.Tokens = tokens(t, "alice", "bob") })
	tests := map[string]struct {
		header string
		status int
	}{
		"none":          {"", 401},
		"wrong":         {"Bearer drover-x", 401},
		"no scheme":     {secrets["alice"], 401},
		"one of them":   {"Bearer " + secrets["alice"], 200},
		"the other one": {"Bearer " + secrets["bob"], 200},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "http://drover.example/v1/runs", nil)
			r.Header.Set("Authorization", test.header)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("status %d, want %d", w.Code, test.status)
			}
		})
	}
}

func TestSubmissionIsByTheTokensHolder(t *testing.T) {
	h := handler(t, &apitest.World{}, func(c *api.Config) { c.Tokens = tokens(t, "alice") })
	r := httptest.NewRequest("POST", "/v1/runs", strings.NewReader(strings.Replace(submission(goodFile), "{", `{"by":"mallory",`, 1)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+secrets["alice"])
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if got := decode[run.Run](t, w); got.By != "alice" {
		t.Errorf("by %q, want alice: %s", got.By, w.Body)
	}
}

func TestTokenFileIsChecked(t *testing.T) {
	tests := map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"empty":        {"", 0o600, "no token"},
		"no hash":      {"alice\n", 0o600, "line 1"},
		"short hash":   {"alice abcd\n", 0o600, "line 1"},
		"bad name":     {"a/b " + strings.Repeat("ab", 32) + "\n", 0o600, "line 1"},
		"others write": {"alice " + strings.Repeat("ab", 32) + "\n", 0o666, "chmod 600"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tokens")
			if err := errors.Join(os.WriteFile(file, []byte(test.text), 0o600), os.Chmod(file, test.mode)); err != nil {
				t.Fatal(err)
			}
			if _, err := api.ReadTokens(file); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestOpenAPIIsForThisMachineOnly(t *testing.T) {
	h := handler(t, &apitest.World{})
	tests := map[string]struct {
		host, origin string
		method       string
		status       int
	}{
		"localhost":          {"localhost:4680", "", "GET", 200},
		"loopback":           {"127.0.0.1:4680", "", "GET", 200},
		"IPv6":               {"[::1]:4680", "", "GET", 200},
		"a name that points": {"evil.example:4680", "", "GET", 403},
		"another web page":   {"localhost:4680", "https://evil.example", "POST", 403},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := "/v1/runs"
			if test.method == "POST" {
				path = "/v1/runs/x/cancel"
			}
			r := httptest.NewRequest(test.method, path, nil)
			r.Host = test.host
			if test.origin != "" {
				r.Header.Set("Origin", test.origin)
				r.Header.Set("Sec-Fetch-Site", "cross-site")
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("status %d, want %d: %s", w.Code, test.status, w.Body)
			}
		})
	}
}

func TestDocsNeedNothingFromElsewhere(t *testing.T) {
	w := call(handler(t, &apitest.World{}), "GET", "/docs", "")
	page := w.Body.String()
	if w.Code != 200 || !strings.Contains(page, "/v1/artifacts/{digest}/files/{path}") {
		t.Fatalf("%d %s", w.Code, page)
	}
	for _, no := range []string{"<script", "http://", "https://", "//cdn", "<link"} {
		if strings.Contains(page, no) {
			t.Errorf("the page has %q", no)
		}
	}
}

func TestOpenAPIDocument(t *testing.T) {
	h := handler(t, &apitest.World{})
	w := call(h, "GET", "/openapi.json", "")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Responses   map[string]any
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for path, item := range doc.Paths {
		if strings.Contains(path, "...") {
			t.Errorf("path %s is not OpenAPI's", path)
		}
		for method, op := range item {
			if op.OperationID == "" || op.Summary == "" || len(op.Responses) == 0 {
				t.Errorf("%s %s is not described", method, path)
			}
			if other := seen[op.OperationID]; other != "" {
				t.Errorf("%s and %s have one ID", other, path)
			}
			seen[op.OperationID] = path
			if line := "| `" + strings.ToUpper(method) + " " + path + "` |"; !strings.Contains(string(page), line) {
				t.Errorf("docs/api.md lacks %s", line)
			}
		}
	}
	if !strings.Contains(w.Body.String(), "#/components/schemas/Problem") {
		t.Error("errors are not described as problems with diagnostics")
	}
	if y := call(h, "GET", "/openapi.yaml", ""); y.Code != 200 || !strings.HasPrefix(y.Body.String(), "components:") {
		t.Errorf("openapi.yaml: %d %.80s", y.Code, y.Body)
	}
}

func TestMetricsCountRequests(t *testing.T) {
	h := handler(t, &apitest.World{})
	call(h, "GET", "/v1/runs", "")
	call(h, "GET", "/v1/runs/nothing", "")
	body := call(h, "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`drover_http_requests_total{operation="GET /v1/runs",status="200"} 1`,
		`drover_http_requests_total{operation="GET /v1/runs/{id}",status="404"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	h := handler(t, &apitest.World{}, func(c *api.Config) { c.Models = nil })
	if w := call(h, "GET", "/v1/models", ""); w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
}
