package artifact

import (
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest names content: "sha256:" and 64 lower-case hexadecimal digits. A
// Digest that came from outside goes through ParseDigest before use; every
// method of Store checks its digests again.
type Digest string

const digestPrefix = "sha256:"

// ParseDigest checks that s is a digest in its one accepted spelling.
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	if err := d.validate(); err != nil {
		return "", err
	}
	return d, nil
}

// Hex is the digest without its prefix.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), digestPrefix) }

// Short is a form for people: the first 12 digits.
func (d Digest) Short() string {
	h := d.Hex()
	if len(h) > 12 {
		h = h[:12]
	}
	return h
}

func (d Digest) validate() error {
	h, ok := strings.CutPrefix(string(d), digestPrefix)
	if !ok || !isHexSum(h) {
		return fmt.Errorf("%q is not a digest: want sha256: and 64 lower-case hexadecimal digits", clip(string(d)))
	}
	return nil
}

func isHexSum(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func sumDigest(h hash.Hash) Digest {
	return Digest(digestPrefix + hex.EncodeToString(h.Sum(nil)))
}

// clip keeps a hostile value from filling an error message.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
