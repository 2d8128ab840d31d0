package buildkit

import (
	"context"
	"io"
	"io/fs"
	"path"

	"strata/engined/internal/build/files"
	"strata/pkg/buildkit/sessionpb"
)

// treeFiles sends a files.Tree.
type treeFiles struct{ files.Tree }

// Walk implements transfer.Files.
func (t treeFiles) Walk(ctx context.Context, say func(*sessionpb.Stat) error) error {
	return t.walk(ctx, "/", say)
}

func (t treeFiles) walk(ctx context.Context, dir string, say func(*sessionpb.Stat) error) error {
	list, err := t.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, base := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(dir, base)
		n, err := t.Lstat(name)
		if err != nil {
			return err
		}
		if err := say(statOf(name[1:], n)); err != nil {
			return err
		}
		if n.Mode.IsDir() {
			if err := t.walk(ctx, name, say); err != nil {
				return err
			}
		}
	}
	return nil
}

// Open implements transfer.Files.
func (t treeFiles) Open(name string) (io.ReadCloser, error) { return t.Tree.Open("/" + name) }

// statOf describes a file as fsutil does.
func statOf(name string, n files.Node) *sessionpb.Stat {
	st := &sessionpb.Stat{Path: name, Mode: uint32(n.Mode), Uid: uint32(n.UID), Gid: uint32(n.GID), ModTime: n.ModTime.UnixNano(), Linkname: n.Link} //nolint:gosec // of a filesystem
	switch {
	case n.Mode.IsRegular():
		st.Size = n.Size
	case n.Mode&fs.ModeDevice != 0:
		st.Devmajor, st.Devminor = int64((n.Rdev>>8)&0xfff), int64(n.Rdev&0xff|(n.Rdev>>12)&0xfff00) //nolint:gosec // 32 bits at most
	}
	return st
}
