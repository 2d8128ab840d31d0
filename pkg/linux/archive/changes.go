package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ChangeKind says what happened to a path, with the numbers of GET /containers/{id}/changes.
type ChangeKind uint8

// The kinds of change.
const (
	Modified ChangeKind = 0
	Added    ChangeKind = 1
	Deleted  ChangeKind = 2
)

// Change is one path that differs from the image.
type Change struct {
	Kind ChangeKind
	Path string
}

// Changes lists what an overlay's upper directory changes above its lower ones (topmost
// first), sorted by path. Parents of a change count as modified.
func Changes(upper string, lowers []string) ([]Change, error) {
	var out []Change
	err := filepath.WalkDir(upper, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == upper {
			return err
		}
		rel := "/" + strings.TrimPrefix(name[len(upper):], "/")
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		kind := Added
		switch {
		case isWhiteout(fi):
			kind = Deleted
		case existsBelow(lowers, rel):
			kind = Modified
		}
		out = append(out, Change{kind, rel})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk changes: %w", err)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// isWhiteout reports whether fi stands for a deleted file: a character device 0/0.
//
// Source: Linux Documentation/filesystems/overlayfs.rst "whiteouts and opaque directories".
func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// existsBelow reports whether the topmost lower directory that says anything about rel has
// it: a whiteout of rel or of a parent hides what lies deeper.
func existsBelow(lowers []string, rel string) bool {
	for _, lower := range lowers {
		fi, err := os.Lstat(path.Join(lower, rel))
		if err == nil {
			return !isWhiteout(fi)
		}
		for dir := path.Dir(rel); dir != "/"; dir = path.Dir(dir) {
			if fi, err := os.Lstat(path.Join(lower, dir)); err == nil && isWhiteout(fi) {
				return false
			}
			if isOpaque(path.Join(lower, dir)) {
				return false
			}
		}
	}
	return false
}

// isOpaque reports whether directory dir hides what deeper layers have in it.
func isOpaque(dir string) bool {
	var v [1]byte
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", v[:])
	return err == nil && n == 1 && v[0] == 'y'
}
