package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Tokens are the bearer tokens that a server accepts, each with the name of
// its holder. Only their SHA-256 is kept: they are 256 random bits, which a
// plain hash protects.
//
// A token file has a line for each token, NAME SHA-256-IN-HEX; lines that
// begin with # and empty ones are comments.
type Tokens struct {
	holders []holder
}

type holder struct {
	name string
	sum  [sha256.Size]byte
}

// maxTokenFile limits a token file, in bytes.
const maxTokenFile = 1 << 20

var holderName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// ReadTokens reads a token file. It refuses one that others than its owner can
// write, and one without a token.
func ReadTokens(file string) (*Tokens, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading token file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading token file: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("token file %s can be written by others (mode %04o): chmod 600 it", file, info.Mode().Perm())
	}
	tokens, err := parseTokens(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", file, err)
	}
	return tokens, nil
}

func parseTokens(r io.Reader) (*Tokens, error) {
	t := &Tokens{}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, sum, ok := strings.Cut(line, " ")
		raw, err := hex.DecodeString(strings.TrimSpace(sum))
		if !ok || err != nil || len(raw) != sha256.Size || !holderName.MatchString(name) {
			return nil, fmt.Errorf("line %d: want NAME and the token's SHA-256 in hex; drover token NAME makes such a line", n)
		}
		t.holders = append(t.holders, holder{name, [sha256.Size]byte(raw)})
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(t.holders) == 0 {
		return nil, errors.New("it has no token; make one with: drover token NAME")
	}
	return t, nil
}

// NewToken makes a token for name. It returns the secret, which is shown once,
// and the line for the token file.
func NewToken(name string) (secret, line string, err error) {
	if !holderName.MatchString(name) {
		return "", "", fmt.Errorf("token name %q: use up to 64 letters, digits and . _ @ -", name)
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret = "drover-" + base64.RawURLEncoding.EncodeToString(raw)
	sum := sha256.Sum256([]byte(secret))
	return secret, name + " " + hex.EncodeToString(sum[:]), nil
}

// holder returns who holds a token. Every token is compared, in constant time.
func (t *Tokens) holder(token string) (string, bool) {
	sum := sha256.Sum256([]byte(token))
	name, found := "", false
	for _, h := range t.holders {
		if subtle.ConstantTimeCompare(sum[:], h.sum[:]) == 1 {
			name, found = h.name, true
		}
	}
	return name, found
}

// UserHeader is who a request to a server without tokens says it is from. It
// proves nothing, and is for the record only.
const UserHeader = "Drover-User"

type userKey struct{}

// userOf returns who a request is from: the holder of its token or, on a server
// without tokens, who it says; "" if it says nothing.
func userOf(ctx context.Context) string {
	name, _ := ctx.Value(userKey{}).(string)
	return name
}

func withUser(r *http.Request, name string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), userKey{}, name))
}

// open are the paths that need no token: they tell nothing about anyone's runs.
var open = []string{"/v1/health", "/docs", "/openapi.json", "/openapi.yaml"}

// require lets only requests with one of the tokens through to next, except to
// open paths.
func (t *Tokens) require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(open, r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		name, known := t.holder(token)
		if !ok || !known {
			w.Header().Set("WWW-Authenticate", `Bearer realm="drover"`)
			writeProblem(w, http.StatusUnauthorized, "This server wants a bearer token that it knows; set DROVER_TOKEN.")
			return
		}
		next.ServeHTTP(w, withUser(r, name))
	})
}
