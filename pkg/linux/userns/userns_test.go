package userns

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func one(c, h, n uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: c, HostID: h, Size: n}}
}

func TestWriteMapsBothIDs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: 0, Cloneflags: unix.CLONE_NEWUSER}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if err := Write(cmd.Process.Pid, Maps{one(0, 1000, 10), one(5, 2000, 3)}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"uid_map": "0 1000 10", "gid_map": "5 2000 3"} {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/" + file)
		if got := strings.Join(strings.Fields(string(b)), " "); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", file, got, err, want)
		}
	}
}

func TestOpenLeavesOnlyTheNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	f, err := Open(Maps{one(0, 1000, 10), one(0, 1000, 10)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	typ, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || typ != unix.CLONE_NEWUSER {
		t.Errorf("namespace type %#x, %v", typ, err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("wait4 = %v, want ECHILD: the helper process is still there", err)
	}
}

func TestMapsAreRefused(t *testing.T) {
	for name, m := range map[string]Maps{
		"no maps":   {},
		"no gids":   {UID: one(0, 0, 1)},
		"size zero": {one(0, 0, 0), one(0, 0, 1)},
	} {
		if err := Write(os.Getpid(), m); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: Write = %v, want class ErrInvalidArgument", name, err)
		}
	}
}
