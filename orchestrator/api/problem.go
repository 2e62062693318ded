package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Problem is the body of every error (RFC 9457, application/problem+json).
// Errors has one entry for each thing that is wrong, with the path of the
// field; Diagnostics those of a pipeline file, with their place in it.
type Problem struct {
	huma.ErrorModel
	Diagnostics []pipeline.Diagnostic `json:"diagnostics,omitempty" doc:"Problems of the pipeline file, all of them"`
}

// statusOf maps the domain's kinds of problem to HTTP.
var statusOf = map[problem.Kind]int{
	problem.Invalid:     http.StatusUnprocessableEntity,
	problem.NotFound:    http.StatusNotFound,
	problem.Conflict:    http.StatusConflict,
	problem.Denied:      http.StatusForbidden,
	problem.Unavailable: http.StatusServiceUnavailable,
}

func init() {
	// What huma finds wrong is a Problem too, here and in the OpenAPI document.
	huma.NewError = func(status int, detail string, errs ...error) huma.StatusError {
		return newProblem(status, detail, errs...)
	}
}

func newProblem(status int, detail string, errs ...error) *Problem {
	p := &Problem{ErrorModel: huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail}}
	for _, err := range errs {
		if err != nil {
			p.Add(err)
		}
	}
	return p
}

func invalid(detail string, errs ...error) *Problem {
	return newProblem(http.StatusUnprocessableEntity, detail, errs...)
}

// problem turns an error of the domain into what the client is told. Errors
// that are nobody's business outside are logged, and the client told so.
func (s *server) problem(ctx context.Context, err error) *Problem {
	var known *problem.Error
	var file *run.InvalidPipelineError
	var corrupt *artifact.CorruptError
	switch {
	case errors.As(err, &file):
		p := invalid("The pipeline file has problems.")
		p.Diagnostics = pipeline.Describe(file.Diags, map[string][]byte{file.Filename: file.Source})
		return p
	case errors.As(err, &known):
		p := newProblem(statusOf[known.Kind], known.Message)
		if known.Field != "" {
			p.Add(&huma.ErrorDetail{Location: "body." + known.Field, Message: known.Message})
		}
		if p.Status != 0 {
			return p
		}
	case errors.Is(err, artifact.ErrNotFound):
		return newProblem(http.StatusNotFound, "No such artefact or blob in the store.")
	case errors.As(err, &corrupt):
		return newProblem(http.StatusInternalServerError, corrupt.Error())
	case ctx.Err() != nil:
		return newProblem(statusClientGone, "The client ended the request.")
	}
	s.cfg.Logger.Error("answering a request", "error", err)
	return newProblem(http.StatusInternalServerError, "Something went wrong inside the server; its log says what.")
}

// statusClientGone is what proxies log for a request whose client left.
const statusClientGone = 499

// writeError writes a problem outside of huma.
func writeError(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has left, then
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	writeError(w, newProblem(status, detail))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has left, then
}
