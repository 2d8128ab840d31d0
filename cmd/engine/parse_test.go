package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSplitCopyArgTellsContainersFromLocalPaths(t *testing.T) {
	for _, tc := range []struct{ in, container, path string }{
		{"web:/etc", "web", "/etc"},
		{"web:", "web", ""},
		{"./a:b", "", "./a:b"},
		{"/a:b", "", "/a:b"},
		{"file", "", "file"},
		{"-", "", "-"},
	} {
		if c, p := splitCopyArg(tc.in); c != tc.container || p != tc.path {
			t.Errorf("splitCopyArg(%q) = %q, %q, want %q, %q", tc.in, c, p, tc.container, tc.path)
		}
	}
}

func TestRootedKeepsWhatTheEndOfAPathSays(t *testing.T) {
	for in, want := range map[string]string{
		"/etc": "/etc", "etc": "/etc", "etc/": "/etc/", "/etc/.": "/etc/.", ".": "/.", "/": "/", "../x": "/x", "/a/../b/": "/b/",
	} {
		if got := rooted(in); got != want {
			t.Errorf("rooted(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLocalDestinationFollowsTheRulesOfCp(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name        string
		dst         string
		srcIsDir    bool
		dir, rebase string
		fails       bool
	}{
		{"file into a directory keeps its name", dir, false, dir, "", false},
		{"directory into a directory keeps its name", dir, true, dir, "", false},
		{"file over a file takes its name", file, false, dir, "file", false},
		{"directory over a file", file, true, "", "", true},
		{"file to a new name", dir + "/new", false, dir, "new", false},
		{"directory to a new name", dir + "/new/", true, dir, "new", false},
		{"file to a directory that is not there", dir + "/new/", false, "", "", true},
		{"parent that is not there", dir + "/no/new", true, "", "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, rebase, err := localDestination(tc.dst, tc.srcIsDir, "src", "src")
			if (err != nil) != tc.fails || got != tc.dir || rebase != tc.rebase {
				t.Errorf("localDestination = %q, %q, %v, want %q, %q", got, rebase, err, tc.dir, tc.rebase)
			}
		})
	}
}

func TestPointInTimeReadsDurationsDatesAndSeconds(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for in, want := range map[string]string{
		"":                          "",
		"90s":                       "1767322955.000000006",
		"2026-01-02T00:00:00Z":      "1767312000.000000000",
		"2026-01-02T02:00:00+02:00": "1767312000.000000000",
		"1767312000":                "1767312000",
		"1767312000.5":              "1767312000.5",
	} {
		if got, err := pointInTime(in, now); err != nil || got != want {
			t.Errorf("pointInTime(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"foo", "12.x", "2026-13-01"} {
		if got, err := pointInTime(bad, now); err == nil {
			t.Errorf("pointInTime(%q) = %q, want an error", bad, got)
		}
	}
}

func TestHostsAreCompleted(t *testing.T) {
	for _, tc := range []struct {
		in     string
		secure bool
		want   string
	}{
		{"unix:///x", false, "unix:///x"},
		{"/x", false, "unix:///x"},
		{"unix://", false, "unix:///run/strata/engine.sock"},
		{"1.2.3.4", false, "tcp://1.2.3.4:2375"},
		{"tcp://h", true, "tcp://h:2376"},
		{":1", false, "tcp://localhost:1"},
		{"tcp://[::1]", false, "tcp://[::1]:2375"},
		{"ssh://u@h", false, "ssh://u@h"},
	} {
		if got, err := normaliseHost(tc.in, tc.secure); err != nil || got != tc.want {
			t.Errorf("normaliseHost(%q) = %q, %v, want %q", tc.in, got, err, tc.want)
		}
	}
	if got, err := normaliseHost("foo://x", false); err == nil {
		t.Errorf("normaliseHost of an unknown protocol = %q, want an error", got)
	}
}

func TestContextIsChosenByTheNearestWord(t *testing.T) {
	s, _, _ := testSession(t)
	if got := s.contextName(); got != "default" {
		t.Errorf("context = %q, want default", got)
	}
	t.Setenv("DOCKER_CONTEXT", "fromenv")
	if got := s.contextName(); got != "fromenv" {
		t.Errorf("context = %q, want that of DOCKER_CONTEXT", got)
	}
	t.Setenv("DOCKER_HOST", "unix:///docker")
	t.Setenv("STRATA_HOST", "unix:///strata")
	if got := s.contextName(); got != "default" {
		t.Errorf("context = %q, want default, because a host is named", got)
	}
	if host, _, err := s.endpoint(); err != nil || host != "unix:///strata" {
		t.Errorf("endpoint = %q, %v, want that of STRATA_HOST", host, err)
	}
	s.global.hosts = []string{"unix:///flag"}
	if host, _, err := s.endpoint(); err != nil || host != "unix:///flag" {
		t.Errorf("endpoint = %q, %v, want that of -H", host, err)
	}
}
