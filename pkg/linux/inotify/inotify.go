// Package inotify watches one file in one directory.
package inotify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watch tells when a file or its directory's entries change. Close it.
type Watch struct{ f *os.File }

// Dir watches the directory for entries that are made, renamed, removed or written.
//
// Source: inotify(7).
func Dir(path string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const mask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, path, mask); err != nil {
		return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: path, Err: err}, os.NewSyscallError("close", unix.Close(fd)))
	}
	return &Watch{f: os.NewFile(uintptr(fd), "inotify")}, nil
}

// Wait returns when something has changed since the last call, or with the cause when
// ctx is done.
func (w *Watch) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		if ctx.Err() == nil {
			_ = w.f.SetReadDeadline(time.Time{})
		}
	}()
	var buf [4096]byte
	if _, err := w.f.Read(buf[:]); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("read inotify events: %w", err)
	}
	return nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.f.Close() }
