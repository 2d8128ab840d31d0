package ocirun_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestProcessAttributes(t *testing.T) {
	b := newBundle(t, `id -u; id -g; id -G; pwd; echo "home $HOME"; umask; ulimit -n; hostname; cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/ip_forward; grep -E 'NoNewPrivs|CapInh|CapEff|CapBnd' /proc/self/status; ip addr show lo | grep -c UP`)
	p := b.spec.Process
	mask, score := uint32(0o077), 500
	p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: &mask}
	p.Cwd = "/new/dir"
	p.OOMScoreAdj = &score
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	b.spec.Root.Readonly = false
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	out, status := b.run()
	want := "1000\n1001\n1001 5 6\n/new/dir\nhome /home/user\n0077\n100\nocirun\n500\n1\nCapInh:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000020000420\nNoNewPrivs:\t1\n1\n"
	if out != want || status != 0 {
		t.Errorf("status %d, output:\n%s\nwant:\n%s", status, out, want)
	}
}

func TestAmbientCapabilitiesSurviveTheChangeOfUser(t *testing.T) {
	b := newBundle(t, `grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status`)
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	list := []string{"CAP_NET_BIND_SERVICE"}
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: list, Permitted: list, Effective: list, Inheritable: list, Ambient: list}
	out, _ := b.run()
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		wantLine(t, out, set+":\t0000000000000400")
	}
}

func TestSeccompIsEnforcedWithAndWithoutNoNewPrivileges(t *testing.T) {
	for _, nnp := range []bool{true, false} {
		for _, uid := range []uint32{0, 1000} {
			b := newBundle(t, `grep Seccomp: /proc/self/status; hostname; grep CapEff /proc/self/status`)
			b.spec.Process.NoNewPrivileges = nnp
			b.spec.Process.User = specs.User{UID: uid, GID: uid}
			errno := uint(unix.EPERM)
			b.spec.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"uname"}, Action: specs.ActErrno, ErrnoRet: &errno}},
			}
			out, _ := b.run()
			wantLine(t, out, "Seccomp:\t2")
			wantLine(t, out, "?") // busybox's answer when uname(2) fails
			if uid != 0 {
				wantLine(t, out, "CapEff:\t0000000000000000")
			}
		}
	}
}

func TestExecJoinsTheContainer(t *testing.T) {
	b := newBundle(t, "sleep 100").save()
	b.create()
	b.must("start", b.id)
	if out := b.must("exec", b.id, "hostname"); out != "ocirun\n" {
		t.Errorf("hostname in exec = %q", out)
	}
	if out := b.must("exec", "-u", "1000:1001", "-e", "X=y", "--cwd", "/tmp", b.id, "sh", "-c", "id -u; id -g; echo $X; pwd; echo $HOME"); out != "1000\n1001\ny\n/tmp\n/home/user\n" {
		t.Errorf("exec = %q", out)
	}
	out, err := b.try("exec", b.id, "sh", "-c", "exit 7")
	if s := statusOf(t, err); s != 7 {
		t.Errorf("exec exit 7 = %d, %q", s, out)
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		one := b.must("exec", b.id, "readlink", "/proc/1/ns/"+ns)
		if own := b.must("exec", b.id, "readlink", "/proc/self/ns/"+ns); own != one {
			t.Errorf("%s namespace of an exec is %s, of the container %s", ns, own, one)
		}
	}
	for _, bad := range []string{"1000x", "root", "-1", "4294967296", "1:2:3", ""} {
		if bad == "" {
			continue
		}
		if out, err := b.try("exec", "-u", bad, b.id, "id"); err == nil {
			t.Errorf("exec -u %s worked: %s", bad, out)
		}
	}
}

func TestExecOfAProcessFile(t *testing.T) {
	b := newBundle(t, "sleep 100").save()
	b.create()
	b.must("start", b.id)
	p := *b.spec.Process
	p.Args = []string{"sh", "-c", "echo from file > /dev/shm/f; exit 3"}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.dir, "process.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(b.dir, "exec.pid")
	b.must("exec", "--process", file, "--detach", "--pid-file", pidFile, b.id)
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if err := json.Unmarshal(raw, &pid); err != nil {
		t.Fatal(err)
	}
	if ws := reap(t, pid); ws.ExitStatus() != 3 {
		t.Errorf("detached exec ended with %v", ws)
	}
	if out := b.must("exec", b.id, "cat", "/dev/shm/f"); out != "from file\n" {
		t.Errorf("file = %q", out)
	}
}

