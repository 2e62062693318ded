package stage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/artifact"
)

// Cache is a node's own store of what its tasks have used. It holds nothing
// that can't be had again: it may be removed while no task is being started.
type Cache struct {
	store *artifact.Store

	mu    sync.Mutex
	pulls map[artifact.Digest]*sync.Mutex // so that one pull serves all who wait
}

// OpenCache opens the cache in a folder, and makes it if it is missing.
func OpenCache(dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the cache: %w", err)
	}
	store, err := artifact.Open((&url.URL{Scheme: "file", Path: dir}).String())
	if err != nil {
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	return &Cache{store: store, pulls: map[artifact.Digest]*sync.Mutex{}}, nil
}

// Fetch puts a copy of an artifact at dest. What the cache lacks, or has no
// longer whole, comes from the store.
func (c *Cache) Fetch(ctx context.Context, from *artifact.Store, d artifact.Digest, dest string, opts ...artifact.FetchOption) error {
	for attempt := 1; ; attempt++ {
		if from != nil {
			if err := c.pull(ctx, from, d); err != nil {
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
	return c.pullBlob(ctx, from, d)
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
