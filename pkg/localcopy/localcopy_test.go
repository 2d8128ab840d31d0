package localcopy_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"strata/pkg/localcopy"
)

func makeTar(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len("evil"))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write([]byte("evil")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestArchiveAndExtractRoundTripUnderANewName(t *testing.T) {
	src := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "sub", "file"), []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/file", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := localcopy.Archive(t.Context(), &buf, src, "tree"); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	if err := localcopy.Extract(dst, &buf, "renamed"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dst, "renamed", "link"))
	if err != nil || string(got) != "text" {
		t.Errorf("read through the copied symlink: %q, %v, want \"text\"", got, err)
	}
	info, err := os.Stat(filepath.Join(dst, "renamed", "sub", "file"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of the copy: %v, %v, want 0640", info, err)
	}
}

func TestHostileArchivesStayInsideTheDestination(t *testing.T) {
	for _, tc := range []struct {
		name    string
		entries func(outside string) []tar.Header
	}{
		{"parent in the name", func(string) []tar.Header {
			return []tar.Header{{Name: "../victim", Typeflag: tar.TypeReg, Mode: 0o644}}
		}},
		{"absolute symlink, then a file through it", func(outside string) []tar.Header {
			return []tar.Header{
				{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside},
				{Name: "d/victim", Typeflag: tar.TypeReg, Mode: 0o644},
			}
		}},
		{"relative symlink, then a file through it", func(string) []tar.Header {
			return []tar.Header{
				{Name: "d", Typeflag: tar.TypeSymlink, Linkname: ".."},
				{Name: "d/victim", Typeflag: tar.TypeReg, Mode: 0o644},
			}
		}},
		{"hard link to the outside, then written", func(string) []tar.Header {
			return []tar.Header{
				{Name: "l", Typeflag: tar.TypeLink, Linkname: "../victim"},
				{Name: "l", Typeflag: tar.TypeReg, Mode: 0o644},
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			outside := t.TempDir()
			victim := filepath.Join(outside, "victim")
			if err := os.WriteFile(victim, []byte("good"), 0o644); err != nil {
				t.Fatal(err)
			}
			dst := filepath.Join(outside, "dst")
			if err := os.Mkdir(dst, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := localcopy.Extract(dst, makeTar(t, tc.entries(outside)...), ""); err == nil {
				t.Error("Extract succeeded, want an error")
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "good" {
				t.Errorf("file outside = %q, %v, want it untouched", got, err)
			}
		})
	}
}

func TestExtractDropsSetUserIDAndMakesNoDevices(t *testing.T) {
	dst := t.TempDir()
	buf := makeTar(t,
		tar.Header{Name: "su", Typeflag: tar.TypeReg, Mode: 0o4755},
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
	)
	if err := localcopy.Extract(dst, buf, ""); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dst, "su")); err != nil || info.Mode() != 0o755 {
		t.Errorf("mode of a set-user-id file: %v, %v, want 0755", info, err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "null")); !os.IsNotExist(err) {
		t.Errorf("lstat of a device: %v, want that it does not exist", err)
	}
}

func TestExtractRefusesToReplaceADirectory(t *testing.T) {
	dst := t.TempDir()
	if err := os.Mkdir(filepath.Join(dst, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := localcopy.Extract(dst, makeTar(t, tar.Header{Name: "x", Typeflag: tar.TypeReg}), ""); err == nil {
		t.Error("Extract replaced a directory by a file, want an error")
	}
}
