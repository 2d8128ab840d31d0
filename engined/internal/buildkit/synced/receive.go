package synced

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/buildkit/transfer"
)

// Limits bound one context.
type Limits struct {
	Bytes   int64 // of all files together
	Entries int
}

// maxName bounds a path and a symlink's target, in bytes: PATH_MAX.
const maxName = 4096

// receiver is one run of the protocol.
type receiver struct {
	stream transfer.Stream
	limits Limits
	old    []entry // sorted as the client walks
	next   int     // in old
	seg    *segmentWriter
	said   func(bytes int64) // progress
	names  bool              // no content is wanted

	entries []entry
	links   map[int]string // entries that are hard links, and of what
	pending map[uint32]*pending
	claimed int64
	got     int64
	last    string
	dirs    []string // open directories, the root's "" first
	ended   bool     // the client has said all names
}

// pending is a file that was asked for.
type pending struct {
	at     int // in entries
	hash   hash.Hash
	offset int64
	size   int64 // as the client said
	have   int64
}

// run speaks the protocol to its end. Errors are of class ErrInvalidArgument for a client
// that breaks it, ErrResourceExhausted beyond the limits.
func (r *receiver) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	asks := transfer.NewQueue()
	g.Go(func() error { return asks.Drain(ctx, r.stream) })
	g.Go(func() error {
		err := r.receive(asks)
		if err != nil {
			asks.Add(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_ERR, Data: []byte(err.Error())})
		}
		asks.End()
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return r.link()
}

// receive reads packets until the client has answered the end.
func (r *receiver) receive(asks *transfer.Queue) error {
	r.pending = map[uint32]*pending{}
	r.dirs = []string{""}
	for {
		p, err := r.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the files broke off: %w", errdefs.ErrUnavailable)
			}
			return err
		}
		switch p.Type {
		case sessionpb.Packet_PACKET_ERR:
			return fmt.Errorf("the client: %s: %w", p.Data, errdefs.ErrInvalidArgument)
		case sessionpb.Packet_PACKET_STAT:
			err = r.stat(p.Stat, asks)
		case sessionpb.Packet_PACKET_DATA:
			err = r.data(p)
		case sessionpb.Packet_PACKET_FIN:
			return r.drain()
		default:
			err = fmt.Errorf("packet of type %d: %w", p.Type, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return err
		}
		if r.ended && len(r.pending) == 0 {
			asks.Add(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_FIN})
		}
	}
}

