package crash

import (
	"strings"
	"testing"
	"time"

	"strata/integration/harness"
)

// step is one thing that a user does.
type step struct {
	name string
	do   func(s *harness.Stack) harness.Result
	// again is asked when a repetition of the step fails: it says whether the first try has
	// done it all the same, and may clear the way for a third try.
	again func(s *harness.Stack) verdict
}

type verdict uint8

const (
	broken  verdict = iota // the failure is one
	done                   // what was asked for is there
	cleared                // it was half there, a user would see that, and is removed
)

func cli(args ...string) func(s *harness.Stack) harness.Result {
	return func(s *harness.Stack) harness.Result { return s.Engine(args...) }
}

// present is the verdict on a failed repetition of what makes something, if it can be seen.
func present(args ...string) func(s *harness.Stack) verdict {
	return func(s *harness.Stack) verdict {
		if s.Engine(args...).Code == 0 {
			return done
		}
		return broken
	}
}

// absent is the verdict on a failed repetition of what removes something.
func absent(args ...string) func(s *harness.Stack) verdict {
	return func(s *harness.Stack) verdict {
		if s.Engine(args...).Code != 0 {
			return done
		}
		return broken
	}
}

// shown is the verdict on a failed repetition of a run: a container of that name may exist,
// but then ps shows it and rm removes it.
func shown(name string) func(s *harness.Stack) verdict {
	return func(s *harness.Stack) verdict {
		if !strings.Contains(s.Engine("ps", "-a", "--format", "<{{.Names}}>").Stdout, "<"+name+">") {
			return broken
		}
		if s.Engine("rm", "-fv", name).Code != 0 {
			return broken
		}
		return cleared
	}
}

// restarted waits until the container has been restarted twice and has ended.
func restarted(s *harness.Stack) harness.Result {
	var r harness.Result
	harness.Eventually(15*time.Second, func() bool {
		r = s.Engine("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "phoenix")
		return r.Code != 0 || strings.TrimSpace(r.Stdout) == "exited 3"
	})
	if strings.TrimSpace(r.Stdout) != "exited 3" {
		r.Code = 1
	}
	return r
}

// shimDies kills the shim of the container and waits for the container's end.
func shimDies(s *harness.Stack) harness.Result {
	s.KillShims()
	var r harness.Result
	harness.Eventually(10*time.Second, func() bool {
		r = s.Engine("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "winner")
		return r.Code != 0 || strings.TrimSpace(r.Stdout) == "exited 137"
	})
	if strings.TrimSpace(r.Stdout) != "exited 137" {
		r.Code = 1
	}
	return r
}

// life is a day of a user: everything that the daemons do, once.
func life(tiny, registry string) []step {
	tag := registry + "/tiny:1"
	return []step{
		{"load", cli("load", "-q", "-i", tiny), nil},
		{"tag", cli("tag", "tiny:1", tag), nil},
		{"rmi", cli("rmi", "tiny:1"), absent("image", "inspect", "tiny:1")},
		{"rmi last", cli("rmi", tag), absent("image", "inspect", tag)},
		{"pull", cli("pull", "-q", tag), nil},
		{"volume create", cli("volume", "create", "vol"), nil},
		{"network create", cli("network", "create", "net"), present("network", "inspect", "net")},
		{"network create 2", cli("network", "create", "net2"), present("network", "inspect", "net2")},
		{"run", cli("run", "-d", "--name", "victim", "--network", "net", "-p", "18080:80", "-v", "vol:/v", "-v", "/anonymous", "busybox:test", "sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"), shown("victim")},
		{"exec", cli("exec", "victim", "true"), nil},
		{"rename", cli("rename", "victim", "winner"), present("container", "inspect", "winner")},
		{"connect", cli("network", "connect", "net2", "winner"), connected("net2", "winner")},
		{"stop", cli("stop", "-t", "5", "winner"), nil},
		{"start", cli("start", "winner"), nil},
		{"disconnect", cli("network", "disconnect", "net2", "winner"), notConnected("net2", "winner")},
		{"remove", cli("rm", "-fv", "winner"), absent("container", "inspect", "winner")},
		{"run again", cli("run", "-d", "--name", "winner", "-p", "18080:80", "busybox:test", "sleep", "1000"), shown("winner")},
		{"shim dies", shimDies, nil},
		{"remove again", cli("rm", "-fv", "winner"), absent("container", "inspect", "winner")},
		{"run with policy", cli("run", "-d", "--name", "phoenix", "--restart", "on-failure:2", "busybox:test", "sh", "-c", "exit 3"), shown("phoenix")},
		{"restarts", restarted, nil},
		{"remove it", cli("rm", "-f", "phoenix"), absent("container", "inspect", "phoenix")},
		{"network rm", cli("network", "rm", "net"), absent("network", "inspect", "net")},
		{"network rm 2", cli("network", "rm", "net2"), absent("network", "inspect", "net2")},
		{"volume rm", cli("volume", "rm", "vol"), absent("volume", "inspect", "vol")},
		{"rmi pulled", cli("rmi", "-f", tag), absent("image", "inspect", tag)},
	}
}

func networksOf(s *harness.Stack, name string) string {
	return s.Engine("inspect", "-f", "{{range $k, $v := .NetworkSettings.Networks}}<{{$k}}>{{end}}", name).Stdout
}

func connected(network, name string) func(s *harness.Stack) verdict {
	return func(s *harness.Stack) verdict {
		if strings.Contains(networksOf(s, name), "<"+network+">") {
			return done
		}
		return broken
	}
}

func notConnected(network, name string) func(s *harness.Stack) verdict {
	return func(s *harness.Stack) verdict {
		if !strings.Contains(networksOf(s, name), "<"+network+">") {
			return done
		}
		return broken
	}
}

// consistent compares what the lists say with what should be there, and has doctor look.
func consistent(t *testing.T, s *harness.Stack) {
	t.Helper()
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"", []string{"ps", "-aq"}},
		{"", []string{"volume", "ls", "-q"}},
		{"bridge host none", []string{"network", "ls", "--format", "{{.Name}}"}},
		{"busybox:test", []string{"images", "--format", "{{.Repository}}:{{.Tag}}"}},
	} {
		var got string
		if !harness.Eventually(3*time.Second, func() bool {
			got = strings.Join(strings.Fields(s.Engine(tt.args...).Stdout), " ")
			return got == tt.want
		}) {
			t.Errorf("engine %s prints %q, want %q", strings.Join(tt.args, " "), got, tt.want)
		}
	}
	clean(t, s)
}

// clean checks that without containers there is nothing, and that doctor agrees.
func clean(t *testing.T, s *harness.Stack) {
	t.Helper()
	var left []string
	if !harness.Eventually(5*time.Second, func() bool { left = s.Residue(); return len(left) == 0 }) {
		t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	if r := s.Engine("doctor"); r.Code != 0 {
		t.Errorf("doctor: %+v", r)
	}
}
