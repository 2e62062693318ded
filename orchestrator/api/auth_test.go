package api

import (
	"strings"
	"testing"
)

// FuzzParseTokens: whatever the file, a token that was not made is refused and
// nothing panics.
func FuzzParseTokens(f *testing.F) {
	_, line, err := NewToken("alice")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add("# comment\n\n" + line + "\n" + line)
	f.Add("alice")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parseTokens(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, token := range []string{"", "drover-", text} {
			if name, ok := tokens.holder(token); ok {
				t.Errorf("token %q is %s's", token, name)
			}
		}
	})
}