// drain reads what the client says after the end.
func (r *receiver) drain() error {
	if !r.ended || len(r.pending) > 0 {
		return fmt.Errorf("end before all files were sent: %w", errdefs.ErrInvalidArgument)
	}
	for {
		if _, err := r.stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// stat takes a name; nil is the end of them.
func (r *receiver) stat(st *sessionpb.Stat, asks *transfer.Queue) error {
	if r.ended {
		return fmt.Errorf("a name after the last one: %w", errdefs.ErrInvalidArgument)
	}
	if st == nil {
		r.ended = true
		return nil
	}
	id := len(r.entries)
	if id >= r.limits.Entries {
		return fmt.Errorf("build context has more than %d files: %w", r.limits.Entries, errdefs.ErrResourceExhausted)
	}
	attrs, err := encodeAttrs(st)
	if err != nil {
		return err
	}
	mode := fs.FileMode(st.Mode)
	if err := r.inOrder(st.Path, mode); err != nil {
		return err
	}
	if len(st.Linkname) > maxName || st.Size < 0 {
		return fmt.Errorf("%q: %w", st.Path, errdefs.ErrInvalidArgument)
	}
	e := entry{name: st.Path, mode: mode & (fs.ModeType | fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky), mtime: st.ModTime, attrs: attrs}
	switch {
	case mode.IsDir():
	case mode&fs.ModeSymlink != 0:
		e.link = st.Linkname
	case mode.IsRegular() && st.Linkname != "":
		if r.links == nil {
			r.links = map[int]string{}
		}
		r.links[id] = st.Linkname
	case mode.IsRegular():
		e.size = st.Size
		if !r.names && !r.known(&e) {
			if err := r.ask(id, &e, asks); err != nil {
				return err
			}
		}
	}
	r.entries = append(r.entries, e)
	return nil
}

// inOrder refuses names that are no clean relative path, that come out of order, or whose
// directory did not come before.
func (r *receiver) inOrder(name string, mode fs.FileMode) error {
	if name == "" || len(name) > maxName || path.Clean(name) != name || path.IsAbs(name) || name == "." || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%q is no name of a file: %w", name, errdefs.ErrInvalidArgument)
	}
	if compare(r.last, name) >= 0 {
		return fmt.Errorf("%q after %q: %w", name, r.last, errdefs.ErrInvalidArgument)
	}
	dir, _ := split(name)
	for len(r.dirs) > 1 && r.dirs[len(r.dirs)-1] != dir {
		r.dirs = r.dirs[:len(r.dirs)-1]
	}
	if r.dirs[len(r.dirs)-1] != dir {
		return fmt.Errorf("%q without its directory: %w", name, errdefs.ErrInvalidArgument)
	}
	if mode.IsDir() {
		r.dirs = append(r.dirs, name)
	}
	r.last = name
	return nil
}

// split is path.Split without a slash at the end of the directory.
func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// compare orders names as a walk meets them: a directory's files come before what sorts
// after the directory.
func compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		switch x, y := a[i], b[i]; {
		case x == y:
		case x == '/' || y != '/' && x < y:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}

// known takes the content of a file that looks as it did.
func (r *receiver) known(e *entry) bool {
	for r.next < len(r.old) && compare(r.old[r.next].name, e.name) < 0 {
		r.next++
	}
	if r.next == len(r.old) || r.old[r.next].name != e.name {
		return false
	}
	o := &r.old[r.next]
	if !o.mode.IsRegular() || o.size != e.size || o.mtime != e.mtime || o.mode != e.mode {
		return false
	}
	e.digest, e.segment, e.offset = o.digest, o.segment, o.offset
	return true
}

// ask asks for a file's content.
func (r *receiver) ask(id int, e *entry, asks *transfer.Queue) error {
	if e.size > r.limits.Bytes-r.claimed {
		return fmt.Errorf("build context is larger than %d bytes: %w", r.limits.Bytes, errdefs.ErrResourceExhausted)
	}
	r.claimed += e.size
	if err := r.seg.open(); err != nil {
		return err
	}
	p := &pending{at: id, hash: sha256.New(), offset: r.seg.reserve(e.size), size: e.size}
	e.segment, e.offset = r.seg.name, p.offset
	r.pending[uint32(id)] = p                                                      //nolint:gosec // bounded by limits.Entries
	asks.Add(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_REQ, ID: uint32(id)}) //nolint:gosec // the same
	return nil
}

// data takes a piece of a file's content; an empty one ends it.
func (r *receiver) data(d *sessionpb.Packet) error {
	p, ok := r.pending[d.ID]
	if !ok {
		return fmt.Errorf("content of file %d, which nobody asked for: %w", d.ID, errdefs.ErrInvalidArgument)
	}
	if len(d.Data) == 0 {
		delete(r.pending, d.ID)
		return r.complete(p)
	}
	piece := d.Data
	if left := p.size - p.have; int64(len(piece)) > left {
		piece = piece[:left] // it grew while it was sent: what it was is enough
		r.entries[p.at].mtime = changed
	}
	if _, err := r.seg.file.WriteAt(piece, p.offset+p.have); err != nil {
		return fmt.Errorf("keep build context: %w", err)
	}
	p.hash.Write(piece)
	p.have += int64(len(piece))
	r.got += int64(len(d.Data))
	if r.said != nil {
		r.said(r.got)
	}
	return nil
}

// changed is the time of a file that is to be asked for again.
const changed = -1 << 63

func (r *receiver) complete(p *pending) error {
	e := &r.entries[p.at]
	if p.have == 0 && p.size > 0 {
		return fmt.Errorf("the client could not read %q: %w", e.name, errdefs.ErrInvalidArgument)
	}
	if p.have < p.size { // it shrank
		e.size, e.mtime = p.have, changed
	}
	p.hash.Sum(e.digest[:0])
	return nil
}

// link gives hard links the content of what they are links of.
func (r *receiver) link() error {
	if len(r.links) == 0 {
		return nil
	}
	byName := make(map[string]int, len(r.entries))
	for i := range r.entries {
		byName[r.entries[i].name] = i
	}
	for i := range r.entries { // a link comes after what it is a link of
		to, ok := r.links[i]
		if !ok {
			continue
		}
		j, ok := byName[to]
		if !ok || j >= i || !r.entries[j].mode.IsRegular() {
			return fmt.Errorf("%q is a hard link of %q, which is not there: %w", r.entries[i].name, to, errdefs.ErrInvalidArgument)
		}
		e, o := &r.entries[i], &r.entries[j]
		e.size, e.digest, e.segment, e.offset = o.size, o.digest, o.segment, o.offset
	}
	return nil
}
