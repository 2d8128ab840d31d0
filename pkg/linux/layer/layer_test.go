package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/mount"
)

var epoch = time.Unix(1700000000, 0)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mknod(2), mount(2), trusted.* attributes")
	}
}

// archive makes a tar stream of headers; a regular file holds its own name, or what
// PAXRecords["test.content"] says.
func archive(t testing.TB, headers ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			content = h.Name
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.ModTime.IsZero() {
			h.ModTime = epoch
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// tree describes everything below dir in one line per entry.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var line strings.Builder
		line.WriteString(fmt.Sprintf("%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line.WriteString(fmt.Sprintf(" %d %q", st.Mtim.Sec, data))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line.WriteString(" -> " + target)
		case unix.S_IFCHR, unix.S_IFBLK:
			line.WriteString(fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		}
		for k, v := range xattrs(path) {
			if st.Mode&unix.S_IFMT != unix.S_IFLNK {
				line.WriteString(fmt.Sprintf(" %s=%q", k, v))
			}
		}
		out = append(out, line.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func paths(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i], _, _ = strings.Cut(l, " ")
	}
	return out
}

func opaque(dir string) bool {
	b := make([]byte, 4)
	n, err := unix.Getxattr(dir, "trusted.overlay.opaque", b)
	return err == nil && string(b[:n]) == "y"
}

func TestApplyKeepsWhatTheArchiveSays(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	err := Apply(t.Context(), archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 2},
		tar.Header{Name: "d/suid", Mode: 0o4755, Uid: 1000, Gid: 1000},
		tar.Header{Name: "ping", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "x"}},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Uid: 5, Gid: 6},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "/d/suid"},
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		tar.Header{Name: "/abs/olute"},
	), Target{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"abs 40755 0:0", `abs/olute 100644 0:0 1700000000 "/abs/olute"`,
		"d 41777 1:2", `d/suid 104755 1000:1000 1700000000 "d/suid"`,
		"fifo 10600 0:0", `hard 104755 1000:1000 1700000000 "d/suid"`,
		"link 120777 5:6 -> /etc/passwd", "null 20666 0:0 dev 1:3",
		`ping 100755 0:0 1700000000 "ping"`,
	}
	got := tree(t, dir)
	for i := range got {
		if strings.HasPrefix(got[i], "ping ") {
			if !strings.Contains(got[i], fmt.Sprintf("security.capability=%q", caps)) || !strings.Contains(got[i], `user.a="b"`) {
				t.Errorf("ping lost its attributes: %s", got[i])
			}
			got[i], _, _ = strings.Cut(got[i], ` security.`)
			got[i], _, _ = strings.Cut(got[i], ` user.`)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("tree:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if opaque(filepath.Join(dir, "ping")) {
		t.Error("an archive set overlay's own mark")
	}
	for _, d := range []string{".", "d"} {
		if fi, err := os.Stat(filepath.Join(dir, d)); err != nil || !fi.ModTime().Equal(epoch) {
			t.Errorf("time of %s = %v, %v; want %v although files were made in it", d, fi.ModTime(), err, epoch)
		}
	}
}

// hostile archives must neither touch the outside nor succeed in what they try.
var hostile = []struct {
	name    string
	headers []tar.Header
	refused bool
}{
	{"dot dot", []tar.Header{{Name: "../outside/x"}}, true},
	{"dot dot inside", []tar.Header{{Name: "a/../../outside/x"}}, true},
	{"dot dot alone", []tar.Header{{Name: "..", Typeflag: tar.TypeDir, Mode: 0o777}}, true},
	{"absolute", []tar.Header{{Name: "/outside/x"}}, false},
	{"through an absolute link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/OUT"}, {Name: "l/x"}}, false},
	{"through a relative link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/x"}}, false},
	{"through a chain of links", []tar.Header{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b/.."}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "a/outside/x"}}, false},
	{"through a loop of links", []tar.Header{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, {Name: "a/x"}}, true},
	{"over a link to a file outside", []tar.Header{{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "../outside/secret"}, {Name: "s"}}, false},
	{"attributes through a link", []tar.Header{{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "s", Typeflag: tar.TypeDir, Mode: 0o777, Uid: 7}}, false},
	{"hard link outside", []tar.Header{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside/secret"}, {Name: "h"}}, true},
	{"hard link through a link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/secret"}}, true},
	{"hard link to an absolute path", []tar.Header{{Name: "h", Typeflag: tar.TypeLink, Linkname: "/OUT/secret"}}, true},
	{"hard link to a link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside/secret"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l"}, {Name: "h", Mode: 0o777}}, false},
	{"whiteout of dot dot", []tar.Header{{Name: ".wh..."}, {Name: "a/.wh..."}}, true},
	{"whiteout of nothing", []tar.Header{{Name: ".wh."}}, true},
	{"whiteout through a link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/.wh.secret"}}, false},
	{"opaque through a link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/.wh..wh..opq"}}, false},
	{"root as a file", []tar.Header{{Name: "."}}, true},
	{"parent is a file", []tar.Header{{Name: "f"}, {Name: "f/x"}}, true},
	{"long component", []tar.Header{{Name: strings.Repeat("x", 300)}}, true},
	{"long path", []tar.Header{{Name: strings.Repeat("x/", 2100) + "y"}}, true},
	{"deep path", []tar.Header{{Name: strings.Repeat("x/", 1500) + "y"}}, true},
	{"owner out of range", []tar.Header{{Name: "f", Uid: 1 << 33}}, true},
	{"overlay's whiteout device", []tar.Header{{Name: "f", Typeflag: tar.TypeChar, Devmajor: 0, Devminor: 0}}, false},
	{"proc magic link", []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/root/OUT"}, {Name: "l/x"}}, false},
}

