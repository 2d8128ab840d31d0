package seccomp

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

const profile = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["uname"],"action":"SCMP_ACT_ERRNO"}]}`

func TestCachedProgramIsTheCompiledOne(t *testing.T) {
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	one, err := c.Get([]byte(profile))
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Get([]byte(profile))
	if err != nil {
		t.Fatal(err)
	}
	if one.Path == "" || !reflect.DeepEqual(one, two) {
		t.Errorf("second Get = %+v, want %+v", two, one)
	}
}

func TestCacheEntryOfAnotherProfileIsNotUsed(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	one, err := c.Get([]byte(profile))
	if err != nil {
		t.Fatal(err)
	}
	// As after a collision: the file of this profile's hash holds another's program.
	other := one.Program
	other.Insns = other.Insns[:1]
	if err := os.WriteFile(one.Path, Encode([]byte("{}"), &other), 0o600); err != nil {
		t.Fatal(err)
	}
	two, err := c.Get([]byte(profile))
	if err != nil || !reflect.DeepEqual(one.Insns, two.Insns) {
		t.Errorf("Get = %d instructions, %v, want %d", len(two.Insns), err, len(one.Insns))
	}
}

func TestBrokenCacheEntryIsCompiledAnew(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	one, err := c.Get([]byte(profile))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(one.Path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if err := os.WriteFile(one.Path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		p, of, err := Read(one.Path)
		if err == nil && string(of) == profile && len(p.Insns) == len(one.Insns) {
			t.Fatalf("a file cut at %d of %d bytes reads as whole", n, len(whole))
		}
	}
}
