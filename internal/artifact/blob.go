package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// BlobInfo is what the store knows of a blob without reading it.
type BlobInfo struct {
	Digest Digest
	Size   int64
	// LastPut is when the blob was last put, give or take an hour.
	LastPut time.Time
}

// touchAfter is how old a blob's time may grow before a put of the same
// content renews it.
const touchAfter = time.Hour

// PutBlob stores what r yields and returns its digest and size in bytes. When
// it returns nil the blob survives a loss of power.
func (s *Store) PutBlob(ctx context.Context, r io.Reader) (Digest, int64, error) {
	return s.putStaged(s.stage(ctx, r, syncEach))
}

// PutBlobFile is PutBlob of a file's content.
func (s *Store) PutBlobFile(ctx context.Context, file string) (Digest, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, fmt.Errorf("storing blob: %w", err)
	}
	defer f.Close()
	return s.putStaged(s.stageFile(ctx, f, syncEach))
}

func (s *Store) putStaged(b staged, err error) (Digest, int64, error) {
	if err == nil {
		err = s.publish(b)
	}
	if err == nil {
		err = s.syncNames(b)
	}
	if err != nil {
		return "", 0, fmt.Errorf("storing blob: %w", err)
	}
	return b.digest, b.size, nil
}

// StatBlob returns ErrNotFound if the blob is not there.
func (s *Store) StatBlob(ctx context.Context, d Digest) (BlobInfo, error) {
	if err := errors.Join(d.validate(), ctx.Err()); err != nil {
		return BlobInfo{}, err
	}
	fi, err := os.Lstat(s.blobFile(d))
	if errors.Is(err, fs.ErrNotExist) {
		return BlobInfo{}, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return BlobInfo{}, fmt.Errorf("looking up blob %s: %w", d, err)
	}
	return BlobInfo{Digest: d, Size: fi.Size(), LastPut: fi.ModTime()}, nil
}

// OpenBlob opens a blob for reading. The reader verifies it: in place of the
// final io.EOF it returns a *CorruptError if what it yielded is not what the
// digest says, so nothing may be believed before that end. The caller closes
// the reader. OpenBlob returns ErrNotFound if the blob is not there.
func (s *Store) OpenBlob(ctx context.Context, d Digest) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := s.openBlob(d)
	if err != nil {
		return nil, err
	}
	return &blobReader{store: s, digest: d, file: f, hash: sha256.New()}, nil
}

