package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// newRoot makes a container's root beside a file that must never be reached.
func newRoot(t *testing.T) (root, outside string) {
	t.Helper()
	outside = t.TempDir()
	root = filepath.Join(outside, "root")
	for _, d := range []string{"root/etc", "root/srv/www"} {
		if err := os.MkdirAll(filepath.Join(outside, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(outside, "secret"), "outside")
	write(t, filepath.Join(root, "etc/hosts"), "inside")
	write(t, filepath.Join(root, "srv/www/index"), "page")
	for link, target := range map[string]string{"www": "/srv/www", "evil": outside, "up": "../../../.."} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	return root, outside
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, data []byte) []string {
	t.Helper()
	var out []string
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(out)
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

func archiveOf(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = time.Unix(1e9, 0)
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(tw, "data")
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestStatDescribesSymlinksInsideTheRoot(t *testing.T) {
	root, _ := newRoot(t)
	st, err := Stat(root, "/www")
	if err != nil || st.LinkTarget != "/srv/www" || st.Name != "www" || st.Mode&os.ModeSymlink == 0 {
		t.Errorf("Stat(/www) = %+v, %v", st, err)
	}
	if _, err := Stat(root, "/nothing"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Stat(/nothing) = %v, want class ErrNotFound", err)
	}
	if st, err := Stat(root, "../../secret"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Stat left the root: %+v, %v", st, err)
	}
}

func TestReadNamesEntriesFromTheLastComponent(t *testing.T) {
	root, _ := newRoot(t)
	for name, want := range map[string][]string{
		"/srv":         {"srv/", "srv/www/", "srv/www/index"},
		"/etc/hosts":   {"hosts"},
		"/www":         {"www"},
		"/www/":        {"www/", "www/index"},
		"/srv/www/.":   {"./", "./index"}, // so that a client can put another name in front
		"/evil/secret": nil,
	} {
		var b bytes.Buffer
		err := Read(t.Context(), root, name, &b)
		if want == nil {
			if !errors.Is(err, errdefs.ErrNotFound) || b.Len() != 0 {
				t.Errorf("Read(%q) = %v with %d bytes, want class ErrNotFound and none", name, err, b.Len())
			}
			continue
		}
		if err != nil {
			t.Errorf("Read(%q): %v", name, err)
			continue
		}
		if got := names(t, b.Bytes()); !slices.Equal(got, want) {
			t.Errorf("Read(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestWriteKeepsModesOwnersTimesAndLinks(t *testing.T) {
	root, _ := newRoot(t)
	err := Write(root, "/www", archiveOf(
		t,
		tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o2750, Uid: 7},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Mode: 0o4755, Uid: 7, Gid: 8},
		tar.Header{Typeflag: tar.TypeLink, Name: "d/hard", Linkname: "d/f"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "d/soft", Linkname: "/etc/hosts"},
		tar.Header{Typeflag: tar.TypeReg, Name: "new/deep/f"},
	), WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "srv/www/d/f"), &st); err != nil || st.Mode&0o7777 != 0o4755 || st.Uid != 7 || st.Gid != 8 || st.Nlink != 2 || st.Mtim.Sec != 1e9 {
		t.Errorf("d/f = %+v, %v", st, err)
	}
	if fi, err := os.Stat(filepath.Join(root, "srv/www/d")); err != nil || fi.ModTime().Unix() != 1e9 {
		t.Errorf("time of d = %v, %v", fi, err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "srv/www/new/deep/f")); err != nil || string(b) != "data" {
		t.Errorf("new/deep/f = %q, %v", b, err)
	}
}

func TestHostileArchivesStayInsideTheRoot(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"dot dot":              {{Typeflag: tar.TypeReg, Name: "../../../secret"}},
		"absolute":             {{Typeflag: tar.TypeReg, Name: "/secret"}},
		"existing symlink":     {{Typeflag: tar.TypeReg, Name: "../evil/secret"}},
		"symlink then file":    {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../../.."}, {Typeflag: tar.TypeReg, Name: "l/secret"}},
		"file over a symlink":  {{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "../../../secret"}, {Typeflag: tar.TypeReg, Name: "s"}},
		"hard link to outside": {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../../secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, outside := newRoot(t)
			_ = Write(root, "/srv", archiveOf(t, headers...), WriteOptions{}) // may refuse
			b, err := os.ReadFile(filepath.Join(outside, "secret"))
			var st unix.Stat_t
			if serr := unix.Stat(filepath.Join(outside, "secret"), &st); err != nil || serr != nil || string(b) != "outside" || st.Nlink != 1 {
				t.Errorf("secret = %q (%d links), %v", b, st.Nlink, err)
			}
		})
	}
}

func TestWriteRefusesToReplaceADirectoryWhenAsked(t *testing.T) {
	root, _ := newRoot(t)
	opts := WriteOptions{NoOverwriteDirNonDir: true}
	if err := Write(root, "/srv", archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "www"}), opts); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("file over directory = %v, want class ErrInvalidArgument", err)
	}
	if err := Write(root, "/etc", archiveOf(t, tar.Header{Typeflag: tar.TypeDir, Name: "hosts"}), opts); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("directory over file = %v, want class ErrInvalidArgument", err)
	}
	if err := Write(root, "/etc/hosts", archiveOf(t), WriteOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("extraction into a file = %v, want class ErrInvalidArgument", err)
	}
	if err := Write(root, "/nowhere", archiveOf(t), WriteOptions{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("extraction into nothing = %v, want class ErrNotFound", err)
	}
}

func TestWriteRefusesACutArchive(t *testing.T) {
	root, _ := newRoot(t)
	data, err := io.ReadAll(archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "f"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(root, "/srv", bytes.NewReader(data[:514]), WriteOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Write of a cut archive = %v, want class ErrInvalidArgument", err)
	}
}

func TestExportAndWriteRoundTrip(t *testing.T) {
	root, _ := newRoot(t)
	var b bytes.Buffer
	if err := Export(t.Context(), root, &b); err != nil {
		t.Fatal(err)
	}
	copyRoot := t.TempDir()
	if err := Write(copyRoot, "/", &b, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(copyRoot, "srv/www/index")); err != nil || string(got) != "page" {
		t.Errorf("copy = %q, %v", got, err)
	}
}

func TestChangesTellsAddedModifiedDeletedApart(t *testing.T) {
	dir := t.TempDir()
	lower, upper := filepath.Join(dir, "l"), filepath.Join(dir, "u")
	for _, d := range []string{"l/etc", "u/etc", "u/new"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(lower, "etc/a"), "1")
	write(t, filepath.Join(lower, "etc/b"), "1")
	write(t, filepath.Join(upper, "etc/a"), "2")
	write(t, filepath.Join(upper, "new/f"), "3")
	if err := unix.Mknod(filepath.Join(upper, "etc/b"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	got, err := Changes(upper, []string{lower})
	want := []Change{{Modified, "/etc"}, {Modified, "/etc/a"}, {Deleted, "/etc/b"}, {Added, "/new"}, {Added, "/new/f"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Changes = %v, %v; want %v", got, err, want)
	}
}
