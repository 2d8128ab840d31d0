package synced

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"strata/pkg/buildkit/transfer"
	"strata/pkg/ctxlog"
)

// Store keeps contexts in a directory. It is safe for concurrent use; only one process may
// have it.
type Store struct {
	dir    string
	limit  int64
	limits Limits

	mu    sync.Mutex
	inUse map[string]int         // trees and transfers of a key
	locks map[string]*sync.Mutex // of a key's index
}

// Open returns the store in dir, which is made when something is kept. limit bounds what all
// keys together may have, in bytes, limits one context.
func Open(dir string, limit int64, limits Limits) *Store {
	stray, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix)) // the pattern is good
	for _, name := range stray {
		_ = os.Remove(name) // of Once, and of an engine that died
	}
	return &Store{dir: dir, limit: limit, limits: limits, inUse: map[string]int{}, locks: map[string]*sync.Mutex{}}
}

// Key says whose directory a context is. Description is for people.
type Key struct {
	Name        string
	Description string
}

func (k Key) id() string {
	sum := sha256.Sum256([]byte(k.Name))
	return hex.EncodeToString(sum[:16])
}

// Receive speaks the protocol on stream and returns what the client has. said is told how
// many bytes of content have come; nil for nobody. Close the tree. Errors are of class
// ErrInvalidArgument for a client that breaks the protocol or cannot read a file,
// ErrResourceExhausted beyond the limits.
func (s *Store) Receive(ctx context.Context, k Key, stream transfer.Stream, said func(int64)) (*Tree, func(), error) {
	id := k.id()
	release := s.use(id)
	t, err := s.receive(ctx, k, stream, said)
	if err != nil {
		release()
		return nil, nil, err
	}
	return t, func() {
		_ = t.Close() // only read
		release()
	}, nil
}

// receive is Receive's work. Preconditions: the context is in use.
func (s *Store) receive(ctx context.Context, k Key, stream transfer.Stream, said func(int64)) (*Tree, error) {
	id := k.id()
	dir := filepath.Join(s.dir, id)
	lock := s.lock(id)
	lock.Lock()
	err := os.MkdirAll(dir, 0o700)
	have := readIndex(dir)
	segments, oerr := openSegments(dir, have)
	lock.Unlock()
	if err != nil {
		return nil, fmt.Errorf("keep build context: %w", err)
	}
	if oerr != nil {
		have, segments = &index{}, map[string]*os.File{} // the client sends again
	}
	r := &receiver{stream: stream, limits: s.limits, old: have.entries, seg: &segmentWriter{dir: dir}, said: said}
	err = r.run(ctx)
	if r.seg.file != nil {
		segments[r.seg.name] = r.seg.file
	}
	t := newTree(r.entries, segments)
	if err == nil {
		lock.Lock()
		err = commit(dir, r.entries, k.Description)
		lock.Unlock()
	}
	if err != nil {
		if r.seg.file != nil {
			_ = os.Remove(r.seg.file.Name()) // or the next commit does
		}
		_ = t.Close() // the first error says more
		return nil, err
	}
	if err := s.shrink(id); err != nil {
		ctxlog.From(ctx).Warn("kept build contexts were not brought below their limit; the next build will", ctxlog.Error, err)
	}
	return t, nil
}

// Once is Receive for a few files that are not worth keeping.
func (s *Store) Once(ctx context.Context, stream transfer.Stream, said func(int64)) (*Tree, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep build context: %w", err)
	}
	r := &receiver{stream: stream, limits: s.limits, seg: &segmentWriter{dir: s.dir}, said: said}
	err := r.run(ctx)
	segments := map[string]*os.File{}
	if r.seg.file != nil {
		segments[r.seg.name] = r.seg.file
		err = errors.Join(err, os.Remove(r.seg.file.Name()))
	}
	t := newTree(r.entries, segments)
	if err != nil {
		_ = t.Close() // the first error says more
		return nil, err
	}
	return t, nil
}

// Names receives what files look like, without their content.
func (s *Store) Names(ctx context.Context, stream transfer.Stream) (*Tree, error) {
	r := &receiver{stream: stream, limits: s.limits, seg: &segmentWriter{}, names: true}
	err := r.run(ctx)
	return newTree(r.entries, nil), err
}

func (s *Store) lock(id string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[id] == nil {
		s.locks[id] = &sync.Mutex{}
	}
	return s.locks[id]
}

// use keeps a key from being removed.
func (s *Store) use(id string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.inUse[id]--; s.inUse[id] <= 0 {
			delete(s.inUse, id)
		}
	}
}

// openSegments opens all that an index names.
func openSegments(dir string, x *index) (map[string]*os.File, error) {
	out := map[string]*os.File{}
	for i := range x.entries {
		name := x.entries[i].segment
		if name == "" || out[name] != nil {
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			for _, f := range out {
				_ = f.Close() // only read
			}
			return nil, err
		}
		out[name] = f
	}
	return out, nil
}

