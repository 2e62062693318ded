package mltask

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
)

// FieldError is about one field of a Config.
type FieldError struct {
	Field   string // as in the job file, such as `input "data".source`
	Message string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

const (
	maxNamed = 1000 // inputs, and outputs
	maxKeep  = 1000
)

var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	keyPattern    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,200}(/[A-Za-z0-9._-]{1,200})*$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Validate checks a Config without looking at anything else, and returns all
// that is wrong with it, each a *FieldError, as errors.Join does.
func (c *Config) Validate() error {
	var v validation
	v.command(c)
	v.work(c)
	v.inputs(c.Inputs)
	v.outputs(c.Outputs)
	v.checkpoint(c.Checkpoint)
	v.gang(c)
	if _, err := ParamVars(c.Params); err != nil {
		v.add("params", "%v", err)
	}
	if c.Attempt < 0 {
		v.add("attempt", "%d is negative", c.Attempt)
	}
	if c.ResultKey != "" {
		v.key("result_key", c.ResultKey)
	}
	if _, err := c.Stall(); err != nil {
		v.add("stall_timeout", "%v", err)
	}
	return errors.Join(v.errs...)
}

// Stall is StallTimeout as a duration, 0 for never.
func (c *Config) Stall() (time.Duration, error) {
	if c.StallTimeout == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.StallTimeout)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as \"30m\"", c.StallTimeout)
	}
	if d < time.Second {
		return 0, fmt.Errorf("%q is less than a second", c.StallTimeout)
	}
	return d, nil
}

// IsDigest reports whether a source names an artifact by its digest.
func IsDigest(source string) bool { return digestPattern.MatchString(source) }

type validation struct{ errs []error }

func (v *validation) add(field, format string, args ...any) {
	v.errs = append(v.errs, &FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (v *validation) command(c *Config) {
	if c.Command == "" {
		v.add("command", "is empty; it is the program to run")
	}
	for i, a := range append([]string{c.Command}, c.Args...) {
		if strings.ContainsRune(a, 0) {
			field := "command"
			if i > 0 {
				field = fmt.Sprintf("args[%d]", i-1)
			}
			v.add(field, "holds a NUL character")
		}
	}
}

func (v *validation) work(c *Config) {
	if c.WorkDir != "" && !path.IsAbs(c.WorkDir) {
		v.inside("work_dir", c.WorkDir)
	}
	if c.Code != "" && !v.digest("code", c.Code) {
		v.inside("code", c.Code)
	}
	if c.Store != "" {
		if u, err := url.Parse(c.Store); err != nil || u.Scheme == "" {
			v.add("store", "%q is not a URL such as file:///srv/artifacts", c.Store)
		}
	}
}

func (v *validation) inputs(inputs []Input) {
	seen := map[string]bool{}
	if len(inputs) > maxNamed {
		v.add("input", "%d inputs exceed the limit of %d: put files that belong together in one folder", len(inputs), maxNamed)
	}
	for _, in := range inputs {
		field := fmt.Sprintf("input %q", in.Name)
		v.name(field, in.Name, seen)
		v.source(field+".source", in.Source)
		if in.SHA256 != "" && !IsDigest(in.SHA256) {
			v.add(field+".sha256", "%q is not sha256: and 64 lower-case hexadecimal digits", in.SHA256)
		} else if in.SHA256 != "" && IsDigest(in.Source) && in.SHA256 != in.Source {
			v.add(field+".sha256", "is another digest than source, which pins the content already")
		}
	}
}

func (v *validation) outputs(outputs []Output) {
	seen := map[string]bool{}
	if len(outputs) > maxNamed {
		v.add("output", "%d outputs exceed the limit of %d: put files that belong together in one folder", len(outputs), maxNamed)
	}
	for _, o := range outputs {
		v.name(fmt.Sprintf("output %q", o.Name), o.Name, seen)
	}
}

func (v *validation) name(field, name string, seen map[string]bool) {
	if !namePattern.MatchString(name) {
		v.add(field, "the name must be 1 to 128 letters, digits, '.', '_' or '-', and begin with none of '.' and '-'")
	}
	if seen[name] {
		v.add(field, "the name is used twice")
	}
	seen[name] = true
}

func (v *validation) source(field, source string) {
	switch {
	case source == "":
		v.add(field, "is empty; it is a digest (sha256:…), file:///path, or a path in the task's folder")
	case v.digest(field, source):
	case strings.HasPrefix(source, "file://"):
		p, ok := strings.CutPrefix(source, "file://")
		if !ok || !path.IsAbs(p) || path.Clean(p) == "/" {
			v.add(field, "%q is not file:// and an absolute path", source)
		}
	case strings.Contains(source, "://"):
		v.add(field, "%q: only file:// is supported; for others, let an artifact block of the task fetch it and name the path here", source)
	default:
		v.inside(field, source)
	}
}

// digest reports whether s is meant as a digest, and checks it.
func (v *validation) digest(field, s string) bool {
	if !strings.HasPrefix(s, "sha256:") {
		return false
	}
	if !IsDigest(s) {
		v.add(field, "%q is not sha256: and 64 lower-case hexadecimal digits", s)
	}
	return true
}

// inside checks that a path stays in the task's folder.
func (v *validation) inside(field, p string) {
	switch {
	case path.IsAbs(p):
		v.add(field, "%q is absolute; it must be a path in the task's folder", p)
	case strings.ContainsRune(p, 0) || p == "":
		v.add(field, "is empty or holds a NUL character")
	case path.Clean(p) == ".." || strings.HasPrefix(path.Clean(p), "../"):
		v.add(field, "%q leads out of the task's folder", p)
	}
}

func (v *validation) checkpoint(cs []Checkpoint) {
	if len(cs) > 1 {
		v.add("checkpoint", "is given %d times; once is the most", len(cs))
	}
	for _, c := range cs {
		if c.Key != "" {
			v.key("checkpoint.key", c.Key)
		}
		if c.Keep < 0 || c.Keep > maxKeep {
			v.add("checkpoint.keep", "%d is not between 1 and %d", c.Keep, maxKeep)
		}
	}
}

func (v *validation) key(field, key string) {
	if !keyPattern.MatchString(key) || len(key) > 800 {
		v.add(field, "%q is not a path of names made of letters, digits, '.', '_' and '-'", key)
		return
	}
	for name := range strings.SplitSeq(key, "/") {
		if strings.Trim(name, ".") == "" || strings.HasSuffix(name, ".json") {
			v.add(field, "%q has a name that is only dots or ends in .json", key)
			return
		}
	}
}
