package build

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strata/integration/harness"
)

// TestForeignCommandsRunByAnInterpreter registers qemu for arm64 with the kernel, unless that
// has one, and takes it away again.
func TestForeignCommandsRunByAnInterpreter(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	dir := foreignProject(t)
	file := filepath.Join(dir, "Dockerfile")
	args := []string{"-f", file, "--no-cache", "--platform"}
	if !interpreted(t) {
		for _, client := range kitClients {
			r := build(s, client, append(args, "linux/arm64", dir)...)
			if r.Code == 0 || !strings.Contains(r.Stderr, "programs for linux/arm64 do not run on linux/amd64") || !strings.Contains(r.Stderr, "qemu-user-static") {
				t.Errorf("%s: without an interpreter: exit code %d\n%s", client, r.Code, r.Stderr)
			}
		}
		register(t)
	}
	for _, client := range kitClients {
		if out := plain(t, s, client, append(args, "linux/arm64", dir)...); !strings.Contains(out, "this is aarch64\n") {
			t.Errorf("%s: arm64:\n%s", client, out)
		}
		out := t.TempDir()
		both := plain(t, s, client, append(args, "linux/amd64,linux/arm64", "-o", "type=local,dest="+out, dir)...)
		if !strings.Contains(both, "this is aarch64\n") || !strings.Contains(both, "this is x86_64\n") {
			t.Errorf("%s: both:\n%s", client, both)
		}
		for platform, want := range map[string]string{"linux_amd64": "x86_64", "linux_arm64": "aarch64"} {
			if got, err := os.ReadFile(filepath.Join(out, platform, "machine")); err != nil || string(got) != want {
				t.Errorf("%s: %s: the command wrote %q, %v", client, platform, got, err)
			}
		}
	}
}

// foreignProject has a program for both platforms that says, and writes down, on what
// machine it runs.
func foreignProject(t *testing.T) string {
	t.Helper()
	dir := project(t, map[string]string{
		"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY machine-$TARGETARCH /machine-of\nRUN [\"/machine-of\", \"/machine\"]\n",
		"go.mod":     "module machine\ngo 1.24\n",
		"main.go": `package main

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

func main() {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		panic(err)
	}
	var b bytes.Buffer
	for _, c := range u.Machine {
		if c != 0 {
			b.WriteByte(byte(c))
		}
	}
	fmt.Println("this is", b.String())
	if err := os.WriteFile(os.Args[1], b.Bytes(), 0o644); err != nil {
		panic(err)
	}
}
`,
	})
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "build", "-o", "machine-"+arch, ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build for %s: %v\n%s", arch, err, out)
		}
	}
	return dir
}

// interpreted reports whether the kernel has an interpreter for arm64 already.
func interpreted(t *testing.T) bool {
	t.Helper()
	program := filepath.Join(foreignProject(t), "machine-arm64")
	return exec.Command(program, filepath.Join(t.TempDir(), "machine")).Run() == nil
}

// register registers qemu for as long as the test runs. The list of interpreters is mounted
// where nobody but this test sees it.
func register(t *testing.T) {
	t.Helper()
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatalf("%v: .ci/deps installs it", err)
	}
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !bytes.Contains(known, []byte("binfmt_misc")) {
		t.Skip("needs a kernel with binfmt_misc")
	}
	const header, mask = `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00`, `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
	name := fmt.Sprint("strata-test-", os.Getpid())
	script := fmt.Sprintf(`mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && cd /proc/sys/fs/binfmt_misc &&
		printf '%%s' ':%s:M::%s:%s:%s:F' >register && echo registered && read line; echo -1 >%s`, name, header, mask, qemu, name)
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var failure bytes.Buffer
	cmd.Stderr = &failure
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // the end of what the script reads
		if err := cmd.Wait(); err != nil {
			t.Errorf("the interpreter was not taken away: %v: %s", err, failure.String())
		}
	})
	line := make([]byte, len("registered\n"))
	if n, err := said.Read(line); err != nil || !slices.Equal(line[:n], []byte("registered\n")) {
		_ = stdin.Close()
		t.Skipf("needs to register an interpreter: %s", failure.String())
	}
}