// commit makes what a build has seen part of the index that is there now, and removes the
// segments that nobody names. Preconditions: the key's lock is held.
func commit(dir string, seen []entry, description string) error {
	there, err := segmentSizes(dir)
	if err != nil {
		return err
	}
	have := readIndex(dir)
	// A build beside this one may have removed what this one has read from.
	lasting := slices.DeleteFunc(slices.Clone(seen), func(e entry) bool {
		_, ok := there[e.segment]
		return e.segment != "" && !ok
	})
	next, differs := merge(have, lasting, description)
	if !differs {
		now := time.Now()
		if err := os.Chtimes(filepath.Join(dir, indexFile), now, now); err == nil { // when it was last used
			return nil
		}
	}
	if err := compact(dir, next, there); err != nil {
		return err
	}
	if err := next.write(dir); err != nil {
		return err
	}
	named := map[string]bool{}
	for i := range next.entries {
		named[next.entries[i].segment] = true
	}
	for name := range there {
		if !named[name] {
			err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
		}
	}
	return err
}

func segmentSizes(dir string) (map[string]int64, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("keep build context: %w", err)
	}
	out := map[string]int64{}
	for _, d := range list {
		if !strings.HasSuffix(d.Name(), segmentSuffix) {
			continue
		}
		info, err := d.Info()
		if err != nil {
			return nil, fmt.Errorf("keep build context: %w", err)
		}
		out[d.Name()] = info.Size()
	}
	return out, nil
}

// Segments beyond maxSegments are put together; a segment is small if it has less than
// 1/smallPart of the content. More than maxWaste bytes that nobody names, and more than what
// is named, are let go of.
const (
	maxSegments = 12
	smallPart   = 4
	maxWaste    = 64 << 20
)

// compact moves content of small or mostly forgotten segments to a new one.
func compact(dir string, x *index, there map[string]int64) error {
	live, all := map[string]int64{}, int64(0)
	for i := range x.entries {
		if e := &x.entries[i]; e.segment != "" {
			live[e.segment] += e.size
			all += e.size
		}
	}
	moves := map[string]bool{}
	for name, n := range live {
		wasted := there[name] - n
		if len(live) > maxSegments && n < all/smallPart || wasted > maxWaste && wasted > n {
			moves[name] = true
		}
	}
	if len(moves) == 0 {
		return nil
	}
	from, err := openSegments(dir, &index{entries: slices.DeleteFunc(slices.Clone(x.entries), func(e entry) bool { return !moves[e.segment] })})
	if err != nil {
		return fmt.Errorf("put kept context together: %w", err)
	}
	w := &segmentWriter{dir: dir}
	if err = w.open(); err != nil {
		return err
	}
	for i := range x.entries {
		e := &x.entries[i]
		if !moves[e.segment] {
			continue
		}
		f := from[e.segment]
		e.segment = w.name
		if e.offset, err = w.copyInto(f, e.offset, e.size); err != nil {
			err = fmt.Errorf("put kept context together: %w", err)
			break
		}
	}
	for _, f := range from {
		_ = f.Close() // only read
	}
	return errors.Join(err, w.file.Close())
}

// Usage is what one key has.
type Usage struct {
	ID          string
	Description string
	Size        int64 // bytes
	InUse       bool
	LastUsed    time.Time
}

// Usage lists the keys, the least recently used first.
func (s *Store) Usage() ([]Usage, error) {
	out, err := s.sizes()
	for i := range out {
		out[i].Description = readIndex(filepath.Join(s.dir, out[i].ID)).description
	}
	return out, err
}

// sizes is Usage without descriptions, which are in the indexes.
func (s *Store) sizes() ([]Usage, error) {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	var out []Usage
	for _, d := range list {
		if !d.IsDir() {
			continue
		}
		dir := filepath.Join(s.dir, d.Name())
		sizes, err := segmentSizes(dir)
		if err != nil {
			return out, err
		}
		u := Usage{ID: d.Name()}
		for _, n := range sizes {
			u.Size += n
		}
		if info, err := os.Stat(filepath.Join(dir, indexFile)); err == nil {
			u.Size += info.Size()
			u.LastUsed = info.ModTime().UTC()
		}
		s.mu.Lock()
		u.InUse = s.inUse[u.ID] > 0
		s.mu.Unlock()
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b Usage) int { return a.LastUsed.Compare(b.LastUsed) })
	return out, nil
}

// Remove removes a key unless it is in use.
func (s *Store) Remove(id string) (removed bool, err error) {
	lock := s.lock(id)
	lock.Lock()
	defer lock.Unlock()
	s.mu.Lock()
	busy := s.inUse[id] > 0
	s.mu.Unlock()
	if busy || filepath.Base(id) != id {
		return false, nil
	}
	// A build of this key that begins now makes the directory again, or finds none of it and
	// waits for the lock.
	return true, os.RemoveAll(filepath.Join(s.dir, id))
}

// shrink removes the least recently used keys until the rest is within the limit.
func (s *Store) shrink(but string) error {
	list, err := s.sizes()
	if err != nil {
		return err
	}
	total := int64(0)
	for _, u := range list {
		total += u.Size
	}
	for _, u := range list {
		if total <= s.limit {
			break
		}
		if u.ID == but {
			continue
		}
		removed, err := s.Remove(u.ID)
		if err != nil {
			return err
		}
		if removed {
			total -= u.Size
		}
	}
	return nil
}
