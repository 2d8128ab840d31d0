package containers

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var update = flag.Bool("update", false, "rewrite golden files")

// dot draws the table.
func dot() string {
	var b strings.Builder
	b.WriteString("digraph lifecycle {\n")
	for from := range numStatus {
		for e := range numEvent {
			if to := next[from][e]; to != unknown {
				fmt.Fprintf(&b, "\t%q -> %q [label=%q]\n", from, to, e)
			}
		}
	}
	b.WriteString("}\n")
	return b.String()
}

func TestLifecycleIsTheOneReviewed(t *testing.T) {
	const golden = "testdata/lifecycle.dot"
	if *update {
		if err := os.WriteFile(golden, []byte(dot()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := dot(); got != string(want) {
		t.Errorf("lifecycle changed; review and run with -update:\n%s", got)
	}
}

func TestEveryStatusCanBeLeftOrRemoved(t *testing.T) {
	for s := Created; s < numStatus; s++ {
		if parseStatus(s.String()) != s {
			t.Errorf("parseStatus(%q) = %v", s, parseStatus(s.String()))
		}
		out := 0
		for e := range numEvent {
			if next[s][e] != unknown {
				out++
			}
		}
		if out == 0 {
			t.Errorf("status %s is a dead end", s)
		}
	}
}

func TestRunningContainersAreNotRemoved(t *testing.T) {
	for _, s := range []Status{Running, Paused} {
		if n, err := s.on(evRemoved); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s.on(removed) = %v, %v; want class ErrFailedPrecondition", s, n, err)
		}
	}
}
