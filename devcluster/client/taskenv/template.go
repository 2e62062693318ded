package taskenv

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/hashicorp/nomad/api"
)

// Variables reads Nomad variables for templates; nil if there is none.
type Variables func(path string) *api.Variable

// Render writes a task's templates and returns the variables of those with
// env = true. A function that templates have in Nomad and not here is an
// error that names it.
func Render(templates []*api.Template, env *Env, dirs Dirs, task string, vars Variables) (map[string]string, error) {
	var out map[string]string
	for i, t := range templates {
		text, err := renderOne(t, env, dirs, task, vars)
		if err != nil {
			return nil, fmt.Errorf("rendering template %d of task %q: %w", i, task, err)
		}
		dest := env.Replace(str(t.DestPath))
		if dest == "" {
			return nil, fmt.Errorf("template %d of task %q has no destination", i, task)
		}
		path, err := Inside(dirs, task, dest)
		if err != nil {
			return nil, err
		}
		if err := writeFile(path, text, perms(t)); err != nil {
			return nil, fmt.Errorf("writing template %d of task %q: %w", i, task, err)
		}
		if t.Envvars == nil || !*t.Envvars {
			continue
		}
		parsed, err := parseEnv(text)
		if err != nil {
			return nil, fmt.Errorf("reading template %d of task %q as variables: %w", i, task, err)
		}
		for k, v := range parsed {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out, nil
}

func str(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func perms(t *api.Template) fs.FileMode {
	if n, err := strconv.ParseUint(str(t.Perms), 8, 32); err == nil && n != 0 {
		return fs.FileMode(n) & fs.ModePerm
	}
	return 0o644
}

func renderOne(t *api.Template, env *Env, dirs Dirs, task string, vars Variables) ([]byte, error) {
	text := str(t.EmbeddedTmpl)
	if src := env.Replace(str(t.SourcePath)); src != "" {
		path, err := Inside(dirs, task, src)
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		text = string(b)
	}
	tmpl := template.New("").Funcs(functions(env, vars)).Delims(str(t.LeftDelim), str(t.RightDelim))
	if t.ErrMissingKey != nil && *t.ErrMissingKey {
		tmpl = tmpl.Option("missingkey=error")
	}
	tmpl, err := tmpl.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w (this development cluster knows the functions env, envOrDefault, nomadVar, toJSON, toLower, toUpper, trimSpace, parseInt, parseJSON)", err)
	}
	var buf bytes.Buffer
	if err := tmpl.Execute(&buf, nil); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func functions(env *Env, vars Variables) template.FuncMap {
	return template.FuncMap{
		"env": func(name string) string { return env.Vars[name] },
		"envOrDefault": func(name, fallback string) string {
			if v, ok := env.Vars[name]; ok && v != "" {
				return v
			}
			return fallback
		},
		"nomadVar": func(path string) (map[string]string, error) {
			v := vars(path)
			if v == nil {
				return nil, fmt.Errorf("variable %q does not exist", path)
			}
			return v.Items, nil
		},
		"toLower":   strings.ToLower,
		"toUpper":   strings.ToUpper,
		"trimSpace": strings.TrimSpace,
		"parseInt":  func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) },
		"parseJSON": func(s string) (v any, err error) { err = json.Unmarshal([]byte(s), &v); return v, err },
		"toJSON":    func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	}
}

// Inside resolves a path of a job, which is relative to the task's folder,
// and refuses one that leaves the allocation's.
func Inside(dirs Dirs, task, path string) (string, error) {
	full := path
	if !strings.HasPrefix(path, dirs.Alloc+string(filepath.Separator)) {
		full = filepath.Join(dirs.Task(task), path)
	}
	rel, err := filepath.Rel(dirs.Alloc, full)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("path %q of task %q leaves the allocation's folder", path, task)
	}
	// What the task itself left there may be a link to anywhere.
	for dir := filepath.Dir(full); len(dir) > len(dirs.Alloc); dir = filepath.Dir(dir) {
		if fi, err := os.Lstat(dir); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			return "", fmt.Errorf("path %q of task %q goes through a symbolic link", path, task)
		}
	}
	return full, nil
}

func writeFile(path string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// parseEnv reads NAME=value lines; values may be in double quotes.
func parseEnv(b []byte) (map[string]string, error) {
	out := map[string]string{}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok || strings.TrimSpace(k) == "" {
			return nil, fmt.Errorf("line %d is not NAME=value", n)
		}
		v = strings.TrimSpace(v)
		if len(v) >= 2 && v[0] == '"' {
			unquoted, err := strconv.Unquote(v)
			if err != nil {
				return nil, fmt.Errorf("line %d: the value's quotes do not match", n)
			}
			v = unquoted
		} else if len(v) >= 2 && v[0] == '\'' && v[len(v)-1] == '\'' {
			v = v[1 : len(v)-1]
		}
		out[strings.TrimSpace(k)] = v
	}
	return out, sc.Err()
}
