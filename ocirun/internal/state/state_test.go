package state

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"
)

func TestStateComesBackAsItWasSaved(t *testing.T) {
	s := Store{Root: t.TempDir()}
	if err := s.Make("a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Make("a"); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Make = %v, want class ErrAlreadyExists", err)
	}
	if _, err := s.Load("a"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Load of half a container = %v, want class ErrNotFound", err)
	}
	want := &State{ID: "a", PID: 7, Bundle: "/b", Config: Config{Seccomp: &Seccomp{Flags: 4}}}
	if err := s.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load("a")
	if err != nil || got.PID != 7 || got.Bundle != "/b" || got.Config.Seccomp.Flags != 4 {
		t.Errorf("Load = %+v, %v", got, err)
	}
	if ids, err := s.List(); err != nil || len(ids) != 1 || ids[0] != "a" {
		t.Errorf("List = %v, %v", ids, err)
	}
}

func TestAnotherProcessWithThePidIsNotTheContainer(t *testing.T) {
	ticks, _, err := StartTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if st := (&State{PID: os.Getpid(), StartTicks: ticks}); !st.Alive() {
		t.Error("own process is not alive")
	}
	if st := (&State{PID: os.Getpid(), StartTicks: ticks + 1}); st.Alive() {
		t.Error("a process with another start time counts as the container")
	}
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	st := &State{PID: cmd.Process.Pid}
	if st.StartTicks, _, err = StartTicks(st.PID); err != nil {
		t.Fatal(err)
	}
	for st.Alive() { // until it is a zombie, which is not alive
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if st.Alive() {
		t.Error("a process that has been waited for is alive")
	}
}

func TestValidateID(t *testing.T) {
	for _, id := range []string{"a", "A.b_c-d+e", "...", "0"} {
		if err := ValidateID(id); err != nil {
			t.Errorf("ValidateID(%q) = %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a b", "a\x00", "ü", "a\n"} {
		if err := ValidateID(id); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ValidateID(%q) = %v, want class ErrInvalidArgument", id, err)
		}
	}
}
