package stage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/artifact"
)

// Cache is a node's own store of what its tasks have used. It holds nothing
// that can't be had again: it may be removed while no task is being started.
type Cache struct {
	store *artifact.Store
	// maxBytes is how much it may hold; 0 is as much as there is space for.
	maxBytes int64

	mu    sync.Mutex
	pulls map[artifact.Digest]*sync.Mutex // so that one pull serves all who wait
}

// OpenCache opens the cache in a folder, and makes it if it is missing. Beyond
// maxBytes, and on a full disk, what came first goes first; 0 is no limit.
func OpenCache(dir string, maxBytes int64) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the cache: %w", err)
	}
	store, err := artifact.Open((&url.URL{Scheme: "file", Path: dir}).String())
	if err != nil {
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	return &Cache{store: store, maxBytes: maxBytes, pulls: map[artifact.Digest]*sync.Mutex{}}, nil
}

// Fetch puts a copy of an artifact at dest. What the cache lacks, or has no
// longer whole, comes from the store.
func (c *Cache) Fetch(ctx context.Context, from *artifact.Store, d artifact.Digest, dest string, opts ...artifact.FetchOption) error {
	for attempt := 1; ; attempt++ {
		if from != nil {
			err := c.pull(ctx, from, d)
			if errors.Is(err, syscall.ENOSPC) && c.trim(ctx, 0) == nil {
				err = c.pull(ctx, from, d)
			}
			if err != nil {
				return err
			}
		}
		err := c.store.Fetch(ctx, d, dest, opts...)
		var corrupt *artifact.CorruptError
		// What is corrupt was set aside, and what is missing was so by another
		// task or a cleaning: pull again.
		again := errors.As(err, &corrupt) || errors.Is(err, artifact.ErrNotFound)
		const attempts = 3
		if !again || from == nil || attempt == attempts {
			return err
		}
	}
}

func (c *Cache) pull(ctx context.Context, from *artifact.Store, d artifact.Digest) error {
	lock := c.pullLock(d)
	lock.Lock()
	defer lock.Unlock()
	if have, err := c.store.Has(ctx, d); err != nil || have {
		return err
	}
	m, err := from.Manifest(ctx, d)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	const parallel = 4
	g.SetLimit(parallel)
	for _, e := range m.Files {
		if e.Link == "" {
			g.Go(func() error { return c.pullBlob(gctx, from, e.Digest()) })
		}
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("fetching artifact %s: %w", d, err)
	}
	if err := c.pullBlob(ctx, from, d); err != nil {
		return err
	}
	if c.maxBytes == 0 {
		return nil
	}
	// What was just pulled is the newest; if it alone is too much, it stays
	// until the next pull.
	return c.trim(ctx, max(c.maxBytes, m.Bytes()))
}

// trim deletes the oldest content until no more than a number of bytes is left.
// A task that is being given it pulls it again.
func (c *Cache) trim(ctx context.Context, most int64) error {
	var blobs []artifact.BlobInfo
	var sum int64
	for b, err := range c.store.ListBlobs(ctx) {
		if err != nil {
			return fmt.Errorf("trimming the cache: %w", err)
		}
		blobs = append(blobs, b)
		sum += b.Size
	}
	slices.SortFunc(blobs, func(a, b artifact.BlobInfo) int { return a.LastPut.Compare(b.LastPut) })
	for _, b := range blobs {
		if sum <= most {
			break
		}
		if err := c.store.DeleteBlob(ctx, b.Digest); err != nil {
			return fmt.Errorf("trimming the cache: %w", err)
		}
		sum -= b.Size
	}
	return nil
}

func (c *Cache) pullLock(d artifact.Digest) *sync.Mutex {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pulls[d] == nil {
		c.pulls[d] = &sync.Mutex{}
	}
	return c.pulls[d]
}

func (c *Cache) pullBlob(ctx context.Context, from *artifact.Store, d artifact.Digest) error {
	if _, err := c.store.StatBlob(ctx, d); err == nil {
		return nil
	}
	r, err := from.OpenBlob(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	got, _, err := c.store.PutBlob(ctx, r)
	if err == nil && got != d {
		err = &artifact.CorruptError{Digest: d, Want: string(d), Got: string(got)}
	}
	return err
}

// Add takes the content of a name inside root into the cache and returns its
// digest.
func (c *Cache) Add(ctx context.Context, root *os.Root, name string) (artifact.Digest, error) {
	d, _, err := c.store.PutAt(ctx, root, name)
	return d, err
}

// Close lets the cache go.
func (c *Cache) Close() error { return c.store.Close() }
