package files

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/pkg/compression"
	"strata/pkg/linux/archive"
)

// Placement says where items go and what becomes of them.
type Placement struct {
	Dest    string                           // absolute; ends with "/" if it must be a directory
	Owner   *archive.Owner                   // nil keeps the items' own
	Mode    func(perm int64, dir bool) int64 // nil keeps the items' own
	DirMode int64                            // of directories that are made above the items; zero means 0755
	Unpack  bool                             // archives among the sources are extracted
	// MaxUnpacked bounds what one archive has in it, in bytes; zero means DefaultMaxUnpacked.
	MaxUnpacked int64
}

// DefaultMaxUnpacked is how much one archive may have in it, in bytes.
const DefaultMaxUnpacked = 64 << 30

// Put writes items of t into the root filesystem mounted at root. Errors are of class
// ErrInvalidArgument where a directory is to become a file or the other way round.
func Put(ctx context.Context, root string, t Tree, items []Item, p Placement) error {
	dst, err := OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { _ = dst.Close() }() // only a descriptor
	w := &placer{ctx: ctx, root: root, dst: dst, tree: t, p: p}
	w.isDir = strings.HasSuffix(p.Dest, "/")
	w.dest = path.Clean(p.Dest)
	if _, n, err := Resolve(dst, w.dest); err == nil {
		if !n.Mode.IsDir() && w.isDir {
			return fmt.Errorf("%s is a file, not a directory: %w", w.dest, errdefs.ErrInvalidArgument)
		}
		w.isDir = w.isDir || n.Mode.IsDir()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if w.dest, err = follow(dst, w.dest, true); err != nil { // a symlink may lead to what is missing
		return err
	}
	for i := range items {
		w.isDir = w.isDir || items[i].Rel != ""
	}
	plain := items
	if p.Unpack {
		if plain, err = w.unpack(items); err != nil {
			return err
		}
		if several(plain) && !w.isDir {
			return errSeveral
		}
	}
	rest, bulk := w.split(plain)
	err = w.write(func(tw *tar.Writer) error {
		if err := w.directories(tw); err != nil {
			return err
		}
		for i := range rest {
			if err := w.item(tw, &rest[i]); err != nil {
				return fmt.Errorf("copy %q: %w", rest[i].Source, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.writeBulk(bulk)
}

// Mkdir makes directory name and those above it that are missing, all for owner, in the
// root filesystem mounted at root. It reports whether something was missing.
func Mkdir(ctx context.Context, root, name string, owner *archive.Owner) (bool, error) {
	dst, err := OpenRoot(root)
	if err != nil {
		return false, err
	}
	defer func() { _ = dst.Close() }() // only a descriptor
	if _, n, err := Resolve(dst, name); err == nil {
		if !n.Mode.IsDir() {
			return false, fmt.Errorf("%s is a file, not a directory: %w", name, errdefs.ErrInvalidArgument)
		}
		return false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if name, err = follow(dst, name, true); err != nil {
		return false, err
	}
	w := &placer{ctx: ctx, root: root, dst: dst, p: Placement{Owner: owner}, dest: name, isDir: true}
	return true, w.write(w.directories)
}

// errSeveral refuses several files for one name.
var errSeveral = fmt.Errorf("when using COPY with more than one source file, the destination must be a directory and end with a /: %w", errdefs.ErrInvalidArgument)

// several reports whether more than one item is to be the destination itself.
func several(items []Item) bool {
	n := 0
	for i := range items {
		if items[i].Rel == "" {
			n++
		}
	}
	return n > 1
}

// CheckDestination refuses several files for one name: archives that are unpacked are none.
func CheckDestination(items []Item, p Placement) error {
	if !p.Unpack && several(items) && !strings.HasSuffix(p.Dest, "/") {
		return errSeveral
	}
	return nil
}

type placer struct {
	ctx   context.Context //nolint:containedctx // lives for one call of Put
	root  string
	dst   *Root
	tree  Tree
	p     Placement
	dest  string
	isDir bool
}

// pipeBuffer is how much goes to the extractor at once, in bytes.
const pipeBuffer = 256 << 10

// write sends a tar to the root's extractor.
func (w *placer) write(fn func(*tar.Writer) error) error {
	pr, pw := io.Pipe()
	sent := make(chan error, 1) // one result
	go func() {
		buf := bufio.NewWriterSize(pw, pipeBuffer) // a pipe hands over each write by itself
		tw := tar.NewWriter(buf)
		err := fn(tw)
		if err == nil {
			err = errors.Join(tw.Close(), buf.Flush())
		}
		pw.CloseWithError(err) // never fails
		sent <- err
	}()
	err := archive.Write(w.root, "/", pr, archive.WriteOptions{NoOverwriteDirNonDir: true})
	pr.CloseWithError(io.ErrClosedPipe) // never fails
	if serr := <-sent; serr != nil && !errors.Is(serr, io.ErrClosedPipe) {
		return serr
	}
	return err
}

// directories makes what is missing of the destination's directory.
func (w *placer) directories(tw *tar.Writer) error {
	dir := w.dest
	if !w.isDir {
		dir = path.Dir(dir)
	}
	var missing []string
	for ; dir != "/"; dir = path.Dir(dir) {
		if _, _, err := Resolve(w.dst, dir); err == nil {
			break
		}
		missing = append(missing, dir)
	}
	mode := int64(0o755)
	if w.p.DirMode != 0 {
		mode = w.p.DirMode
	}
	for _, name := range slices.Backward(missing) {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}
		w.own(h)
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

func (w *placer) own(h *tar.Header) {
	if w.p.Owner != nil {
		h.Uid, h.Gid = w.p.Owner.UID, w.p.Owner.GID
	}
}

// target is where an item goes.
func (w *placer) target(it *Item) string {
	switch {
	case it.Rel != "":
		return path.Join(w.dest, it.Rel)
	case w.isDir:
		return path.Join(w.dest, it.Base)
	}
	return w.dest
}

func (w *placer) item(tw *tar.Writer, it *Item) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	link := it.Link
	info := fileInfo{it}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uid, h.Gid = w.target(it), it.UID, it.GID
	if it.Mode.IsDir() {
		h.Name += "/"
	}
	w.own(h)
	if w.p.Mode != nil && it.Mode&fs.ModeSymlink == 0 {
		h.Mode = w.p.Mode(h.Mode, it.Mode.IsDir())
	}
	if it.Mode&fs.ModeDevice != 0 {
		h.Devmajor, h.Devminor = major(it.Rdev), minor(it.Rdev)
	}
	if a, ok := w.tree.(attributed); ok && it.Mode.IsRegular() {
		attrs, err := a.Xattrs(it.Source)
		if err != nil {
			return err
		}
		for k, v := range attrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattr+k] = v
		}
	}
	if err := tw.WriteHeader(h); err != nil || !it.Mode.IsRegular() {
		return err
	}
	f, err := w.tree.Open(it.Source)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	n, err := io.Copy(tw, io.LimitReader(f, it.Size))
	if err == nil && n < it.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Numbers of a device, as the kernel packs them (makedev(3)).
func major(dev uint64) int64 {
	return int64((dev&0x00000000000fff00)>>8 | (dev&0xfffff00000000000)>>32)
}
func minor(dev uint64) int64 { return int64(dev&0x00000000000000ff | (dev&0x00000ffffff00000)>>12) }

// unpack extracts the archives among the sources and returns the other items.
func (w *placer) unpack(items []Item) ([]Item, error) {
	var rest []Item
	for _, it := range items {
		is := false
		if it.Top && it.Mode.IsRegular() {
			f, err := w.tree.Open(it.Source)
			if err != nil {
				return nil, err
			}
			is, err = isArchive(f)
			_ = f.Close() // only read
			if err != nil {
				return nil, fmt.Errorf("unpack %q: %w", it.Source, err)
			}
		}
		if !is {
			rest = append(rest, it)
			continue
		}
		w.isDir = true
		if _, err := Mkdir(w.ctx, w.root, w.dest, w.p.Owner); err != nil {
			return nil, err
		}
		f, err := w.tree.Open(it.Source)
		if err != nil {
			return nil, err
		}
		err = w.extract(f)
		_ = f.Close() // only read
		if err != nil {
			return nil, fmt.Errorf("unpack %q: %w", it.Source, err)
		}
	}
	return rest, nil
}

// extract writes an archive into the destination. One that is larger than it may be is an
// error of class ErrResourceExhausted.
func (w *placer) extract(r io.Reader) error {
	plain, err := compression.NewReader(bufio.NewReader(r))
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }() // only read
	most := w.p.MaxUnpacked
	if most == 0 {
		most = DefaultMaxUnpacked
	}
	b := &budget{ctx: w.ctx, r: plain, left: most}
	err = archive.Write(w.root, w.dest, b, archive.WriteOptions{Owner: w.p.Owner})
	if b.err != nil {
		return b.err // what the extractor made of it says less
	}
	return err
}

// budget is a reader that refuses to give more than so much.
type budget struct {
	ctx  context.Context //nolint:containedctx // of one call of extract
	r    io.Reader
	left int64
	err  error
}

// Read implements io.Reader.
func (b *budget) Read(p []byte) (int, error) {
	if b.err = b.ctx.Err(); b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.err = fmt.Errorf("the archive has more in it than an ADD may unpack: %w", errdefs.ErrResourceExhausted)
		return 0, b.err
	}
	return n, err
}

// isArchive reports whether r is a tar, perhaps compressed. ErrNotImplemented for a
// compression that cannot be undone.
func isArchive(r io.Reader) (bool, error) {
	plain, err := compression.NewReader(bufio.NewReader(r))
	if errdefs.IsNotImplemented(err) {
		return false, err
	}
	if err != nil {
		return false, nil // it only looked like one
	}
	defer func() { _ = plain.Close() }() // only read
	_, err = tar.NewReader(plain).Next()
	return err == nil, nil
}
