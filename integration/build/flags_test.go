package build

import (
	"regexp"
	"runtime"
	"strings"
	"testing"

	"strata/integration/harness"
)

// flags compares the help of both clients, and has our client refuse what is not here.
func flags(t *testing.T, s *harness.Stack) {
	s.Plugin("buildx")
	names := func(help string) map[string]bool {
		out := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^ +(?:-., )?--([a-z-]+)`).FindAllStringSubmatch(help, -1) {
			out[m[1]] = true
		}
		return out
	}
	ours, theirs := names(s.OK("engine", "build", "--help")), names(s.OK("docker", "buildx", "build", "--help"))
	if len(theirs) < 30 {
		t.Fatalf("flags of docker build: %v", theirs)
	}
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN ulimit -v; cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true\n"})
	refused := map[string]string{
		"policy": "source policies are not implemented", "builder": "there is one, the daemon's", "squash": "layers are not squashed",
		"security-opt": "RUN --security=insecure", "isolation": "there is one way to isolate commands",
	}
	for name := range theirs {
		if name != "debug" && name != "help" && !ours[name] && refused[name] == "" { // of every command
			t.Errorf("--%s is not there", name)
		}
	}
	for name, why := range refused {
		value := "=x"
		if name == "squash" {
			value = ""
		}
		if r := s.Engine("build", "--"+name+value, dir); r.Code == 0 || !strings.Contains(r.Stderr, why) {
			t.Errorf("--%s: %+v, want %q", name, r, why)
		}
	}
	// What asks for nothing, or has been a flag of its own, is understood.
	args := []string{
		"--builder=default", "--isolation=default", "--compress", "--rm", "--force-rm", "--memory=1g", "--memory-swap=-1", "--cpu-shares=512", "--cpu-period=100000",
		"--cpu-quota=50000", "--cpuset-cpus=0", "--progress=none",
	}
	if r := s.Engine(append([]string{"build", "--no-cache", dir}, args...)...); r.Code != 0 || r.Stdout+r.Stderr != "" {
		t.Errorf("%q: %+v", args, r)
	}
	for _, client := range kitClients {
		out := plain(t, s, client, "--no-cache", "--resource", "memory=64m", "--resource", "cpuset-cpus=0", project(t, map[string]string{
			"Dockerfile": "FROM busybox:test\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true\nRUN cat /proc/self/status | grep Cpus_allowed_list\n",
		}))
		if !strings.Contains(out, "67108864\n") || !strings.Contains(out, "Cpus_allowed_list:\t0\n") {
			t.Errorf("%s: limits of commands:\n%s", client, out)
		}
	}
	if out := s.OK("docker", "buildx", "inspect"); !regexp.MustCompile(`Platforms: +linux/`+runtime.GOARCH).MatchString(out) || !strings.Contains(out, "GC Policy rule#0") {
		t.Errorf("buildx inspect:\n%s", out)
	}
	for _, bad := range []string{"memory", "memory=", "memory=much", "colour=red"} {
		if r := s.Engine("build", "--resource", bad, dir); r.Code == 0 || !strings.Contains(r.Stderr, "invalid --resource") {
			t.Errorf("--resource %s: %+v", bad, r)
		}
	}
}

// pruneRoom has the cache keep nothing of, some of and all of what it has.
func pruneRoom(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN dd if=/dev/zero of=/a bs=1M count=2\nRUN dd if=/dev/zero of=/b bs=1M count=2\n"})
	s.OK("engine", "builder", "prune", "-af")
	records := func() int { return strings.Count(s.OK("engine", "builder", "du"), "RUN dd") }
	for _, prune := range [][]string{{"engine", "builder", "prune", "-af"}, {"docker", "buildx", "prune", "-af"}} {
		mustBuild(t, s, "engine", dir)
		run := func(args ...string) { s.OK(prune[0], append(prune[1:], args...)...) }
		if run("--min-free-space", "1kb"); records() != 2 {
			t.Errorf("%s: %d steps are left on a disk with room, want 2", prune[0], records())
		}
		if run("--max-used-space", "3mb"); records() != 1 {
			t.Errorf("%s: %d steps are left of two that have 4 MB, of which 3 may stay", prune[0], records())
		}
		if run("--max-used-space", "1kb", "--reserved-space", "3mb"); records() != 1 {
			t.Errorf("%s: %d steps are left, of which what was reserved is 1", prune[0], records())
		}
		if run("--min-free-space", "900tb"); records() != 0 {
			t.Errorf("%s: %d steps are left on a disk that is too small", prune[0], records())
		}
	}
}
