package run

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"sync"
	"time"
)

// idEncoding keeps the order of the bytes.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// idSource gives IDs of 60 bits: 42 of milliseconds since 1970, 18 random
// ones. Those of one source are in the order of their making.
type idSource struct {
	mu   sync.Mutex
	last uint64
}

func (s *idSource) next(now time.Time) ID {
	var random [4]byte
	rand.Read(random[:]) // never fails
	v := uint64(now.UnixMilli())<<18 | uint64(binary.BigEndian.Uint32(random[:])>>14)
	s.mu.Lock()
	v = max(v, s.last+1)
	s.last = v
	s.mu.Unlock()
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v<<4) // 60 bits, left-aligned: 12 characters
	return ID(idEncoding.EncodeToString(b[:])[:12])
}
