package build

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strata/integration/harness"
)

// mirror serves upstream, through this process, on loopback of the stack's network
// namespace, which reaches nothing else: an address for builds with --network host. ""
// for upstream makes a proxy for plain HTTP. files, if there, come first.
func mirror(t *testing.T, s *harness.Stack, upstream, files string) string {
	t.Helper()
	l := listenIn(t, "/run/netns/"+s.Netns)
	var next http.Handler = http.HandlerFunc(forward)
	if upstream != "" {
		u, err := url.Parse(upstream)
		if err != nil {
			t.Fatal(err)
		}
		next = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if files != "" && strings.HasPrefix(r.URL.Path, "/") {
			name := filepath.Join(files, filepath.Clean(r.URL.Path))
			if found, err := filepath.Glob(name); err == nil && len(found) == 1 && !strings.HasSuffix(name, "/list") {
				http.ServeFile(w, r, name)
				return
			}
		}
		next.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return l.Addr().String()
}

// listenIn listens on loopback of a network namespace: a socket stays where it was made.
func listenIn(t *testing.T, netns string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	got := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err != nil {
			got <- result{err: err}
			return
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		got <- result{l, err}
	}()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.l
}

// forward is a proxy for plain HTTP.
func forward(w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.Header.Del("Proxy-Connection")
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// needsMirror skips a test unless a URL answers.
func needsMirror(t *testing.T, what, probe string) {
	t.Helper()
	client := &http.Client{Timeout: 15 * time.Second}
	resp, err := client.Get(probe)
	if err == nil {
		_ = resp.Body.Close()
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Skipf("needs %s: %s does not answer", what, probe)
	}
}

// imported makes an image of the tar that a command writes.
func imported(t *testing.T, s *harness.Stack, name string, tar *exec.Cmd, changes ...string) {
	t.Helper()
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "-c", c)
	}
	load := s.Command("docker", append(args, "-", name)...)
	pipe, err := tar.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	load.Stdin = pipe
	if err := tar.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := load.CombinedOutput()
	if werr := tar.Wait(); err != nil || werr != nil {
		t.Fatalf("import %s: %v, %v\n%s", name, err, werr, out)
	}
}
