package logs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"strata/pkg/jsonlog"
	"strata/pkg/linux/inotify"
)

// All as Tail means every line.
const All = -1

// Options say which lines are wanted.
type Options struct {
	Stdout, Stderr bool
	Since, Until   time.Time // inclusive; zero: no limit
	Tail           int       // the last lines only; [All]: no limit
	// Follow waits for more lines at the end, until Done is closed and everything is
	// read, or ctx is done.
	Follow bool
	// Done says that nothing more will be written. A nil Done never does.
	Done <-chan struct{}
}

// Line is one record of a log. Its Text has no newline if the line goes on in the next
// record of the same stream.
type Line struct {
	jsonlog.Record
	// Marker says that the text is not the container's: it tells of lines that could
	// not be read.
	Marker bool
}

// Read calls emit for each wanted line of the log path, oldest first. A log that does
// not exist has no lines (yet). Read returns emit's error as it is; with Follow it
// returns the cause when ctx is done.
func Read(ctx context.Context, path string, opts Options, emit func(Line) error) error {
	r := &reader{path: path, opts: opts, emit: emit}
	var watch *inotify.Watch
	if opts.Follow {
		var err error // before the first look, so that no change is missed
		if watch, err = inotify.Dir(filepath.Dir(path)); err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
		defer watch.Close()
	}
	defer r.close()
	err := r.existing(ctx)
	if err == nil && opts.Follow {
		err = r.follow(ctx, watch)
	}
	if err == nil {
		err = r.flushMarker()
	}
	if errors.Is(err, errPastEnd) {
		return nil
	}
	return err
}

// errPastEnd ends a read at Options.Until.
var errPastEnd = errors.New("past the last wanted line")

// reader is one Read.
type reader struct {
	path string
	opts Options
	emit func(Line) error

	current *source // of path, to be followed; nil: there was none
	corrupt int     // unreadable lines since the last that was emitted
	last    mark
}

// mark is a position that survives renaming and compression: the time of the last record
// and how many records of that time were read.
type mark struct {
	at time.Time
	n  int
}

func (m *mark) advance(at time.Time) {
	if at.Equal(m.at) {
		m.n++
		return
	}
	m.at, m.n = at, 1
}

func (r *reader) close() {
	if r.current != nil {
		_ = r.current.Close()
	}
}