func TestHostileArchivesChangeNothingOutside(t *testing.T) {
	requireRoot(t)
	for _, overlay := range []bool{false, true} {
		for _, tt := range hostile {
			t.Run(fmt.Sprintf("%s overlay %v", tt.name, overlay), func(t *testing.T) {
				base := t.TempDir()
				outside := filepath.Join(base, "outside")
				for _, d := range []string{"outside", "root", "lower"} {
					if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
					t.Fatal(err)
				}
				headers := slices.Clone(tt.headers)
				for i := range headers {
					headers[i].Linkname = strings.ReplaceAll(headers[i].Linkname, "/OUT", outside)
				}
				before := tree(t, outside)
				target := Target{Dir: filepath.Join(base, "root"), Overlay: overlay}
				if overlay {
					target.Lower = filepath.Join(base, "lower")
				}
				err := Apply(t.Context(), archive(t, headers...), target)
				if after := tree(t, outside); !slices.Equal(before, after) {
					t.Errorf("outside changed from %q to %q", before, after)
				}
				if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("error %v is not of class ErrInvalidArgument", err)
				}
				if (err != nil) != tt.refused {
					t.Errorf("Apply = %v, want refused %v", err, tt.refused)
				}
			})
		}
	}
}

func TestCutArchiveIsRefused(t *testing.T) {
	data, err := io.ReadAll(archive(t, tar.Header{Name: "a"}, tar.Header{Name: "b"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{100, 512, 1024 + 100} {
		if err := Apply(t.Context(), bytes.NewReader(data[:n]), Target{Dir: t.TempDir()}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("archive cut at %d: %v, want class ErrInvalidArgument", n, err)
		}
	}
}

func TestWhiteoutsRemoveFromADirectory(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	lower := archive(t, tar.Header{Name: "keep"}, tar.Header{Name: "gone"}, tar.Header{Name: "d/old"}, tar.Header{Name: "d/sub/old"}, tar.Header{Name: "tree/a/b"})
	upper := archive(t,
		tar.Header{Name: "d/sub/new"}, tar.Header{Name: "d/.wh..wh..opq"}, // after the layer's own file, whose parents are implied
		tar.Header{Name: ".wh.gone"}, tar.Header{Name: ".wh.tree"}, tar.Header{Name: ".wh.never"}, tar.Header{Name: ".wh..wh.plnk"})
	for _, l := range []io.Reader{lower, upper} {
		if err := Apply(t.Context(), l, Target{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := paths(tree(t, dir)), []string{"d", "d/sub", "d/sub/new", "keep"}; !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
}

// overlayFixture is a lower directory, and an upper one that is mounted above it.
type overlayFixture struct{ base, lower, upper, work, merged string }

func newOverlay(t *testing.T) overlayFixture {
	t.Helper()
	requireRoot(t)
	base := t.TempDir()
	o := overlayFixture{base, base + "/lower", base + "/upper", base + "/work", base + "/merged"}
	for _, d := range []string{o.lower, o.upper, o.work, o.merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func (o overlayFixture) mount(t *testing.T) {
	t.Helper()
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"index=off", "lowerdir=" + o.lower, "upperdir=" + o.upper, "workdir=" + o.work}}
	if err := mount.All([]mount.Mount{m}, o.merged); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(o.merged); err != nil {
			t.Error(err)
		}
	})
}

// TestOverlayLayersLookAsIfAppliedThroughTheOverlay compares the fast way with what the
// kernel does with the same layers.
func TestOverlayLayersLookAsIfAppliedThroughTheOverlay(t *testing.T) {
	lower := []tar.Header{
		{Name: "usr/lib/", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 3, Gid: 4},
		{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"},
		{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/usr/../usr/lib"},
		{Name: "etc/gone"},
		{Name: "etc/keep"},
		{Name: "var/d/old"},
		{Name: "var/d/sub/old"},
		{Name: "file"},
		{Name: "dir/x"},
		{Name: "h/target", Mode: 0o751, Uid: 9},
		{Name: "w/x"},
		{Name: "w2/x"},
	}
	upper := []tar.Header{
		{Name: "lib/new"},
		{Name: "abs/new2"},
		{Name: "usr/lib/sub/new3"},
		{Name: "etc/.wh.gone"},
		{Name: "etc/.wh.never"},
		{Name: "var/d/sub/new"},
		{Name: "var/d/.wh..wh..opq"},
		{Name: "var/d/after"},
		{Name: "file/", Typeflag: tar.TypeDir},
		{Name: "file/x"},
		{Name: "dir"},
		{Name: "h/link", Typeflag: tar.TypeLink, Linkname: "h/target"},
		{Name: ".wh.w"},
		{Name: "w/y"},
		{Name: "w2/y"},
		{Name: ".wh.w2"},
	}
	o := newOverlay(t)
	if err := Apply(t.Context(), archive(t, lower...), Target{Dir: o.lower}); err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), archive(t, upper...), Target{Dir: o.upper, Overlay: true, Lower: o.lower}); err != nil {
		t.Fatal(err)
	}
	o.mount(t)
	plain := t.TempDir()
	for _, l := range [][]tar.Header{lower, upper} {
		if err := Apply(t.Context(), archive(t, l...), Target{Dir: plain}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := tree(t, o.merged), tree(t, plain); !slices.Equal(got, want) {
		t.Errorf("through the upper directory:\n%s\nplain:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"usr/lib", "etc"} {
		var a, b unix.Stat_t
		if err := errors.Join(unix.Lstat(filepath.Join(o.merged, name), &a), unix.Lstat(filepath.Join(o.lower, name), &b)); err != nil {
			t.Fatal(err)
		}
		if a.Mtim.Sec != b.Mtim.Sec || a.Uid != b.Uid || a.Mode != b.Mode {
			t.Errorf("implied parent %s changed from %+v to %+v", name, b, a)
		}
	}
}

func TestDiffOfAnOverlayAndOfTreesApplyToTheSame(t *testing.T) {
	o := newOverlay(t)
	lower := []tar.Header{
		{Name: "a"},
		{Name: "gone"},
		{Name: "d/old"},
		{Name: "d/same"},
		{Name: "dir/x"},
		{Name: "tofile/x"},
		{Name: "todir"},
		{Name: "chmod"},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"},
		{Name: "deep/1/2/3"},
		{Name: "untouched/f"},
	}
	if err := Apply(t.Context(), archive(t, lower...), Target{Dir: o.lower}); err != nil {
		t.Fatal(err)
	}
	o.mount(t)
	in := func(name string) string { return filepath.Join(o.merged, name) }
	steps := []error{
		os.Remove(in("gone")), os.RemoveAll(in("d")), os.Mkdir(in("d"), 0o750), os.WriteFile(in("d/new"), []byte("n"), 0o600),
		os.RemoveAll(in("tofile")), os.WriteFile(in("tofile"), nil, 0o644), os.Remove(in("todir")), os.MkdirAll(in("todir/sub"), 0o755),
		os.Chmod(in("chmod"), 0o4711), os.Remove(in("l")), os.Symlink("b", in("l")), os.WriteFile(in("deep/1/2/3"), []byte("changed"), 0o644),
		os.WriteFile(in("h1"), []byte("h"), 0o644), os.Link(in("h1"), in("h2")), os.Chown(in("dir"), 5, 6),
		unix.Mknod(in("dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))), unix.Mkfifo(in("fifo"), 0o600),
		os.WriteFile(in("ünï-"+strings.Repeat("x", 150)), []byte("long"), 0o644),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	want := tree(t, o.merged)
	var fast, slow, again bytes.Buffer
	if err := Diff(t.Context(), &fast, Source{Lower: o.lower, Upper: o.upper, Overlay: true}); err != nil {
		t.Fatal(err)
	}
	if err := Diff(t.Context(), &slow, Source{Lower: o.lower, Upper: o.merged}); err != nil {
		t.Fatal(err)
	}
	if err := Diff(t.Context(), &again, Source{Lower: o.lower, Upper: o.upper, Overlay: true}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fast.Bytes(), again.Bytes()) {
		t.Error("the same trees gave different bytes")
	}
	if a, b := entries(t, fast.Bytes()), entries(t, slow.Bytes()); slices.Contains(a, "untouched/") || slices.Contains(b, "untouched/f") {
		t.Errorf("unchanged entries in %q or %q", a, b)
	}
	for name, data := range map[string][]byte{"overlay": fast.Bytes(), "trees": slow.Bytes()} {
		dir := t.TempDir()
		for _, l := range []io.Reader{archive(t, lower...), bytes.NewReader(data)} {
			if err := Apply(t.Context(), l, Target{Dir: dir}); err != nil {
				t.Fatal(err)
			}
		}
		if got := tree(t, dir); !slices.Equal(got, want) {
			t.Errorf("%s: applied:\n%s\nwant:\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func entries(t *testing.T, data []byte) (names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func TestFullDiskIsSaid(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	if err := mount.All([]mount.Mount{{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}}}, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(dir) })
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "big/file", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 20})
	_, _ = w.Write(make([]byte, 1<<20))
	_ = w.Close()
	if err := Apply(t.Context(), &b, Target{Dir: dir}); !errors.Is(err, errdefs.ErrResourceExhausted) || !strings.Contains(err.Error(), "big/file") {
		t.Errorf("Apply = %v, want class ErrResourceExhausted naming the file", err)
	}
}

// FuzzTarApply writes whatever it is given: nothing outside of the root may change.
func FuzzTarApply(f *testing.F) {
	for _, tt := range hostile {
		data, err := io.ReadAll(archive(f, tt.headers...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		base := t.TempDir()
		outside := filepath.Join(base, "outside")
		for _, d := range []string{"outside", "root", "lower", "up"} {
			if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := append(tree(t, outside), tree(t, filepath.Join(base, "lower"))...)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for _, target := range []Target{{Dir: filepath.Join(base, "root")}, {Dir: filepath.Join(base, "up"), Overlay: true, Lower: filepath.Join(base, "lower")}} {
			if err := Apply(ctx, bytes.NewReader(data), target); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d bytes keep Apply busy for seconds: %v", len(data), err)
			}
		}
		if after := append(tree(t, outside), tree(t, filepath.Join(base, "lower"))...); !slices.Equal(before, after) {
			t.Errorf("outside changed from %q to %q", before, after)
		}
		entries, err := os.ReadDir(base)
		if err != nil || len(entries) != 4 {
			t.Errorf("beside the root: %v, %v", entries, err)
		}
	})
}