func TestUserNamespace(t *testing.T) {
	b := newBundle(t, `id -u; cat /proc/self/uid_map | tr -s ' '; ls -ln /dev/null | tr -s ' ' | cut -d' ' -f3,5,6; touch /own && stat -c %u /own; cat /proc/sys/kernel/shmmax`)
	for _, n := range []string{"tr", "cut"} {
		_ = os.Symlink("busybox", b.rootfs("bin/"+n))
	}
	b.spec.Root.Readonly = false
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = m, m
	b.spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "123456"}
	if err := filepath.Walk(b.rootfs(""), func(p string, _ os.FileInfo, err error) error {
		if err == nil {
			err = os.Lchown(p, 100000, 100000)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for p := b.dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, status := b.run()
	want := "0\n 0 100000 65536\n65534 1, 3\n0\n123456\n"
	if out != want || status != 0 {
		t.Errorf("status %d, output %q, want %q", status, out, want)
	}
	var st unix.Stat_t
	if err := unix.Stat(b.rootfs("own"), &st); err != nil || st.Uid != 100000 {
		t.Errorf("file of the container's root is owned by %d, %v", st.Uid, err)
	}
}

func TestExecInAUserNamespace(t *testing.T) {
	b := newBundle(t, `sleep 100`)
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = m, m
	for p := b.dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.save()
	b.create()
	b.must("start", b.id)
	if out := b.must("exec", b.id, "sh", "-c", "id -u; readlink /proc/self/ns/user"); !strings.HasPrefix(out, "0\nuser:") {
		t.Errorf("exec = %q", out)
	}
	own := b.must("exec", b.id, "readlink", "/proc/self/ns/user")
	host, err := os.Readlink("/proc/self/ns/user")
	if err != nil || strings.TrimSpace(own) == host {
		t.Errorf("exec is in the host's user namespace %s (%v)", host, err)
	}
}

func TestJoinedNamespaces(t *testing.T) {
	a := newBundle(t, "sleep 100").save()
	pid := a.create()
	a.must("start", a.id)
	b := newBundle(t, "readlink /proc/self/ns/net; readlink /proc/self/ns/pid; ls /proc | grep -c '^[0-9]'")
	for i, n := range b.spec.Linux.Namespaces {
		switch n.Type {
		case specs.NetworkNamespace:
			b.spec.Linux.Namespaces[i].Path = "/proc/" + itoa(pid) + "/ns/net"
		case specs.PIDNamespace:
			b.spec.Linux.Namespaces[i].Path = "/proc/" + itoa(pid) + "/ns/pid"
		}
	}
	out, status := b.run()
	net, _ := os.Readlink("/proc/" + itoa(pid) + "/ns/net")
	pidns, _ := os.Readlink("/proc/" + itoa(pid) + "/ns/pid")
	if status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	wantLine(t, out, net)
	wantLine(t, out, pidns)
}

func TestTimeNamespace(t *testing.T) {
	b := newBundle(t, "cat /proc/uptime")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1_000_000}, "monotonic": {Secs: 5}}
	out, status := b.run()
	if f := strings.Fields(out); status != 0 || len(f) < 1 || len(strings.Split(f[0], ".")[0]) < 7 {
		t.Errorf("status %d, uptime %q, want more than 1000000", status, out)
	}
}

func TestPreservedDescriptors(t *testing.T) {
	b := newBundle(t, "cat <&3; ls /proc/self/fd | tr '\\n' ' '")
	_ = os.Symlink("busybox", b.rootfs("bin/tr"))
	b.save()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("through 3\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer r.Close()
	cmd := b.command("run", "--preserve-fds", "1", b.id)
	cmd.ExtraFiles = []*os.File{r}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "through 3\n0 1 2 3 ") || strings.Contains(string(out), " 5") {
		t.Errorf("run = %v, %q", err, out)
	}
}
