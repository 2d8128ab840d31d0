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

// file is the log file with its rotated ones. It belongs to one goroutine at a time.
type file struct {
	path  string
	opts  Options
	attrs jsonlog.Attrs

	f       *os.File // nil while it cannot be opened again
	size    int64
	dropped int            // records lost since the last that was written
	cause   error          // why the last was dropped
	gzips   sync.WaitGroup // at most one runs
}

// perm is the mode of a log file, Docker's.
const perm = 0o640

// openFile opens or makes the file and its directory.
func openFile(path string, opts Options) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o710); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	w := &file{path: path, opts: opts, attrs: jsonlog.NewAttrs(opts.Attrs)}
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return w, nil
}

// open opens the current file. A line that a crash has torn is cut off, so that
// the next record begins a line.
func (w *file) open() error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, perm)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.f, w.size = f, info.Size()
	if w.size == 0 {
		return nil
	}
	last := make([]byte, min(w.size, jsonlog.MaxRecord))
	if _, err := f.ReadAt(last, w.size-int64(len(last))); err != nil {
		return errors.Join(err, f.Close())
	}
	if torn := len(last) - 1 - bytes.LastIndexByte(last, '\n'); torn > 0 && torn < len(last) {
		w.size -= int64(torn)
		return f.Truncate(w.size)
	}
	return nil
}

// put writes encoded records, or drops and counts them.
func (w *file) put(data []byte, records int) {
	if records == 0 {
		return
	}
	if w.opts.MaxSize > 0 && w.f != nil && w.size > 0 && w.size+int64(len(data)) > w.opts.MaxSize {
		if err := w.rotate(); err != nil {
			w.cause = err // goes on in the old file, or reopens below
		}
	}
	if w.dropped > 0 {
		data = append(w.marker(), data...)
	}
	if err := w.append(data); err != nil {
		w.dropped += records
		w.cause = err
		return
	}
	w.dropped = 0
}

// marker is the record that tells of dropped ones.
func (w *file) marker() []byte {
	text := "[strata: " + strconv.Itoa(w.dropped) + " log records dropped: " + w.cause.Error() + "]\n"
	return jsonlog.Append(nil, time.Now(), string(Stderr), []byte(text), w.attrs)
}

// append writes all of data or nothing.
func (w *file) append(data []byte) error {
	if w.f == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	n, err := w.f.Write(data)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, w.f.Truncate(w.size))
		}
		return err
	}
	w.size += int64(n)
	return nil
}

// rotate begins a new file. With one file only, the old one is emptied.
func (w *file) rotate() error {
	w.gzips.Wait()
	if w.opts.MaxFile <= 1 {
		if err := w.f.Truncate(0); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
		w.size = 0
		return nil
	}
	if err := shift(w.path, w.opts.MaxFile); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	// From here on the old file is FILE.1; a failure to open is mended by the next write.
	err := w.f.Close()
	w.f = nil
	if w.opts.Gzip {
		w.gzips.Go(func() {
			plain, compressed := jsonlog.Rotated(w.path, 1)
			_ = compress(plain, compressed) // the plain file stays, readers take it
		})
	}
	return errors.Join(err, w.open())
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

// lose counts records that were dropped before they came here.
func (w *file) lose(records int, cause error) {
	w.dropped += records
	w.cause = cause
}

// close closes the file. Records that were dropped last are told of, if there is room.
func (w *file) close() error {
	if w.dropped > 0 && w.append(w.marker()) == nil {
		w.dropped = 0
	}
	w.gzips.Wait()
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}
