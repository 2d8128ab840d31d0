package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strata/pkg/jsonlog"
)

// epoch is the time of record 0; each later record is a second younger.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func record(i int, stream, text string) []byte {
	return jsonlog.Append(nil, epoch.Add(time.Duration(i)*time.Second), stream, []byte(text), jsonlog.Attrs{})
}

// lines is records from to to-1, each "line N".
func lines(from, to int) []byte {
	var b []byte
	for i := from; i < to; i++ {
		b = append(b, record(i, "stdout", fmt.Sprintf("line %d\n", i))...)
	}
	return b
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func collect(t *testing.T, path string, opts Options) []string {
	t.Helper()
	var got []string
	err := Read(t.Context(), path, opts, func(l Line) error {
		got = append(got, strings.TrimSuffix(string(l.Text), "\n"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func numbered(from, to int) []string {
	var want []string
	for i := from; i < to; i++ {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	return want
}

func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("lines = %.300q, want %.300q", got, want)
	}
}

// rotated makes a log of three files, the oldest compressed, with lines 0 to 29.
func rotated(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c-json.log")
	_, oldest := jsonlog.Rotated(path, 2)
	middle, _ := jsonlog.Rotated(path, 1)
	write(t, oldest, zipped(t, lines(0, 10)))
	write(t, middle, lines(10, 20))
	write(t, path, lines(20, 30))
	return path
}

func TestReadGoesOverRotatedFiles(t *testing.T) {
	path := rotated(t)
	for _, tc := range []struct {
		name     string
		opts     Options
		from, to int
	}{
		{"all", Options{Tail: All}, 0, 30},
		{"tail within the current file", Options{Tail: 3}, 27, 30},
		{"tail over a boundary", Options{Tail: 15}, 15, 30},
		{"tail into the compressed file", Options{Tail: 25}, 5, 30},
		{"tail of more than there is", Options{Tail: 99}, 0, 30},
		{"tail of nothing", Options{Tail: 0}, 0, 0},
		{"since", Options{Tail: All, Since: epoch.Add(25 * time.Second)}, 25, 30},
		{"until", Options{Tail: All, Until: epoch.Add(4 * time.Second)}, 0, 5},
		{"tail before until", Options{Tail: 2, Until: epoch.Add(4 * time.Second)}, 3, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.opts.Stdout, tc.opts.Stderr = true, true
			wantLines(t, collect(t, path, tc.opts), numbered(tc.from, tc.to))
		})
	}
}

func TestStreamsAreFiltered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, append(record(0, "stdout", "out\n"), record(1, "stderr", "err\n")...))
	wantLines(t, collect(t, path, Options{Tail: All, Stdout: true}), []string{"out"})
	wantLines(t, collect(t, path, Options{Tail: 1, Stdout: true}), []string{"out"})
	wantLines(t, collect(t, path, Options{Tail: All, Stderr: true}), []string{"err"})
}

func TestCorruptLinesAreSkippedWithAMarker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, bytes.Join([][]byte{lines(0, 1), []byte("\x00\x00torn{\n{\"log\":\n"), lines(1, 2)}, nil))
	wantLines(t, collect(t, path, Options{Tail: All, Stdout: true, Stderr: true}),
		[]string{"line 0", "[strata: 2 unreadable log records skipped]", "line 1"})
}

func TestSplitLineCountsAsOneInATail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, bytes.Join([][]byte{lines(0, 2), record(2, "stdout", "be"), record(3, "stdout", "gin\n"), lines(4, 5)}, nil))
	wantLines(t, collect(t, path, Options{Tail: 2, Stdout: true}), []string{"be", "gin", "line 4"})
}

func TestLongLinesAcrossBlocksAreWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", jsonlog.MaxText-1) + "\n"
	var data []byte
	for i := range 20 {
		data = append(data, record(i, "stdout", long)...)
	}
	write(t, path, data)
	for _, tail := range []int{All, 20, 7} {
		got := collect(t, path, Options{Tail: tail, Stdout: true})
		if want := tail; tail != All && len(got) != want || tail == All && len(got) != 20 {
			t.Errorf("tail %d: %d lines", tail, len(got))
		}
		for _, l := range got {
			if len(l) != jsonlog.MaxText-1 {
				t.Fatalf("tail %d: a line of %d bytes", tail, len(l))
			}
		}
	}
}