// existing emits what is there now and leaves the current file open behind it.
func (r *reader) existing(ctx context.Context) error {
	files, err := openAll(r.path)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer func() {
		for _, f := range files {
			if f != r.current {
				_ = f.Close()
			}
		}
	}()
	if n := len(files); n > 0 && files[n-1].current {
		r.current = files[n-1]
	}
	if r.opts.Tail >= 0 {
		return r.tail(ctx, files)
	}
	for _, f := range files {
		if err := r.drain(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// drain emits the lines from the position of f to its end.
func (r *reader) drain(ctx context.Context, f *source) error {
	for ctx.Err() == nil {
		line, err := f.next()
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if line == nil {
			return nil
		}
		rec, err := jsonlog.Decode(line)
		if err != nil {
			r.corrupt++
			continue
		}
		r.last.advance(rec.Time)
		if err := r.give(rec); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// wants reports whether a record passes the filters.
func (o *Options) wants(rec *jsonlog.Record) bool {
	switch {
	case rec.Stream == "stdout" && !o.Stdout, rec.Stream == "stderr" && !o.Stderr:
		return false
	case !o.Since.IsZero() && rec.Time.Before(o.Since), !o.Until.IsZero() && rec.Time.After(o.Until):
		return false
	}
	return true
}

// give emits a record if it is wanted.
func (r *reader) give(rec jsonlog.Record) error {
	if !r.opts.Until.IsZero() && rec.Time.After(r.opts.Until) && r.opts.Follow {
		return errPastEnd // what follows is later still
	}
	if !r.opts.wants(&rec) {
		return nil
	}
	if err := r.flushMarker(); err != nil {
		return err
	}
	return r.emit(Line{Record: rec})
}

// flushMarker tells of lines that could not be read.
func (r *reader) flushMarker() error {
	if r.corrupt == 0 {
		return nil
	}
	text := "[strata: " + strconv.Itoa(r.corrupt) + " unreadable log records skipped]\n"
	r.corrupt = 0
	if !r.opts.Stderr {
		return nil
	}
	return r.emit(Line{Marker: true, Record: jsonlog.Record{Time: r.last.at, Stream: "stderr", Text: []byte(text)}})
}

// tail emits the last lines of files. A line that was split counts as one.
func (r *reader) tail(ctx context.Context, files []*source) error {
	var found []jsonlog.Record // newest first
	lines := 0
	for _, v := range slices.Backward(files) {
		enough, err := v.backward(func(line []byte) bool {
			if r.opts.Tail == 0 {
				return false
			}
			rec, err := jsonlog.Decode(line)
			if err != nil {
				r.corrupt++
				return ctx.Err() == nil
			}
			if !r.opts.wants(&rec) {
				return ctx.Err() == nil
			}
			if !rec.Partial() || len(found) == 0 {
				if lines++; lines > r.opts.Tail {
					return false
				}
			}
			found = append(found, rec)
			return ctx.Err() == nil
		})
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if enough {
			break
		}
	}
	for _, v := range slices.Backward(found) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		r.last.advance(v.Time)
		if err := r.give(v); err != nil {
			return err
		}
	}
	return nil
}

// follow emits what comes, until Done or ctx says that nothing will.
func (r *reader) follow(ctx context.Context, watch *inotify.Watch) error {
	waiting, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-r.opts.Done:
			stop()
		case <-waiting.Done():
		}
	}()
	defer func() { stop(); <-ended }()
	for {
		finished := false
		select {
		case <-r.opts.Done:
			finished = true // looked at before reading: what is read now is all
		default:
		}
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if finished {
			return nil
		}
		if err := watch.Wait(waiting); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if waiting.Err() == nil {
				return fmt.Errorf("follow log: %w", err)
			}
		}
	}
}

// catchUp reads to the end of the current file, and through those that came after it.
func (r *reader) catchUp(ctx context.Context) error {
	for {
		if r.current != nil {
			if err := r.drain(ctx, r.current); err != nil {
				return err
			}
			moved, err := r.current.moved(r.path)
			if err != nil || !moved {
				return err
			}
			// Renamed: what was written between the read and the renaming is last.
			if err := r.drain(ctx, r.current); err != nil {
				return err
			}
		}
		next, err := r.successors()
		if err != nil || len(next) == 0 {
			return err
		}
		if err := r.advanceTo(ctx, next); err != nil {
			return err
		}
	}
}

// advanceTo reads the files that came after the current one and makes the last of them
// the current one.
func (r *reader) advanceTo(ctx context.Context, next []*source) (err error) {
	defer func() {
		for _, f := range next {
			if f != r.current {
				_ = f.Close()
			}
		}
	}()
	r.close()
	r.current = nil
	for _, f := range next {
		if err := r.drain(ctx, f); err != nil {
			return err
		}
	}
	if f := next[len(next)-1]; f.current {
		r.current = f
	}
	return nil
}

// successors opens the files that are newer than the current one. If that was compressed
// or removed meanwhile, they are all files from the last record's time on.
func (r *reader) successors() ([]*source, error) {
	files, err := openAll(r.path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if r.current == nil {
		return files, nil
	}
	for i, f := range files {
		if f.same(r.current) {
			for _, older := range files[:i+1] {
				_ = older.Close()
			}
			return files[i+1:], nil
		}
	}
	for _, f := range files {
		f.skip = &r.last
		if err := f.skipSeen(); err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
	}
	return files, nil
}