func (s *Store) openBlob(d Digest) (*os.File, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	f, err := os.Open(s.blobFile(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening blob %s: %w", d, err)
	}
	return f, nil
}

type blobReader struct {
	store  *Store
	digest Digest
	file   *os.File
	hash   hash.Hash
	err    error
}

func (r *blobReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.file.Read(p)
	r.hash.Write(p[:n])
	if err == io.EOF {
		if got := sumDigest(r.hash); got != r.digest {
			err = r.store.setAside(&CorruptError{Digest: r.digest, Want: string(r.digest), Got: string(got)})
		}
	}
	r.err = err
	return n, err
}

func (r *blobReader) Close() error { return r.file.Close() }

// ListBlobs yields every blob in the store, in the order of their digests.
// Blobs that come or go meanwhile may or may not be among them.
func (s *Store) ListBlobs(ctx context.Context) iter.Seq2[BlobInfo, error] {
	return func(yield func(BlobInfo, error) bool) {
		for i := range 256 {
			shard := s.path(blobsDir, fmt.Sprintf("%02x", i))
			entries, err := os.ReadDir(shard)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err = errors.Join(err, ctx.Err()); err != nil {
				yield(BlobInfo{}, fmt.Errorf("listing blobs: %w", err))
				return
			}
			for _, e := range entries {
				d, err := ParseDigest(digestPrefix + e.Name())
				if err != nil {
					continue // not ours
				}
				info, err := s.StatBlob(ctx, d)
				if errors.Is(err, ErrNotFound) {
					continue // deleted since it was listed
				}
				if !yield(info, err) || err != nil {
					return
				}
			}
		}
	}
}

// DeleteBlob removes a blob. There being none is no error. It is the caller's
// to know that nothing refers to the blob: one whose BlobInfo.LastPut is
// recent may belong to an artifact that is just being put.
func (s *Store) DeleteBlob(ctx context.Context, d Digest) error {
	if err := errors.Join(d.validate(), ctx.Err()); err != nil {
		return err
	}
	if err := os.Remove(s.blobFile(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting blob %s: %w", d, err)
	}
	return nil
}

func (s *Store) blobFile(d Digest) string {
	h := d.Hex()
	return s.path(blobsDir, h[:2], h)
}

// setAside moves a blob that failed verification out of the way.
func (s *Store) setAside(cause *CorruptError) error {
	err := os.MkdirAll(s.path(corruptDir), dirMode)
	if err == nil {
		err = os.Rename(s.blobFile(cause.Digest), s.path(corruptDir, cause.Digest.Hex()))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(cause, err)
	}
	return cause
}

// staged is content in a temporary file, or already in the store.
type staged struct {
	digest Digest
	size   int64
	temp   string // "" if the store has it
}

// syncMode says who makes a staged file's content durable.
type syncMode int

const (
	syncEach  syncMode = iota // stage does, file by file
	syncLater                 // the caller does, for all files at once
)

// chunkBytes is the unit of reading and writing. Content up to this size is
// held in memory whole, and not written at all if the store has it.
const chunkBytes = 1 << 20

var chunks = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// stage reads r to its end once, hashing and writing at the same time.
func (s *Store) stage(ctx context.Context, r io.Reader, mode syncMode) (staged, error) {
	chunk := chunks.Get().(*[chunkBytes]byte)
	defer chunks.Put(chunk)
	n, err := io.ReadFull(r, chunk[:])
	switch err {
	case nil:
		return s.stageStream(ctx, io.MultiReader(bytes.NewReader(chunk[:n]), r), mode)
	case io.EOF, io.ErrUnexpectedEOF:
		return s.stageBytes(chunk[:n], mode)
	}
	return staged{}, err
}

func (s *Store) stageBytes(data []byte, mode syncMode) (staged, error) {
	b := staged{digest: digestOfBytes(data), size: int64(len(data))}
	if s.hasSize(b.digest, b.size) {
		return b, nil
	}
	f, err := s.createTemp()
	if err != nil {
		return b, err
	}
	b.temp = f.Name()
	_, err = f.Write(data)
	return b, s.seal(f, mode, err)
}

func (s *Store) stageStream(ctx context.Context, r io.Reader, mode syncMode) (staged, error) {
	f, err := s.createTemp()
	if err != nil {
		return staged{}, err
	}
	b := staged{temp: f.Name()}
	b.digest, b.size, err = copyHashed(ctx, f, r)
	return s.stageWritten(b, f, mode, err)
}

// stageFile is stage of a file's content. Where the file system can share
// blocks between files, nothing is written.
func (s *Store) stageFile(ctx context.Context, src *os.File, mode syncMode) (staged, error) {
	fi, err := src.Stat()
	if err != nil {
		return staged{}, err
	}
	if fi.Size() < cloneBytes {
		return s.stage(ctx, src, mode)
	}
	f, err := s.createTemp()
	if err != nil {
		return staged{}, err
	}
	b := staged{temp: f.Name()}
	b.digest, b.size, err = transfer(ctx, f, src, fi.Size())
	return s.stageWritten(b, f, mode, err)
}

func (s *Store) stageWritten(b staged, f *os.File, mode syncMode, err error) (staged, error) {
	if err == nil && s.hasSize(b.digest, b.size) {
		f.Close()
		err := os.Remove(b.temp)
		b.temp = ""
		return b, err
	}
	return b, s.seal(f, mode, err)
}

// seal ends the writing of a temporary file, which it removes if err, what
// went wrong before, or anything here is not nil.
func (s *Store) seal(f *os.File, mode syncMode, err error) error {
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err == nil && mode == syncEach {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// publish gives staged content its name, which syncNames makes durable.
func (s *Store) publish(b staged) error {
	if b.temp == "" {
		return s.touch(b.digest)
	}
	err := os.MkdirAll(filepath.Dir(s.blobFile(b.digest)), dirMode)
	if err == nil {
		err = os.Rename(b.temp, s.blobFile(b.digest))
	}
	if err != nil {
		os.Remove(b.temp)
	}
	return err
}

// syncNames makes the names of published blobs durable, also of those that
// were there already: whoever put them may not have come to that yet.
func (s *Store) syncNames(blobs ...staged) error {
	dirs := map[string]bool{s.path(blobsDir): true}
	for _, b := range blobs {
		if b.digest != "" {
			dirs[filepath.Dir(s.blobFile(b.digest))] = true
		}
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// hasSize tells if the blob is there with its right size. One of another
// size, as a broken disk may leave it, is written anew.
func (s *Store) hasSize(d Digest, size int64) bool {
	fi, err := os.Lstat(s.blobFile(d))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

func (s *Store) touch(d Digest) error {
	fi, err := os.Lstat(s.blobFile(d))
	if err == nil && time.Since(fi.ModTime()) > touchAfter {
		now := time.Now()
		err = os.Chtimes(s.blobFile(d), now, now)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s was deleted while it was put again: %w", d, ErrNotFound)
	}
	return err
}
