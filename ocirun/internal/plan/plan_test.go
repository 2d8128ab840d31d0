package plan

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "rewrite golden files")

// host is a machine that does not change.
func host() Host {
	return Host{
		Bundle: "/b", ID: "c1", LastCap: 40, Kcore: true, Home: "/root",
		Hierarchies: []Hierarchy{
			{"cpu,cpuacct", "cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/c1"},
			{"memory", "memory", "/sys/fs/cgroup/memory/c1"},
			{"systemd", "name=systemd", "/sys/fs/cgroup/systemd/c1"},
		},
	}
}

func v2() Host {
	h := host()
	h.Hierarchies, h.CgroupV2, h.CgroupDir = nil, true, "/sys/fs/cgroup/c1"
	return h
}

func load(t *testing.T, name string) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".plan")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from its golden file; run with -update and review the diff\n%s", name, got)
	}
}

func TestPlansOfBundles(t *testing.T) {
	unprivileged := v2()
	unprivileged.Unprivileged, unprivileged.BindDevices = true, true
	clamped := v2()
	clamped.Limits = map[int]uint64{7: 512}
	clamped.Caps = 1 << 10
	clamped.Seccomp = &Seccomp{Flags: 4}
	for name, tt := range map[string]struct {
		spec string
		host Host
	}{
		"docker-v1":      {"docker", host()},
		"docker-v2":      {"docker", v2()},
		"docker-clamped": {"docker", clamped},
		"rootless":       {"rootless", unprivileged},
		"mounts":         {"mounts", v2()},
		"joined":         {"joined", v2()},
		"hooks-and-tty":  {"hooks", v2()},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(load(t, tt.spec), tt.host)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, p.Text())
		})
	}
}

func TestPlanOfExec(t *testing.T) {
	s := load(t, "docker")
	h := host()
	h.Seccomp = &Seccomp{Flags: 4}
	task := Task{Types: []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.NetworkNamespace, specs.UserNamespace}}
	p, err := CompileExec(s.Process, task, h)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "exec", p.Text())
	h.Unprivileged = true
	if p, err = CompileExec(s.Process, task, h); err != nil {
		t.Fatal(err)
	}
	golden(t, "exec-rootless", p.Text())
}

func TestSecuritySensitiveOrder(t *testing.T) {
	h := v2()
	h.Seccomp = &Seccomp{}
	for _, nnp := range []bool{true, false} {
		s := load(t, "docker")
		s.Process.NoNewPrivileges = nnp
		p, err := Compile(s, h)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]int{}
		for i, o := range p.Ops {
			at[strings.Fields(o.String())[0]] = i
		}
		order := []string{"pivot_root", "change", "limits", "become", "seccomp", "capabilities", "created:", "execve"}
		if nnp {
			order = []string{"pivot_root", "change", "limits", "become", "capabilities", "set", "seccomp", "created:", "execve"}
		}
		for i := 1; i < len(order); i++ {
			if at[order[i-1]] >= at[order[i]] || at[order[i]] == 0 {
				t.Errorf("no_new_privs %v: %q (%d) must come before %q (%d)", nnp, order[i-1], at[order[i-1]], order[i], at[order[i]])
			}
		}
	}
}

func TestSpecsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"no args":               func(s *specs.Spec) { s.Process.Args = nil },
		"relative cwd":          func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"no root":               func(s *specs.Spec) { s.Root = nil },
		"version":               func(s *specs.Spec) { s.Version = "2.0.0" },
		"duplicate namespace":   func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) },
		"unknown namespace":     func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "moon" },
		"no mount namespace":    func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"hostname without uts":  func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}} },
		"host sysctl":           func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		"sysctl with dots":      func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/panic": "1"} },
		"mappings without user": func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"rlimit":                func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"rlimit twice": func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CORE"}}
		},
		"device type":  func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} },
		"propagation":  func(s *specs.Spec) { s.Linux.RootfsPropagation = "sideways" },
		"idmap fs":     func(s *specs.Spec) { s.Mounts[0].Options = []string{"idmap"} },
		"mount":        func(s *specs.Spec) { s.Mounts[0].Destination = "" },
		"time offsets": func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}} },
		"NUL in args":  func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} },
		"scheduler":    func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_MAGIC"} },
	} {
		s := load(t, "docker")
		change(s)
		if _, err := Compile(s, v2()); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: Compile = %v, want class ErrInvalidArgument", name, err)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":               "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.100/forwarding": "net/ipv4/conf/eth0.100/forwarding",
		"net.ipv4.conf.eth0/100.forwarding": "net/ipv4/conf/eth0.100/forwarding",
	} {
		if got := SysctlPath(name); got != want {
			t.Errorf("SysctlPath(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzSpecToPlan(f *testing.F) {
	for _, name := range []string{"docker", "rootless", "mounts", "joined", "hooks"} {
		data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &specs.Spec{}
		if json.Unmarshal(data, s) != nil {
			return
		}
		p, err := Compile(s, v2())
		if err != nil {
			return
		}
		if _, ok := p.Ops[len(p.Ops)-1].(Exec); !ok {
			t.Errorf("a plan ends with %s", p.Ops[len(p.Ops)-1])
		}
		_ = p.Text()
	})
}
