package ocirun

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{
		"9": 9, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "0": 0,
	} {
		if got, err := parseSignal(s); err != nil || got != want {
			t.Errorf("parseSignal(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "x", "65", "-1", "SIGNOPE", "RTMIN+31", "9x"} {
		if got, err := parseSignal(s); err == nil {
			t.Errorf("parseSignal(%q) = %v, want an error", s, got)
		}
	}
}

// CVE-2026-30892: what is not a number must not become root.
func TestParseUserIsStrict(t *testing.T) {
	if u, g, err := parseUser("1000", 5); err != nil || u != 1000 || g != 5 {
		t.Errorf("parseUser(1000) = %d, %d, %v", u, g, err)
	}
	if u, g, err := parseUser("1000:7", 5); err != nil || u != 1000 || g != 7 {
		t.Errorf("parseUser(1000:7) = %d, %d, %v", u, g, err)
	}
	for _, s := range []string{"", "root", "1000x", "1000:", ":1", "-1", "4294967296", "2147483648", "1:2:3", " 1", "0x10"} {
		if u, g, err := parseUser(s, 5); err == nil {
			t.Errorf("parseUser(%q) = %d, %d, want an error", s, u, g)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"5": 5, "-1": -1, "1k": 1024, "32M": 32 << 20, "2gb": 2 << 30, "1T": 1 << 40} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "1.5g", "9999999999t", "1x"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestFlags(t *testing.T) {
	var name string
	var on bool
	var list []string
	parse := func(args ...string) ([]string, error) {
		name, on, list = "", false, nil
		f := newFlags("verb")
		f.str(&name, "name", "n")
		f.bool(&on, "on")
		f.strs(&list, "add")
		return f.parse(args)
	}
	rest, err := parse("--name=x", "-on", "--add", "1", "--add=2", "id", "--not-ours")
	if err != nil || name != "x" || !on || !slices.Equal(list, []string{"1", "2"}) || !slices.Equal(rest, []string{"id", "--not-ours"}) {
		t.Errorf("parse = %v, %v, name %q, on %v, list %v", rest, err, name, on, list)
	}
	if rest, err := parse("--on=false", "-n", "y", "--", "-z"); err != nil || on || name != "y" || !slices.Equal(rest, []string{"-z"}) {
		t.Errorf("parse = %v, %v", rest, err)
	}
	for _, bad := range [][]string{{"--what"}, {"--name"}, {"--on=maybe"}} {
		if _, err := parse(bad...); err == nil {
			t.Errorf("parse(%q): no error", bad)
		}
	}
}