func TestMissingLogHasNoLines(t *testing.T) {
	wantLines(t, collect(t, filepath.Join(t.TempDir(), "log"), Options{Tail: All, Stdout: true}), nil)
}

func TestEmitErrorEndsTheRead(t *testing.T) {
	stop := errors.New("enough")
	if err := Read(t.Context(), rotated(t), Options{Tail: All, Stdout: true}, func(Line) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Read = %v, want emit's error", err)
	}
}

// follow starts a following read; wait returns what it has emitted when it has ended.
func follow(t *testing.T, path string, opts Options) (emitted <-chan string, done chan struct{}, wait func() error) {
	t.Helper()
	ch, finished := make(chan string, 100000), make(chan error, 1)
	done = make(chan struct{})
	opts.Follow, opts.Stdout, opts.Stderr, opts.Done = true, true, true, done
	go func() {
		finished <- Read(t.Context(), path, opts, func(l Line) error {
			ch <- strings.TrimSuffix(string(l.Text), "\n")
			return nil
		})
		close(ch)
	}()
	return ch, done, func() error { return <-finished }
}

func expect(t *testing.T, ch <-chan string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		select {
		case got := <-ch:
			if want := fmt.Sprintf("line %d", i); got != want {
				t.Fatalf("line = %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("line %d did not come", i)
		}
	}
}

func appendTo(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFollowGoesAcrossRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	one, _ := jsonlog.Rotated(path, 1)
	two, twoZip := jsonlog.Rotated(path, 2)
	write(t, path, lines(0, 5))
	ch, done, wait := follow(t, path, Options{Tail: 2})
	expect(t, ch, 3, 5)

	appendTo(t, path, lines(5, 7))
	expect(t, ch, 5, 7)
	// Twice at once, the older one compressed before the reader looks.
	appendTo(t, path, lines(7, 9))
	if err := os.Rename(path, one); err != nil {
		t.Fatal(err)
	}
	write(t, path, lines(9, 12))
	expect(t, ch, 7, 12)
	data, _ := os.ReadFile(one)
	write(t, twoZip, zipped(t, data))
	if err := os.Rename(path, one); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(two)
	write(t, path, lines(12, 15))
	expect(t, ch, 12, 15)
	appendTo(t, path, lines(15, 16))
	close(done)
	expect(t, ch, 15, 16)
	if err := wait(); err != nil {
		t.Errorf("Read = %v", err)
	}
	if extra, ok := <-ch; ok {
		t.Errorf("line %q came after the end", extra)
	}
}

func TestFollowSurvivesTheLossOfItsFileToCompression(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	_, one := jsonlog.Rotated(path, 1)
	write(t, path, lines(0, 5))
	r := &reader{path: path, opts: Options{Stdout: true, Tail: All}}
	var got []string
	r.emit = func(l Line) error { got = append(got, strings.TrimSuffix(string(l.Text), "\n")); return nil }
	defer r.close()
	if err := r.existing(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, one, zipped(t, lines(0, 8)))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, lines(8, 10))
	if err := r.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, numbered(0, 10))
}

func TestFollowNoticesThatItsFileWasEmptied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, lines(0, 5))
	ch, done, wait := follow(t, path, Options{Tail: All})
	expect(t, ch, 0, 5)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	appendTo(t, path, lines(5, 6))
	expect(t, ch, 5, 6)
	close(done)
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestFollowWaitsForALogThatDoesNotExistYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ch, done, wait := follow(t, path, Options{Tail: All})
	appendTo(t, path, lines(0, 3))
	expect(t, ch, 0, 3)
	close(done)
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, lines(0, 1))
	err := Read(ctx, path, Options{Tail: All, Stdout: true, Follow: true}, func(Line) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Read = %v, want the context's error", err)
	}
}

// FuzzLogFile reads arbitrary files, from the front and from the back: both must end and
// agree on the lines.
func FuzzLogFile(f *testing.F) {
	f.Add(lines(0, 3))
	f.Add([]byte("{\n\x00\n" + string(lines(1, 2)) + "{\"log\":\"torn"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "log")
		write(t, path, data)
		read := func(tail int) (got []string) {
			err := Read(t.Context(), path, Options{Tail: tail, Stdout: true, Stderr: true}, func(l Line) error {
				if !l.Marker {
					got = append(got, l.Stream+string(l.Text))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		if front, back := read(All), read(1<<30); fmt.Sprint(front) != fmt.Sprint(back) {
			t.Fatalf("from the front %q, from the back %q", front, back)
		}
	})
}
