package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"strata/pkg/jsonlog"
)

// source is one file of a log, plain or compressed. It hands out whole lines.
type source struct {
	f       *os.File
	zip     *gzip.Reader // nil: plain
	current bool         // is the file that is written to
	skip    *mark        // what was read, for skipSeen

	buf    []byte // read and not handed out
	offset int64  // of a plain file: where the next read goes
	eof    bool   // of a compressed file
}

const blockSize = 64 << 10

// openAttempts bounds how often a rotation in the middle makes openAll start again.
const openAttempts = 10

// openAll opens the files of the log path, oldest first. Missing files are no error.
func openAll(path string) ([]*source, error) {
	var files []*source
	for range openAttempts {
		var err error
		files, err = openNewestFirst(path)
		if err != nil {
			return nil, err
		}
		// If the current file is still what was opened first, nothing was renamed, and
		// no file is in the list twice.
		if len(files) == 0 || !files[0].current {
			break
		}
		moved, err := files[0].moved(path)
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		if !moved {
			break
		}
		_ = closeAll(files)
		files = nil
	}
	for i, j := 0, len(files)-1; i < j; i, j = i+1, j-1 {
		files[i], files[j] = files[j], files[i]
	}
	return files, nil
}

func openNewestFirst(path string) ([]*source, error) {
	var files []*source
	current, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	if current != nil {
		current.current = true
		files = append(files, current)
	}
	// One number may be missing for a moment, while its file is being renamed.
	for n, missing := 1, 0; missing < 2; n++ {
		plain, compressed := jsonlog.Rotated(path, n)
		s, err := openPlain(plain)
		if err == nil && s == nil {
			s, err = openCompressed(compressed)
		}
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		if s == nil {
			missing++
			continue
		}
		missing = 0
		files = append(files, s)
	}
	return files, nil
}

func closeAll(files []*source) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func openPlain(path string) (*source, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // no file is an answer
	}
	if err != nil {
		return nil, err
	}
	return &source{f: f}, nil
}

func openCompressed(path string) (*source, error) {
	s, err := openPlain(path)
	if s == nil || err != nil {
		return nil, err
	}
	if s.zip, err = gzip.NewReader(s.f); err != nil {
		return nil, errors.Join(fmt.Errorf("open compressed log %q: %w", path, err), s.Close())
	}
	return s, nil
}

// Close closes the file.
func (s *source) Close() error { return s.f.Close() }

// same reports whether both are the same file.
func (s *source) same(other *source) bool {
	a, errA := s.f.Stat()
	b, errB := other.f.Stat()
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// moved reports whether path is another file now, or none.
func (s *source) moved(path string) (bool, error) {
	ours, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return err == nil && !os.SameFile(ours, now), err
}

// next returns the next line without its newline, or nil if there is no whole line (yet).
// It is valid until the next call. A line longer than any record comes in pieces, which
// are not records.
func (s *source) next() ([]byte, error) {
	for {
		if i := bytes.IndexByte(s.buf, '\n'); i >= 0 {
			line := s.buf[:i:i]
			s.buf = s.buf[i+1:]
			return line, nil
		}
		if len(s.buf) > jsonlog.MaxRecord {
			line := s.buf
			s.buf = nil
			return line, nil
		}
		n, err := s.fill()
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return s.atEnd()
		}
	}
}

// atEnd hands out what is left of a file that does not grow any more.
func (s *source) atEnd() ([]byte, error) {
	if s.current || len(s.buf) == 0 {
		return nil, nil
	}
	line := s.buf
	s.buf = nil
	return line, nil
}

// fill reads more and returns how much.
func (s *source) fill() (int, error) {
	block := make([]byte, blockSize)
	if s.zip != nil {
		if s.eof {
			return 0, nil
		}
		n, err := s.zip.Read(block)
		s.buf = append(s.buf, block[:n]...)
		if err != nil { // a torn file ends where it is torn
			s.eof = true
		}
		return n, nil
	}
	n, err := s.f.ReadAt(block, s.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, err
	}
	if n == 0 && s.current {
		info, err := s.f.Stat()
		if err != nil {
			return 0, err
		}
		if info.Size() < s.offset { // emptied by a rotation that keeps one file
			s.offset, s.buf = 0, nil
			return s.fill()
		}
	}
	s.offset += int64(n)
	s.buf = append(s.buf, block[:n]...)
	return n, nil
}

// backward calls fn for each line from the last to the first, until it returns false;
// then the result is true. A line in the making at the end of the current file is left
// for next.
func (s *source) backward(fn func([]byte) bool) (stopped bool, err error) {
	if s.zip != nil {
		return s.backwardInMemory(fn)
	}
	info, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	var rest []byte // the beginning of a line whose end was in a later block
	end := info.Size()
	first := true
	for end > 0 {
		size := min(end, blockSize)
		block := make([]byte, size, int(size)+len(rest))
		if _, err := s.f.ReadAt(block, end-size); err != nil {
			return false, err
		}
		end -= size
		if len(rest) > jsonlog.MaxRecord { // no record is that long
			if !fn(rest) {
				return true, nil
			}
			rest = nil
		}
		block = append(block, rest...)
		if first && s.current {
			i := bytes.LastIndexByte(block, '\n') + 1
			if i == 0 && end > 0 {
				rest = block
				continue
			}
			s.offset = info.Size() - int64(len(block)-i)
			block = block[:i]
		}
		first = false
		i := bytes.IndexByte(block, '\n')
		if end > 0 && i < 0 {
			rest = block
			continue
		}
		lines := block
		rest = nil
		if end > 0 {
			rest, lines = block[:i+1:i+1], block[i+1:]
		}
		if !eachBackward(lines, fn) {
			return true, nil
		}
	}
	return false, nil
}

// eachBackward calls fn for each line of lines, the last first.
func eachBackward(lines []byte, fn func([]byte) bool) bool {
	lines = bytes.TrimSuffix(lines, []byte("\n"))
	for len(lines) > 0 {
		i := bytes.LastIndexByte(lines, '\n') + 1
		if !fn(lines[i:]) {
			return false
		}
		lines = lines[:max(0, i-1)]
	}
	return true
}

// backwardInMemory unpacks the file: gzip has no way back.
func (s *source) backwardInMemory(fn func([]byte) bool) (bool, error) {
	data, err := io.ReadAll(s.zip)
	if err != nil && len(data) == 0 {
		return false, err
	}
	return !eachBackward(data, fn), nil
}

// skipSeen moves behind the records that s.skip says were read.
func (s *source) skipSeen() error {
	for {
		line, err := s.next()
		if err != nil || line == nil {
			return err
		}
		rec, err := jsonlog.Decode(line)
		if err != nil || rec.Time.Before(s.skip.at) {
			continue
		}
		if rec.Time.Equal(s.skip.at) && s.skip.n > 0 {
			s.skip.n--
			continue
		}
		s.buf = append(append(bytes.Clone(line), '\n'), s.buf...) // not seen yet: it comes next
		return nil
	}
}
