package ocirun_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// nothingLeft fails if the container has a cgroup or a directory.
func nothingLeft(t *testing.T, b *bundle) {
	t.Helper()
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/ocirun-test/" + b.id)
	if _, err := os.Stat("/sys/fs/cgroup/ocirun-test/" + b.id); err == nil {
		dirs = append(dirs, "/sys/fs/cgroup/ocirun-test/"+b.id)
	}
	if _, err := os.Stat(filepath.Join(b.root, b.id)); err == nil {
		dirs = append(dirs, filepath.Join(b.root, b.id))
	}
	if len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
}

// slowCreate starts a create that stays in a hook, in the middle of its work, and returns
// when it is there.
func slowCreate(t *testing.T, b *bundle) (kill func(), ended <-chan error) {
	t.Helper()
	mark := filepath.Join(b.dir, "in-hook")
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "touch " + mark + "; exec sleep 30"}}}}
	b.save()
	cmd := b.command("create", b.id)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1) // one result
	go func() { done <- cmd.Wait() }()
	for end := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if _, err := os.Stat(mark); err == nil {
			return func() { _ = cmd.Process.Kill() }, done
		}
		if time.Now().After(end) {
			t.Fatal("create has not come to its hook")
		}
	}
}

func TestDeleteFindsWhatAKilledCreateHasLeft(t *testing.T) {
	b := newBundle(t, "true")
	kill, ended := slowCreate(t, b)
	kill()
	<-ended
	b.must("delete", "--force", b.id)
	nothingLeft(t, b)
}

func TestForcedDeleteEndsACreateAtWork(t *testing.T) {
	b := newBundle(t, "true")
	_, ended := slowCreate(t, b)
	if out, err := b.try("delete", b.id); err == nil || !strings.Contains(out, "does not exist") {
		t.Errorf("delete of a container that is being created: %v, %q", err, out)
	}
	select {
	case err := <-ended:
		t.Fatalf("a delete without force has ended the create: %v", err)
	default:
	}
	b.must("delete", "--force", b.id)
	if err := <-ended; err == nil {
		t.Error("the create came to a good end")
	}
	nothingLeft(t, b)
	b.spec.Hooks = nil
	b.save().create() // the id is free
}

// TestACreateKilledAnywhereCanBeUndone kills creates at random moments.
func TestACreateKilledAnywhereCanBeUndone(t *testing.T) {
	b := newBundle(t, "sleep 100").save()
	for range 60 {
		cmd := b.command("create", b.id)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(rand.N(15 * time.Millisecond))
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as above
		b.must("delete", "--force", b.id)
		nothingLeft(t, b)
		if t.Failed() {
			return
		}
	}
}
