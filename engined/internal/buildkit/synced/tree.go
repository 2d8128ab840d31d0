package synced

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"strata/engined/internal/build/files"
)

// Tree is a context that has been received. It implements files.Tree, and knows the digest
// of every file. Close it.
type Tree struct {
	entries  []entry
	byName   map[string]int32
	children map[string][]string // by directory; the root's is ""
	segments map[string]*os.File
}

func newTree(entries []entry, segments map[string]*os.File) *Tree {
	t := &Tree{entries: entries, byName: make(map[string]int32, len(entries)), children: map[string][]string{}, segments: segments}
	for i := range entries {
		name := entries[i].name
		t.byName[name] = int32(i) //nolint:gosec // bounded by Limits.Entries
		dir, base := split(name)
		t.children[dir] = append(t.children[dir], base) // sorted, as the walk was
	}
	return t
}

// Missing returns those of paths that are not there, apart from patterns.
func (t *Tree) Missing(paths []string) []string {
	var out []string
	for _, p := range paths {
		if strings.ContainsAny(p, `*?[\`) {
			continue
		}
		if _, _, err := files.Resolve(t, p); errors.Is(err, fs.ErrNotExist) {
			out = append(out, p)
		}
	}
	return out
}

// With returns t with the files of names that it has not. They have no content.
func (t *Tree) With(names *Tree) *Tree {
	all := slices.Clone(t.entries)
	for _, e := range names.entries {
		if _, ok := t.byName[e.name]; !ok {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return compare(a.name, b.name) })
	return newTree(all, t.segments)
}

// Size returns how many regular files there are and how many bytes they have.
func (t *Tree) Size() (n int, size int64) {
	for i := range t.entries {
		if t.entries[i].mode.IsRegular() {
			n, size = n+1, size+t.entries[i].size
		}
	}
	return n, size
}

// Close lets go of the content.
func (t *Tree) Close() error {
	var errs []error
	for _, f := range t.segments {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// get returns the entry of name; nil is the root.
func (t *Tree) get(name string) (*entry, error) {
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		return nil, nil
	}
	i, ok := t.byName[rel]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return &t.entries[i], nil
}

// Lstat implements files.Tree.
func (t *Tree) Lstat(name string) (files.Node, error) {
	e, err := t.get(name)
	if err != nil {
		return files.Node{}, err
	}
	if e == nil {
		return files.Node{Mode: fs.ModeDir | 0o755}, nil
	}
	n := files.Node{Mode: e.mode, Size: e.size, Link: e.link, Digest: e.digest}
	if e.mtime != changed {
		n.ModTime = time.Unix(0, e.mtime)
	}
	return n, nil
}

// ReadDir implements files.Tree.
func (t *Tree) ReadDir(name string) ([]string, error) {
	e, err := t.get(name)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return t.children[""], nil
	}
	return t.children[e.name], nil
}

// Open implements files.Tree.
func (t *Tree) Open(name string) (io.ReadCloser, error) {
	e, err := t.get(name)
	if err != nil {
		return nil, err
	}
	if e == nil || !e.mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if e.size == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	f, ok := t.segments[e.segment]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(f, e.offset, e.size)), nil
}
