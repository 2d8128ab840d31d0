package ocirun_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestLifecycleFromCreateToDelete(t *testing.T) {
	b := newBundle(t, "echo started; sleep 100").save()
	pid := b.create()
	if s := b.status(); s != "created" {
		t.Errorf("status after create = %q", s)
	}
	if out := b.output(); out != "" {
		t.Errorf("user code ran before start: %q", out)
	}
	b.must("start", b.id)
	if s := b.status(); s != "running" {
		t.Errorf("status after start = %q", s)
	}
	if out, err := b.try("start", b.id); err == nil {
		t.Errorf("second start worked: %s", out)
	}
	if out, err := b.try("delete", b.id); err == nil || !strings.Contains(out, "not stopped") {
		t.Errorf("delete of a running container: %v, %q", err, out)
	}
	b.must("kill", b.id, "KILL")
	if ws := reap(t, pid); ws.Signal() != unix.SIGKILL {
		t.Errorf("init ended with %v", ws)
	}
	if s := b.status(); s != "stopped" {
		t.Errorf("status after kill = %q", s)
	}
	if out, err := b.try("kill", b.id, "TERM"); err == nil || !strings.Contains(out, "container not running") {
		t.Errorf("kill of a stopped container: %v, %q", err, out)
	}
	b.must("delete", b.id)
	if out, err := b.try("state", b.id); err == nil || !strings.Contains(out, "does not exist") {
		t.Errorf("state after delete: %v, %q", err, out)
	}
	b.must("delete", "--force", b.id)
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/ocirun-test/" + b.id); len(dirs) > 0 {
		t.Errorf("delete left cgroups: %v", dirs)
	}
}

func TestCreatedContainerIsSmall(t *testing.T) {
	b := newBundle(t, "true").save()
	pid := b.create()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); f[0] == "Pss:" {
			if kb, _ := strconv.Atoi(f[1]); kb > 1024 {
				t.Errorf("a created container takes %d kB", kb)
			}
			return
		}
	}
	t.Error("no Pss in smaps_rollup")
}

func TestRunReturnsTheExitStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "kill -KILL $$; sleep 5": 137} {
		b := newBundle(t, script)
		b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.PIDNamespace // where a process cannot kill init
		})
		if out, got := b.run(); got != want {
			t.Errorf("run %q = %d, want %d\n%s", script, got, want, out)
		}
	}
}

func TestIDsAreChecked(t *testing.T) {
	b := newBundle(t, "true").save()
	for _, id := range []string{"..", ".", "a/b", "a b", "", "../x", "a\n"} {
		if out, err := b.try("create", id); err == nil {
			t.Errorf("create %q worked: %s", id, out)
		}
	}
	b.create()
	if _, out, err := b.tryCreate(); err == nil || !strings.Contains(out, "already exists") {
		t.Errorf("second create: %v, %q", err, out)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for name, change := range map[string]func(*bundle){
		"no program": func(b *bundle) { b.spec.Process.Args = []string{"/no/such"} },
		"no mount point": func(b *bundle) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/x", Source: "/no/such", Options: []string{"bind"}})
		},
		"bad filesystem": func(b *bundle) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/x", Type: "nosuchfs"})
		},
		"failing hook": func(b *bundle) {
			b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, "true")
			change(b)
			b.save()
			if _, out, err := b.tryCreate(); err == nil {
				t.Fatalf("create worked: %s", out)
			}
			if entries, _ := os.ReadDir(filepath.Join(b.root, b.id)); entries != nil {
				t.Errorf("state is left: %v", entries)
			}
			if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/ocirun-test/" + b.id); len(dirs) > 0 {
				t.Errorf("cgroups are left: %v", dirs)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || strings.Contains(string(mounts), b.dir) {
				t.Errorf("mounts are left (%v)", err)
			}
		})
	}
}

