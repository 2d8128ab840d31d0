package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// classic makes m with mount(2).
func (m Mount) classic(target string) error {
	o := parse(m)
	source := m.Source
	if source == "" {
		source = m.Type
	}
	first := o.flags
	if o.flags&unix.MS_BIND != 0 && o.flags&unix.MS_REMOUNT == 0 {
		first &= unix.MS_BIND | unix.MS_REC // mount(2) ignores the others for a bind mount
	}
	if m.Type != "" || o.flags != 0 {
		if err := mount2(source, target, m.Type, first, o.data); err != nil {
			return err
		}
	}
	if first != o.flags {
		flags := unix.MS_REMOUNT | o.flags&^unix.MS_REC
		if err := unix.Mount("", target, "", flags, ""); err != nil {
			return errors.Join(os.NewSyscallError("remount", err), Unmount(target))
		}
	}
	if o.propagation != 0 {
		if err := unix.Mount("", target, "", o.propagation, ""); err != nil {
			return errors.Join(os.NewSyscallError("mount", err), Unmount(target))
		}
	}
	return nil
}

// mount2 calls mount(2), which reads one page of options. A list of lower directories
// that does not fit is given relative to the directory that they have in common.
func mount2(source, target, fstype string, flags uintptr, data []string) error {
	words := strings.Join(data, ",")
	if len(words) < os.Getpagesize() {
		return os.NewSyscallError("mount", unix.Mount(source, target, fstype, flags, words))
	}
	dir, data := relativeLower(data)
	words = strings.Join(data, ",")
	if fstype != "overlay" || dir == "" || len(words) >= os.Getpagesize() {
		return fmt.Errorf("options of %d bytes do not fit into the page that mount(2) reads: %w", len(words), errdefs.ErrInvalidArgument)
	}
	done := make(chan error, 1) // one result: the goroutine ends even if nobody waits
	go func() {
		// A thread with a working directory of its own. It is never unlocked, so that
		// it ends with this goroutine and no other code runs in that directory.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- &os.PathError{Op: "chdir", Path: dir, Err: err}
			return
		}
		done <- os.NewSyscallError("mount", unix.Mount(source, target, fstype, flags, words))
	}()
	return <-done
}

// relativeLower returns the deepest directory above all lower directories and the
// options with the list relative to it; "" if there is none.
func relativeLower(data []string) (dir string, _ []string) {
	out := append([]string(nil), data...)
	for i, word := range data {
		value, ok := strings.CutPrefix(word, "lowerdir=")
		if !ok {
			continue
		}
		lower := splitLower(value)
		dir = filepath.Dir(lower[0])
		for _, l := range lower {
			for dir != "/" && !strings.HasPrefix(l, dir+"/") {
				if !filepath.IsAbs(l) {
					return "", data
				}
				dir = filepath.Dir(dir)
			}
		}
		escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
		for j, l := range lower {
			lower[j] = escape.Replace(strings.TrimPrefix(strings.TrimPrefix(l, dir), "/"))
		}
		out[i] = "lowerdir=" + strings.Join(lower, ":")
	}
	return dir, out
}
