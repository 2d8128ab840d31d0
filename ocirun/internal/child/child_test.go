package child

import (
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ladder returns a socket pair, the child's end with number 100 or above.
func ladder(t *testing.T) (parent, child *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.FcntlInt(uintptr(fds[1]), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	parent, child = os.NewFile(uintptr(fds[0]), "parent"), os.NewFile(uintptr(n), "child")
	t.Cleanup(func() { parent.Close(); child.Close() })
	return parent, child
}

func start(t *testing.T, b *Builder, c Clone) (pid int) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, pidfd, err := b.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	pidfd.Close()
	c.Ladder.Close()
	return pid
}

func message(t *testing.T, f *os.File) Message {
	t.Helper()
	var buf [MessageSize]byte
	if _, err := io.ReadFull(f, buf[:]); err != nil {
		t.Fatalf("message from the child: %v", err)
	}
	w := func(i int) uint32 { return binary.NativeEndian.Uint32(buf[4*i:]) }
	return Message{Kind(w(0)), w(1), w(2), w(3)}
}

func exitStatus(t *testing.T, pid int) int {
	t.Helper()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	return ws.ExitStatus()
}

func newBuilder(t *testing.T) *Builder {
	t.Helper()
	b, err := NewBuilder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestMachineLoadsStoresAndJumps(t *testing.T) {
	b := newBuilder(t)
	p, c := ladder(t)
	stat := b.Buf(256)
	r, mode := b.Reg(), b.Reg()
	good, bad := b.Label(), b.Label()
	b.Op(7)
	b.Sys(unix.SYS_OPENAT, Imm(unix.AT_FDCWD), b.Str("/dev/null").Arg(), Imm(unix.O_RDONLY), Imm(0)).Into(r)
	b.Sys(unix.SYS_FSTAT, r.Arg(), stat.Arg())
	b.Load32(mode, stat.At(24)) // st_mode on amd64
	b.And(mode, mode.Arg(), Imm(unix.S_IFMT))
	b.JumpEq(mode.Arg(), Imm(unix.S_IFCHR), good)
	b.Mark(bad)
	b.Fail(FailNotDevice)
	b.Mark(good)
	b.Sys(unix.SYS_OPENAT, Imm(unix.AT_FDCWD), b.Str("/no/such").Arg(), Imm(unix.O_RDONLY), Imm(0)).Ignore(unix.ENOENT).Warn()
	b.Store64(stat, Imm(uint32(4711)))
	b.Load64(r, stat)
	b.Report(KindStage, r.Arg())
	b.Wait()
	b.Sys(unix.SYS_CHDIR, b.Str("/no/such").Arg())
	pid := start(t, b, Clone{Ladder: c})
	if runtime.GOARCH != "amd64" {
		t.Skip("the offsets of struct stat are amd64's")
	}
	if m := message(t, p); m.Kind != KindWarn || m.Value != uint32(unix.ENOENT) || m.Op != 7 {
		t.Errorf("first message %+v, want a warning with ENOENT", m)
	}
	if m := message(t, p); m.Kind != KindStage || m.Value != 4711 {
		t.Errorf("second message %+v, want the stored value", m)
	}
	if _, err := p.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	m := message(t, p)
	if m.Kind != KindFailed || m.Value != uint32(unix.ENOENT) || b.Syscall(int(m.PC)) != unix.SYS_CHDIR {
		t.Errorf("last message %+v, want chdir: ENOENT", m)
	}
	if s := exitStatus(t, pid); s != 1 {
		t.Errorf("exit status %d, want 1", s)
	}
}

func TestChildEndsWhenItsParentHasGone(t *testing.T) {
	b := newBuilder(t)
	p, c := ladder(t)
	b.Sys(unix.SYS_CLOSE, Imm(p.Fd()))
	b.Wait()
	b.Exit(42)
	pid := start(t, b, Clone{Ladder: c})
	p.Close()
	if s := exitStatus(t, pid); s != 1 {
		t.Errorf("exit status %d, want 1", s)
	}
}

// runTail runs a tail that makes the calls of fill, then executes argv.
func runTail(t *testing.T, closeParent bool, fill func(*Tail), argv ...string) (out string, status int, ladderEnd *os.File) {
	t.Helper()
	b := newBuilder(t)
	p, c := ladder(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var tail Tail
	fill(&tail)
	tail.Exec(9, func(e unix.Errno) string { return "exec " + argv[0] + ": " + e.Error() + "\n" })
	img, err := tail.File(int(c.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	b.Sys(unix.SYS_CLOSE, Imm(p.Fd()))
	b.Sys(unix.SYS_DUP3, Imm(w.Fd()), Imm(1), Imm(0))
	b.Sys(unix.SYS_DUP3, Imm(w.Fd()), Imm(2), Imm(0))
	b.Sys(unix.SYS_FCNTL, Imm(c.Fd()), Imm(unix.F_SETFD), Imm(0))
	b.Sys(unix.SYS_EXECVEAT, Imm(img.Fd()), b.Str("").Arg(), b.Strs(argv).Arg(), b.Strs([]string{"A=1", "B=two"}).Arg(), Imm(unix.AT_EMPTY_PATH))
	pid := start(t, b, Clone{Ladder: c})
	if closeParent {
		p.Close()
	}
	w.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), exitStatus(t, pid), p
}

func TestTailHandsArgumentsAndEnvironmentOn(t *testing.T) {
	out, status, _ := runTail(t, false, func(t *Tail) {
		t.Try(0, unix.SYS_CHDIR, t.Str("/no/such"))
		t.Sys(0, unix.SYS_GETCWD, t.Bytes(make([]byte, 256)), TailImm(256)) // needs memory to write to
		t.Sys(1, unix.SYS_CHDIR, t.Str("/usr"))
	}, "/bin/sh", "sh", "-c", `echo "$0 $1 $A $B $PWD"`, "zero", "one")
	if out != "zero one 1 two /usr\n" || status != 0 {
		t.Errorf("output %q, status %d", out, status)
	}
}

func TestTailReportsTheCallThatFailed(t *testing.T) {
	out, status, p := runTail(t, false, func(t *Tail) {
		t.Sys(0, unix.SYS_CHDIR, t.Str("/usr"))
		t.Sys(1, unix.SYS_CHDIR, t.Str("/no/such"))
	}, "/bin/sh", "sh")
	m := message(t, p)
	if m.Kind != KindTailFailed || m.PC != 1 || m.Value != uint32(unix.ENOENT) || out != "" || status != 255 {
		t.Errorf("message %+v, output %q, status %d", m, out, status)
	}
}

func TestTailTellsStandardErrorThatTheProgramCannotRun(t *testing.T) {
	out, status, _ := runTail(t, true, func(*Tail) {}, "/no/such/program", "program")
	if out != "exec /no/such/program: no such file or directory\n" || status != 255 {
		t.Errorf("output %q, status %d", out, status)
	}
}

func TestTailImageCannotBeChanged(t *testing.T) {
	var tail Tail
	tail.Exec(0, func(unix.Errno) string { return "x" })
	f, err := tail.File(100)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("write to the sealed image: %v, want not permitted", err)
	}
}
