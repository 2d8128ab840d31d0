package ocirun_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// nobodyElse is the user of the rootless tests: it owns nothing on the host.
const nobodyElse = 41234

// asUser runs a verb as nobodyElse, with its own XDG_RUNTIME_DIR for a root.
func (b *bundle) asUser(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.t.Context(), binary, append(slices.Clone(b.global), args...)...)
	if b.t.Context().Err() != nil { // in a cleanup
		cmd = exec.Command(binary, cmd.Args[1:]...)
	}
	cmd.Dir = b.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + b.root, "HOME=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobodyElse, Gid: nobodyElse, NoSetGroups: false}}
	return cmd
}

func (b *bundle) userTry(args ...string) (string, error) {
	b.t.Helper()
	out, err := b.asUser(args...).CombinedOutput()
	return string(out), err
}

func (b *bundle) userMust(args ...string) string {
	b.t.Helper()
	out, err := b.userTry(args...)
	if err != nil {
		b.t.Fatalf("as a user: %v: %v\n%s", args, err, out)
	}
	return out
}

// rootlessBundle is a bundle of nobodyElse's with the spec that spec --rootless writes.
func rootlessBundle(t *testing.T, script string) *bundle {
	t.Helper()
	b := newBundle(t, script)
	for dir := b.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) { // the way there
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(b.root, 0o700); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(b.dir, "config.json")
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(b.dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, nobodyElse, nobodyElse)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.userMust("spec", "--rootless")
	data, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	b.spec = &specs.Spec{}
	if err := json.Unmarshal(data, b.spec); err != nil {
		t.Fatal(err)
	}
	b.spec.Process.Terminal = false
	b.spec.Process.Args = []string{"sh", "-c", script}
	t.Cleanup(func() { _, _ = b.userTry("delete", "--force", b.id) })
	return b
}

func TestRootlessRun(t *testing.T) {
	b := rootlessBundle(t, "id; cat /proc/self/uid_map; hostname; ls /sys/fs/cgroup | head -1; exit 3").save()
	out, err := b.userTry("run", b.id)
	if code := statusOf(t, err); code != 3 {
		t.Errorf("exit code = %d, want 3", code)
	}
	wantLine(t, out, "uid=0(root) gid=0")
	wantLine(t, out, fmt.Sprintf("0      %d          1", nobodyElse))
	wantLine(t, out, "ocirun")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) < 4 {
		t.Errorf("/sys/fs/cgroup is empty:\n%s", out)
	}
	if left, _ := os.ReadDir(filepath.Join(b.root, "ocirun", b.id)); left != nil {
		t.Errorf("run left %v", left)
	}
}

func TestRootlessLifecycle(t *testing.T) {
	b := rootlessBundle(t, "sleep 100").save()
	create := b.asUser("create", "--pid-file", filepath.Join(b.dir, "pid"), b.id)
	if err := create.Run(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(b.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	b.userMust("start", b.id)
	if out := b.userMust("state", b.id); !strings.Contains(out, `"status": "running"`) {
		t.Errorf("state = %s", out)
	}
	if out := b.userMust("list"); !strings.Contains(out, b.id) {
		t.Errorf("list = %s", out)
	}
	wantLine(t, b.userMust("exec", b.id, "id"), "uid=0(root) gid=0")
	if _, err := b.userTry("exec", b.id, "sh", "-c", "exit 7"); statusOf(t, err) != 7 {
		t.Errorf("exec ended with %v, want 7", err)
	}
	// Without delegation there is no cgroup, which is said and not guessed around.
	for _, args := range [][]string{{"pause", b.id}, {"ps", b.id}, {"update", "--memory", "64m", b.id}, {"events", "--stats", b.id}} {
		if out, err := b.userTry(args...); err == nil || !strings.Contains(out, "has no cgroup of its own") {
			t.Errorf("%s: %v, %q", args[0], err, out)
		}
	}
	b.userMust("kill", b.id, "KILL")
	if ws := reap(t, pid); ws.Signal() != unix.SIGKILL {
		t.Errorf("init ended with %v", ws)
	}
	b.userMust("delete", b.id)
	if out, err := b.userTry("state", b.id); err == nil || !strings.Contains(out, "does not exist") {
		t.Errorf("state after delete: %v, %q", err, out)
	}
}

func TestRootlessLimitsWithoutDelegationAreRefused(t *testing.T) {
	b := rootlessBundle(t, "true")
	limit := int64(64 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	b.save()
	if out, err := b.userTry("run", b.id); err == nil || !strings.Contains(out, "ermission denied") {
		t.Errorf("a limit that cannot be set: %v, %q", err, out)
	}
}

// TestRootlessWithManyIDs maps a range of subordinate ids with newuidmap, in a mount
// namespace where /etc/subuid, /etc/subgid and /etc/passwd say that the user has them.
func TestRootlessWithManyIDs(t *testing.T) {
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Fatalf("%v: .ci/deps installs uidmap", err)
	}
	b := rootlessBundle(t, "cat /proc/self/uid_map; touch /tmp/mine; chown 7:8 /tmp/mine; stat -c %u:%g /tmp/mine")
	b.spec.Root.Readonly = false
	caps := b.spec.Process.Capabilities
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
		*set = append(slices.Clone(*set), "CAP_CHOWN")
	}
	m := func(id uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: nobodyElse, Size: 1}, {ContainerID: 1, HostID: id, Size: 1000}}
	}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = m(500000), m(600000)
	b.save()
	for name, text := range map[string]string{
		"subuid": "rootless:500000:1000\n", "subgid": "rootless:600000:1000\n",
		"passwd": fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nrootless:x:%d:%d::/:/bin/sh\n", nobodyElse, nobodyElse),
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := `for f in subuid subgid passwd; do [ -e /etc/$f ] || touch /etc/$f; mount --bind $f /etc/$f; done
exec setpriv --reuid $1 --regid $1 --clear-groups env XDG_RUNTIME_DIR=$2 $3 run $4`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", script, "sh", fmt.Sprint(nobodyElse), b.root, binary, b.id)
	cmd.Dir = b.dir
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantLine(t, string(out), fmt.Sprintf("0      %d          1", nobodyElse))
	wantLine(t, string(out), "1     500000       1000")
	wantLine(t, string(out), "7:8")
	info, err := os.Stat(b.rootfs("tmp/mine"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 500006 || st.Gid != 600007 {
		t.Errorf("on the host the file belongs to %d:%d, want 500006:600007", st.Uid, st.Gid)
	}
}
