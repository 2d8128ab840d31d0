package build

import (
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// broken is a build whose third step fails.
const broken = `FROM busybox:test
WORKDIR /work
ENV CALLED=so
RUN echo of an earlier step >/work/there
RUN echo half done >/work/half; echo last words; exit 7
`

// TestAFailedStepIsLookedAt has a person look at what a step found that failed.
func TestAFailedStepIsLookedAt(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	t.Run("a shell runs in the state before the step", func(t *testing.T) { shellBefore(t, s.For(t)) })
	t.Run("a shell runs in what the step has left", func(t *testing.T) { shellAfter(t, s.For(t)) })
	t.Run("a build that does not fail has no shell", func(t *testing.T) { shellUnused(t, s.For(t)) })
	t.Run("a failure that is no command's has none", func(t *testing.T) { shellOfNoCommand(t, s.For(t)) })
	t.Run("an image without a shell says so", func(t *testing.T) { shellMissing(t, s.For(t)) })
	t.Run("a client that goes takes its shell along", func(t *testing.T) { shellLost(t, s.For(t)) })
	t.Run("the user may give up before a step fails", func(t *testing.T) { shellInterrupted(t, s.For(t)) })
	t.Run("it needs a terminal, and a failed build tells of it", func(t *testing.T) { shellAsked(t, s.For(t)) })
}

// noCommands waits until no container of a build is left.
func noCommands(t *testing.T, s *harness.Stack) {
	t.Helper()
	if !harness.Eventually(10*time.Second, func() bool { return len(s.Residue()) == 0 }) {
		t.Errorf("left: %q", s.Residue())
	}
}

func shellBefore(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": broken})
	for _, progress := range []string{"tty", "plain", "quiet"} {
		term := harness.StartTerminal(t, s.Command("engine", "build", "--no-cache", "--progress="+progress, "--on-failure=shell", dir))
		term.Expect("RUN echo half done")
		term.Expect("\"exit\" ends the build")
		term.Expect("# ")
		term.Type("cat there; ls | wc -l; echo $CALLED; pwd\n")
		term.Expect("of an earlier step\r\n1\r\nso\r\n/work\r\n")
		term.Type("stty size\n")
		term.Expect("24 80")
		term.Resize(33, 101)
		if !harness.Eventually(10*time.Second, func() bool { term.Type("stty size\n"); return strings.Contains(term.Screen(), "33 101") }) {
			t.Errorf("the shell does not know the size of the terminal:\n%s", term.Screen())
		}
		term.Type("echo run''ning; sleep 100\n")
		term.Expect("running\r\n")
		term.Type("\x03") // the shell's, not the build's
		term.Type("echo still $((40+2))\n")
		term.Expect("still 42")
		term.Type("exit 3\n")
		term.Expect("exit code: 7")
		if code := term.Wait(); code != 1 {
			t.Errorf("%s: exit code %d", progress, code)
		}
		noCommands(t, s)
	}
}

func shellAfter(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": broken})
	term := harness.StartTerminal(t, s.Command("engine", "build", "--no-cache", "--on-failure=shell,as-left", dir))
	term.Expect("a shell with the files after this step")
	term.Expect("# ")
	term.Type("cat half there; echo $CALLED; pwd\n")
	term.Expect("half done\r\nof an earlier step\r\nso\r\n/work\r\n")
	term.Type("exit\n")
	term.Expect("exit code: 7")
	if code := term.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	noCommands(t, s)
}

func shellUnused(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo fine\n"})
	term := harness.StartTerminal(t, s.Command("engine", "build", "--no-cache", "--on-failure=shell", "-t", "shell:unused", dir))
	term.Expect("built sha256:")
	if code := term.Wait(); code != 0 || strings.Contains(term.Screen(), "shell with") {
		t.Errorf("exit code %d\n%s", code, term.Screen())
	}
	noCommands(t, s)
}

func shellOfNoCommand(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nCOPY nothing /\n"})
	term := harness.StartTerminal(t, s.Command("engine", "build", "--on-failure=shell", dir))
	term.Expect(`"/nothing": not found`)
	if code := term.Wait(); code != 1 || strings.Contains(term.Screen(), "shell with") {
		t.Errorf("exit code %d\n%s", code, term.Screen())
	}
}

func shellMissing(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY --from=busybox:test /bin/busybox /b\nRUN [\"/b\", \"false\"]\n"})
	term := harness.StartTerminal(t, s.Command("engine", "build", "--no-cache", "--on-failure=shell", dir))
	term.Expect("no shell: ")
	term.Expect("exit code: 1")
	if code := term.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	noCommands(t, s)
}

func shellLost(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": broken})
	cmd := s.Command("engine", "build", "--no-cache", "--on-failure=shell", dir)
	term := harness.StartTerminal(t, cmd)
	term.Expect("\"exit\" ends the build")
	term.Expect("# ")
	if len(s.Residue()) == 0 {
		t.Error("there is no container of a shell")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	term.Wait()
	noCommands(t, s)
}

func shellInterrupted(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo begun; sleep 1000\n"})
	term := harness.StartTerminal(t, s.Command("engine", "build", "--no-cache", "--progress=plain", "--on-failure=shell", dir))
	term.Expect("begun\r\n")
	term.Type("\x03")
	if code := term.Wait(); code == 0 {
		t.Error("a build that was interrupted has ended well")
	}
	noCommands(t, s)
}

func shellAsked(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": broken})
	for flag, want := range map[string]string{"shell": "--on-failure=shell needs a terminal", "debug": `invalid --on-failure "debug"`} {
		if r := s.Engine("build", "--no-cache", "--on-failure="+flag, dir); r.Code == 0 || !strings.Contains(r.Stderr, want) || strings.Contains(r.Stderr, "last words") {
			t.Errorf("%s: %+v", flag, r)
		}
	}
	if r := s.Engine("build", "--no-cache", dir); r.Code != 1 || strings.Contains(r.Stderr, "on-failure") {
		t.Errorf("without a terminal: %+v", r)
	}
	term := harness.StartTerminal(t, s.Command("engine", "build", "--no-cache", dir))
	term.Expect("exit code: 7")
	term.Expect("engine build --on-failure=shell")
	if code := term.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}
