package localcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Extract unpacks r below the directory dir. A rebase that is not empty replaces the first
// component of every name: a file that is copied gets its new name that way.
//
// An archive that would replace a directory by something else, or the other way round, is an
// error of class ErrInvalidArgument.
func Extract(dir string, r io.Reader, rebase string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	x := extractor{root: root, rebase: rebase}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return x.finish()
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		name, ok := x.name(hdr.Name)
		if !ok {
			return fmt.Errorf("archive entry %q leads out of the destination: %w", hdr.Name, errdefs.ErrInvalidArgument)
		}
		if err := x.entry(name, hdr, tr); err != nil {
			return fmt.Errorf("unpack %q: %w", hdr.Name, err)
		}
	}
}

type extractor struct {
	root   *os.Root
	rebase string
	// dirs get their modes and times at the end: a directory may be read-only, and each entry in it
	// changes its time.
	dirs []directory
}

type directory struct {
	name string
	mode fs.FileMode
	time time.Time
}

// name cleans the name of an entry and gives it its new first component.
func (x *extractor) name(s string) (string, bool) {
	clean := path.Clean(strings.TrimLeft(s, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", false
	}
	if x.rebase == "" {
		return clean, true
	}
	if strings.HasPrefix(s, "./") || clean == "." {
		return path.Join(x.rebase, clean), true
	}
	_, rest, _ := strings.Cut(clean, "/")
	return path.Join(x.rebase, rest), true
}

func (x *extractor) entry(name string, hdr *tar.Header, r io.Reader) error {
	mode := hdr.FileInfo().Mode()
	if hdr.Typeflag == tar.TypeDir {
		return x.directory(name, mode.Perm(), hdr.ModTime)
	}
	if err := x.makeRoom(name); err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		return x.file(name, mode, hdr.ModTime, r)
	case tar.TypeSymlink:
		return x.root.Symlink(hdr.Linkname, name)
	case tar.TypeLink:
		target, ok := x.name(hdr.Linkname)
		if !ok {
			return fmt.Errorf("link to %q leads out of the destination: %w", hdr.Linkname, errdefs.ErrInvalidArgument)
		}
		return x.root.Link(target, name)
	}
	return nil // devices and FIFOs belong to the container
}

func (x *extractor) directory(name string, perm fs.FileMode, mtime time.Time) error {
	info, err := x.root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := x.root.MkdirAll(name, 0o700|perm); err != nil {
			return err
		}
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("cannot overwrite non-directory %q with a directory: %w", name, errdefs.ErrInvalidArgument)
	}
	if name != "." {
		x.dirs = append(x.dirs, directory{name, perm, mtime})
	}
	return nil
}

// makeRoom makes the parents of name and removes what is in its place.
func (x *extractor) makeRoom(name string) error {
	if parent := path.Dir(name); parent != "." {
		if err := x.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	info, err := x.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("cannot overwrite directory %q with a non-directory: %w", name, errdefs.ErrInvalidArgument)
	}
	return x.root.Remove(name)
}

func (x *extractor) file(name string, mode fs.FileMode, mtime time.Time, r io.Reader) error {
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	// Not more than the permission bits: a set-user-id program of a container is none of ours.
	err = errors.Join(err, f.Chmod(mode.Perm()), f.Close())
	if err != nil {
		return err
	}
	return x.root.Chtimes(name, mtime, mtime)
}

func (x *extractor) finish() error {
	for _, d := range slices.Backward(x.dirs) {
		if err := x.root.Chmod(d.name, d.mode); err != nil {
			return err
		}
		if err := x.root.Chtimes(d.name, d.time, d.time); err != nil {
			return err
		}
	}
	return nil
}
