package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// lockPatience is for how long the state folder may be another process's
// before that is worth a warning: an agent that restarts the plugin does not
// wait for the old one to end.
const lockPatience = 5 * time.Second

// errStateInUse is that another process holds the state folder.
var errStateInUse = errors.New("another process keeps its state there")

// lockState makes the state folder this process's own, until the file is
// closed or the process ends. It makes the folder if need be.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%w; set state_dir to a folder that the plugin can write", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w; set state_dir to a folder that the plugin can write", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errStateInUse
		}
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return f, nil
}

// withState waits until the state folder is the plugin's own, and then runs
// the parts that keep something there. Without it the plugin works, but tasks
// do not hear of failing GPUs, and what was learnt is forgotten when it ends.
func (n *node) withState(ctx context.Context) error {
	lock, err := lockState(n.settings.stateDir)
	for deadline := time.Now().Add(lockPatience); errors.Is(err, errStateInUse) && time.Now().Before(deadline); {
		if !sleep(ctx, lockPatience/50) {
			return nil
		}
		lock, err = lockState(n.settings.stateDir)
	}
	if err != nil {
		return fmt.Errorf("tasks do not hear of failing GPUs: %w", err)
	}
	defer lock.Close()
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return guard(func() error { return n.keepStatus(ctx) }) })
	parts.Go(func() error { return guard(func() error { return n.health.Keep(ctx) }) })
	if n.daemons != nil {
		parts.Go(func() error { return guard(func() error { return n.runDaemons(ctx) }) })
	}
	return parts.Wait()
}
