package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// away is how long both daemons are dead.
const away = 3 * time.Second

func TestNothingIsLostWhileBothDaemonsAreDead(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	writer := filepath.Join(s.Root, "writer")
	build := exec.Command("go", "build", "-o", writer, "./writer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the writer: %v\n%s", err, out)
	}
	s.OK("engine", "run", "-d", "--name", "writer", "--network", "none", "-v", writer+":/writer:ro", "busybox:test", "/writer")
	s.OK("engine", "run", "-d", "--name", "ticker", "--network", "none", "busybox:test", "sh", "-c", "while true; do echo tick; sleep 0.1; done")
	codes := map[string]int{"ends-0": 0, "ends-3": 3, "ends-42": 42, "ends-255": 255}
	for name, code := range codes {
		s.OK("engine", "run", "-d", "--name", name, "--network", "none", "busybox:test", "sh", "-c", fmt.Sprintf("sleep 1; exit %d", code))
	}
	s.OK("engine", "run", "-d", "--name", "again", "--network", "none", "--restart", "on-failure:1", "busybox:test", "sh", "-c", "sleep 1; exit 9")
	s.KillEngine()
	s.KillSupervisor()
	before := time.Now()
	<-time.After(away) // the time itself is what is tested
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()

	for name, code := range codes {
		want := fmt.Sprintf("exited %d", code)
		if got := s.OK("engine", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
		if got := s.OK("engine", "wait", name); got != fmt.Sprint(code) {
			t.Errorf("wait %s prints %q, want %d", name, got, code)
		}
	}
	if got := ""; !harness.Eventually(10*time.Second, func() bool {
		got = s.OK("engine", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "again")
		return got == "exited 9 1"
	}) {
		t.Errorf("the container with a restart policy is %q, want exited 9 1", got)
	}
	events := s.OK("engine", "events", "--since", fmt.Sprint(before.Unix()-1), "--until", fmt.Sprint(time.Now().Unix()+1), "--filter", "event=die", "--format", "{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}")
	for name, code := range codes {
		if n := strings.Count(events+"\n", fmt.Sprintf("%s %d\n", name, code)); n != 1 {
			t.Errorf("%d die events of %s, want 1:\n%s", n, name, events)
		}
	}
	term := harness.StartTerminal(t, s.Command("engine", "attach", "--sig-proxy=false", "--no-stdin", "ticker"))
	term.Expect("tick")

	s.OK("engine", "stop", "writer")
	lines := strings.Split(s.OK("engine", "logs", "writer"), "\n")
	last := lines[len(lines)-1]
	lines = lines[:len(lines)-1]
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("log line %d of %d is %q: one is missing", i, len(lines), line)
		}
	}
	if !strings.HasPrefix(last, fmt.Sprintf("writes %d ", len(lines))) {
		t.Errorf("the log ends with %q after %d lines", last, len(lines))
	}
	t.Logf("0 of %d lines lost; the writer: %s", len(lines), last)
	s.OK("engine", "rm", "-fv", "writer", "ticker", "again", "ends-0", "ends-3", "ends-42", "ends-255")
	clean(t, s)
}

func TestAKilledShimLeavesAnExitedContainer(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "run", "-d", "--name", "one", "-p", "18080:80", "busybox:test", "sleep", "1000")
	s.OK("engine", "run", "-d", "--name", "always", "--restart", "always", "busybox:test", "sleep", "1000")
	s.KillShims()
	if got := ""; !harness.Eventually(10*time.Second, func() bool {
		got = s.OK("engine", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one")
		return got == "exited 137"
	}) {
		t.Errorf("after its shim was killed the container is %q, want exited 137", got)
	}
	s.OK("engine", "start", "one")
	if got := ""; !harness.Eventually(10*time.Second, func() bool {
		got = s.OK("engine", "inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "always")
		return got == "running 1"
	}) {
		t.Errorf("the container that is to run always is %q, want running 1", got)
	}
	s.OK("engine", "exec", "one", "true")
	// And with both daemons away.
	s.KillEngine()
	s.KillSupervisor()
	s.KillShims()
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()
	if got := s.OK("engine", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one"); got != "exited 137" {
		t.Errorf("after its shim was killed behind the daemons' backs the container is %q, want exited 137", got)
	}
	if got := ""; !harness.Eventually(10*time.Second, func() bool {
		got = s.OK("engine", "inspect", "-f", "{{.State.Status}}", "always")
		return got == "running"
	}) {
		t.Errorf("the container that is to run always is %q", got)
	}
	s.OK("engine", "rm", "-f", "one", "always")
	clean(t, s)
}
