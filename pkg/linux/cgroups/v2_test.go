package cgroups

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var v2Files = map[string]string{
	"cgroup.controllers": "cpuset cpu io memory pids", "cgroup.subtree_control": "", "cgroup.procs": "", "cgroup.type": "domain",
	"cpu.max": "max 100000", "cpu.weight": "100", "cpu.idle": "0", "cpu.max.burst": "0", "cpuset.cpus": "", "cpuset.mems": "",
	"memory.max": "max", "memory.low": "0", "memory.high": "max", "memory.swap.max": "max", "memory.current": "4096",
	"pids.max": "max", "io.max": "", "io.weight": "default 100",
}

// makeV2 makes a directory with the files that the kernel would put there. A file
// system cannot show what the kernel does with a value, only what is written where.
func makeV2(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != filepath.Dir(d); d = filepath.Dir(d) {
		if _, err := os.Stat(d + "/cgroup.procs"); err == nil && d != dir {
			break
		}
		for name, content := range v2Files {
			if err := os.WriteFile(filepath.Join(d, name), []byte(content+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func fakeV2(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range v2Files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func newFakeV2(t *testing.T) *Manager {
	t.Helper()
	root := fakeV2(t)
	dir := filepath.Join(root, "a")
	makeV2(t, dir)
	return &Manager{paths: map[string]string{"": dir}, unified: root}
}

// first returns what was written to a file, whose longer old content stays behind it.
func written(t *testing.T, m *Manager, file, want string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.paths[""], file))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(data), want) {
		t.Errorf("%s = %q, want %q", file, data, want)
	}
}

func TestV2CreateEnablesControllersFromTheTopAndWritesLimits(t *testing.T) {
	m := newFakeV2(t)
	err := m.Create(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(96 << 20)), Reservation: new(int64(32 << 20))},
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(20000)), Period: new(uint64(50000)), Cpus: "0-1"},
		Pids:   &specs.LinuxPids{Limit: new(int64(-1))},
		BlockIO: &specs.LinuxBlockIO{
			Weight:                 new(uint16(500)),
			ThrottleReadBpsDevice:  []specs.LinuxThrottleDevice{throttle(8, 0, 1<<20)},
			ThrottleWriteBpsDevice: nil,
		},
		Unified: map[string]string{"memory.high": "50000000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"memory.max": "67108864", "memory.swap.max": "33554432", "memory.low": "33554432", "memory.high": "50000000",
		"cpu.weight": "100", "cpu.max": "20000 50000", "cpuset.cpus": "0-1", "pids.max": "max", "io.max": "8:0 rbps=1048576", "io.weight": "default 4950",
	} {
		written(t, m, file, want)
	}
	if got, _ := read(m.unified, "cgroup.subtree_control"); got != "+cpuset +cpu +io +memory +pids" {
		t.Errorf("subtree_control = %q", got)
	}
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func TestV2MissingControllerIsNamed(t *testing.T) {
	m := newFakeV2(t)
	if err := os.Remove(filepath.Join(m.paths[""], "pids.max")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.paths[""], "cgroup.controllers"), []byte("cpu memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := m.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(5))}})
	if err == nil || !strings.Contains(err.Error(), `controller "pids" is not enabled`) || !strings.Contains(err.Error(), "cpu memory") {
		t.Errorf("Set = %v, want the controller and those that are enabled", err)
	}
}

func TestV2RefusesWhatItCannotExpress(t *testing.T) {
	m := newFakeV2(t)
	for name, res := range map[string]*specs.LinuxResources{
		"realtime":                     {CPU: &specs.LinuxCPU{RealtimeRuntime: new(int64(1))}},
		"swap without memory":          {Memory: &specs.LinuxMemory{Swap: new(int64(1 << 20))}},
		"swap below memory":            {Memory: &specs.LinuxMemory{Limit: new(int64(2 << 20)), Swap: new(int64(1 << 20))}},
		"limit below checked usage":    {Memory: &specs.LinuxMemory{Limit: new(int64(1024)), CheckBeforeUpdate: new(true)}},
		"unified key that leaves":      {Unified: map[string]string{"../memory.max": "1"}},
		"unified key without a dot":    {Unified: map[string]string{"tasks": "1"}},
		"device access with a bad key": {Devices: []specs.LinuxDeviceCgroup{{Type: "c", Access: "x"}}},
	} {
		if err := m.Set(res); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: Set = %v, want class ErrInvalidArgument", name, err)
		}
	}
}

func TestV2PeriodAloneKeepsTheQuota(t *testing.T) {
	m := newFakeV2(t)
	if err := m.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: new(uint64(50000))}}); err != nil {
		t.Fatal(err)
	}
	written(t, m, "cpu.max", "max 50000")
}

