package artifact

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"os"
)

// writebackBytes is how much is written before the disk is told to begin.
const writebackBytes = 8 << 20

// copyHashed copies r to w and hashes it on the way. Content of more than one
// chunk is hashed on one core while it is written on another. w may be nil, to
// hash only.
func copyHashed(ctx context.Context, w *os.File, r io.Reader) (Digest, int64, error) {
	chunk := chunks.Get().(*[chunkBytes]byte)
	defer chunks.Put(chunk)
	h := newChunkHash()
	defer h.close()
	var size, flushed int64
	for {
		if err := ctx.Err(); err != nil {
			return "", size, err
		}
		n, rerr := io.ReadFull(r, chunk[:])
		h.start(chunk[:n])
		var werr error
		if w != nil && n > 0 {
			_, werr = w.Write(chunk[:n])
		}
		h.wait()
		if werr != nil {
			return "", size, werr
		}
		size += int64(n)
		switch rerr {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return sumDigest(h.hash), size, nil
		default:
			return "", size, rerr
		}
		if w != nil && size-flushed >= writebackBytes {
			startWriteback(w, flushed, size-flushed)
			flushed = size
		}
	}
}

// cloneBytes is from what size on it is worth asking for shared blocks.
const cloneBytes = 1 << 20

// transfer copies src, at its start and of about the size given, to dst, which
// is empty and open for reading too, and hashes it. Where it can, it shares
// blocks instead, and hashes what dst then has. dst may be nil, to hash only.
func transfer(ctx context.Context, dst, src *os.File, size int64) (Digest, int64, error) {
	if dst != nil && size >= cloneBytes && cloneFile(dst, src) {
		return copyHashed(ctx, nil, dst)
	}
	return copyHashed(ctx, dst, src)
}

// chunkHash hashes whole chunks on a goroutine of its own. A short chunk, the
// last or only one, is not worth the hand-over.
type chunkHash struct {
	hash hash.Hash
	work chan []byte // nil until the first whole chunk
	done chan struct{}
	busy bool
}

func newChunkHash() *chunkHash { return &chunkHash{hash: sha256.New()} }

// start begins to hash p, which must stay as it is until wait returns.
func (c *chunkHash) start(p []byte) {
	if len(p) < chunkBytes {
		c.hash.Write(p)
		return
	}
	if c.work == nil {
		c.work, c.done = make(chan []byte), make(chan struct{})
		go func() {
			for p := range c.work {
				c.hash.Write(p)
				c.done <- struct{}{}
			}
		}()
	}
	c.work <- p
	c.busy = true
}

func (c *chunkHash) wait() {
	if c.busy {
		<-c.done
		c.busy = false
	}
}

func (c *chunkHash) close() {
	if c.work != nil {
		close(c.work)
	}
}
