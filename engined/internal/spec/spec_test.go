package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

var update = flag.Bool("update", false, "rewrite golden files")

// request is a container that asks for nothing, with docker's defaults filled in.
func request(edit func(*Request)) Request {
	r := Request{
		ID:     "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		Config: &container.Config{Cmd: []string{"sh"}, Hostname: "0123456789ab"},
		Host: &container.HostConfig{
			NetworkMode: "bridge", IpcMode: "private", CgroupnsMode: "private", ShmSize: 64 << 20,
			MaskedPaths: DefaultMaskedPaths(), ReadonlyPaths: DefaultReadonlyPaths(),
		},
		User: User{Groups: []int{0}, Home: "/root"},
		Net: Network{
			NetnsPath: "/run/netns/x", Hostname: "0123456789ab",
			HostnamePath: "/d/hostname", HostsPath: "/d/hosts", ResolvConfPath: "/d/resolv.conf",
		},
		Cgroup: Cgroup{Swap: true},
	}
	if edit != nil {
		edit(&r)
	}
	return r
}

// TestSpecsAreTheReviewedOnes compares whole specs with golden files. The seccomp profile
// depends on the kernel and is left out.
func TestSpecsAreTheReviewedOnes(t *testing.T) {
	for name, edit := range map[string]func(*Request){
		"default": nil,
		"limits": func(r *Request) {
			r.Host.Resources = container.Resources{
				Memory: 32 << 20, MemorySwap: 64 << 20, MemoryReservation: 16 << 20, NanoCPUs: 5e8, CPUShares: 512, CpusetCpus: "0", PidsLimit: new(int64(50)),
				Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}, DeviceCgroupRules: []string{"c 1:* rw"}, BlkioWeight: 300,
			}
			r.Ulimits = map[string]*container.Ulimit{"nofile": {Name: "nofile", Soft: 1, Hard: 1}, "nproc": {Name: "nproc", Soft: 5, Hard: 6}}
		},
		"joined": func(r *Request) {
			r.Host.PidMode, r.Host.IpcMode, r.Host.UTSMode, r.Host.NetworkMode = "container:a", "container:a", "host", "host"
			r.Peers, r.ShmPath, r.Net.Host = Peers{PID: "/proc/7/ns/pid", IPC: "/proc/7/ns/ipc"}, "/run/shm/a", true
		},
		"tty-user-init": func(r *Request) {
			r.Config.Tty, r.Config.Entrypoint, r.Config.Env, r.Config.WorkingDir = true, []string{"/ep"}, []string{"A=b", "PATH=/x"}, "/w"
			r.User, r.InitPath, r.Host.ConsoleSize = User{UID: 1000, GID: 100, Groups: []int{100, 50}, Home: "/home/a"}, "/usr/bin/init", [2]uint{24, 80}
			r.Host.ReadonlyRootfs, r.Host.SecurityOpt, r.Host.OomScoreAdj = true, []string{"no-new-privileges"}, 5
		},
		"mounts": func(r *Request) {
			r.Mounts = []Mount{
				{Type: "bind", Source: "/src", Destination: "/a/b", ReadOnly: true, RecursiveReadOnly: true},
				{Type: "bind", Source: "/shared", Destination: "/s", Propagation: "rshared"},
				{Type: "tmpfs", Destination: "/dev/shm", Options: []string{"size=1m"}},
				{Type: "bind", Source: "/my/hosts", Destination: "/etc/hosts"},
			}
		},
		"systemd-cgroup": func(r *Request) { r.Cgroup = Cgroup{Systemd: true, V2: true}; r.Host.CgroupParent = "my.slice" },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Build(request(edit))
			if err != nil {
				t.Fatal(err)
			}
			s.Linux.Seccomp = nil
			s.Process.ApparmorProfile = ""
			got, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("spec differs from %s; review and run with -update:\n%s", golden, got)
			}
		})
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	edit := func(r *Request) { r.Host.Sysctls = map[string]string{"a": "1", "b": "2"} }
	first, err := Build(request(edit))
	if err != nil {
		t.Fatal(err)
	}
	a, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Build(request(edit))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(again); err != nil || string(a) != string(b) {
			t.Fatalf("two builds differ (%v)", err)
		}
	}
}

