// Package logs writes a container's log file: lines as records of pkg/jsonlog, with
// rotation.
//
// It owns the file, its rotated ones and the assembly of lines. It refuses to know where
// bytes come from. Invariants: a record is whole in the file or not there; a full disk
// never stops the caller, and with a buffer a slow one does not either: records are dropped
// and counted, and a record that says how many follows as soon as there is room again.
//
// Start reading at [Log.Write].
package logs

import (
	"bytes"
	"sync"
	"time"

	"strata/pkg/jsonlog"
)

// Options say how a log is kept.
type Options struct {
	MaxSize int64 // bytes after which the file is rotated; zero: never
	MaxFile int   // files kept, the current one included; zero means one
	Gzip    bool  // compress rotated files
	// Buffer is how many bytes of records may wait for a slow disk before new ones are
	// dropped. Zero: the caller waits for the disk.
	Buffer int64
	Attrs  map[string]string
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
	attrs jsonlog.Attrs
	chunk int   // encoded bytes that are put at once, at least
	out   *file // without a buffer: only under mu
	queue *queue

	mu      sync.Mutex
	pending map[Stream][]byte // the line so far, without newline
	closed  bool
}

// Open opens or makes the log file path and its directory.
func Open(path string, opts Options) (*Log, error) {
	out, err := openFile(path, opts)
	if err != nil {
		return nil, err
	}
	l := &Log{path: path, attrs: out.attrs, chunk: flushSize, out: out, pending: map[Stream][]byte{}}
	if opts.Buffer > 0 {
		l.chunk = int(min(flushSize, opts.Buffer))
		l.queue = newQueue(out, opts.Buffer)
	}
	return l, nil
}

// Path returns the name of the current file.
func (l *Log) Path() string { return l.path }

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
		if len(buf) >= l.chunk {
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

// Close flushes and closes the file. With a buffer it waits some seconds for what is in it.
func (l *Log) Close() error {
	l.Flush(Stdout)
	l.Flush(Stderr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.queue != nil {
		return l.queue.close()
	}
	return l.out.close()
}

// putLocked passes encoded records on; data is the caller's again afterwards.
func (l *Log) putLocked(data []byte, records int) {
	switch {
	case records == 0:
	case l.queue != nil:
		l.queue.push(data, records)
	default:
		l.out.put(data, records)
	}
}

// buffers are shared by all logs of the process, so that an idle container holds none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func getBuffer() []byte { return (*buffers.Get().(*[]byte))[:0] }

func putBuffer(b []byte) {
	if cap(b) <= 4*flushSize {
		buffers.Put(&b)
	}
}
