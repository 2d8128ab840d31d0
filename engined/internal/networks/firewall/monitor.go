package firewall

import (
	"context"
	"errors"
	"os"
	"time"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/nft"
)

const (
	// settle is how long Watch waits for a foreign change to be complete before it looks:
	// `nft -f` and firewalld's reload delete and add in transactions of their own.
	settle = 20 * time.Millisecond
	// After patience repairs with less than a second between them, somebody fights us: the
	// wait doubles up to maxWait, so that two programs do not burn a processor.
	patience = 8
	maxWait  = 10 * time.Second
)

// Watch restores the table whenever somebody else deletes something of it, until ctx is
// done. It must run in the netns that the firewall works in. It returns nil when ctx is
// done.
func (f *Firewall) Watch(ctx context.Context) error {
	w, err := nft.Watch()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.Close() }) // ends Next
	defer func() {
		if stop() {
			_ = w.Close()
		}
	}()
	damaged := make(chan struct{}, 1) // buffered: one pending repair covers all damage before it
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.repair(ctx, damaged)
	}()
	defer func() { <-done }()
	defer close(damaged)
	for {
		changes, err := w.Next()
		if errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if f.foreign(changes) {
			select {
			case damaged <- struct{}{}:
			default:
			}
		}
	}
}

// foreign reports whether one of changes took something of ours and was not made by us.
func (f *Firewall) foreign(changes []nft.Change) bool {
	f.mu.Lock()
	own := f.portID
	f.mu.Unlock()
	for _, c := range changes {
		if c.Lost || c.Table == f.cfg.Table && c.By != own && c.Deletes() {
			return true
		}
	}
	return false
}

// repair restores the table after each message on damaged.
func (f *Firewall) repair(ctx context.Context, damaged <-chan struct{}) {
	wait, repairs, last := settle, 0, time.Time{}
	for range damaged {
		if time.Since(last) > max(time.Second, 2*wait) {
			wait, repairs = settle, 0
		} else if repairs++; repairs > patience {
			wait = min(2*wait, maxWait)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		log := ctxlog.From(ctx)
		if err := f.Restore(ctx); err != nil {
			log.Error("firewall table could not be put back: published ports and isolation are off", ctxlog.Error, err)
			continue
		}
		last = time.Now()
		log.Warn("firewall table was changed by another program and put back", ctxlog.Name, f.cfg.Table)
	}
}