func TestSeccompFollowsTheWish(t *testing.T) {
	if !SeccompSupported() {
		t.Skip("the kernel has no seccomp filters (/proc/sys/kernel/seccomp)")
	}
	for _, tt := range []struct {
		name string
		edit func(*Request)
		want bool
	}{
		{"by default", nil, true},
		{"unconfined", func(r *Request) { r.Host.SecurityOpt = []string{"seccomp=unconfined"} }, false},
		{"privileged", func(r *Request) { r.Host.Privileged = true }, false},
		{"a profile of the user's own", func(r *Request) {
			r.Host.SecurityOpt = []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Build(request(tt.edit))
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Linux.Seccomp != nil; got != tt.want {
				t.Errorf("a seccomp profile: %v, want %v", got, tt.want)
			}
		})
	}
	_, err := Build(request(func(r *Request) { r.Host.SecurityOpt = []string{"seccomp={"} }))
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("Build with a broken profile = %v, want class ErrInvalidArgument", err)
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		name      string
		add, drop []string
		want      []string // subset
		not       []string
	}{
		{"defaults", nil, nil, []string{"CAP_CHOWN", "CAP_AUDIT_WRITE"}, []string{"CAP_SYS_ADMIN"}},
		{"short and lower-case names", []string{"net_admin"}, []string{"chown"}, []string{"CAP_NET_ADMIN"}, []string{"CAP_CHOWN"}},
		{"drop all, add one", []string{"CAP_KILL"}, []string{"ALL"}, []string{"CAP_KILL"}, []string{"CAP_CHOWN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caps, err := Capabilities(false, tt.add, tt.drop)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range tt.want {
				if !slices.Contains(caps.Bounding, c) {
					t.Errorf("%s is missing in %v", c, caps.Bounding)
				}
			}
			for _, c := range tt.not {
				if slices.Contains(caps.Bounding, c) {
					t.Errorf("%s is in %v", c, caps.Bounding)
				}
			}
		})
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100::/home/alice:/bin/sh\n")
	group := []byte("root:x:0:\nstaff:x:50:alice\nusers:x:100:\n")
	for _, tt := range []struct {
		wish     string
		add      []string
		uid, gid int
		groups   []int
		home     string
	}{
		{"", nil, 0, 0, []int{0}, "/root"},
		{"alice", nil, 1000, 100, []int{100, 50}, "/home/alice"},
		{"1000:0", nil, 1000, 0, []int{0}, "/home/alice"},
		{"4711", []string{"staff", "7"}, 4711, 0, []int{0, 7, 50}, "/"},
		{"alice:staff", nil, 1000, 50, []int{50}, "/home/alice"},
	} {
		u, err := ResolveUser(tt.wish, tt.add, passwd, group)
		if err != nil || u.UID != tt.uid || u.GID != tt.gid || !slices.Equal(u.Groups, tt.groups) || u.Home != tt.home {
			t.Errorf("ResolveUser(%q, %v) = %+v, %v", tt.wish, tt.add, u, err)
		}
	}
	_, err := ResolveUser("bob", nil, passwd, group)
	if want := "unable to find user bob: no matching entries in passwd file"; !errdefs.IsInvalidArgument(err) || err.Error()[:len(want)] != want {
		t.Errorf("ResolveUser(bob) = %v, want %q", err, want)
	}
}

func TestTmpfsOptions(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"", []string{"noexec", "nosuid", "nodev"}},
		{"exec,size=1m", []string{"nosuid", "nodev", "exec", "size=1m"}},
		{"size=1m,ro,size=2m", []string{"noexec", "nosuid", "nodev", "ro", "size=2m"}},
	} {
		if got, err := TmpfsOptions(tt.in); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("TmpfsOptions(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"bogus", "upperdir=/x"} {
		if got, err := TmpfsOptions(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("TmpfsOptions(%q) = %v, %v; want class ErrInvalidArgument", in, got, err)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := MergeEnv([]string{"A=1", "B=2"}, []string{"B=3", "C=4", "A"})
	if want := []string{"B=3", "C=4"}; !slices.Equal(got, want) {
		t.Errorf("MergeEnv = %v, want %v", got, want)
	}
}

func TestDeviceRules(t *testing.T) {
	r, err := parseDeviceRule("c 1:* rm")
	if err != nil || r.Type != "c" || *r.Major != 1 || *r.Minor != -1 || r.Access != "rm" || !r.Allow {
		t.Errorf("parseDeviceRule = %+v, %v", r, err)
	}
	for _, in := range []string{"", "x 1:1 r", "c 1 r", "c 1:1 q", "c a:1 r"} {
		if _, err := parseDeviceRule(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("parseDeviceRule(%q) = %v, want class ErrInvalidArgument", in, err)
		}
	}
}
