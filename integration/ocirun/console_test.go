package ocirun_test

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// consoleSocket listens where the runtime sends a terminal, and returns a function
// that receives it.
func consoleSocket(t *testing.T, path string) func() *os.File {
	t.Helper()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(sock) })
	if err := unix.Bind(sock, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(sock, 1); err != nil {
		t.Fatal(err)
	}
	return func() *os.File {
		conn, _, err := unix.Accept(sock)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(conn)
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		n, on, _, _, err := unix.Recvmsg(conn, buf, oob, 0)
		if err != nil || n == 0 {
			t.Fatalf("console message of %d bytes: %v", n, err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("%d control messages, %v", len(msgs), err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v", fds, err)
		}
		return os.NewFile(uintptr(fds[0]), "console")
	}
}

func TestTerminalIsSentOverTheConsoleSocket(t *testing.T) {
	b := newBundle(t, "tty; stty size; stat -c '%t:%T %u' /dev/console; read x; echo got $x; sleep 1000")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Height: 40, Width: 120}
	b.save()
	path := filepath.Join(b.dir, "console.sock")
	receive := consoleSocket(t, path)
	b.create("--console-socket", path)
	console := receive()
	defer console.Close()
	b.must("start", b.id)
	r := bufio.NewReader(console)
	line := func() string {
		s, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(s)
	}
	for _, want := range []string{"/dev/pts/0", "40 120", "88:0 0"} {
		if got := line(); got != want {
			t.Errorf("terminal says %q, want %q", got, want)
		}
	}
	if _, err := console.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	if got := line(); got != "word" { // the echo
		t.Errorf("echo %q", got)
	}
	if got := line(); got != "got word" {
		t.Errorf("answer %q", got)
	}
	// An exec has a terminal of its own.
	exec := filepath.Join(b.dir, "exec.sock")
	receive = consoleSocket(t, exec)
	b.must("exec", "--detach", "--tty", "--console-socket", exec, b.id, "sh", "-c", "tty; sleep 1000")
	second := receive()
	defer second.Close()
	if got, err := bufio.NewReader(second).ReadString('\n'); err != nil || strings.TrimSpace(got) != "/dev/pts/1" {
		t.Errorf("terminal of the exec is %q, %v", got, err)
	}
}

func TestForegroundTerminalCarriesNoCarriageReturns(t *testing.T) {
	b := newBundle(t, "echo one; echo two; tty")
	b.spec.Process.Terminal = true
	if out, status := b.run(); out != "one\ntwo\n/dev/pts/0\n" || status != 0 {
		t.Errorf("status %d, output %q", status, out)
	}
}

func TestTerminalNeedsASocketWhenDetached(t *testing.T) {
	b := newBundle(t, "true")
	b.spec.Process.Terminal = true
	b.save()
	if _, out, err := b.tryCreate(); err == nil || !strings.Contains(out, "cannot allocate tty") {
		t.Errorf("create = %v, %q", err, out)
	}
}
