package files

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// WriteTar writes all of t, but for sockets, to tw. Names are relative.
func WriteTar(ctx context.Context, tw *tar.Writer, t Tree) error {
	items, err := Select(t, Wish{Sources: []string{"/"}})
	if err != nil {
		return err
	}
	w := &placer{ctx: ctx, tree: t, dest: "."}
	for i := range items {
		if err := w.item(tw, &items[i]); err != nil {
			return fmt.Errorf("write %q: %w", items[i].Source, err)
		}
	}
	return nil
}

// NotAfter is t whose files are no younger than latest; zero changes nothing.
func NotAfter(t Tree, latest time.Time) Tree {
	if latest.IsZero() {
		return t
	}
	return clamped{t, latest}
}

type clamped struct {
	Tree
	latest time.Time
}

// Lstat implements Tree.
func (c clamped) Lstat(name string) (Node, error) {
	n, err := c.Tree.Lstat(name)
	if n.ModTime.After(c.latest) {
		n.ModTime = c.latest
	}
	return n, err
}

// Xattrs implements attributed.
func (c clamped) Xattrs(name string) (map[string]string, error) {
	if a, ok := c.Tree.(attributed); ok {
		return a.Xattrs(name)
	}
	return nil, nil
}

// Beside is one tree with each of the given ones in a directory of its own at the root.
func Beside(trees map[string]Tree) Tree { return beside(trees) }

type beside map[string]Tree

func (b beside) find(name string) (Tree, string, error) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	t, ok := b[first]
	if !ok {
		return nil, "", &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return t, "/" + rest, nil
}

// Lstat implements Tree.
func (b beside) Lstat(name string) (Node, error) {
	if path.Clean("/"+name) == "/" {
		return Node{Mode: fs.ModeDir | 0o755, ModTime: time.Unix(0, 0)}, nil
	}
	t, inner, err := b.find(name)
	if err != nil {
		return Node{}, err
	}
	return t.Lstat(inner)
}

// ReadDir implements Tree.
func (b beside) ReadDir(name string) ([]string, error) {
	if path.Clean("/"+name) == "/" {
		return slices.Sorted(maps.Keys(b)), nil
	}
	t, inner, err := b.find(name)
	if err != nil {
		return nil, err
	}
	return t.ReadDir(inner)
}

// Open implements Tree.
func (b beside) Open(name string) (io.ReadCloser, error) {
	t, inner, err := b.find(name)
	if err != nil {
		return nil, err
	}
	return t.Open(inner)
}

// Xattrs implements attributed.
func (b beside) Xattrs(name string) (map[string]string, error) {
	t, inner, err := b.find(name)
	if err != nil {
		return nil, err
	}
	if a, ok := t.(attributed); ok {
		return a.Xattrs(inner)
	}
	return nil, nil
}

// With returns t with one more file in its root, for everybody to read. t has none of that
// name.
func With(t Tree, name string, data []byte, at time.Time) Tree { return with{t, name, data, at} }

type with struct {
	Tree
	name string
	data []byte
	at   time.Time
}

// Lstat implements Tree.
func (w with) Lstat(name string) (Node, error) {
	if path.Clean("/"+name) == "/"+w.name {
		return Node{Mode: 0o644, Size: int64(len(w.data)), ModTime: w.at}, nil
	}
	return w.Tree.Lstat(name)
}

// ReadDir implements Tree.
func (w with) ReadDir(name string) ([]string, error) {
	list, err := w.Tree.ReadDir(name)
	if err == nil && path.Clean("/"+name) == "/" {
		list = append(slices.Clone(list), w.name)
		slices.Sort(list)
	}
	return list, err
}

// Open implements Tree.
func (w with) Open(name string) (io.ReadCloser, error) {
	if path.Clean("/"+name) == "/"+w.name {
		return io.NopCloser(bytes.NewReader(w.data)), nil
	}
	return w.Tree.Open(name)
}

// Xattrs implements attributed.
func (w with) Xattrs(name string) (map[string]string, error) {
	if a, ok := w.Tree.(attributed); ok && path.Clean("/"+name) != "/"+w.name {
		return a.Xattrs(name)
	}
	return nil, nil
}

// Matcher tells files apart: patternmatcher.PatternMatcher is one.
type Matcher interface {
	MatchesOrParentMatches(name string) (bool, error)
	Exclusions() bool
}

// Without is t without the files that m matches. A directory that is left out is seen
// nonetheless if something below it may not be.
func Without(t Tree, m Matcher) Tree { return &without{Tree: t, m: m} }

type without struct {
	Tree
	m Matcher
}

func (w *without) hidden(name string) bool {
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		return false
	}
	out, err := w.m.MatchesOrParentMatches(rel)
	return err == nil && out
}

// Lstat implements Tree.
func (w *without) Lstat(name string) (Node, error) {
	n, err := w.Tree.Lstat(name)
	if err == nil && w.hidden(name) && (!n.Mode.IsDir() || !w.m.Exclusions() || !w.holds(name)) {
		return Node{}, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return n, err
}

// holds reports whether something below a hidden directory is not hidden.
func (w *without) holds(dir string) bool {
	names, err := w.Tree.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, name := range names {
		at := path.Join(dir, name)
		if !w.hidden(at) {
			return true
		}
		if n, err := w.Tree.Lstat(at); err == nil && n.Mode.IsDir() && w.holds(at) {
			return true
		}
	}
	return false
}

// ReadDir implements Tree.
func (w *without) ReadDir(name string) ([]string, error) {
	names, err := w.Tree.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if _, err := w.Lstat(path.Join(name, n)); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// OwnedByRoot is t whose files belong to root:root, as those of every context do.
func OwnedByRoot(t Tree) Tree { return ownedByRoot{t} }

type ownedByRoot struct{ Tree }

// Lstat implements Tree.
func (r ownedByRoot) Lstat(name string) (Node, error) {
	n, err := r.Tree.Lstat(name)
	n.UID, n.GID = 0, 0
	return n, err
}
