package pidfd

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestKillReturnsWhenTheProcessHasEnded(t *testing.T) {
	cmd := sleeper(t)
	if err := Kill(cmd.Process.Pid, func() bool { return true }, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if pid, err := syscall.Wait4(cmd.Process.Pid, &ws, syscall.WNOHANG, nil); err != nil || pid == 0 || ws.Signal() != syscall.SIGKILL {
		t.Errorf("after Kill the process is not dead: wait4 = %d, %v, %v", pid, ws, err)
	}
}

func TestKillSparesAnotherProcess(t *testing.T) {
	cmd := sleeper(t)
	if err := Kill(cmd.Process.Pid, func() bool { return false }, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process that was not meant has ended: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("sleep ended by itself")
	}
	if err := Kill(cmd.Process.Pid, func() bool { return true }, time.Second); err != nil {
		t.Errorf("Kill of a process that is gone = %v", err)
	}
}

func TestWaitGivesUp(t *testing.T) {
	cmd := sleeper(t)
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := Wait(fd, 20*time.Millisecond); !errors.Is(err, ErrAlive) {
		t.Errorf("Wait for a living process = %v, want ErrAlive", err)
	}
	if err := errors.Join(cmd.Process.Kill(), Wait(fd, 5*time.Second)); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
}
