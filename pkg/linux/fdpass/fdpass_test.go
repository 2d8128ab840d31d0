package fdpass

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSendAndReceiveADescriptor(t *testing.T) {
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Send(a, []byte("hello"), w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	buf := make([]byte, 16)
	n, f, err := Receive(b, buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("Receive = %q, %v", buf[:n], err)
	}
	defer f.Close()
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("received descriptor has flags %#x, %v, want close-on-exec", flags, err)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Error(err)
	}
	if n, err := r.Read(buf); n != 1 || err != nil {
		t.Errorf("read through the passed descriptor: %d, %v", n, err)
	}
}

func TestReceiveRefusesAMessageWithoutDescriptor(t *testing.T) {
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if _, err := a.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Receive(b, make([]byte, 4)); err == nil {
		t.Error("Receive without a descriptor: no error")
	}
}

func TestConnectReachesPathsLongerThanASocketAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	t.Chdir(dir)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "s"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	f, err := Connect(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
