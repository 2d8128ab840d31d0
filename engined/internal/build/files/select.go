package files

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
)

// Wish says which files are wanted.
type Wish struct {
	Sources []string // paths or patterns of path.Match
	Exclude []string // patterns of .dockerignore
	Parents bool     // keep the directories of the sources
}

// Item is one file on its way.
type Item struct {
	Node
	Source string // its path in the tree
	Rel    string // its path below the destination; "" for a file that is the destination itself, unless that is a directory
	Base   string // name to take in that case
	Top    bool   // a source itself, rather than something below one
}

// NotFoundError says that a source is not there.
type NotFoundError struct {
	Name string
	Near []string // names beside it
}

func (e *NotFoundError) Error() string { return strconv.Quote("/"+e.Name) + ": not found" }

// Unwrap gives the error its class.
func (e *NotFoundError) Unwrap() error { return errdefs.ErrNotFound }

// Select returns the wanted files of t in the order in which they are to be made. A
// pattern that nothing matches selects nothing; a path that is not there is a
// *NotFoundError.
func Select(t Tree, w Wish) ([]Item, error) {
	s := &selector{tree: t, wish: w, seen: map[string]bool{}}
	if len(w.Exclude) > 0 {
		m, err := patternmatcher.New(w.Exclude)
		if err != nil {
			return nil, fmt.Errorf("exclude: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		s.exclude = m
	}
	for _, src := range w.Sources {
		pivots := []string{""}
		if before, after, ok := strings.Cut("/"+strings.TrimPrefix(src, "/"), "/./"); ok && w.Parents {
			list, err := s.match(before)
			if err != nil {
				return nil, err
			}
			pivots, src = list, path.Clean("/"+after)
		}
		for _, pivot := range pivots {
			names, err := s.matchBelow(pivot, src)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if err := s.source(name, pivot); err != nil {
					return nil, err
				}
			}
		}
	}
	return s.items, nil
}

type selector struct {
	tree    Tree
	wish    Wish
	exclude *patternmatcher.PatternMatcher
	items   []Item
	seen    map[string]bool // directories of --parents
}

func hasMeta(s string) bool { return strings.ContainsAny(s, `*?[\`) }

// match returns the paths that a source means.
func (s *selector) match(src string) ([]string, error) { return s.matchBelow("", src) }

// matchBelow returns the paths that a source means in directory top. With --parents, "**" is
// any number of directories.
func (s *selector) matchBelow(top, src string) ([]string, error) {
	clean := path.Clean("/" + src)
	if !hasMeta(clean) {
		return []string{path.Join("/", top, clean)}, nil
	}
	found := []string{path.Join("/", top)}
	for part := range strings.SplitSeq(strings.Trim(clean, "/"), "/") {
		var next []string
		for _, dir := range found {
			if part == "**" && s.wish.Parents {
				below, err := s.directories(dir, 0)
				if err != nil {
					return nil, err
				}
				next = append(next, below...)
				continue
			}
			if !hasMeta(part) {
				next = append(next, path.Join(dir, part))
				continue
			}
			at, n, err := Resolve(s.tree, dir)
			if err != nil || !n.Mode.IsDir() {
				continue
			}
			names, err := s.tree.ReadDir(at)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				ok, err := path.Match(part, name)
				if err != nil {
					return nil, fmt.Errorf("pattern %q: %w: %w", src, err, errdefs.ErrInvalidArgument)
				}
				if ok {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		found = next
	}
	return slices.DeleteFunc(found, func(name string) bool { _, _, err := Resolve(s.tree, name); return err != nil }), nil
}

// maxDepth bounds directories in directories.
const maxDepth = 256

// directories returns dir and the directories below it.
func (s *selector) directories(dir string, depth int) ([]string, error) {
	at, n, err := Resolve(s.tree, dir)
	if err != nil || !n.Mode.IsDir() || depth > maxDepth {
		return nil, nil //nolint:nilerr // nothing matches there
	}
	out := []string{dir}
	names, err := s.tree.ReadDir(at)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if n, err := s.tree.Lstat(path.Join(at, name)); err != nil || !n.Mode.IsDir() { // through no symlink
			continue
		}
		below, err := s.directories(path.Join(dir, name), depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}

// source adds one source and what is below it.
func (s *selector) source(name, pivot string) error {
	at, n, err := Resolve(s.tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		e := &NotFoundError{Name: strings.TrimPrefix(name, "/")}
		if dir, _, derr := Resolve(s.tree, path.Dir(name)); derr == nil {
			near, _ := s.tree.ReadDir(dir) // only a hint
			for _, b := range near {
				e.Near = append(e.Near, strings.TrimPrefix(path.Join(path.Dir(name), b), "/"))
			}
		}
		return e
	}
	if err != nil {
		return err
	}
	rel := ""
	if s.wish.Parents {
		rel = strings.TrimPrefix(strings.TrimPrefix(name, strings.TrimSuffix(pivot, "/")), "/")
		if err := s.parents(name, rel); err != nil {
			return err
		}
	}
	if n.Mode.IsDir() {
		return s.children(at, rel, "")
	}
	if s.excluded(path.Base(name)) {
		return nil
	}
	return s.add(Item{Node: n, Source: at, Rel: rel, Base: path.Base(name), Top: true})
}

// parents adds the directories above a source that --parents keeps.
func (s *selector) parents(name, rel string) error {
	base := strings.TrimSuffix(name, rel)
	for i := 0; i <= len(rel); i++ {
		if i < len(rel) && rel[i] != '/' || s.seen[rel[:i]] || i == 0 {
			continue
		}
		at, n, err := Resolve(s.tree, base+rel[:i])
		if err != nil {
			return err
		}
		if !n.Mode.IsDir() {
			return nil
		}
		s.seen[rel[:i]] = true
		if err := s.add(Item{Node: n, Source: at, Rel: rel[:i]}); err != nil {
			return err
		}
	}
	return nil
}

func (s *selector) excluded(rel string) bool {
	if s.exclude == nil {
		return false
	}
	ok, err := s.exclude.MatchesOrParentMatches(rel)
	return err == nil && ok
}

// children adds what is in directory dir.
func (s *selector) children(dir, rel, below string) error {
	names, err := s.tree.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		at := path.Join(dir, name)
		n, err := s.tree.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		inner := path.Join(below, name)
		out := s.excluded(inner)
		if out && (!n.Mode.IsDir() || !s.exclude.Exclusions()) {
			continue
		}
		if !out {
			if err := s.add(Item{Node: n, Source: at, Rel: path.Join(rel, name)}); err != nil {
				return err
			}
		}
		if n.Mode.IsDir() {
			if err := s.children(at, path.Join(rel, name), inner); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxItems bounds one COPY.
const maxItems = 10_000_000

func (s *selector) add(it Item) error {
	if len(s.items) >= maxItems {
		return fmt.Errorf("more than %d files: %w", maxItems, errdefs.ErrResourceExhausted)
	}
	if it.Mode&fs.ModeSocket == 0 {
		s.items = append(s.items, it)
	}
	return nil
}

// Digest says what the items are: names, types, owners, permissions, contents. Times do
// not matter. Files of a Root are read for it.
func Digest(ctx context.Context, t Tree, items []Item) (digest.Digest, error) {
	h := sha256.New()
	for i := range items {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if err := items[i].hash(h, t); err != nil {
			return "", fmt.Errorf("hash %q: %w", items[i].Source, err)
		}
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// hash writes what matters of an item, each field with its length.
func (it *Item) hash(h hash.Hash, t Tree) error {
	field := func(s string) {
		_ = binary.Write(h, binary.LittleEndian, uint32(len(s))) // a hash never fails
		_, _ = io.WriteString(h, s)
	}
	field(it.Rel)
	field(it.Base)
	for _, n := range []int64{int64(it.Mode), int64(it.UID), int64(it.GID), int64(it.Rdev)} {
		_ = binary.Write(h, binary.LittleEndian, n)
	}
	field(it.Link)
	if !it.Mode.IsRegular() {
		return nil
	}
	if it.Node.Digest == [32]byte{} {
		f, err := t.Open(it.Source)
		if err != nil {
			return err
		}
		content := sha256.New()
		_, err = io.Copy(content, f)
		_ = f.Close() // only read
		if err != nil {
			return err
		}
		content.Sum(it.Node.Digest[:0])
	}
	_, _ = h.Write(it.Node.Digest[:])
	if a, ok := t.(attributed); ok {
		attrs, err := a.Xattrs(it.Source)
		if err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(attrs)) {
			field(k)
			field(attrs[k])
		}
	}
	return nil
}
