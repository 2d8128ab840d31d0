package stats

import (
	"os"
	"testing"
)

func TestParseHostCPUAddsUpWhatTheHostSpent(t *testing.T) {
	got, err := parseHostCPU([]byte("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\n"))
	if err != nil || got != 28*10_000_000 {
		t.Errorf("parseHostCPU = %d, %v; want 280000000", got, err)
	}
	if _, err := parseHostCPU([]byte("intr 1\n")); err == nil {
		t.Error("parseHostCPU of something else succeeded")
	}
}

func TestParseInterfacesLeavesOutLoopback(t *testing.T) {
	const table = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
`
	got, err := parseInterfaces([]byte(table))
	want := Interface{1000, 10, 1, 2, 2000, 20, 3, 4}
	if err != nil || len(got) != 1 || got["eth0"] != want {
		t.Errorf("parseInterfaces = %+v, %v; want eth0 %+v", got, err, want)
	}
}

func TestTheHostAnswers(t *testing.T) {
	if ns, cpus, err := HostCPU(); err != nil || ns == 0 || cpus == 0 {
		t.Errorf("HostCPU = %d, %d, %v", ns, cpus, err)
	}
	if HostMemory() == 0 {
		t.Error("HostMemory = 0")
	}
	if _, err := Interfaces(os.Getpid()); err != nil {
		t.Error(err)
	}
}
