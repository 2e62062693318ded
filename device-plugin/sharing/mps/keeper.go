package mps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
)

// keeper sees to the daemon of one device.
type keeper struct {
	daemons *Daemons
	id      gpu.ID
	share   *sharing.Share // nil: the daemon is to end
	control control
	cancel  context.CancelFunc
	done    chan struct{}

	// trouble is why the device cannot get tasks; "" if it can. daemons.mu
	// guards it.
	trouble string
	// child is the daemon, if this process started it; nil otherwise. It is the
	// keeper's own until done is closed.
	child *child
}

// set tells what is wrong; "" is nothing.
func (k *keeper) set(trouble string) {
	k.daemons.mu.Lock()
	defer k.daemons.mu.Unlock()
	if k.trouble == trouble {
		return
	}
	k.trouble = trouble
	k.daemons.tellLocked()
	if trouble == "" {
		k.daemons.Logger.Info("limits of a shared GPU are enforced by MPS", "device", k.id)
	} else {
		k.daemons.Logger.Warn("a shared GPU gets no tasks", "device", k.id, "reason", trouble)
	}
}

// run keeps the daemon, or waits for its end, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	if k.share == nil {
		k.retire(ctx)
		return
	}
	for pause := k.daemons.FirstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		began := time.Now()
		err := k.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longestPause {
			pause = k.daemons.FirstPause // it was well for a while
		}
		k.set(fmt.Sprintf("its MPS daemon does not keep the limits: %v; it is tried again in %s", err, pause))
		wait(ctx, pause, nil)
	}
}

// serve brings the daemon up and stays while it is well.
func (k *keeper) serve(ctx context.Context) error {
	if err := k.ready(ctx); err != nil {
		return err
	}
	for {
		k.set("")
		var exited chan struct{}
		if k.child != nil {
			exited = k.child.exited
		}
		if wait(ctx, k.daemons.Check, exited) {
			reason := k.child.reason
			k.child = nil
			return errors.New(reason)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := k.control.verify(ctx, *k.share); err != nil {
			return err
		}
	}
}

// ready has a daemon run with the limits of the share. One of before with other
// limits is replaced as soon as it has no clients: the limits of a running
// server cannot be lowered.
func (k *keeper) ready(ctx context.Context) error {
	if err := k.control.prepare(); err != nil {
		return err
	}
	if k.control.there(ctx) {
		err := k.control.verify(ctx, *k.share)
		if err == nil {
			return nil
		}
		if quitErr := k.control.quit(ctx); quitErr != nil {
			return fmt.Errorf("%w, and it cannot be replaced yet: %w", err, quitErr)
		}
		if err := k.gone(ctx); err != nil {
			return err
		}
	}
	child, err := k.control.start(*k.share)
	if err != nil {
		return err
	}
	k.child = child
	deadline := time.Now().Add(k.daemons.Startup)
	for !k.control.there(ctx) {
		if wait(ctx, pollPause, child.exited) {
			k.child = nil
			return errors.New(child.reason)
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("it does not answer %s after its start", k.daemons.Startup)
		}
	}
	if err := k.control.limit(ctx, *k.share); err != nil {
		return err
	}
	return k.control.verify(ctx, *k.share)
}

// pollPause is between two looks for a daemon that comes or goes.
const pollPause = 100 * time.Millisecond

// gone waits until a daemon that was told to quit has.
func (k *keeper) gone(ctx context.Context) error {
	deadline := time.Now().Add(k.daemons.Startup)
	for k.control.there(ctx) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("it is still there %s after it was told to quit", k.daemons.Startup)
		}
		wait(ctx, pollPause, nil)
	}
	k.child = nil
	return nil
}

// retire ends the daemon of a device that is not shared by MPS any more, as
// soon as its clients are gone.
func (k *keeper) retire(ctx context.Context) {
	for k.control.there(ctx) {
		if err := k.control.quit(ctx); err != nil {
			k.set(fmt.Sprintf("it is not shared by MPS any more, and its daemon is still there: %v", err))
			wait(ctx, k.daemons.Check, nil)
		} else if err := k.gone(ctx); err != nil {
			k.set(err.Error())
		}
		if ctx.Err() != nil {
			return
		}
	}
	if ctx.Err() != nil {
		return
	}
	if err := os.RemoveAll(k.control.folder); err != nil {
		k.daemons.Logger.Warn("the folder of an MPS daemon that ended stays", "device", k.id, "error", err)
	}
	k.daemons.mu.Lock()
	defer k.daemons.mu.Unlock()
	if k.daemons.keepers[k.id] == k {
		delete(k.daemons.keepers, k.id)
		k.daemons.tellLocked()
	}
}

// leave ends the daemon if nobody uses it; the plugin is about to end.
func (k *keeper) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*k.daemons.Patience)
	defer cancel()
	if !k.control.there(ctx) {
		return
	}
	if err := k.control.quit(ctx); err != nil {
		k.daemons.Logger.Info("an MPS daemon stays for the next start of the plugin", "device", k.id, "reason", err)
		return
	}
	if k.child != nil {
		wait(ctx, k.daemons.Patience, k.child.exited)
	}
}

// wait waits for a while. It reports whether exited was closed meanwhile.
func wait(ctx context.Context, pause time.Duration, exited <-chan struct{}) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-exited:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}
