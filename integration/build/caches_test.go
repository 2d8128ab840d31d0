package build

import (
	"path/filepath"
	"strings"
	"testing"

	"strata/integration/harness"
)

func severalCaches(t *testing.T, s *harness.Stack) {
	registry := s.Registry()
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test AS make\nRUN cat /proc/sys/kernel/random/uuid >/once\nFROM busybox:test\nCOPY --from=make /once /\nRUN cat /proc/sys/kernel/random/uuid >/twice\n"})
	for _, client := range kitClients {
		one, two, none := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two"), filepath.Join(t.TempDir(), "none")
		ref := registry + "/cache:" + client
		mustBuild(t, s, client, "--no-cache", "--cache-to", "type=local,mode=min,dest="+one, "--cache-to", "type=local,dest="+two+",mode=max,tag=other", "--cache-to", "type=registry,mode=max,ref="+ref,
			"--cache-to", "type=registry,ref="+registry+".invalid/x,ignore-error=true", "-t", "several:1", dir)
		want := s.OK("engine", "run", "--rm", "several:1", "cat", "/once", "/twice")
		for _, from := range [][]string{{"type=local,src=" + one}, {"type=local,src=" + two + ",tag=other"}, {"type=registry,ref=" + ref}, {ref}} {
			s.OK("engine", "builder", "prune", "-af")
			args := []string{"--cache-from", "type=local,src=" + none, "--cache-from", registry + "/nosuch"}
			for _, spec := range from {
				args = append(args, "--cache-from", spec)
			}
			mustBuild(t, s, client, append(args, "-t", "several:2", dir)...)
			if got := s.OK("engine", "run", "--rm", "several:2", "cat", "/once", "/twice"); got != want {
				t.Errorf("%s: %q was of no use: %s, want %s", client, from, got, want)
			}
		}
		if r := build(s, client, "--no-cache", "--cache-to", "type=registry,ref="+registry+".invalid/x", dir); r.Code == 0 || !strings.Contains(r.Stderr, "export cache") {
			t.Errorf("%s: a cache that cannot be written: %+v", client, r)
		}
	}
}

func refusedCaches(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\n"})
	for _, row := range [][3]string{
		{"--cache-to", "type=azblob,account_url=u", "--cache-to type=azblob: there is registry, local, inline: not implemented"},
		{"--cache-from", "type=azblob,account_url=u", "--cache-from type=azblob: there is registry, local: not implemented"},
		{"--cache-to", "type=nosuch", "--cache-to type=nosuch: unknown: there is registry, local, inline"},
		{"--cache-from", "type=nosuch", "--cache-from type=nosuch: unknown: there is registry, local"},
		{"--cache-to", "type=inline,mode=most", "--cache-to mode=most: want min or max"},
		{"--cache-to", "type=inline,ignore-error=perhaps", "--cache-to ignore-error=perhaps: want true or false"},
	} {
		for _, client := range kitClients {
			if r := build(s, client, row[0], row[1], dir); r.Code == 0 || !strings.Contains(r.Stderr, row[2]) {
				t.Errorf("%s %s %s: %+v", client, row[0], row[1], r)
			}
		}
	}
	// Without credentials in the environment, buildx leaves these out by itself.
	for _, kind := range []string{"gha", "s3"} {
		if r := build(s, "engine", "--cache-to", "type="+kind+",url=x", dir); r.Code == 0 || !strings.Contains(r.Stderr, "--cache-to type="+kind+": there is registry, local, inline: not implemented") {
			t.Errorf("%s: %+v", kind, r)
		}
	}
}
