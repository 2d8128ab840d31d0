package cgroups

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var seq atomic.Int64

// newV1 makes a real cgroup of this test's own and removes it at the end.
func newV1(t *testing.T, res *specs.LinuxResources) *Manager {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	m, err := New(Options{Path: fmt.Sprintf("/strata-test-%d/c%d", os.Getpid(), seq.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	if m.isV2() {
		t.Skip("needs a host with cgroup v1 controllers")
	}
	if err := m.Create(res); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Kill(unix.SIGKILL)
		if err := m.Remove(); err != nil {
			t.Errorf("Remove = %v", err)
		}
		if m.Exists() {
			t.Errorf("cgroup %v exists after Remove", m.Paths())
		}
		for _, dir := range m.paths {
			_ = os.Remove(filepath.Dir(dir))
		}
	})
	return m
}

// spawn runs a process in the cgroup.
func spawn(t *testing.T, m *Manager, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read x; "+script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := m.Join(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, d)
		}
	}
}

func TestV1CreateWritesEachLimit(t *testing.T) {
	m := newV1(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(128 << 20)), Reservation: new(int64(32 << 20)), Swappiness: new(uint64(10))},
		CPU:    &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(20000)), Period: new(uint64(50000)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: new(int64(17))},
	})
	for _, tt := range []struct{ controller, file, want string }{
		{"memory", "memory.limit_in_bytes", "67108864"},
		{"memory", "memory.memsw.limit_in_bytes", "134217728"},
		{"memory", "memory.soft_limit_in_bytes", "33554432"},
		{"memory", "memory.swappiness", "10"},
		{"cpu", "cpu.shares", "512"},
		{"cpu", "cpu.cfs_quota_us", "20000"},
		{"cpu", "cpu.cfs_period_us", "50000"},
		{"cpuset", "cpuset.cpus", "0"},
		{"cpuset", "cpuset.mems", "0"},
		{"pids", "pids.max", "17"},
	} {
		if got, err := read(m.Path(tt.controller), tt.file); err != nil || got != tt.want {
			t.Errorf("%s = %q, %v; want %q", tt.file, got, err, tt.want)
		}
	}
}

func TestV1SetMovesMemoryAndSwapBothWaysAndTwice(t *testing.T) {
	m := newV1(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))}})
	for _, mb := range []int64{256, 256, 16, 16, 512} {
		if err := m.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(mb << 20), Swap: new(mb << 20)}}); err != nil {
			t.Fatalf("Set(%d MiB) = %v", mb, err)
		}
		if got := number(m.Path("memory"), "memory.memsw.limit_in_bytes"); got != uint64(mb<<20) {
			t.Errorf("memsw = %d, want %d", got, mb<<20)
		}
	}
	if err := m.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}}); err != nil {
		t.Fatalf("Set(no limit) = %v", err)
	}
	if got := number(m.Path("memory"), "memory.limit_in_bytes"); got < 1<<60 {
		t.Errorf("limit = %d after -1", got)
	}
}

func TestV1RefusedLimitSaysWhatWasWrittenWhere(t *testing.T) {
	m := newV1(t, nil)
	err := m.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}})
	if err == nil || !strings.Contains(err.Error(), `write "4000" to `) || !strings.Contains(err.Error(), "cpuset.cpus") {
		t.Errorf("Set = %v, want value and file", err)
	}
	for name, res := range map[string]*specs.LinuxResources{
		"shares below the minimum": {CPU: &specs.LinuxCPU{Shares: new(uint64(1))}},
		"swap below memory":        {Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(32 << 20))}},
		"unified":                  {Unified: map[string]string{"memory.high": "1"}},
	} {
		if err := m.Set(res); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: Set = %v, want class ErrInvalidArgument", name, err)
		}
	}
}

func TestV1FailedCreateLeavesNothing(t *testing.T) {
	m := newV1(t, nil)
	opts := Options{Path: strings.TrimPrefix(m.Path("cpu"), "/sys/fs/cgroup/cpu") + "-bad"}
	bad, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Create(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}); err == nil {
		t.Fatal("Create with cpu 4000 succeeded")
	}
	if bad.Exists() {
		t.Errorf("a failed Create left %v", bad.Paths())
	}
}

