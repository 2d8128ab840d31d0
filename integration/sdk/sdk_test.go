// Package sdk runs programs of the stock SDKs against our engine and against a stock
// dockerd, and compares what they see.
package sdk

import (
	"os/exec"
	"strings"
	"testing"

	"strata/integration/harness"
)

// python is Debian's, which has Debian's docker-py.
const python = "/usr/bin/python3"

// program makes a command of the docker CLI one of a program that speaks to the same daemon
// from the same place.
func program(docker *exec.Cmd, args ...string) *exec.Cmd {
	docker.Args = append(docker.Args[:2:2], args...) // nsenter, and where to
	return docker
}

func TestPythonSeesWhatItSeesOnDockerd(t *testing.T) {
	if err := exec.Command(python, "-c", "import docker").Run(); err != nil {
		t.Fatalf("docker-py: %v: .ci/deps installs it", err)
	}
	s := harness.New(t)
	s.LoadBusybox()
	stock := s.StockDocker()
	if r := s.Run(stock("load", "-q", "-i", s.BusyboxArchive())); r.Code != 0 {
		t.Fatalf("stock load: %+v", r)
	}
	saw := func(docker *exec.Cmd) []string {
		r := s.Run(program(docker, python, "testdata/everyday.py"))
		if r.Code != 0 {
			t.Fatalf("exit code %d\n%s\n%s\n%s", r.Code, r.Stdout, r.Stderr, s.Logs())
		}
		return strings.Split(strings.TrimSpace(r.Stdout), "\n")
	}
	got, want := saw(s.Command("docker")), saw(stock())
	if len(got) != len(want) {
		t.Fatalf("%d steps on ours, %d on dockerd", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("ours    %s\ndockerd %s", got[i], want[i])
		}
	}
}
