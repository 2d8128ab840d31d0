package pidfd

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSignalReachesTheProcessAndThenNobody(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := fd.Signal(syscall.Signal(1000)); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("signal 1000: %v, want class ErrInvalidArgument", err)
	}
	if err := fd.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := fd.Signal(syscall.SIGKILL); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("signal after the end: %v, want class ErrNotFound", err)
	}
}
