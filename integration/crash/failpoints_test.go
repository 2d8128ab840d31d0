package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// short are the failpoints of a quick run; STRATA_CRASH=all goes through every one.
var short = []string{
	"containers/create/stored", "containers/start/started", "containers/remove/stored", "containers/exited/told",
	"networks/join/saved", "networks/create/built", "snapshots/prepare/written", "tasks/create/launched",
	"tasks/delete/deleted", "process/create/made",
}

type point struct{ process, name string }

var pointLine = regexp.MustCompile(`\{"(\w+)", "([^"]+)"\}`)

// points reads the list of failpoints: the tests are a module of their own.
func points(t *testing.T) []point {
	t.Helper()
	src, err := os.ReadFile("../../pkg/failpoint/points.go")
	if err != nil {
		t.Fatal(err)
	}
	var out []point
	for _, m := range pointLine.FindAllStringSubmatch(string(src), -1) {
		out = append(out, point{m[1], m[2]})
	}
	if len(out) < 40 {
		t.Fatalf("found %d failpoints, want more", len(out))
	}
	return out
}

// counts are the hits at which a failpoint kills; most do at the first.
func counts(name string) []int {
	switch name {
	case "metadata/commit/begun", "metadata/commit/done":
		return []int{2, 5, 9, 14}
	default:
		return []int{1}
	}
}

func TestEveryFailpoint(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	registry := s.Registry()
	tiny := s.TinyArchive("tiny:1", "text\n")
	s.OK("engine", "load", "-q", "-i", tiny)
	s.OK("engine", "tag", "tiny:1", registry+"/tiny:1")
	s.OK("engine", "push", "-q", registry+"/tiny:1")
	s.OK("engine", "rmi", "-f", "tiny:1", registry+"/tiny:1")
	steps := life(tiny, registry)
	all := os.Getenv("STRATA_CRASH") == "all"
	for _, p := range points(t) {
		if !all && !slices.Contains(short, p.name) {
			continue
		}
		for _, n := range counts(p.name) {
			t.Run(fmt.Sprintf("%s;%d", p.name, n), func(t *testing.T) {
				s.For(t)
				v := &victim{t: t, s: s, point: p, hits: filepath.Join(s.Root, "hits"), registry: registry}
				t.Cleanup(v.tidy)
				v.arm(fmt.Sprintf("%s=kill;%d", p.name, n))
				for _, st := range steps {
					v.play(st)
				}
				if v.armed {
					v.check()
				}
				if v.armed {
					t.Error("the failpoint was never hit")
					v.disarm()
				}
				consistent(t, s)
			})
		}
	}
}

// victim is a stack of which one process dies at a failpoint.
type victim struct {
	t     *testing.T
	s     *harness.Stack
	point point
	hits  string
	armed bool

	registry string
}

// arm restarts the process with the failpoint.
func (v *victim) arm(value string) {
	v.t.Helper()
	_ = os.Remove(v.hits) // there may be none
	env := []string{"STRATA_FAILPOINTS=" + value, "STRATA_FAILPOINTS_HITS=" + v.hits}
	v.armed = true
	if v.point.process == "engined" {
		v.s.KillEngine()
		v.s.StartEngine(env...)
	} else {
		v.s.KillSupervisor()
		v.s.StartSupervisor(env...)
	}
	harness.Eventually(20*time.Second, func() bool { return v.hit() || v.s.Engine("info").Code == 0 })
	v.check()
}

func (v *victim) hit() bool {
	_, err := os.Stat(v.hits)
	return err == nil
}

// check looks whether the failpoint was hit, and starts the process again if so.
func (v *victim) check() (died bool) {
	v.t.Helper()
	if !v.armed || !v.hit() {
		return false
	}
	if v.point.process != "shim" && !harness.Eventually(5*time.Second, func() bool { return v.s.Ended(v.point.process) }) {
		v.t.Fatalf("%s has hit its failpoint and lives", v.point.process)
	}
	v.disarm()
	return true
}

// disarm starts the process without a failpoint.
func (v *victim) disarm() {
	v.t.Helper()
	v.armed = false
	if v.point.process == "engined" {
		v.s.KillEngine()
		v.s.StartEngine()
	} else {
		v.s.KillSupervisor()
		v.s.StartSupervisor()
	}
	v.s.WaitReady()
}

// tidy says what was going on when the test failed, and clears the way for the next.
func (v *victim) tidy() {
	if !v.t.Failed() {
		return
	}
	v.t.Log(v.s.Logs())
	if v.armed {
		v.disarm()
	}
	v.s.Engine("rm", "-fv", "victim", "winner", "phoenix")
	v.s.Engine("network", "rm", "net", "net2")
	v.s.Engine("volume", "rm", "-f", "vol")
	v.s.Engine("rmi", "-f", "tiny:1", v.registry+"/tiny:1")
	v.s.Engine("doctor", "--repair")
}

// play does a step; if the process dies meanwhile, the step is repeated and must succeed.
func (v *victim) play(st step) {
	v.t.Helper()
	r := st.do(v.s)
	if r.Code != 0 && v.armed {
		harness.Eventually(time.Second, v.hit)
	}
	if !v.check() {
		if r.Code != 0 {
			v.t.Fatalf("%s: %+v", st.name, r)
		}
		return
	}
	if r.Code == 0 {
		return
	}
	if r = st.do(v.s); r.Code == 0 {
		return
	}
	verdict := broken
	if st.again != nil {
		verdict = st.again(v.s)
	}
	switch verdict {
	case done:
		return
	case cleared:
		if r = st.do(v.s); r.Code == 0 {
			return
		}
	}
	v.t.Fatalf("%s, repeated after a crash at %s: %+v", st.name, v.point.name, r)
}

// TestMain needs what the residue is read with.
func TestMain(m *testing.M) {
	for _, tool := range []string{"ctr", "nft", "docker-registry"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintln(os.Stderr, strings.TrimSpace(err.Error())+"; .ci/deps installs it")
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
