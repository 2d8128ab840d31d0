package logs

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"strata/pkg/jsonlog"
)

func read(t *testing.T, path string) []jsonlog.Record {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, ".gz") {
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if data, err = io.ReadAll(zr); err != nil {
			t.Fatal(err)
		}
	}
	var records []jsonlog.Record
	for line := range bytes.Lines(data) {
		r, err := jsonlog.Decode(line)
		if err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		records = append(records, r)
	}
	return records
}

func open(t *testing.T, opts Options) (*Log, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dir", "c-json.log")
	l, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

func TestLinesAreAssembledPerStream(t *testing.T) {
	l, path := open(t, Options{Attrs: map[string]string{"a": "b"}})
	l.Write(Stdout, []byte("he"))
	l.Write(Stderr, []byte("oops\n"))
	l.Write(Stdout, []byte("llo\nwor"))
	l.Write(Stdout, []byte("ld"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range read(t, path) {
		got = append(got, r.Stream+":"+string(r.Text)+r.Attrs["a"])
	}
	if want := "[stderr:oops\nb stdout:hello\nb stdout:worldb]"; fmt.Sprint(got) != want {
		t.Errorf("records = %v, want %v", got, want)
	}
}

func TestLongLinesAreSplitWithoutLoss(t *testing.T) {
	l, path := open(t, Options{})
	line := strings.Repeat("x", 3*jsonlog.MaxText-1) + "\n"
	for i := 0; i < len(line); i += 1000 {
		l.Write(Stdout, []byte(line[i:min(i+1000, len(line))]))
	}
	records := read(t, path)
	var all []byte
	for i, r := range records {
		all = append(all, r.Text...)
		if r.Partial() != (i < len(records)-1) {
			t.Errorf("record %d of %d: partial = %v", i, len(records), r.Partial())
		}
	}
	if string(all) != line || len(records) != 3 {
		t.Errorf("%d records with %d bytes, want 3 with %d", len(records), len(all), len(line))
	}
}

func TestRotationKeepsTheNewestFilesInOrder(t *testing.T) {
	for _, compressed := range []bool{false, true} {
		l, path := open(t, Options{MaxSize: 2000, MaxFile: 3, Gzip: compressed})
		for i := range 100 {
			l.Write(Stdout, fmt.Appendf(nil, "line %d\n", i))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var got []jsonlog.Record
		for n := 2; n >= 1; n-- {
			plain, gz := jsonlog.Rotated(path, n)
			name := plain
			if compressed {
				name = gz
			}
			got = append(got, read(t, name)...)
		}
		got = append(got, read(t, path)...)
		first := 100 - len(got)
		for i, r := range got {
			if want := fmt.Sprintf("line %d\n", first+i); string(r.Text) != want {
				t.Fatalf("record %d = %q, want %q", i, r.Text, want)
			}
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 3 || len(got) < 40 {
			t.Errorf("compressed %v: %d files, %d records", compressed, len(entries), len(got))
		}
		for _, e := range []string{path} {
			if info, _ := os.Stat(e); info.Size() > 2000 {
				t.Errorf("%s has %d bytes, more than max-size", e, info.Size())
			}
		}
	}
}

func TestOneFileIsEmptiedWhenFull(t *testing.T) {
	l, path := open(t, Options{MaxSize: 1000})
	for i := range 50 {
		l.Write(Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	records := read(t, path)
	if last := records[len(records)-1]; string(last.Text) != "line 49\n" {
		t.Errorf("last record = %q", last.Text)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files, want 1", len(entries))
	}
}

// A real full disk: a tmpfs of two pages.
func TestFullDiskDropsCountsAndRecovers(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "c-json.log")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 100 {
		l.Write(Stdout, fmt.Appendf(nil, "line %03d\n", i))
	}
	whole := len(read(t, path))
	if whole == 0 || whole == 100 {
		t.Fatalf("%d of 100 records fitted: the disk was not full", whole)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	l.Write(Stdout, []byte("after\n"))
	records := read(t, path)
	if len(records) != whole+2 {
		t.Fatalf("%d records after there was room, want %d", len(records), whole+2)
	}
	if marker := string(records[whole].Text); !strings.Contains(marker, fmt.Sprintf("%d log records dropped", 100-whole)) {
		t.Errorf("marker = %q, want %d dropped", marker, 100-whole)
	}
	if string(records[whole+1].Text) != "after\n" {
		t.Errorf("last record = %q", records[whole+1].Text)
	}
}

func TestTornLineOfACrashIsCutOff(t *testing.T) {
	l, path := open(t, Options{})
	l.Write(Stdout, []byte("one\n"))
	_ = l.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"log":"tor`)
	_ = f.Close()
	l2, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l2.Write(Stdout, []byte("two\n"))
	_ = l2.Close()
	if records := read(t, path); len(records) != 2 || string(records[1].Text) != "two\n" {
		t.Errorf("records = %v", records)
	}
}
