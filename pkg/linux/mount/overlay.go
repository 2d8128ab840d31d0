package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxValue is the longest value that fsconfig(2) takes, in bytes (Linux fs/fsopen.c
// copies 256 with the terminating zero).
const maxValue = 255

// detachedOverlay makes an overlay through fsopen(2). It answers errClassic where the
// kernel cannot take lower directories one by one (Linux < 6.7) or has no fsopen.
func (m Mount) detachedOverlay(o options) (int, error) {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	switch {
	case err == unix.ENOSYS:
		return -1, errClassic
	case err != nil:
		return -1, os.NewSyscallError("fsopen overlay", err)
	}
	f := fsContext{fd: ctx}
	defer f.close()
	source := m.Source
	if source == "" {
		source = "overlay"
	}
	if err := f.set("source", source); err != nil {
		return -1, err
	}
	for _, word := range o.data {
		if err := f.option(word); err != nil {
			return -1, err
		}
	}
	if o.flags&unix.MS_RDONLY != 0 {
		if err := f.flag("ro"); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(f.fd); err != nil {
		return -1, tryClassic(f.wrap("create", err))
	}
	fd, err := unix.Fsmount(f.fd, unix.FSMOUNT_CLOEXEC, int(o.attributes()))
	if err != nil {
		return -1, f.wrap("fsmount", err)
	}
	return fd, nil
}

// fsContext is the descriptor of fsopen(2) and the descriptors that long paths need
// until the filesystem is created.
type fsContext struct {
	fd    int
	paths []*os.File
}

func (f *fsContext) close() {
	_ = unix.Close(f.fd)
	for _, p := range f.paths {
		_ = p.Close()
	}
}

// option hands one "key", or "key=value", to the filesystem.
func (f *fsContext) option(word string) error {
	key, value, ok := strings.Cut(word, "=")
	switch {
	case !ok:
		return f.flag(key)
	case key == "lowerdir":
		return f.lower(value)
	case key == "upperdir" || key == "workdir" || key == "lowerdir+" || key == "datadir+":
		return f.path(key, value)
	}
	return f.set(key, value)
}

// lower appends the lower directories. A "::" separates data-only layers.
func (f *fsContext) lower(value string) error {
	key := "lowerdir+"
	for _, dir := range splitLower(value) {
		if dir == "" {
			key = "datadir+"
			continue
		}
		if err := f.path(key, dir); err != nil {
			return tryClassic(err)
		}
	}
	return nil
}

// path sets a directory, through a descriptor if its name is too long for fsconfig(2).
func (f *fsContext) path(key, path string) error {
	if len(path) <= maxValue {
		return f.set(key, path)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open " + key, Path: path, Err: err}
	}
	f.paths = append(f.paths, os.NewFile(uintptr(fd), path))
	return f.set(key, fmt.Sprintf("/proc/self/fd/%d", fd))
}

func (f *fsContext) set(key, value string) error {
	if err := unix.FsconfigSetString(f.fd, key, value); err != nil {
		return f.wrap(fmt.Sprintf("set %s=%s", key, value), err)
	}
	return nil
}

func (f *fsContext) flag(key string) error {
	if err := unix.FsconfigSetFlag(f.fd, key); err != nil {
		return f.wrap("set "+key, err)
	}
	return nil
}

// configError is a refusal of fsconfig(2) with what the kernel logged about it.
type configError struct {
	op  string
	log string
	err error
}

func (e *configError) Error() string {
	if e.log == "" {
		return fmt.Sprintf("overlay: %s: %v", e.op, e.err)
	}
	return fmt.Sprintf("overlay: %s: %v (%s)", e.op, e.err, e.log)
}

func (e *configError) Unwrap() error { return e.err }

// tryClassic marks a refusal that may only mean that the kernel is too old for
// lowerdir+: before 6.5 overlay collects the keys and refuses at creation, in 6.5 and
// 6.6 at once, both with EINVAL.
func tryClassic(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errClassic, err)
	}
	return err
}

// wrap reads the messages that the kernel left in the context (one per read, "e text").
func (f *fsContext) wrap(op string, err error) error {
	var log []string
	buf := make([]byte, 1024)
	for {
		n, rerr := unix.Read(f.fd, buf)
		if n <= 0 || rerr != nil {
			break
		}
		log = append(log, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	return &configError{op: op, log: strings.Join(log, "; "), err: err}
}

// UpperDir returns the directory that receives what is written through m: the upperdir
// of an overlay, or the source of a writable bind mount. ok is false for any other
// mount.
func (m Mount) UpperDir() (dir string, ok bool) {
	o := parse(m)
	if o.flags&unix.MS_RDONLY != 0 {
		return "", false
	}
	if o.flags&unix.MS_BIND != 0 {
		return m.Source, filepath.IsAbs(m.Source)
	}
	if m.Type == "overlay" {
		for _, word := range o.data {
			if dir, ok := strings.CutPrefix(word, "upperdir="); ok {
				return dir, filepath.IsAbs(dir)
			}
		}
	}
	return "", false
}

// LowerDirs returns the lower directories of an overlay, top first; none for any other
// mount.
func (m Mount) LowerDirs() []string {
	if m.Type != "overlay" {
		return nil
	}
	var dirs []string
	for _, word := range m.Options {
		if value, ok := strings.CutPrefix(word, "lowerdir="); ok {
			dirs = append(dirs, splitLower(value)...)
		}
		if value, ok := strings.CutPrefix(word, "lowerdir+="); ok {
			dirs = append(dirs, value)
		}
	}
	return dirs
}

// View returns a read-only mount of what m shows, which can be made while m is mounted: for
// an overlay its upper directory becomes the topmost of the lower ones.
func (m Mount) View() Mount {
	v := Mount{Type: m.Type, Source: m.Source, Target: m.Target}
	upper, _ := m.UpperDir()
	for _, word := range m.Options {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "upperdir", key == "workdir", word == "rw", word == "ro":
			continue
		case m.Type == "overlay" && key == "lowerdir" && upper != "":
			word = "lowerdir=" + strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(upper) + ":" + value
		}
		v.Options = append(v.Options, word)
	}
	v.Options = append(v.Options, "ro")
	return v
}
