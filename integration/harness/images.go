package harness

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// applets are the commands of the busybox image.
var applets = []string{
	"sh", "ash", "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mount", "nc", "nslookup",
	"ping", "ps", "pwd", "rm", "seq", "sleep", "stat", "stty", "sync", "tail", "test", "top", "touch", "true", "tty", "wc", "wget", "yes", "df", "dd", "httpd", "chmod", "chown", "cp", "mv", "date", "uname", "md5sum", "trap", "ulimit",
}

// BusyboxArchive writes a docker archive of image busybox:test, which is Debian's static
// busybox, into dir and returns its path.
func (s *Stack) BusyboxArchive() string {
	s.t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		s.t.Fatalf("%v: install busybox-static", err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	add := func(h tar.Header, data string) {
		h.Size, h.ModTime = int64(len(data)), time.Unix(0, 0)
		if err := tw.WriteHeader(&h); err != nil {
			s.t.Fatal(err)
		}
		if _, err := tw.Write([]byte(data)); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, d := range []string{"bin/", "etc/", "root/", "proc/", "sys/", "dev/", "var/", "data/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(busybox))
	for _, a := range applets {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}, "")
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\nnogroup:x:65534:\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/not-executable", Mode: 0o644}, "text\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "data/from-image", Mode: 0o644}, "copied up\n")
	if err := tw.Close(); err != nil {
		s.t.Fatal(err)
	}
	return s.archive("busybox:test", layer.Bytes())
}

// TinyArchive writes a docker archive of an image that holds one file with the given text.
func (s *Stack) TinyArchive(reference, text string) string {
	s.t.Helper()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "text", Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(0, 0)}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := tw.Write([]byte(text)); err != nil {
		s.t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		s.t.Fatal(err)
	}
	return s.archive(reference, layer.Bytes())
}

// archive writes a docker archive of a one-layer image.
func (s *Stack) archive(reference string, layer []byte) string {
	s.t.Helper()
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	id := sha256.Sum256(config)
	name := hex.EncodeToString(id[:]) + ".json"
	manifest := fmt.Sprintf(`[{"Config":%q,"RepoTags":[%q],"Layers":["layer.tar"]}]`, name, reference)
	path := filepath.Join(s.Root, "image.tar")
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	tw := tar.NewWriter(f)
	for _, e := range []struct {
		name string
		data []byte
	}{{name, config}, {"layer.tar", layer}, {"manifest.json", []byte(manifest)}} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644, Size: int64(len(e.data))}); err != nil {
			s.t.Fatal(err)
		}
		if _, err := tw.Write(e.data); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// LoadBusybox loads image busybox:test.
func (s *Stack) LoadBusybox() {
	s.t.Helper()
	s.OK("engine", "load", "-q", "-i", s.BusyboxArchive())
}

// NginxArchive makes a docker archive of image nginx:test from Debian's packages.
func (s *Stack) NginxArchive() string {
	s.t.Helper()
	out := filepath.Join(s.Root, "nginx.tar")
	if log, err := exec.Command("../testdata/nginx-image.sh", out).CombinedOutput(); err != nil {
		s.t.Fatalf("nginx-image.sh: %v\n%s", err, log)
	}
	return out
}

// Registry starts Debian's docker-registry on loopback in the stack's network namespace and
// returns its address.
func (s *Stack) Registry() string {
	s.t.Helper()
	const address = "127.0.0.1:5000"
	config := filepath.Join(s.Root, "registry.yml")
	yml := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s/registry\nhttp:\n  addr: %s\nlog:\n  level: warn\n", s.Root, address)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.Host("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: the status says nothing
	})
	if !Eventually(10*time.Second, func() bool { _, failure := s.Curl("http://" + address + "/v2/"); return failure == "" }) {
		s.t.Fatal("docker-registry does not answer")
	}
	return address
}
