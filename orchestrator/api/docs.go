package api

import (
	"bytes"
	_ "embed"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsHTML string

// docsTemplate shows an OpenAPI document. Everything is in the page: nothing is
// loaded from elsewhere, no script runs.
var docsTemplate = template.Must(template.New("docs").Parse(docsHTML))

// serveDocs serves the OpenAPI document and a page that shows it. Both are made
// at the first request, from then on they do not change.
func serveDocs(mux *http.ServeMux, spec *huma.OpenAPI) {
	// net/http's notation of a path that goes on is not OpenAPI's.
	const wildcard = "{path...}"
	for path, item := range spec.Paths {
		if strings.Contains(path, wildcard) {
			delete(spec.Paths, path)
			spec.Paths[strings.ReplaceAll(path, wildcard, "{path}")] = item
		}
	}
	serve := func(path, contentType string, make func() ([]byte, error)) {
		made := sync.OnceValues(make)
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			body, err := made()
			if err != nil {
				writeProblem(w, http.StatusInternalServerError, "The document cannot be written: "+err.Error())
				return
			}
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write(body) // the client has left, then
		})
	}
	serve("/openapi.json", "application/openapi+json", spec.MarshalJSON)
	serve("/openapi.yaml", "application/openapi+yaml", spec.YAML)
	page := func() ([]byte, error) {
		var b bytes.Buffer
		err := docsTemplate.Execute(&b, docsOf(spec))
		return b.Bytes(), err
	}
	serve("/docs", "text/html; charset=utf-8", page)
	mux.Handle("GET /{$}", http.RedirectHandler("/docs", http.StatusFound))
}

// docs is what the page shows.
type docs struct {
	Title, Description string
	Groups             []docsGroup
	Schemas            []docsSchema
}

type docsGroup struct {
	Name       string
	Operations []docsOperation
}

type docsOperation struct {
	ID, Method, Path, Summary, Description string
	Parameters                             []docsField
	Body                                   string
	Answer                                 string
}

type docsSchema struct {
	Name   string
	Fields []docsField
}

type docsField struct {
	Name, In, Type, Description string
	Required                    bool
}

func docsOf(spec *huma.OpenAPI) docs {
	d := docs{Title: spec.Info.Title, Description: spec.Info.Description}
	groups := map[string]*docsGroup{}
	for _, path := range slices.Sorted(maps.Keys(spec.Paths)) {
		item := spec.Paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op == nil {
				continue
			}
			tag := op.Tags[0]
			if groups[tag] == nil {
				groups[tag] = &docsGroup{Name: tag}
			}
			groups[tag].Operations = append(groups[tag].Operations, docsOfOperation(path, op))
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(groups)) {
		d.Groups = append(d.Groups, *groups[tag])
	}
	schemas := spec.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		d.Schemas = append(d.Schemas, docsSchema{Name: name, Fields: docsFields(schemas[name])})
	}
	return d
}

func docsOfOperation(path string, op *huma.Operation) docsOperation {
	o := docsOperation{ID: op.OperationID, Method: op.Method, Path: path, Summary: op.Summary, Description: op.Description}
	for _, p := range op.Parameters {
		o.Parameters = append(o.Parameters, docsField{
			Name: p.Name, In: p.In, Type: typeName(p.Schema), Description: first(p.Description, p.Schema.Description), Required: p.Required,
		})
	}
	if op.RequestBody != nil {
		o.Body = contentType(op.RequestBody.Content)
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		if strings.HasPrefix(status, "2") {
			o.Answer = strings.TrimSpace(status + " " + contentType(op.Responses[status].Content))
			break
		}
	}
	return o
}

func docsFields(s *huma.Schema) []docsField {
	var out []docsField
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		out = append(out, docsField{Name: name, Type: typeName(p), Description: p.Description, Required: slices.Contains(s.Required, name)})
	}
	return out
}

// contentType names what a body is: a schema, or else a content type.
func contentType(content map[string]*huma.MediaType) string {
	names := slices.Sorted(maps.Keys(content))
	if len(names) == 0 {
		return ""
	}
	if m := content[names[0]]; strings.Contains(names[0], "json") && m.Schema != nil {
		return typeName(m.Schema)
	}
	return names[0]
}

// typeName is a schema's type in a word or two.
func typeName(s *huma.Schema) string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return s.Ref[strings.LastIndex(s.Ref, "/")+1:]
	case s.Type == huma.TypeArray:
		return "list of " + typeName(s.Items)
	case s.Type == huma.TypeObject:
		if of, ok := s.AdditionalProperties.(*huma.Schema); ok {
			return "map to " + typeName(of)
		}
		return "object"
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	case s.Type == "":
		return "any"
	default:
		return s.Type
	}
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
