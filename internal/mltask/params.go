package mltask

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// MaxParams bounds the params of a task, in bytes of JSON. Each of them is an
// environment variable, too, which the kernel bounds.
const MaxParams = 1 << 20

// maxParamVar bounds one variable: Linux takes 128 KiB with its name.
const maxParamVar = 120 << 10

// ParamVars returns the DROVER_PARAM_<NAME> variables of a JSON object of
// params. Strings are given as they are, other scalars as JSON writes them,
// null as nothing, lists and objects as JSON.
func ParamVars(params string) (map[string]string, error) {
	vars := map[string]string{}
	if params == "" {
		return vars, nil
	}
	if len(params) > MaxParams {
		return nil, fmt.Errorf("%d bytes of params exceed the limit of %d", len(params), MaxParams)
	}
	dec := json.NewDecoder(strings.NewReader(params))
	var object map[string]json.RawMessage
	if err := dec.Decode(&object); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("not a JSON object: more follows its end")
	}
	if object == nil {
		return nil, errors.New("not a JSON object but null")
	}
	from := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		text, err := plain(object[name])
		if err != nil {
			return nil, fmt.Errorf("param %q: %w", name, err)
		}
		v := ParamVar(name)
		if other, ok := from[v]; ok {
			return nil, fmt.Errorf("params %q and %q would both be the variable %s: rename one", other, name, v)
		}
		from[v], vars[v] = name, text
	}
	return vars, nil
}

// ParamVar is the name of the variable for a param: upper case, and "_" for
// every character that is not an ASCII letter or digit.
func ParamVar(name string) string {
	return "DROVER_PARAM_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

func plain(value json.RawMessage) (string, error) {
	text := string(bytes.TrimSpace(value))
	switch {
	case text == "null":
		text = ""
	case strings.HasPrefix(text, `"`):
		if err := json.Unmarshal(value, &text); err != nil {
			return "", err
		}
	}
	if strings.ContainsRune(text, 0) {
		return "", errors.New("holds a NUL character, which no environment variable can")
	}
	if len(text) > maxParamVar {
		return "", fmt.Errorf("%d bytes exceed the limit of %d: pass large values as an input", len(text), maxParamVar)
	}
	return text, nil
}
