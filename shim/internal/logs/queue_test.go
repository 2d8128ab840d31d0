package logs

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"strata/pkg/jsonlog"
)

// A pipe that nobody reads stands for a disk that takes nothing: it holds 64 KiB and then
// blocks the writer.
func TestASlowDiskDoesNotHoldUpTheCaller(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c-json.log")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Options{Buffer: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 50000
	began := time.Now()
	for i := range lines {
		l.Write(Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("writing took %v while the disk stood still", took)
	}
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	closed := make(chan error, 1) // one result
	go func() { closed <- l.Close() }()
	whole, said := 0, 0
	for sc := bufio.NewScanner(disk); sc.Scan(); {
		r, err := jsonlog.Decode(append(sc.Bytes(), '\n'))
		if err != nil {
			t.Fatalf("%q: %v", sc.Bytes(), err)
		}
		text := string(r.Text)
		if rest, ok := strings.CutPrefix(text, "[strata: "); ok {
			number, why, _ := strings.Cut(rest, " ")
			n, err := strconv.Atoi(number)
			if err != nil || !strings.Contains(why, "mode=non-blocking") {
				t.Errorf("the log says %q", text)
			}
			said += n
			continue
		}
		if want := fmt.Sprintf("line %d\n", whole+said); text != want {
			t.Fatalf("record is %q, want %q: what was dropped is said where it is missing", text, want)
		}
		whole++
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if whole+said != lines || said == 0 || whole < 1000 {
		t.Errorf("%d records and %d said to be dropped, want %d together and some of both", whole, said, lines)
	}
}

func TestABufferLosesNothingOnADiskThatKeepsUp(t *testing.T) {
	l, path := open(t, Options{Buffer: 1 << 20, MaxSize: 64 << 10, MaxFile: 100})
	for i := range 5000 {
		l.Write(Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	l.Write(Stderr, []byte("no newline"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var got []jsonlog.Record
	for n := 99; n >= 1; n-- {
		if plain, _ := jsonlog.Rotated(path, n); exists(plain) {
			got = append(got, read(t, plain)...)
		}
	}
	got = append(got, read(t, path)...)
	if len(got) != 5001 || string(got[4999].Text) != "line 4999\n" || string(got[5000].Text) != "no newline" {
		t.Errorf("%d records, the last are %q", len(got), got[max(0, len(got)-2):])
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
