package cgroups

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OOM returns a channel that receives a value after the kernel's OOM killer struck in
// the cgroup; several strikes may come as one. The channel is closed when ctx is done
// or the cgroup is gone. The error is of class ErrNotFound if the cgroup does not exist.
func (m *Manager) OOM(ctx context.Context) (<-chan struct{}, error) {
	var f *os.File
	var err error
	var next func() (struck, alive bool)
	if m.isV2() {
		f, next, err = watchV2(m.paths[""])
	} else {
		dir, ok := m.paths["memory"]
		if !ok {
			return nil, fmt.Errorf("watch oom: cgroup controller memory is not mounted on this host: %w", errdefs.ErrNotImplemented)
		}
		f, next, err = watchV1(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("watch oom: %w", err)
	}
	ch := make(chan struct{}, 1) // one value stands for all strikes not yet seen
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	go func() {
		defer close(ch)
		defer func() {
			if stop() {
				_ = f.Close()
			}
		}()
		for {
			struck, alive := next()
			if struck {
				select {
				case ch <- struct{}{}:
				default:
				}
			}
			if !alive {
				return
			}
		}
	}()
	return ch, nil
}

// watchV1 ties an eventfd to memory.oom_control. The kernel signals it too when the
// cgroup is removed.
//
// Source: Linux Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control".
func watchV1(dir string) (*os.File, func() (bool, bool), error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, nil, classified(err)
	}
	defer func() { _ = control.Close() }() // the registration holds it
	watched, err := os.Stat(dir)
	if err != nil {
		return nil, nil, classified(err)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("eventfd2", err)
	}
	f := os.NewFile(uintptr(fd), "oom")
	if err := write(dir, "cgroup.event_control", strconv.Itoa(fd)+" "+strconv.Itoa(int(control.Fd()))); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, func() (bool, bool) {
		var buf [8]byte
		if _, err := f.Read(buf[:]); err != nil {
			return false, false
		}
		// A restarted container has a cgroup of the same name, which is not ours to watch.
		now, err := os.Stat(dir)
		alive := err == nil && os.SameFile(watched, now)
		return alive, alive
	}, nil
}

// watchV2 waits for changes of memory.events and compares the counter of oom_kill. The
// end of the cgroup shows in cgroup.events: populated 0.
//
// Source: Linux Documentation/admin-guide/cgroup-v2.rst, "memory.events".
func watchV2(dir string) (*os.File, func() (bool, bool), error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "oom")
	var ends int
	for _, name := range []string{"memory.events", "cgroup.events"} {
		path := filepath.Join(dir, name)
		if ends, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			_ = f.Close()
			return nil, nil, classified(&os.PathError{Op: "inotify_add_watch", Path: path, Err: err})
		}
	}
	kills := oomKills(dir)
	buf := make([]byte, 4096)
	return f, func() (struck, alive bool) {
		n, err := f.Read(buf)
		if err != nil {
			return false, false
		}
		alive = true
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd, mask := int(int32(binary.NativeEndian.Uint32(b))), binary.NativeEndian.Uint32(b[4:])
			b = b[min(len(b), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:]))):]
			if mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0 {
				alive = false
			}
			if wd == ends {
				if kv, err := readKeyed(dir, "cgroup.events"); err != nil || kv["populated"] == 0 {
					alive = false
				}
			}
		}
		if now := oomKills(dir); now > kills {
			kills, struck = now, true
		}
		return struck, alive
	}, nil
}

func oomKills(dir string) uint64 {
	kv, err := readKeyed(dir, "memory.events")
	if err != nil {
		return 0
	}
	return kv["oom_kill"]
}

func classified(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}
