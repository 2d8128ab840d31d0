package synced

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// entry is a file of a context.
type entry struct {
	name    string // relative, clean
	link    string // target of a symlink
	attrs   string // extended attributes, as encodeAttrs has them
	mode    fs.FileMode
	mtime   int64 // nanoseconds since 1970, or changed
	size    int64 // bytes
	digest  [sha256.Size]byte
	segment string // where its content is, in the key's directory; "" for none
	offset  int64
	age     uint8 // builds since it was last part of a context
}

// maxAge is after how many builds without it a file of the index is forgotten. Builds of one
// directory with other files (another Dockerfile, another target) come in turns.
const maxAge = 8

// index is what is known of a key.
type index struct {
	description string
	entries     []entry // sorted by compare
}

// An index on disk:
//
//	magic, boot id, description, number of segments, their names, number of entries, entries, SHA-256 of all that
//
// Numbers are varints, strings have their length before them. A segment is a number of the
// list, from 1; zero is none.
const indexMagic = "strata context 2\n"

const indexFile = "index"

// bootID names the time since the machine was started.
var bootID = sync.OnceValue(func() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
})

func (x *index) encode() []byte {
	var segments []string
	number := map[string]uint64{"": 0}
	for i := range x.entries {
		if s := x.entries[i].segment; s != "" && number[s] == 0 {
			segments = append(segments, s)
			number[s] = uint64(len(segments))
		}
	}
	out := []byte(indexMagic)
	str := func(s string) {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	str(bootID())
	str(x.description)
	out = binary.AppendUvarint(out, uint64(len(segments)))
	for _, s := range segments {
		str(s)
	}
	out = binary.AppendUvarint(out, uint64(len(x.entries)))
	for i := range x.entries {
		e := &x.entries[i]
		str(e.name)
		str(e.link)
		str(e.attrs)
		out = binary.AppendUvarint(out, uint64(e.mode))
		out = binary.AppendVarint(out, e.mtime)
		out = binary.AppendUvarint(out, uint64(e.size)) //nolint:gosec // not negative
		out = append(out, e.digest[:]...)
		out = binary.AppendUvarint(out, number[e.segment])
		out = binary.AppendUvarint(out, uint64(e.offset)) //nolint:gosec // not negative
		out = append(out, e.age)
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// decodeIndex reads an index of this boot. Errors are of class ErrDataLoss for what is none.
func decodeIndex(raw []byte) (*index, error) {
	d := &decoder{raw: raw}
	if len(raw) < len(indexMagic)+sha256.Size || !bytes.HasPrefix(raw, []byte(indexMagic)) {
		return nil, fmt.Errorf("index of a context: %w", errdefs.ErrDataLoss)
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(want[:], sum) {
		return nil, fmt.Errorf("index of a context: its digest is wrong: %w", errdefs.ErrDataLoss)
	}
	d.raw = body[len(indexMagic):]
	if boot := d.str(); boot == "" || boot != bootID() {
		return nil, fmt.Errorf("index of a context: of another boot: %w", errdefs.ErrDataLoss)
	}
	x := &index{description: d.str()}
	segments := []string{""}
	for n := d.count(1); n > 0; n-- {
		segments = append(segments, d.str())
	}
	n := d.count(minEntry)
	x.entries = make([]entry, 0, n)
	for ; n > 0 && !d.bad; n-- {
		e := entry{name: d.str(), link: d.str(), attrs: d.str(), mode: fs.FileMode(d.uint())} //nolint:gosec // as it was written
		e.mtime, e.size = d.int(), int64(d.uint())                                            //nolint:gosec // the same
		copy(e.digest[:], d.take(sha256.Size))
		if s := d.uint(); s < uint64(len(segments)) {
			e.segment = segments[s]
		} else {
			d.bad = true
		}
		e.offset = int64(d.uint()) //nolint:gosec // the same
		if age := d.take(1); len(age) == 1 {
			e.age = age[0]
		}
		x.entries = append(x.entries, e)
	}
	if d.bad || len(d.raw) > 0 {
		return nil, fmt.Errorf("index of a context: %w", errdefs.ErrDataLoss)
	}
	return x, nil
}

// minEntry is the least number of bytes of an entry.
const minEntry = sha256.Size + 9

// decoder reads numbers and strings; bad says that there were too few bytes.
type decoder struct {
	raw []byte
	bad bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.raw)
	if n <= 0 {
		d.bad, d.raw = true, nil
		return 0
	}
	d.raw = d.raw[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.raw)
	if n <= 0 {
		d.bad, d.raw = true, nil
		return 0
	}
	d.raw = d.raw[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.raw)) {
		d.bad, d.raw = true, nil
		return nil
	}
	out := d.raw[:n]
	d.raw = d.raw[n:]
	return out
}

func (d *decoder) str() string { return string(d.take(d.uint())) }

// count reads how many things of at least size bytes follow.
func (d *decoder) count(size uint64) uint64 {
	n := d.uint()
	if n > uint64(len(d.raw))/size {
		d.bad, d.raw = true, nil
		return 0
	}
	return n
}

// readIndex returns the index of a key's directory; an empty one if there is none of use.
func readIndex(dir string) *index {
	raw, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		return &index{}
	}
	x, err := decodeIndex(raw)
	if err != nil {
		return &index{} // the client sends again
	}
	return x
}

// write replaces the index of a key's directory.
func (x *index) write(dir string) error {
	tmp := filepath.Join(dir, indexFile+".new")
	if err := os.WriteFile(tmp, x.encode(), 0o600); err != nil {
		return fmt.Errorf("keep index of context: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, indexFile)); err != nil {
		return fmt.Errorf("keep index of context: %w", err)
	}
	return nil
}

// merge returns the index after a build that saw seen; have is what it is to replace. What
// the build did not see is kept for a while. changed reports whether it differs from have.
func merge(have *index, seen []entry, description string) (out *index, differs bool) {
	out = &index{description: description, entries: make([]entry, 0, len(seen))}
	i := 0
	older := func(e entry) {
		if e.age++; e.age <= maxAge && e.mode.IsRegular() {
			out.entries = append(out.entries, e)
		}
		differs = true
	}
	for _, e := range seen {
		for i < len(have.entries) && compare(have.entries[i].name, e.name) < 0 {
			older(have.entries[i])
			i++
		}
		if i < len(have.entries) && have.entries[i].name == e.name {
			differs = differs || have.entries[i] != e
			i++
		} else {
			differs = true
		}
		out.entries = append(out.entries, e)
	}
	for ; i < len(have.entries); i++ {
		older(have.entries[i])
	}
	return out, differs || have.description != description
}

// segmentWriter makes a segment when something is to be written.
type segmentWriter struct {
	dir  string
	name string
	file *os.File
	end  int64
}

// open makes the file.
func (w *segmentWriter) open() error {
	if w.file != nil {
		return nil
	}
	f, err := os.CreateTemp(w.dir, "*"+segmentSuffix)
	if err != nil {
		return fmt.Errorf("keep build context: %w", err)
	}
	w.file, w.name = f, filepath.Base(f.Name())
	return nil
}

const segmentSuffix = ".seg"

// reserve returns where the next size bytes go.
func (w *segmentWriter) reserve(size int64) int64 {
	at := w.end
	w.end += size
	return at
}

// copyInto appends content from another segment.
func (w *segmentWriter) copyInto(from io.ReaderAt, offset, size int64) (int64, error) {
	at := w.reserve(size)
	_, err := io.CopyBuffer(io.NewOffsetWriter(w.file, at), bufio.NewReaderSize(io.NewSectionReader(from, offset, size), 1<<16), make([]byte, 1<<16))
	return at, err
}
