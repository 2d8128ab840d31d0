package build

import (
	"strings"
	"testing"

	"strata/integration/harness"
)

// TestCorners has what is rare in a Dockerfile, and what BuildKit makes of it.
func TestCorners(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	t.Run("an image for one other platform is built upon, with a warning", func(t *testing.T) { otherPlatform(t, s.For(t)) })
	t.Run("warnings come with an error, too", func(t *testing.T) { warningsBeforeError(t, s.For(t)) })
}

func otherPlatform(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN echo made >/made\n"})
	for _, client := range kitClients {
		out := plain(t, s, client, "--platform", "linux/s390x", "-t", "other:"+client, dir)
		if !strings.Contains(out, "InvalidBaseImagePlatform") {
			t.Errorf("%s: no warning:\n%s", client, out)
		}
		if got := s.OK("docker", "inspect", "-f", "{{.Architecture}}", "other:"+client); got != "s390x" {
			t.Errorf("%s: the image is for %s", client, got)
		}
	}
}

func warningsBeforeError(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test AS Upper\nBADCMD\n"})
	for _, client := range kitClients {
		r := build(s, client, "--progress=plain", dir)
		if r.Code == 0 || !strings.Contains(r.Stderr, "StageNameCasing") || !strings.Contains(r.Stderr, "unknown instruction: BADCMD") {
			t.Errorf("%s: %+v", client, r)
		}
	}
}
