package failpoint

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

var call = regexp.MustCompile(`failpoint\.(?:Hit|Pass)\("([^"]+)"\)`)

func TestTheListAndTheCodeAgree(t *testing.T) {
	inCode := map[Point]int{}
	for _, process := range []string{"engined", "supervisord", "shim"} {
		err := filepath.WalkDir(filepath.Join("../..", process), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			src, err := os.ReadFile(path)
			for _, m := range call.FindAllStringSubmatch(string(src), -1) {
				inCode[Point{process, m[1]}]++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	listed := map[Point]bool{}
	for _, p := range Points() {
		if listed[p] {
			t.Errorf("%v is listed twice", p)
		}
		listed[p] = true
		if inCode[p] != 1 {
			t.Errorf("%v stands in the code %d times, want once", p, inCode[p])
		}
		if strings.Count(p.Name, "/") != 2 {
			t.Errorf("%q is not package/function/step", p.Name)
		}
	}
	for p := range inCode {
		if !listed[p] {
			t.Errorf("%v is not listed", p)
		}
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		text string
		ok   bool
	}{
		{"", true},
		{"a/b/c=kill", true},
		{"a/b/c=error;3,d/e/f=sleep:20ms", true},
		{"a/b/c", false},
		{"a/b/c=die", false},
		{"a/b/c=sleep:soon", false},
		{"a/b/c=kill:1s", false},
		{"a/b/c=kill;0", false},
		{"a/b/c=kill;x", false},
	} {
		if _, err := parse(tt.text); (err == nil) != tt.ok {
			t.Errorf("parse(%q): %v", tt.text, err)
		}
	}
}

func TestActions(t *testing.T) {
	points, err := parse("second=error;2,slow=sleep:30ms")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, errdefs.ErrUnavailable, nil} {
		if err := points["second"].do("second"); !errors.Is(err, want) {
			t.Errorf("hit %d: %v, want %v", i+1, err, want)
		}
	}
	start := time.Now()
	if err := points["slow"].do("slow"); err != nil || time.Since(start) < 30*time.Millisecond {
		t.Errorf("sleep: %v after %v", err, time.Since(start))
	}
}

func TestKillEndsTheProcessAtOnce(t *testing.T) {
	if os.Getenv("FAILPOINT_TEST_VICTIM") != "" {
		_ = Hit("x/y/z")
		os.Exit(0)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "FAILPOINT_TEST_VICTIM=1", Variable+"=x/y/z=kill")
	err := cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("the victim ended with %v, %v", cmd.ProcessState, err)
	}
}
