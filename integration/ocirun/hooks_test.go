package ocirun_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hook is a host's hook that appends its name, the status and the pid's presence.
func hook(b *bundle, name string) specs.Hook {
	script := `s=$(cat); echo "` + name + ` $(echo "$s" | sed 's/.*"status":"\([a-z]*\)".*/\1/')" >> ` + b.dir + `/hooks.log`
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

func TestHooksRunInOrderWithTheStateOnStandardInput(t *testing.T) {
	b := newBundle(t, "cat /tmp/hook")
	b.write("bin/hook.sh", "#!/bin/sh\necho \"in container as $1: $(cat)\" >> /tmp/hook\n", 0o755)
	b.spec.Root.Readonly = false
	b.spec.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{hook(b, "prestart")}, //nolint:staticcheck // deprecated, still used
		CreateRuntime:   []specs.Hook{hook(b, "createRuntime")},
		CreateContainer: []specs.Hook{hook(b, "createContainer")},
		StartContainer:  []specs.Hook{{Path: "/bin/hook.sh", Args: []string{"hook.sh", "startContainer"}}},
		Poststart:       []specs.Hook{hook(b, "poststart")},
		Poststop:        []specs.Hook{hook(b, "poststop")},
	}
	b.save()
	pid := b.create()
	if out := b.output(); out != "" {
		t.Errorf("output before start: %q", out)
	}
	b.must("start", b.id)
	reap(t, pid)
	if out := b.output(); !strings.HasPrefix(out, "in container as startContainer: {") || !strings.Contains(out, `"id":"`+b.id+`"`) {
		t.Errorf("startContainer hook said %q", out)
	}
	b.must("delete", b.id)
	log, err := os.ReadFile(filepath.Join(b.dir, "hooks.log"))
	want := "prestart creating\ncreateRuntime creating\ncreateContainer created\npoststart running\npoststop stopped\n"
	if err != nil || string(log) != want {
		t.Errorf("hooks ran as %q, want %q (%v)", log, want, err)
	}
}

func TestHookIsKilledWhenItsTimeIsOver(t *testing.T) {
	for _, kind := range []string{"createRuntime", "createContainer"} {
		b := newBundle(t, "true")
		one := 1
		h := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &one}}
		b.spec.Hooks = &specs.Hooks{}
		if kind == "createRuntime" {
			b.spec.Hooks.CreateRuntime = h
		} else {
			b.spec.Hooks.CreateContainer = h
		}
		b.save()
		start := time.Now()
		if _, out, err := b.tryCreate(); err == nil {
			t.Errorf("%s: create worked: %s", kind, out)
		}
		if d := time.Since(start); d > 30*time.Second || d < time.Second {
			t.Errorf("%s: create took %v", kind, d)
		}
	}
}

func TestFailingPoststartHookStopsTheContainer(t *testing.T) {
	b := newBundle(t, "sleep 1000")
	b.spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false"}}}
	b.save()
	pid := b.create()
	if out, err := b.try("start", b.id); err == nil {
		t.Errorf("start worked: %s", out)
	}
	if ws := reap(t, pid); ws.Signal() != unix.SIGKILL {
		t.Errorf("init ended with %v", ws)
	}
}

func TestSeccompListenerIsHandedOver(t *testing.T) {
	b := newBundle(t, "mkdir /tmp/x; echo done")
	_ = os.Symlink("busybox", b.rootfs("bin/mkdir"))
	path := filepath.Join(b.dir, "agent.sock")
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	if err := unix.Bind(sock, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(sock, 1); err != nil {
		t.Fatal(err)
	}
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "meta",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"swapoff"}, Action: specs.ActNotify}},
	}
	b.save()
	pid := b.create()
	conn, _, err := unix.Accept(sock)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, on, _, _, err := unix.Recvmsg(conn, buf, oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	var st specs.ContainerProcessState
	if err := json.Unmarshal(buf[:n], &st); err != nil || st.Pid != pid || st.Metadata != "meta" || st.State.ID != b.id || len(st.Fds) != 1 {
		t.Errorf("state %s: %v", buf[:n], err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil || len(msgs) != 1 {
		t.Fatalf("%d control messages, %v", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	defer unix.Close(fds[0])
	if link, _ := os.Readlink("/proc/self/fd/" + itoa(fds[0])); !strings.Contains(link, "seccomp notify") {
		t.Errorf("received %q, want a listener", link)
	}
	b.must("start", b.id)
	if ws := reap(t, pid); ws.ExitStatus() != 0 {
		t.Errorf("container ended with %v: %s", ws, b.output())
	}
}
