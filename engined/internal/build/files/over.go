package files

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Over is lower with what upper has beside it, or in its place: directories are merged,
// and of two of them the upper one's mode and time are seen.
func Over(lower, upper Tree) Tree { return over{lower, upper} }

type over struct{ lower, upper Tree }

// of returns the tree that has name.
func (o over) of(name string) Tree {
	if o.above(name) {
		return o.upper
	}
	return o.lower
}

// above reports whether it is upper that has name.
func (o over) above(name string) bool {
	if _, err := o.upper.Lstat(name); err == nil {
		return true
	}
	// Below something of upper's that is no directory, lower is not seen.
	for dir := path.Dir(path.Clean("/" + name)); dir != "/"; dir = path.Dir(dir) {
		if n, err := o.upper.Lstat(dir); err == nil && !n.Mode.IsDir() {
			return true
		}
	}
	return false
}

// Lstat implements Tree.
func (o over) Lstat(name string) (Node, error) { return o.of(name).Lstat(name) }

// Open implements Tree.
func (o over) Open(name string) (io.ReadCloser, error) { return o.of(name).Open(name) }

// ReadDir implements Tree.
func (o over) ReadDir(name string) ([]string, error) {
	out, err := o.of(name).ReadDir(name)
	if err != nil || !o.above(name) {
		return out, err
	}
	if n, lerr := o.lower.Lstat(name); lerr != nil || !n.Mode.IsDir() {
		return out, nil //nolint:nilerr // upper alone has it
	}
	more, err := o.lower.ReadDir(name)
	out = append(out, more...)
	slices.Sort(out)
	return slices.Compact(out), err
}

// Xattrs implements attributed.
func (o over) Xattrs(name string) (map[string]string, error) {
	if a, ok := o.of(name).(attributed); ok {
		return a.Xattrs(name)
	}
	return nil, nil
}

// Clash returns a name that both trees have, but for directories; "" if there is none.
func Clash(a, b Tree) (string, error) {
	items, err := Select(a, Wish{Sources: []string{"/"}})
	if err != nil {
		return "", err
	}
	for i := range items {
		n, err := b.Lstat(items[i].Source)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if !n.Mode.IsDir() || !items[i].Mode.IsDir() {
			return items[i].Source, nil
		}
	}
	return "", nil
}

// Single is a tree of one file at its root.
func Single(name, text string, mode fs.FileMode, at time.Time) Tree {
	return single{name: "/" + name, text: text, node: Node{Mode: mode, Size: int64(len(text)), ModTime: at}}
}

type single struct {
	name, text string
	node       Node
}

// Lstat implements Tree.
func (s single) Lstat(name string) (Node, error) {
	switch path.Clean("/" + name) {
	case "/":
		return Node{Mode: fs.ModeDir | 0o755, ModTime: s.node.ModTime}, nil
	case s.name:
		return s.node, nil
	}
	return Node{}, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements Tree.
func (s single) ReadDir(name string) ([]string, error) {
	if path.Clean("/"+name) != "/" {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return []string{path.Base(s.name)}, nil
}

// Open implements Tree.
func (s single) Open(name string) (io.ReadCloser, error) {
	if path.Clean("/"+name) != s.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(strings.NewReader(s.text)), nil
}