func TestV1QuotaAndPeriodChangeInOneSet(t *testing.T) {
	m := newV1(t, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(20000)), Period: new(uint64(20000))}})
	for _, v := range []struct {
		quota  int64
		period uint64
	}{{100000, 100000}, {1000, 1000}, {5000, 1000}} {
		if err := m.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &v.quota, Period: &v.period}}); err != nil {
			t.Errorf("Set(%+v) = %v", v, err)
		}
	}
}

func TestV1JoinEntersEachHierarchy(t *testing.T) {
	m := newV1(t, nil)
	cmd := spawn(t, m, "sleep 60")
	again, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Paths(), m.Paths()) {
		t.Errorf("process is in %v, want %v", again.Paths(), m.Paths())
	}
	pids, err := Load(m.Paths()).Pids()
	if err != nil || len(pids) == 0 || pids[0] != cmd.Process.Pid {
		t.Errorf("Pids = %v, %v; want %d", pids, err, cmd.Process.Pid)
	}
	if f, err := m.Dir(); f != nil || err != nil {
		t.Errorf("Dir = %v, %v; want nil, nil", f, err)
	}
}

func TestV1DevicesDenyAllButTheRules(t *testing.T) {
	m := newV1(t, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "rwm"},
	}})
	list, err := read(m.Path("devices"), "devices.list")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c 10:229 rwm", "c 1:3 rwm", "c 136:* rwm", "b *:* m"} {
		if !strings.Contains(list, want) {
			t.Errorf("devices.list = %q, want it to have %q", list, want)
		}
	}
	if strings.Contains(list, "a *:*") {
		t.Errorf("devices.list = %q allows everything", list)
	}
	kmsg := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mknod(kmsg, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	cmd := spawn(t, m, "exec 3<"+kmsg)
	if err := cmd.Wait(); err == nil {
		t.Error("a process opened /dev/kmsg, which no rule allows")
	}
}

func TestV1FreezeStopsAndKillEndsEverything(t *testing.T) {
	m := newV1(t, nil)
	cmd := spawn(t, m, "sleep 60 & sleep 60 & wait")
	within(t, 5*time.Second, "three processes", func() bool { pids, _ := m.Pids(); return len(pids) == 3 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := m.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := m.Frozen(); !frozen || err != nil {
		t.Errorf("Frozen = %v, %v", frozen, err)
	}
	if err := m.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	within(t, 5*time.Second, "no process", func() bool { pids, err := m.Pids(); return err == nil && len(pids) == 0 })
}

func TestV1RemoveIsBoundedAndNamesTheProcesses(t *testing.T) {
	m := newV1(t, nil)
	cmd := spawn(t, m, "sleep 60")
	err := m.Remove()
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("Remove = %v, want class ErrFailedPrecondition and pid %d", err, cmd.Process.Pid)
	}
}

func TestV1StatsCount(t *testing.T) {
	m := newV1(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: new(int64(9))}})
	spawn(t, m, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 60")
	within(t, 10*time.Second, "usage", func() bool { s, err := m.Stats(); return err == nil && s.CPU.Usage > 0 && s.Memory.Usage > 0 })
	s, err := m.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.V2 || s.Memory.Limit != 64<<20 || s.Pids.Limit != 9 || s.Pids.Current == 0 || len(s.CPU.PerCPU) == 0 || s.Memory.Stat["hierarchical_memory_limit"] != 64<<20 {
		t.Errorf("Stats = %+v", s)
	}
}

func TestV1OOMIsTold(t *testing.T) {
	m := newV1(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(8 << 20)), Swap: new(int64(8 << 20))}})
	ch, err := m.OOM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spawn(t, m, "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; sleep 60")
	select {
	case _, ok := <-ch:
		if !ok {
			t.Error("channel was closed without a strike")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no OOM notification within 10 s")
	}
	within(t, 5*time.Second, "counted kill", func() bool { s, err := m.Stats(); return err == nil && s.Memory.OOMKills > 0 })
}

