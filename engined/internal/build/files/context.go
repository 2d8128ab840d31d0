package files

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"strata/pkg/compression"
)

// Limits bound a context.
type Limits struct {
	Bytes   int64 // of all files together, unpacked
	Entries int
}

// Context is a build context. Its files belong to root:root, whoever sent them.
type Context struct {
	spool *os.File
	nodes map[string]*entry
	sort  sync.Once
}

type entry struct {
	Node
	offset   int64
	children []string
	attrs    map[string]string // extended attributes
}

// Empty returns a context without files.
func Empty() *Context {
	return &Context{nodes: map[string]*entry{"/": {Node: Node{Mode: fs.ModeDir | 0o755}}}}
}

// Receive reads a tar (plain, gzip, bzip2 or zstd) and keeps its content in a file in
// dir that has no name and vanishes with the process. Close it. Errors are of class
// ErrInvalidArgument for what is no tar, ErrResourceExhausted beyond the limits.
func Receive(r io.Reader, dir string, limits Limits) (_ *Context, err error) {
	c := Empty()
	if c.spool, err = os.CreateTemp(dir, "context-"); err != nil {
		return nil, fmt.Errorf("receive context: %w", err)
	}
	defer func() {
		if err != nil {
			_ = c.spool.Close() // the first error says more
		}
	}()
	if err := os.Remove(c.spool.Name()); err != nil {
		return nil, fmt.Errorf("receive context: %w", err)
	}
	head := bufio.NewReaderSize(r, 64<<10)
	if _, err := head.Peek(1); errors.Is(err, io.EOF) {
		return c, nil // no body at all
	}
	plain, err := compression.NewReader(head)
	if err != nil {
		return nil, fmt.Errorf("receive context: %w", err)
	}
	defer func() { _ = plain.Close() }() // only read
	return c, c.read(plain, limits)
}

func (c *Context) read(r io.Reader, limits Limits) error {
	tr := tar.NewReader(r)
	out := bufio.NewWriterSize(c.spool, 1<<20)
	buf := make([]byte, 256<<10)
	var total int64
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return fmt.Errorf("build context is no tar archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if n >= limits.Entries || h.Size > limits.Bytes-total {
			return fmt.Errorf("build context is larger than %d bytes or %d files: %w", limits.Bytes, limits.Entries, errdefs.ErrResourceExhausted)
		}
		size, err := c.take(h, tr, total, out, buf)
		if err != nil {
			return fmt.Errorf("build context: %q: %w", h.Name, err)
		}
		total += size
	}
}

// take makes a node of one entry and returns how many bytes it added to the spool.
func (c *Context) take(h *tar.Header, content io.Reader, offset int64, out io.Writer, buf []byte) (int64, error) {
	name := path.Clean("/" + h.Name)
	mode := h.FileInfo().Mode()
	e := &entry{Node: Node{Mode: mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky), ModTime: h.ModTime}, offset: offset}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
		if old, ok := c.nodes[name]; ok && old.Mode.IsDir() {
			old.Node = e.Node
			return 0, nil
		}
	case tar.TypeSymlink:
		e.Mode, e.Link = fs.ModeSymlink|0o777, h.Linkname
	case tar.TypeLink:
		old, ok := c.nodes[path.Clean("/"+h.Linkname)]
		if !ok || old.Mode.IsDir() {
			return 0, fmt.Errorf("hard link to %q, which is not there: %w", h.Linkname, errdefs.ErrInvalidArgument)
		}
		again := *old
		e = &again
	case tar.TypeReg:
		e.attrs = attributesOf(h)
		hash := sha256.New()
		n, err := io.CopyBuffer(io.MultiWriter(out, hash), struct{ io.Reader }{content}, buf)
		if err != nil {
			return n, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		e.Size = n
		hash.Sum(e.Digest[:0])
		return n, c.put(name, e)
	default:
		return 0, nil // devices, FIFOs and pax headers say nothing to a build
	}
	return 0, c.put(name, e)
}

// put adds a node and the directories above it that the archive does not name.
func (c *Context) put(name string, e *entry) error {
	if name == "/" {
		if !e.Mode.IsDir() {
			return fmt.Errorf("the root is no directory: %w", errdefs.ErrInvalidArgument)
		}
		return nil
	}
	dir := path.Dir(name)
	parent, ok := c.nodes[dir]
	if !ok {
		parent = &entry{Node: Node{Mode: fs.ModeDir | 0o755, ModTime: e.ModTime}}
		if err := c.put(dir, parent); err != nil {
			return err
		}
	}
	if !parent.Mode.IsDir() {
		return fmt.Errorf("%q is no directory: %w", dir, errdefs.ErrInvalidArgument)
	}
	if old, ok := c.nodes[name]; !ok {
		parent.children = append(parent.children, path.Base(name))
	} else if old.Mode.IsDir() {
		return fmt.Errorf("is there twice, once as a directory: %w", errdefs.ErrInvalidArgument)
	}
	c.nodes[name] = e
	return nil
}

// Remove hides a file.
func (c *Context) Remove(name string) {
	name = path.Clean("/" + name)
	parent, ok := c.nodes[path.Dir(name)]
	if e := c.nodes[name]; !ok || e == nil || e.Mode.IsDir() {
		return
	}
	delete(c.nodes, name)
	parent.children = slices.DeleteFunc(parent.children, func(s string) bool { return s == path.Base(name) })
}

// Size returns how many files there are and how many bytes they have.
func (c *Context) Size() (files int, bytes int64) {
	for _, e := range c.nodes {
		if e.Mode.IsRegular() {
			files, bytes = files+1, bytes+e.Size
		}
	}
	return files, bytes
}

// Close lets go of the content.
func (c *Context) Close() error {
	if c.spool == nil {
		return nil
	}
	return c.spool.Close()
}

func (c *Context) get(name string) (*entry, error) {
	c.sort.Do(func() {
		for _, e := range c.nodes {
			slices.Sort(e.children)
		}
	})
	e, ok := c.nodes[path.Clean("/"+name)]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

// Lstat implements Tree.
func (c *Context) Lstat(name string) (Node, error) {
	e, err := c.get(name)
	if err != nil {
		return Node{}, err
	}
	return e.Node, nil
}

// ReadDir implements Tree.
func (c *Context) ReadDir(name string) ([]string, error) {
	e, err := c.get(name)
	if err != nil {
		return nil, err
	}
	return e.children, nil
}

// Open implements Tree.
func (c *Context) Open(name string) (io.ReadCloser, error) {
	e, err := c.get(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(c.spool, e.offset, e.Size)), nil
}

// Xattrs implements attributed.
func (c *Context) Xattrs(name string) (map[string]string, error) {
	e, err := c.get(name)
	if err != nil {
		return nil, err
	}
	return e.attrs, nil
}
