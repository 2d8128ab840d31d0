// Package logs writes a container's log file: lines as records of pkg/jsonlog, with
// rotation.
//
// It owns the file, its rotated ones and the assembly of lines. It refuses to know where
// bytes come from. Invariants: a record is whole in the file or not there; a full disk
// never stops the caller: records are dropped and counted, and a record that says how
// many follows as soon as there is room again.
//
// Start reading at [Log.Write].
package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"strata/pkg/jsonlog"
)

// Options say how a log is kept.
type Options struct {
	MaxSize int64 // bytes after which the file is rotated; zero: never
	MaxFile int   // files kept, the current one included; zero means one
	Gzip    bool  // compress rotated files
	Attrs   map[string]string
}

// Stream is stdout or stderr.
type Stream string

// The two streams of a log.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Log is an open log file. Its methods are safe for concurrent use. Close it.
type Log struct {
	path  string
	opts  Options
	attrs jsonlog.Attrs

	mu      sync.Mutex
	file    *os.File // nil after Close, and while it cannot be opened again
	size    int64
	pending map[Stream][]byte // the line so far, without newline
	dropped int               // records lost since the last that was written
	cause   error             // why the last was dropped
	gzips   sync.WaitGroup    // at most one runs
	closed  bool
}

// perm is the mode of a log file, Docker's.
const perm = 0o640

// Open opens or makes the log file path and its directory.
func Open(path string, opts Options) (*Log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o710); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &Log{path: path, opts: opts, attrs: jsonlog.NewAttrs(opts.Attrs), pending: map[Stream][]byte{}}
	if err := l.openLocked(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

// Path returns the name of the current file.
func (l *Log) Path() string { return l.path }

// openLocked opens the current file. A line that a crash has torn is cut off, so that
// the next record begins a line.
//
// Preconditions: mu is held, or l is not shared yet.
func (l *Log) openLocked() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, perm)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, info.Size()
	if l.size == 0 {
		return nil
	}
	last := make([]byte, min(l.size, jsonlog.MaxRecord))
	if _, err := f.ReadAt(last, l.size-int64(len(last))); err != nil {
		return errors.Join(err, f.Close())
	}
	if torn := len(last) - 1 - bytes.LastIndexByte(last, '\n'); torn > 0 && torn < len(last) {
		l.size -= int64(torn)
		return f.Truncate(l.size)
	}
	return nil
}

// Write logs p, which arrived now on the stream. Whole lines become records at once; the
// rest waits for its newline, for [jsonlog.MaxText] bytes or for Flush.
func (l *Log) Write(stream Stream, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	now := time.Now()
	buf := getBuffer()
	records := 0
	rest := l.pending[stream]
	for len(p) > 0 {
		room := jsonlog.MaxText - len(rest)
		n := bytes.IndexByte(p[:min(room, len(p))], '\n') + 1
		if n == 0 {
			n = min(room, len(p))
		}
		text := p[:n]
		if len(rest) > 0 {
			rest = append(rest, text...)
			text = rest
		}
		p = p[n:]
		if text[len(text)-1] != '\n' && len(text) < jsonlog.MaxText {
			rest = append(rest[:0], text...)
			break
		}
		buf = jsonlog.Append(buf, now, string(stream), text, l.attrs)
		records++
		rest = rest[:0]
		if len(buf) >= flushSize {
			l.putLocked(buf, records)
			buf, records = buf[:0], 0
		}
	}
	l.putLocked(buf, records)
	l.keepLocked(stream, rest)
	putBuffer(buf)
}

// flushSize is how many encoded bytes go to the file in one write, at least.
const flushSize = 32 << 10

// keepLocked remembers the unfinished line; no memory is held for none.
func (l *Log) keepLocked(stream Stream, rest []byte) {
	if len(rest) == 0 {
		delete(l.pending, stream)
		return
	}
	l.pending[stream] = rest
}

