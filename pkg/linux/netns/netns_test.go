package netns

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestCreatedNetnsOutlivesItsThreadAndIsAnother(t *testing.T) {
	requireRoot(t)
	path := filepath.Join(t.TempDir(), "ns")
	prepared := false
	err := Create(path, func() error {
		links, err := net.Interfaces()
		prepared = err == nil && len(links) >= 1 && links[0].Flags&net.FlagUp == 0
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Delete(path); err != nil {
			t.Error(err)
		}
	})
	if !prepared {
		t.Error("prepare did not run in a netns whose lo is down")
	}
	mine, err := Inode("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var inside uint64
	err = DoPath(path, func() (err error) { inside, err = Inode(self); return err })
	if err != nil {
		t.Fatal(err)
	}
	if ino, err := Inode(path); err != nil || ino != inside || ino == mine {
		t.Errorf("Inode = %d, %v; Do ran in %d; test runs in %d", ino, err, inside, mine)
	}
	if now, err := Inode(self); err != nil || now != mine {
		t.Errorf("the thread did not come back: %d, %v, want %d", now, err, mine)
	}
	if err := Create(path, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create = %v, want os.ErrExist", err)
	}
}

func TestFailedPrepareLeavesNothing(t *testing.T) {
	requireRoot(t)
	path := filepath.Join(t.TempDir(), "ns")
	boom := errors.New("boom")
	if err := Create(path, func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Create = %v, want the error of prepare", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Lstat = %v, want no file", err)
	}
}

func TestRenameKeepsTheNetns(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := Create(from, nil); err != nil {
		t.Fatal(err)
	}
	before, err := Inode(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := Rename(from, to); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Delete(to) })
	if after, err := Inode(to); err != nil || after != before {
		t.Errorf("Inode = %d, %v, want %d", after, err, before)
	}
	if Is(from) {
		t.Error("the old name is still a netns")
	}
}

func TestDeleteOfNothingIsNoError(t *testing.T) {
	if err := Delete(filepath.Join(t.TempDir(), "absent")); err != nil {
		t.Error(err)
	}
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}
