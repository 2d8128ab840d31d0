package localcopy

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Archive writes the file or tree at src as a tar stream, in which it is called base ("." for
// the contents of a directory). A symlink at src is archived as such.
func Archive(ctx context.Context, w io.Writer, src, base string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(src, file)
		if err != nil {
			return err
		}
		return add(tw, file, path.Join(base, filepath.ToSlash(rel)))
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func add(tw *tar.Writer, file, name string) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // tar has no entry for a socket
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	hdr, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("archive %q: %w", file, err)
	}
	hdr.Name = name
	if info.IsDir() {
		hdr.Name += "/"
	}
	// Names of users mean nothing on the other side.
	hdr.Uname, hdr.Gname = "", ""
	hdr.Format = tar.FormatPAX // long names, and times below a second
	if !info.Mode().IsRegular() {
		return tw.WriteHeader(hdr)
	}
	return addContent(tw, file, hdr)
}

func addContent(tw *tar.Writer, file string, hdr *tar.Header) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	switch n, err := io.CopyN(tw, f, hdr.Size); {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("archive %q: it shrank from %d to %d bytes while being read", file, hdr.Size, n)
	case err != nil:
		return fmt.Errorf("archive %q: %w", file, err)
	}
	return nil
}