// Flush logs what is left of an unfinished line of the stream, as a partial record.
func (l *Log) Flush(stream Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rest := l.pending[stream]; len(rest) > 0 && !l.closed {
		l.putLocked(jsonlog.Append(nil, time.Now(), string(stream), rest, l.attrs), 1)
	}
	delete(l.pending, stream)
}

// Close flushes and closes the file.
func (l *Log) Close() error {
	l.Flush(Stdout)
	l.Flush(Stderr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.gzips.Wait()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// putLocked writes encoded records, or drops and counts them.
func (l *Log) putLocked(data []byte, records int) {
	if records == 0 {
		return
	}
	if l.opts.MaxSize > 0 && l.file != nil && l.size > 0 && l.size+int64(len(data)) > l.opts.MaxSize {
		if err := l.rotateLocked(); err != nil {
			l.cause = err // goes on in the old file, or reopens below
		}
	}
	if l.dropped > 0 {
		data = append(l.markerLocked(), data...)
	}
	if err := l.appendLocked(data); err != nil {
		l.dropped += records
		l.cause = err
		return
	}
	l.dropped = 0
}

// markerLocked is the record that tells of dropped ones.
func (l *Log) markerLocked() []byte {
	text := "[strata: " + strconv.Itoa(l.dropped) + " log records dropped: " + l.cause.Error() + "]\n"
	return jsonlog.Append(nil, time.Now(), string(Stderr), []byte(text), l.attrs)
}

// appendLocked writes all of data or nothing.
func (l *Log) appendLocked(data []byte) error {
	if l.file == nil {
		if err := l.openLocked(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(data)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, l.file.Truncate(l.size))
		}
		return err
	}
	l.size += int64(n)
	return nil
}

// rotateLocked begins a new file. With one file only, the old one is emptied.
func (l *Log) rotateLocked() error {
	l.gzips.Wait()
	if l.opts.MaxFile <= 1 {
		if err := l.file.Truncate(0); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
		l.size = 0
		return nil
	}
	if err := shift(l.path, l.opts.MaxFile); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	// From here on the old file is FILE.1; a failure to open is mended by the next write.
	err := l.file.Close()
	l.file = nil
	if l.opts.Gzip {
		l.gzips.Go(func() {
			plain, compressed := jsonlog.Rotated(l.path, 1)
			_ = compress(plain, compressed) // the plain file stays, readers take it
		})
	}
	return errors.Join(err, l.openLocked())
}

// shift renames FILE.n to FILE.(n+1), the oldest falling off, and FILE to FILE.1.
func shift(path string, maxFile int) error {
	oldest, oldestGzip := jsonlog.Rotated(path, maxFile-1)
	if err := errors.Join(ignoreMissing(os.Remove(oldest)), ignoreMissing(os.Remove(oldestGzip))); err != nil {
		return err
	}
	for n := maxFile - 2; n >= 1; n-- {
		from, fromGzip := jsonlog.Rotated(path, n)
		to, toGzip := jsonlog.Rotated(path, n+1)
		if err := errors.Join(ignoreMissing(os.Rename(from, to)), ignoreMissing(os.Rename(fromGzip, toGzip))); err != nil {
			return err
		}
	}
	first, _ := jsonlog.Rotated(path, 1)
	return os.Rename(path, first)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// compress replaces the file from by its compressed form to. Readers see one of them at
// every moment.
func compress(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer src.Close()
	tmp := to + ".tmp"
	dst, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("compress log %q: %w", from, errors.Join(err, dst.Close(), os.Remove(tmp)))
		}
	}()
	zw, err := gzip.NewWriterLevel(dst, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err = io.Copy(zw, src); err != nil {
		return err
	}
	if err = zw.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp, to); err != nil {
		return err
	}
	return errors.Join(dst.Close(), os.Remove(from))
}

// buffers are shared by all logs of the process, so that an idle container holds none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func getBuffer() []byte { return (*buffers.Get().(*[]byte))[:0] }

func putBuffer(b []byte) {
	if cap(b) <= 4*flushSize {
		buffers.Put(&b)
	}
}