func TestErrorsOfMissingProgramsHaveTheWordsThatDockerLooksFor(t *testing.T) {
	for args, want := range map[string]string{
		"nosuch":      `exec: "nosuch": executable file not found in $PATH`,
		"/nosuch":     `exec: "/nosuch": stat /nosuch: no such file or directory`,
		"/etc/passwd": `exec: "/etc/passwd": permission denied`,
		"/etc":        `exec: "/etc": is a directory`,
	} {
		b := newBundle(t, "")
		b.spec.Process.Args = []string{args}
		log := filepath.Join(b.dir, "log.json")
		b.global = []string{"--log", log, "--log-format", "json"}
		if out, status := b.run(); status != 1 || !strings.Contains(out, want) {
			t.Errorf("run %s = %d, %q, want 1 and %q", args, status, out, want)
		}
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var line struct {
			Level, Msg string
			Time       time.Time
		}
		if err := json.Unmarshal(data, &line); err != nil || line.Level != "error" || !strings.Contains(line.Msg, want) || line.Time.IsZero() {
			t.Errorf("log line %q: %v", data, err)
		}
	}
}

func TestExecFormatErrorIsToldToStandardError(t *testing.T) {
	b := newBundle(t, "")
	b.write("bin/bad", "\x00\x01\x02 not a program", 0o755)
	b.spec.Process.Args = []string{"/bin/bad"}
	b.save()
	pid := b.create()
	b.must("start", b.id)
	if ws := reap(t, pid); ws.ExitStatus() != 255 {
		t.Errorf("init ended with %v", ws)
	}
	if out := b.output(); out != "exec /bin/bad: exec format error\n" {
		t.Errorf("output %q", out)
	}
}

func TestPauseAndResume(t *testing.T) {
	b := newBundle(t, "sleep 100").save()
	b.create()
	b.must("start", b.id)
	b.must("pause", b.id)
	if s := b.status(); s != "paused" {
		t.Errorf("status = %q", s)
	}
	if out, err := b.try("exec", b.id, "true"); err == nil || !strings.Contains(out, "paused") {
		t.Errorf("exec in a paused container: %v, %q", err, out)
	}
	b.must("resume", b.id)
	if s := b.status(); s != "running" {
		t.Errorf("status = %q", s)
	}
	b.must("pause", b.id)
	b.must("delete", "--force", b.id)
}

func TestKillAllReachesEveryProcess(t *testing.T) {
	b := newBundle(t, "sleep 1000 & sleep 1000 & wait").save()
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	b.save()
	pid := b.create()
	b.must("start", b.id)
	pids := func() (out []int) {
		if err := json.Unmarshal([]byte(b.must("ps", "--format", "json", b.id)), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	waitFor(t, "three processes", func() bool { return len(pids()) == 3 })
	all := pids()
	b.must("kill", b.id, "KILL")
	reap(t, pid)
	for _, p := range all {
		if p != pid {
			reap(t, p)
		}
	}
	b.must("delete", b.id)
}

// waitFor polls until ok.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond) // polling interval
	}
}

func TestListAndPs(t *testing.T) {
	b := newBundle(t, "sleep 100").save()
	pid := b.create()
	var list []struct {
		ID     string
		PID    int
		Status string
		Owner  string
	}
	if err := json.Unmarshal([]byte(b.must("list", "--format=json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].ID != b.id || list[0].PID != pid || list[0].Status != "created" || list[0].Owner != "root" {
		t.Errorf("list = %+v", list)
	}
	if out := b.must("list", "-q"); strings.TrimSpace(out) != b.id {
		t.Errorf("list -q = %q", out)
	}
	if out := b.must("ps", "--format", "json", b.id); strings.TrimSpace(out) != "["+strconv.Itoa(pid)+"]" {
		t.Errorf("ps = %q, want pid %d", out, pid)
	}
}

func TestVersionIsWhatGoRuncParses(t *testing.T) {
	b := newBundle(t, "true")
	lines := strings.Split(strings.TrimSpace(b.must("--version")), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "runc version ") || !strings.HasPrefix(lines[1], "commit: ") || !strings.HasPrefix(lines[2], "spec: 1.") {
		t.Errorf("--version = %q", lines)
	}
}
