package build

import (
	"os/exec"
	"testing"

	"strata/integration/harness"
)

// stockClient is Debian's docker, which speaks BuildKit's protocol without a plugin.
const stockClient = "/usr/bin/docker"

// stockDocker starts the distribution's dockerd, and returns what makes commands of its own
// client for it, with BuildKit.
func stockDocker(t *testing.T, s *harness.Stack) func(args ...string) *exec.Cmd {
	t.Helper()
	docker := s.StockDocker()
	return func(args ...string) *exec.Cmd {
		cmd := docker(args...)
		for i, word := range cmd.Args {
			if word == "docker" {
				cmd.Args[i] = stockClient
				break
			}
		}
		cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=1", "BUILDKIT_PROGRESS=plain")
		return cmd
	}
}
