package ladder

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"strata/ocirun/internal/child"
)

func TestMessagesAndGo(t *testing.T) {
	l, err := New(50)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fd := l.Child.Fd(); fd < 50 {
		t.Errorf("child's end is %d, want at least 50", fd)
	}
	msg := []byte{3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0}
	if _, err := l.Child.Write(msg); err != nil {
		t.Fatal(err)
	}
	if m, err := l.Next(); err != nil || m != (child.Message{Kind: child.KindStage, Op: 1, PC: 2, Value: 4}) {
		t.Errorf("Next = %+v, %v (on a little-endian machine)", m, err)
	}
	if err := l.Go(); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Child.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("the child reads %d bytes, %v, want 1", n, err)
	}
	if err := l.CloseChild(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("Next without a child = %v, want EOF", err)
	}
	if err := l.Go(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Go without a child = %v, want EPIPE", err)
	}
}

func FuzzLadderMessage(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err == nil && (m.Kind < child.KindFailed || m.Kind > child.KindWarn) {
			t.Errorf("Decode(%x) = kind %d", b, m.Kind)
		}
	})
}