func TestV1OOMWatchEndsWithTheCgroupAndWithTheContext(t *testing.T) {
	m := newV1(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := m.OOM(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.OOM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, ok := <-a; ok {
		t.Error("a strike after cancel")
	}
	if err := m.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-b; ok {
		t.Error("the removal was told as a strike")
	}
	if _, err := m.OOM(t.Context()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("OOM of a removed cgroup = %v, want class ErrNotFound", err)
	}
}

// A container that restarts gets a cgroup of the same name before the watcher looks.
func TestV1OOMWatchIsNotTakenInByACgroupOfTheSameName(t *testing.T) {
	m := newV1(t, nil)
	for range 20 {
		ch, err := m.OOM(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := m.Create(nil); err != nil {
			t.Fatal(err)
		}
		select {
		case _, struck := <-ch:
			if struck {
				t.Fatal("the removal was told as a strike")
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the watch goes on after its cgroup was removed")
		}
	}
}

func TestPathsStartAtTheRightPlace(t *testing.T) {
	h := parseMountinfo(bufio.NewScanner(strings.NewReader(`31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`)))
	own := filepath.Join(t.TempDir(), "cgroup")
	if err := os.WriteFile(own, []byte("3:cpu,cpuacct:/user\n2:memory:/docker/abc/deep\n1:name=systemd:/user\n0::/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       map[string]string
	}{
		{"absolute path starts at the root of the hierarchy", "/a/b", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/a/b", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a/b", "memory": "/sys/fs/cgroup/memory/a/b", "name=systemd": "/sys/fs/cgroup/systemd/a/b",
		}},
		{"relative path starts at the own cgroup, as far as the mount shows it", "x", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/user/x", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/user/x", "memory": "/sys/fs/cgroup/memory/deep/x", "name=systemd": "/sys/fs/cgroup/systemd/user/x",
		}},
		{"a path cannot climb out", "/../../../etc", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/etc", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/etc", "memory": "/sys/fs/cgroup/memory/etc", "name=systemd": "/sys/fs/cgroup/systemd/etc",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := newManager(h, own, Options{Path: tt.path})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m.Paths(), tt.want) {
				t.Errorf("Paths = %v, want %v", m.Paths(), tt.want)
			}
		})
	}
	for _, bad := range []string{"/", "..", "."} {
		if _, err := newManager(h, own, Options{Path: bad}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("path %q = %v, want class ErrInvalidArgument", bad, err)
		}
	}
}

type fakeScopes struct {
	got Scope
	pid int
}

func (f *fakeScopes) StartScope(_ context.Context, s Scope, pid int) error {
	f.got, f.pid = s, pid
	return nil
}

func TestSystemdScopeIsStartedByJoinWithItsLimits(t *testing.T) {
	root := fakeV2(t)
	f := &fakeScopes{}
	m, err := newManager(hierarchies{unified: root, unifiedRoot: "/"}, "", Options{Path: "machine-a.slice:lib:web", Systemd: true, Scopes: f})
	if err != nil {
		t.Fatal(err)
	}
	want := root + "/machine.slice/machine-a.slice/lib-web.scope"
	if m.Path("") != want {
		t.Errorf("path = %q, want %q", m.Path(""), want)
	}
	if err := m.Create(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(1 << 20))}, CPU: &specs.LinuxCPU{Quota: new(int64(12345))}}); err != nil {
		t.Fatal(err)
	}
	if f.pid != 0 {
		t.Error("the scope was started before there is a process")
	}
	if d, err := m.Dir(); d != nil || err != nil {
		t.Errorf("Dir before Join = %v, %v; want nil, nil", d, err)
	}
	makeV2(t, want)
	if err := m.Join(4711); err != nil {
		t.Fatal(err)
	}
	if f.pid != 4711 || f.got.Name != "lib-web.scope" || f.got.Slice != "machine-a.slice" || f.got.MemoryMax != 1<<20 || f.got.CPUQuota != 130*time.Millisecond {
		t.Errorf("scope = %+v, pid %d", f.got, f.pid)
	}
	if got, _ := read(want, "memory.max"); got != "1048576" {
		t.Errorf("memory.max = %q after Join", got)
	}
}

func TestExpandSlice(t *testing.T) {
	for in, want := range map[string]string{"a.slice": "/a.slice", "a-b-c.slice": "/a.slice/a-b.slice/a-b-c.slice", "-.slice": ""} {
		if got, err := expandSlice(in); err != nil || got != want {
			t.Errorf("expandSlice(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"a", ".slice", "a--b.slice", "a/b.slice", "-a.slice"} {
		if got, err := expandSlice(in); err == nil {
			t.Errorf("expandSlice(%q) = %q, want an error", in, got)
		}
	}
}