func TestCPUWeightKeepsDefaultsAndEnds(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := CPUWeight(shares); got != want {
			t.Errorf("CPUWeight(%d) = %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := uint64(2); s < 262144; s += 37 {
		if w := CPUWeight(s); w < last || w > 10000 {
			t.Fatalf("CPUWeight(%d) = %d after %d", s, w, last)
		} else {
			last = w
		}
	}
}

// realV2 makes a cgroup in the host's v2 hierarchy, which on a hybrid host has no
// controllers but can be joined, frozen, killed and given device programs.
func realV2(t *testing.T) *Manager {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	top := ""
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			top = dir
			break
		}
	}
	if top == "" {
		t.Skip("needs a mounted cgroup2 hierarchy")
	}
	m, err := newManager(hierarchies{unified: top, unifiedRoot: "/"}, "", Options{Path: "/strata-test-" + itoa(int64(os.Getpid())) + "/v2-" + itoa(seq.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Create(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Kill(unix.SIGKILL)
		if err := m.Remove(); err != nil {
			t.Errorf("Remove = %v", err)
		}
		_ = os.Remove(filepath.Dir(m.paths[""]))
	})
	return m
}

func TestV2DeviceProgramDecidesAndIsReplaced(t *testing.T) {
	m := realV2(t)
	node := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	deny := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	allow := append(deny[:1:1], specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(11)), Access: "r"})
	for _, tt := range []struct {
		name   string
		rules  []specs.LinuxDeviceCgroup
		script string
		works  bool
	}{
		{"a denied device cannot be opened", deny, "exec 3<" + node, false},
		{"a default device can be opened", deny, "exec 3<>/dev/null", true},
		{"an allowed device can be opened", allow, "exec 3<" + node, true},
		{"but only as the rule says", allow, "exec 3>" + node, false},
		{"and denied again", deny, "exec 3<" + node, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := m.Set(&specs.LinuxResources{Devices: tt.rules}); err != nil {
				t.Fatal(err)
			}
			if err := spawn(t, m, tt.script).Wait(); (err == nil) != tt.works {
				t.Errorf("%s = %v, want success %v", tt.script, err, tt.works)
			}
		})
	}
	cg, err := unix.Open(m.paths[""], unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(cg) }()
	if ids, err := attachedPrograms(cg); err != nil || len(ids) != 1 {
		t.Errorf("attached programs = %v, %v; want one", ids, err)
	}
}

func TestV2FreezeKillAndDir(t *testing.T) {
	m := realV2(t)
	f, err := m.Dir()
	if err != nil || f == nil {
		t.Fatalf("Dir = %v, %v", f, err)
	}
	_ = f.Close()
	cmd := spawn(t, m, "sleep 60")
	if err := m.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if frozen, err := m.Frozen(); err != nil || !frozen {
		t.Errorf("Frozen = %v, %v", frozen, err)
	}
	if err := m.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if pids, err := m.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("Pids = %v, %v; want none", pids, err)
	}
}

func TestLaterRulesWinAndPermissionsAddUp(t *testing.T) {
	rules, err := compileRules([]specs.LinuxDeviceCgroup{
		{Allow: true, Access: "rwm"},
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "b", Major: new(int64(8)), Minor: new(int64(0)), Access: "r"},
		{Allow: true, Type: "b", Major: new(int64(8)), Minor: new(int64(0)), Access: "w"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !rules[0].all() || rules[0].allow {
		t.Errorf("rules[0] = %v, want the denial of all", rules[0])
	}
	merged := merge(rules)
	if merged[1].access != accessRead|accessWrite {
		t.Errorf("merged[1] = %v, want rw", merged[1])
	}
}
