package files

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/archive"
	"strata/pkg/linux/xattr"
)

var testLimits = Limits{Bytes: 1 << 20, Entries: 100}

type file struct {
	name, text, link string
	kind             byte
	mode             int64
	at               int64
}

func archiveOf(t *testing.T, list ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range list {
		h := &tar.Header{Name: f.name, Linkname: f.link, Typeflag: f.kind, Mode: f.mode, Size: int64(len(f.text)), ModTime: time.Unix(f.at, 0), Uid: 1234}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func receive(t *testing.T, list ...file) *Context {
	t.Helper()
	c, err := Receive(bytes.NewReader(archiveOf(t, list...)), t.TempDir(), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func rels(items []Item) []string {
	var out []string
	for _, it := range items {
		name := it.Rel
		if name == "" {
			name = "=" + it.Base
		}
		out = append(out, name)
	}
	return out
}

func TestSelect(t *testing.T) {
	c := receive(t, file{name: "a.txt", text: "a"}, file{name: "b.txt", text: "b"}, file{name: "d/one.go", text: "1"}, file{name: "d/two.md", text: "2"},
		file{name: "d/sub/three.go", text: "3"}, file{name: "link", kind: tar.TypeSymlink, link: "d/sub"}, file{name: "up", kind: tar.TypeSymlink, link: "../../../d"})
	for _, row := range []struct {
		name string
		wish Wish
		want []string
	}{
		{"a file", Wish{Sources: []string{"a.txt"}}, []string{"=a.txt"}},
		{"patterns", Wish{Sources: []string{"*.txt"}}, []string{"=a.txt", "=b.txt"}},
		{"what is in a directory", Wish{Sources: []string{"d"}}, []string{"one.go", "sub", "sub/three.go", "two.md"}},
		{"a pattern in the middle", Wish{Sources: []string{"d/s*/t*.go"}}, []string{"=three.go"}},
		{"a symlink to a directory is followed", Wish{Sources: []string{"link"}}, []string{"three.go"}},
		{"a symlink above the root ends in the root", Wish{Sources: []string{"up/one.go"}}, []string{"=one.go"}},
		{"dots do not lead out", Wish{Sources: []string{"../../a.txt"}}, []string{"=a.txt"}},
		{"exclusions", Wish{Sources: []string{"d"}, Exclude: []string{"**/*.md", "sub"}}, []string{"one.go"}},
		{"exceptions of exclusions", Wish{Sources: []string{"d"}, Exclude: []string{"*", "!sub/three.go"}}, []string{"sub/three.go"}},
		{"parents", Wish{Sources: []string{"d/sub/three.go"}, Parents: true}, []string{"d", "d/sub", "d/sub/three.go"}},
		{"parents from a pivot", Wish{Sources: []string{"d/./sub/three.go"}, Parents: true}, []string{"sub", "sub/three.go"}},
		{"a pattern that nothing matches", Wish{Sources: []string{"*.none"}}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			items, err := Select(c, row.wish)
			if err != nil {
				t.Fatal(err)
			}
			if got := rels(items); !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestMissingFilesNameTheirNeighbours(t *testing.T) {
	c := receive(t, file{name: "d/make", text: ""})
	_, err := Select(c, Wish{Sources: []string{"d/maek"}})
	nf, ok := errors.AsType[*NotFoundError](err)
	if !ok || !errdefs.IsNotFound(err) || nf.Name != "d/maek" || !slices.Equal(nf.Near, []string{"d/make"}) {
		t.Errorf("error %+v", err)
	}
}

func TestDigestIsOfWhatMatters(t *testing.T) {
	base := []file{{name: "d/x", text: "one", at: 1}, {name: "d/l", kind: tar.TypeSymlink, link: "x"}}
	of := func(list []file) string {
		c := receive(t, list...)
		items, err := Select(c, Wish{Sources: []string{"d"}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := Digest(t.Context(), c, items)
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	want := of(base)
	for _, row := range []struct {
		name string
		list []file
		same bool
	}{
		{"time", []file{{name: "d/x", text: "one", at: 99}, base[1]}, true},
		{"a file elsewhere", append(slices.Clone(base), file{name: "other", text: "x"}), true},
		{"order in the archive", []file{base[1], base[0]}, true},
		{"content", []file{{name: "d/x", text: "two"}, base[1]}, false},
		{"mode", []file{{name: "d/x", text: "one", mode: 0o755}, base[1]}, false},
		{"name", []file{{name: "d/y", text: "one"}, base[1]}, false},
		{"target of a symlink", []file{base[0], {name: "d/l", kind: tar.TypeSymlink, link: "y"}}, false},
	} {
		if got := of(row.list) == want; got != row.same {
			t.Errorf("%s: same digest: %v, want %v", row.name, got, row.same)
		}
	}
}

func TestReceiveRefusesWhatIsTooMuchOrNoArchive(t *testing.T) {
	bomb := archiveOf(t, file{name: "big", text: strings.Repeat("x", 1<<20+1)})
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	_, _ = zw.Write(bomb)
	_ = zw.Close()
	many := make([]file, testLimits.Entries+1)
	for i := range many {
		many[i] = file{name: strings.Repeat("x", i+1)}
	}
	for _, row := range []struct {
		name  string
		data  []byte
		class func(error) bool
	}{
		{"bomb", packed.Bytes(), errdefs.IsResourceExhausted},
		{"too many", archiveOf(t, many...), errdefs.IsResourceExhausted},
		{"text", []byte("FROM busybox\nRUN this is no tar archive at all, but a Dockerfile that somebody sent\n"), errdefs.IsInvalidArgument},
		{"cut off", archiveOf(t, file{name: "a", text: strings.Repeat("x", 4000)})[:1500], errdefs.IsInvalidArgument},
		{"file as a directory", archiveOf(t, file{name: "a", text: "x"}, file{name: "a/b", text: "x"}), errdefs.IsInvalidArgument},
		{"hard link to nothing", archiveOf(t, file{name: "a", kind: tar.TypeLink, link: "b"}), errdefs.IsInvalidArgument},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Receive(bytes.NewReader(row.data), dir, testLimits)
			if !row.class(err) {
				t.Errorf("error %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPutStaysInsideTheRoot(t *testing.T) {
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "in"), 0o755), os.Symlink("../..", filepath.Join(root, "out")), os.Symlink("/in", filepath.Join(root, "abs"))); err != nil {
		t.Fatal(err)
	}
	c := receive(t, file{name: "f", text: "data"}, file{name: "evil/../../f2", text: "data"})
	items, err := Select(c, Wish{Sources: []string{"f"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{"/out/", "/abs/", "/new/dir/", "/plain"} {
		if err := Put(t.Context(), root, c, items, Placement{Dest: dest, Owner: &archive.Owner{UID: os.Getuid(), GID: os.Getgid()}}); err != nil {
			t.Fatalf("%s: %v", dest, err)
		}
	}
	for _, name := range []string{"f", "in/f", "new/dir/f", "plain"} {
		if data, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(data) != "data" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside of the root: %v", entries)
	}
	if err := Put(t.Context(), root, c, items, Placement{Dest: "/plain/"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a file as a directory: %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("x"))
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Receive(bytes.NewReader(data), t.TempDir(), testLimits)
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		if _, err := Select(c, Wish{Sources: []string{"/"}}); err != nil {
			t.Error(err)
		}
	})
}

func TestCapabilitiesOfFilesAreCopiedAndCount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: setxattr(2) of security.capability")
	}
	src, dst := t.TempDir(), t.TempDir()
	full := filepath.Join(src, "ping")
	if err := os.WriteFile(full, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	of := func() (items []Item, d string) {
		items, err := Select(tree, Wish{Sources: []string{"ping"}})
		if err != nil {
			t.Fatal(err)
		}
		sum, err := Digest(t.Context(), tree, items)
		if err != nil {
			t.Fatal(err)
		}
		return items, sum.String()
	}
	_, plain := of()
	// cap_net_raw=ep, VFS_CAP_REVISION_2: capabilities(7), linux/capability.h.
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := syscall.Setxattr(full, "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
	items, marked := of()
	if plain == marked {
		t.Error("a capability does not matter to the digest")
	}
	if err := Put(t.Context(), dst, tree, items, Placement{Dest: "/copied"}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	n, err := syscall.Getxattr(filepath.Join(dst, "copied"), "security.capability", got)
	if err != nil || !bytes.Equal(got[:n], capability) {
		t.Errorf("capability of the copy: %x, %v", got[:max(n, 0)], err)
	}
}

// TestManyFilesArriveAsFewDo puts the same files into directories that Put makes itself,
// which goes side by side, and into those that are there, one by one.
func TestManyFilesArriveAsFewDo(t *testing.T) {
	var list []file
	for i := range 40 {
		dir := fmt.Sprintf("d%d/", i)
		list = append(list, file{name: dir, kind: tar.TypeDir, mode: 0o2750, at: 1000}, file{name: dir + "link", link: "f1", kind: tar.TypeSymlink, at: 2000})
		for j := range 10 {
			list = append(list, file{name: fmt.Sprintf("%sf%d", dir, j), text: strings.Repeat("x", i*j), mode: []int64{0o644, 0o4755, 0o600}[j%3], at: int64(3000 + j)})
		}
	}
	c, err := Receive(bytes.NewReader(archiveOf(t, list...)), t.TempDir(), Limits{Bytes: 1 << 20, Entries: 10000})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	items, err := Select(c, Wish{Sources: []string{"/"}})
	if err != nil {
		t.Fatal(err)
	}
	p := Placement{Dest: "/to/", Owner: &archive.Owner{UID: os.Getuid(), GID: os.Getgid()}}
	look := func(root string) string {
		var out strings.Builder
		tree, err := OpenRoot(root)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tree.Close() }()
		found, err := Select(tree, Wish{Sources: []string{"/to"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range found {
			fmt.Fprintln(&out, it.Rel, it.Mode, it.UID, it.Size, it.Link, it.ModTime.Unix())
		}
		return out.String()
	}
	fresh, there := t.TempDir(), t.TempDir()
	for i := range 40 {
		if err := os.MkdirAll(filepath.Join(there, "to", fmt.Sprintf("d%d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, root := range []string{fresh, there} {
		if err := Put(t.Context(), root, c, items, p); err != nil {
			t.Fatal(err)
		}
	}
	got, want := look(fresh), look(there)
	if got != want || strings.Count(got, "\n") != 40*12 {
		t.Errorf("side by side:\n%s\none by one:\n%s", got, want)
	}
	// One source upon the other: the last wins.
	twice := append(append([]Item(nil), items...), items...)
	if err := Put(t.Context(), t.TempDir(), c, twice, p); err != nil {
		t.Errorf("twice: %v", err)
	}
}

func TestAnArchiveThatUnpacksToTooMuchIsRefused(t *testing.T) {
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	_, _ = zw.Write(archiveOf(t, file{name: "zeros", text: strings.Repeat("\x00", 4<<20)}))
	_ = zw.Close()
	if bomb.Len() > 64<<10 {
		t.Fatalf("the bomb has %d bytes", bomb.Len())
	}
	c, err := Receive(bytes.NewReader(archiveOf(t, file{name: "bomb.tar.gz", text: bomb.String()})), t.TempDir(), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	items, err := Select(c, Wish{Sources: []string{"bomb.tar.gz"}})
	if err != nil {
		t.Fatal(err)
	}
	own := &archive.Owner{UID: os.Getuid(), GID: os.Getgid()}
	if err := Put(t.Context(), t.TempDir(), c, items, Placement{Dest: "/to/", Owner: own, Unpack: true, MaxUnpacked: 1 << 20}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("Put = %v", err)
	}
	if err := Put(t.Context(), t.TempDir(), c, items, Placement{Dest: "/to/", Owner: own, Unpack: true}); err != nil {
		t.Errorf("Put = %v", err)
	}
}

func TestTreesLieOverEachOther(t *testing.T) {
	lower, err := Receive(bytes.NewReader(archiveOf(t, file{name: "d/a", text: "lower"}, file{name: "d/b", text: "lower"}, file{name: "f/x", text: "hidden"})), t.TempDir(), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lower.Close() }()
	upper, err := Receive(bytes.NewReader(archiveOf(t, file{name: "d/a", text: "upper"}, file{name: "f", text: "upper"})), t.TempDir(), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = upper.Close() }()
	both := Over(lower, Over(upper, Single("note", "single", 0o600, time.Unix(7, 0))))
	items, err := Select(both, Wish{Sources: []string{"/"}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, it := range items {
		if it.Mode.IsRegular() {
			text, err := ReadFile(both, it.Source, 100)
			if err != nil {
				t.Fatal(err)
			}
			got[it.Source] = string(text)
		}
	}
	if want := map[string]string{"/d/a": "upper", "/d/b": "lower", "/f": "upper", "/note": "single"}; !maps.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	if name, err := Clash(lower, upper); err != nil || name != "/d/a" {
		t.Errorf("Clash = %q, %v", name, err)
	}
	if name, err := Clash(lower, Single("note", "", 0o600, time.Time{})); err != nil || name != "" {
		t.Errorf("Clash = %q, %v", name, err)
	}
}

func TestParentsKeepWhatIsBehindThePivotOfAPattern(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a/b/c/d/e/bay", "a/b2/c/d/e/bar", "a/b/c2/d/e/baz", "a/b/c2/d/e2/baz"} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	for _, row := range []struct {
		source string
		want   []string
	}{
		{"a/./b/./c", []string{"b/c/d/e/bay"}},
		{"/a/./*/c", []string{"b/c/d/e/bay", "b2/c/d/e/bar"}},
		{"/a/b*/./c/**/e", []string{"c/d/e/bay", "c/d/e/bar"}},
		{"/a/b/c*/./d/**/baz", []string{"d/e/baz", "d/e2/baz"}},
		{"/a/b*/./c/**/bar", []string{"c/d/e/bar"}},
		{"**/e2", []string{"a/b/c2/d/e2/baz"}},
	} {
		items, err := Select(tree, Wish{Sources: []string{row.source}, Parents: true})
		var got []string
		for _, it := range items {
			if it.Mode.IsRegular() {
				got = append(got, it.Rel)
			}
		}
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q, %v", row.source, got, row.want, err)
		}
	}
}

func TestDestinationsAreMadeWhereDanglingSymlinksPoint(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink("../tmp/target", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "foo"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := OpenRoot(source)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	items, err := Select(tree, Wish{Sources: []string{"foo"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := Put(t.Context(), root, tree, items, Placement{Dest: "/link/", DirMode: 0o700}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "tmp/target/foo")); string(data) != "text" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(root, "tmp/target")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory that was made: %v, %v", info, err)
	}
	if made, err := Mkdir(t.Context(), root, "/link/sub/dir", nil); err != nil || !made {
		t.Errorf("%v, %v", made, err)
	}
	if info, err := os.Stat(filepath.Join(root, "tmp/target/sub/dir")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestAttributesOfAContextArriveWithItsFiles(t *testing.T) {
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for _, h := range []*tar.Header{
		{Name: "a", Mode: 0o644, Size: 1, PAXRecords: map[string]string{paxXattr + "user.note": "mine", paxXattr + "user.overlay.opaque": "y", paxXattr + "security.selinux": "label"}},
		{Name: "b", Mode: 0o644, Size: 1},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Receive(&archive, t.TempDir(), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	items, err := Select(c, Wish{Sources: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := Put(t.Context(), root, c, items, Placement{Dest: "/d/"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]map[string]string{"a": {"user.note": "mine"}, "b": nil} {
		got, err := xattr.OfName(filepath.Join(root, "d", name), func(k string) bool { return k != "security.selinux" })
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s has %v, %v", name, got, err)
		}
	}
	with, err := Digest(t.Context(), c, items[:1])
	if err != nil {
		t.Fatal(err)
	}
	items[0].Source = "/b" // the same but for the attributes
	if without, err := Digest(t.Context(), c, items[:1]); err != nil || without == with {
		t.Errorf("the attributes do not matter to the cache: %s, %v", without, err)
	}
}
