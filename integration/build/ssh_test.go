package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// hostTool copies a program of this machine into /bin below dir, and its libraries.
func hostTool(t *testing.T, dir, name string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{path: "/bin/" + name}
	for f := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(f, "/") {
			files[f] = f
		}
	}
	for from, to := range files {
		data, err := os.ReadFile(from)
		to = filepath.Join(dir, to)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// agentKeys asks the real ssh-add which keys there are, and what it may do with them.
func agentKeys(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": `FROM busybox:test
COPY root /
RUN --mount=type=ssh ssh-add -l
RUN --mount=type=ssh,id=two ssh-add -l && { ssh-add -D || echo kept; }
`})
	hostTool(t, filepath.Join(dir, "root"), "ssh-add")
	keys := t.TempDir()
	key := func(name, kind, passphrase string) (file, fingerprint string) {
		file = filepath.Join(keys, name)
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		out, err := exec.Command("ssh-keygen", "-lf", file+".pub").Output()
		if err != nil {
			t.Fatal(err)
		}
		return file, strings.Fields(string(out))[1]
	}
	one, onePrint := key("one", "ed25519", "")
	two, twoPrint := key("two", "ecdsa", "")
	locked, _ := key("locked", "ed25519", "secret")
	socket := filepath.Join(t.TempDir(), "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = agent.Process.Kill(), agent.Wait() }()
	if !harness.Eventually(10*time.Second, func() bool { _, err := os.Stat(socket); return err == nil }) {
		t.Fatal("ssh-agent does not listen")
	}
	add := exec.Command("ssh-add", "-q", one, two)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, client := range kitClients {
		for _, two := range []string{one + "," + two, socket} {
			out := plain(t, s, client, "--no-cache", "--ssh", "default="+one, "--ssh", "two="+two, dir)
			if strings.Count(out, onePrint) != 2 || strings.Count(out, twoPrint) != 1 || !strings.Contains(out, " kept\n") && client == "engine" {
				t.Errorf("%s with %s: want %s twice and %s once:\n%s", client, two, onePrint, twoPrint, out)
			}
		}
		for _, bad := range []string{locked, one + ".pub", filepath.Join(keys, "nosuch"), socket + "," + one} {
			if r := build(s, client, "--no-cache", "--ssh", "default="+bad, "--ssh", "two="+one, dir); r.Code == 0 {
				t.Errorf("%s: %s is no error", client, bad)
			}
		}
	}
	if r := build(s, "engine", "--ssh", "default="+locked, dir); !strings.Contains(r.Stderr, "needs a passphrase") {
		t.Errorf("a key with a passphrase: %+v", r)
	}
}
