package shims

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/linux/mount"
)

func newLauncher(t *testing.T) *Launcher {
	t.Helper()
	dir := t.TempDir()
	return New(Config{State: filepath.Join(dir, "state"), Root: filepath.Join(dir, "root"), Address: filepath.Join(dir, "a.sock"), Executable: filepath.Join(dir, "bin", "supervisord")})
}

func TestParseReplyReadsEachForm(t *testing.T) {
	wire, err := proto.Marshal(&bootapi.BootstrapResult{Version: 3, Address: "unix:///s/x", Protocol: "ttrpc"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		out  []byte
		want bootstrap
		err  error
	}{
		{name: "plain address is version 2", out: []byte("unix:///s/x\n"), want: bootstrap{2, "unix:///s/x", "ttrpc"}},
		{name: "JSON", out: []byte(`{"version":3,"address":"unix:///s/x","protocol":"ttrpc"}`), want: bootstrap{3, "unix:///s/x", "ttrpc"}},
		{name: "JSON without protocol", out: []byte(`{"version":2,"address":"unix:///s/x"}`), want: bootstrap{2, "unix:///s/x", "ttrpc"}},
		{name: "BootstrapResult", out: wire, want: bootstrap{3, "unix:///s/x", "ttrpc"}},
		{name: "nothing", out: nil, err: errdefs.ErrUnavailable},
		{name: "newer version", out: []byte(`{"version":4,"address":"unix:///s/x"}`), err: errdefs.ErrNotImplemented},
		{name: "another protocol", out: []byte(`{"version":3,"address":"unix:///s/x","protocol":"http"}`), err: errdefs.ErrNotImplemented},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseReply(tt.out)
			if !errors.Is(err, tt.err) || (tt.err == nil && got != tt.want) {
				t.Errorf("parseReply = %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
	if _, err := parseReply([]byte("panic: something")); err == nil || !strings.Contains(err.Error(), "panic: something") {
		t.Errorf("parseReply of nonsense = %v, want it quoted", err)
	}
}

func install(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestResolveFindsBinaries(t *testing.T) {
	l := newLauncher(t)
	beside := filepath.Dir(l.cfg.Executable)
	inPath := t.TempDir()
	t.Setenv("PATH", inPath)
	install(t, filepath.Join(beside, ourShim))
	install(t, filepath.Join(inPath, ourShim))
	install(t, filepath.Join(beside, "containerd-shim-foo-v1"))
	install(t, filepath.Join(inPath, "containerd-shim-foo-v1"))
	l.cfg.Runtimes = map[string]string{"nick": "io.containerd.foo.v1"}
	for _, tt := range []struct {
		name, runtime, want string
		err                 error
	}{
		{"no name is ours, beside the daemon", "", filepath.Join(beside, ourShim), nil},
		{"another one comes from PATH first", "io.containerd.foo.v1", filepath.Join(inPath, "containerd-shim-foo-v1"), nil},
		{"a configured name", "nick", filepath.Join(inPath, "containerd-shim-foo-v1"), nil},
		{"runc without its shim is ours", "io.containerd.runc.v2", filepath.Join(beside, ourShim), nil},
		{"an absolute path is itself", filepath.Join(inPath, ourShim), filepath.Join(inPath, ourShim), nil},
		{"unknown", "io.containerd.bar.v1", "", errdefs.ErrNotFound},
		{"missing path", "/no/such/shim", "", errdefs.ErrNotFound},
		{"relative path", "a/b", "", errdefs.ErrInvalidArgument},
		{"one word", "runc", "", errdefs.ErrInvalidArgument},
		{"empty part", "io.containerd.", "", errdefs.ErrInvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := l.Resolve(tt.runtime)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Resolve(%q) = %q, %v; want %q, %v", tt.runtime, got, err, tt.want, tt.err)
			}
		})
	}
	install(t, filepath.Join(inPath, "containerd-shim-runc-v2"))
	if got, _ := l.Resolve("io.containerd.runc.v2"); got != filepath.Join(inPath, "containerd-shim-runc-v2") {
		t.Errorf("Resolve(runc) = %q with the stock shim installed", got)
	}
}

func TestOurShimGetsOurRuntimeUnlessTheCallerChose(t *testing.T) {
	l := newLauncher(t)
	beside := filepath.Dir(l.cfg.Executable)
	install(t, filepath.Join(beside, "ocirun"))
	opts := func(o *runcoptions.Options) *anypb.Any {
		a, err := encodeOptions(o)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tt := range []struct {
		name string
		in   *anypb.Any
		want *runcoptions.Options
	}{
		{"none", nil, &runcoptions.Options{BinaryName: filepath.Join(beside, "ocirun")}},
		{"others are kept", opts(&runcoptions.Options{SystemdCgroup: true}), &runcoptions.Options{BinaryName: filepath.Join(beside, "ocirun"), SystemdCgroup: true}},
		{"chosen", opts(&runcoptions.Options{BinaryName: "crun"}), &runcoptions.Options{BinaryName: "crun"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := l.withRuntime("/x/"+ourShim, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			var got runcoptions.Options
			if err := proto.Unmarshal(a.Value, &got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(&got, tt.want) {
				t.Errorf("options = %v, want %v", &got, tt.want)
			}
		})
	}
	l.cfg.RuntimeRoot = "/state/oci"
	a, err := l.withRuntime("/x/containerd-shim-runc-v2", opts(&runcoptions.Options{BinaryName: "runc"}))
	if err != nil {
		t.Fatal(err)
	}
	var got runcoptions.Options
	if err := proto.Unmarshal(a.Value, &got); err != nil || got.Root != "/state/oci" || got.BinaryName != "runc" {
		t.Errorf("options = %v, %v; want runc with a root of this instance's own", &got, err)
	}
	foreign := &anypb.Any{TypeUrl: "x.y.Options", Value: []byte{1}}
	if a, err := l.withRuntime("/x/"+ourShim, foreign); err != nil || a != foreign {
		t.Errorf("foreign options = %v, %v; want them untouched", a, err)
	}
}

func TestBundleIsPrivateAndIdsAreChecked(t *testing.T) {
	l := newLauncher(t)
	b, err := l.NewBundle("ns", "c1", []byte(`{"x":1}`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{b.Path: 0o700, filepath.Dir(b.Path): 0o711, filepath.Join(b.Path, "config.json"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, st.Mode(), err, want)
		}
	}
	if _, err := l.NewBundle("ns", "c1", nil); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second NewBundle = %v, want class ErrAlreadyExists", err)
	}
	for _, id := range []string{"", "..", "a/b", ".a", "../../etc"} {
		if _, err := l.NewBundle("ns", id, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("NewBundle(%q) = %v, want class ErrInvalidArgument", id, err)
		}
		if _, err := l.NewBundle(id, "c", nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("NewBundle in namespace %q = %v, want class ErrInvalidArgument", id, err)
		}
	}
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(); err != nil {
		t.Errorf("second Remove = %v", err)
	}
	if _, err := l.NewBundle("ns", "c1", nil); err != nil {
		t.Errorf("NewBundle after Remove = %v", err)
	}
}

func TestBundleOfAUsernsLetsItsRootThrough(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLauncher(t)
	b, err := l.NewBundle("ns", "c1", []byte(`{"linux":{"gidMappings":[{"containerID":0,"hostID":12345,"size":1}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(b.Path); err != nil || st.Mode().Perm() != 0o710 {
		t.Errorf("mode = %v, %v; want 0710", st.Mode(), err)
	}
}

func TestRemoveNeverDescendsIntoAMountedRootfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLauncher(t)
	data := t.TempDir()
	precious := filepath.Join(data, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := l.NewBundle("ns", "c1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // stacked
		if err := mount.All([]mount.Mount{{Type: "bind", Source: data, Options: []string{"rbind"}}}, b.Rootfs()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("the mounted file is gone: %v", err)
	}
	if _, err := os.Stat(b.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("bundle after Remove: %v", err)
	}
}

func TestBundlesFinishesInterruptedRemovals(t *testing.T) {
	l := newLauncher(t)
	for _, id := range []string{"c1", "c2"} {
		if _, err := l.NewBundle("ns", id, nil); err != nil {
			t.Fatal(err)
		}
	}
	ns := filepath.Join(l.TaskDir(), "ns")
	if err := os.Rename(filepath.Join(ns, "c1"), filepath.Join(ns, ".c1")); err != nil {
		t.Fatal(err)
	}
	got, err := l.Bundles()
	if err != nil || len(got) != 1 || got[0].ID != "c2" {
		t.Errorf("Bundles = %+v, %v; want c2", got, err)
	}
	if _, err := os.Stat(filepath.Join(ns, ".c1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half-removed bundle: %v", err)
	}
	if orphans := l.OrphanWork(); len(orphans) != 1 || filepath.Base(orphans[0]) != "c1" {
		t.Errorf("OrphanWork = %v, want that of c1", orphans)
	}
}

func TestLevelOf(t *testing.T) {
	for line, want := range map[string]string{`time="x" level=error msg=y`: "ERROR", "level=WARN": "WARN", "plain": "INFO", "level=info": "DEBUG"} {
		if got := levelOf(line).String(); got != want {
			t.Errorf("levelOf(%q) = %v, want %v", line, got, want)
		}
	}
}

// TestABundleWithoutAShimIsBuried: the supervisor died before or while it wrote down what to
// start.
func TestABundleWithoutAShimIsBuried(t *testing.T) {
	l := newLauncher(t)
	for _, halfWritten := range []bool{false, true} {
		b, err := l.NewBundle("ns", "c1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if halfWritten {
			if err := os.WriteFile(filepath.Join(b.Path, fileBinary), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Bury(t.Context(), b); err != nil {
			t.Errorf("half written %v: Bury = %v", halfWritten, err)
		}
		if err := b.Remove(); err != nil {
			t.Fatal(err)
		}
	}
}
