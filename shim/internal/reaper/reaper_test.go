package reaper

import (
	"context"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// start runs a reaper for the time of a test.
func start(t *testing.T) *Reaper {
	t.Helper()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return r
}

func receive(t *testing.T, ch <-chan Exit) Exit {
	t.Helper()
	select {
	case e := <-ch:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no exit came")
		return Exit{}
	}
}

func TestExitsReachTheirOwners(t *testing.T) {
	r := start(t)
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
		ch := make(chan Exit, 1)
		if _, err := r.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{}, func(e Exit) { ch <- e }); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, ch); got.Code != want {
			t.Errorf("%q: code %d, want %d", script, got.Code, want)
		}
	}
}

// A runtime exits and leaves a process that has ended before anybody knows its pid.
func TestOrphanThatEndedBeforeItIsKnownIsNotLost(t *testing.T) {
	r := start(t)
	w := r.Open()
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	gone := make(chan Exit, 1)
	_, err := r.Start("/bin/sh", []string{"sh", "-c", "(while kill -0 $$; do :; done 2>/dev/null; exit 5) & printf %d $!; exit 0"},
		&syscall.ProcAttr{Files: []uintptr{0, uintptr(pipe[1]), 2}}, func(e Exit) { gone <- e })
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(pipe[1])
	receive(t, gone)
	buf := make([]byte, 16)
	n, _ := syscall.Read(pipe[0], buf)
	_ = syscall.Close(pipe[0])
	pid := 0
	for _, c := range buf[:n] {
		pid = pid*10 + int(c-'0')
	}
	// The shell's child ends when the shell is gone, so that it is ours to reap; wait for that.
	for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the orphan does not end")
		}
	}
	ch := make(chan Exit, 1)
	w.Claim(pid, func(e Exit) { ch <- e })
	if got := receive(t, ch); got.Code != 5 {
		t.Errorf("code %d, want 5", got.Code)
	}
	w.Close()
	if len(r.strays) != 0 {
		t.Errorf("%d exits are kept without a window", len(r.strays))
	}
}

func TestSignalReachesNobodyAfterTheEnd(t *testing.T) {
	r := start(t)
	ch := make(chan Exit, 1)
	pid, err := r.Start("/bin/sleep", []string{"sleep", "100"}, &syscall.ProcAttr{}, func(e Exit) { ch <- e })
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := r.Signal(pid, syscall.SIGTERM); !ok || err != nil {
		t.Errorf("Signal = %v, %v", ok, err)
	}
	if got := receive(t, ch); got.Code != 128+15 {
		t.Errorf("code %d, want 143", got.Code)
	}
	if ok, err := r.Signal(pid, syscall.SIGTERM); ok || err != nil {
		t.Errorf("Signal after the end = %v, %v; want false", ok, err)
	}
}
