package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strata/integration/harness"
)

// baked runs docker buildx bake in a directory of files.
func baked(t *testing.T, s *harness.Stack, dir string, args ...string) harness.Result {
	t.Helper()
	s.Plugin("buildx")
	cmd := s.Command("docker", append([]string{"buildx", "bake", "--progress=plain"}, args...)...)
	cmd.Dir = dir
	return s.Run(cmd)
}

// bakeFile has a base, what is built upon it, what takes files of both, and what is built
// upon that.
const bakeFile = `
group "default" { targets = ["base", "app", "top"] }
target "base" {
  dockerfile-inline = <<EOT
FROM busybox:test
ENV FROM_BASE=yes
WORKDIR /srv
COPY made-by .
RUN cat /proc/sys/kernel/random/uuid >once
EOT
  context = "base"
}
target "app" {
  contexts = { base = "target:base" }
  dockerfile-inline = <<EOT
FROM base
RUN echo "$FROM_BASE $(cat made-by)" >app
EOT
  tags = ["bake:app"]
}
target "other" {
  contexts = { base = "target:base" }
  dockerfile-inline = <<EOT
FROM scratch
COPY --from=base /srv/once /other
EOT
}
target "top" {
  contexts = { app = "target:app", other = "target:other" }
  dockerfile-inline = <<EOT
FROM app
COPY --from=other /other .
RUN --mount=type=bind,from=other,target=/mnt cmp /mnt/other once && cmp other once
CMD ["cat", "app"]
EOT
  tags = ["bake:top"]
}
`

func bake(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"docker-bake.hcl": bakeFile, "base/made-by": "the base's own context\n"})
	r := baked(t, s, dir, "--no-cache")
	if r.Code != 0 {
		t.Fatalf("%+v\n%s", r, s.Logs())
	}
	if got := s.OK("docker", "run", "--rm", "bake:top"); got != "yes the base's own context" {
		t.Errorf("the image says %q", got)
	}
	if got := s.OK("docker", "run", "--rm", "bake:app", "cat", "/srv/once"); got != s.OK("docker", "run", "--rm", "bake:top", "cat", "once") {
		t.Errorf("the base was made twice: %s", got)
	}
	if n := strings.Count(r.Stderr, "RUN cat /proc/sys/kernel/random/uuid >once\n"); n != 1 {
		t.Errorf("the base's step is told %d times:\n%s", n, r.Stderr)
	}
	// Again: nothing runs, and the base is no image of its own.
	if r := baked(t, s, dir); r.Code != 0 || !strings.Contains(r.Stderr, "CACHED") || strings.Contains(r.Stderr, "DONE 1.") {
		t.Errorf("again: %+v", r)
	}
	// A change in the base's context reaches what is built upon it, also asked for alone.
	if err := os.WriteFile(filepath.Join(dir, "base/made-by"), []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := baked(t, s, dir, "top"); r.Code != 0 {
		t.Fatalf("after a change: %+v\n%s", r, s.Logs())
	}
	if got := s.OK("docker", "run", "--rm", "bake:top"); got != "yes changed" {
		t.Errorf("after a change the image says %q", got)
	}
}

func bakePlatforms(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"docker-bake.hcl": `
target "base" {
  platforms = ["linux/amd64", "linux/arm64"]
  dockerfile-inline = <<EOT
FROM scratch
ARG TARGETARCH
COPY $TARGETARCH /arch
EOT
}
target "default" {
  contexts = { base = "target:base" }
  platforms = ["linux/amd64", "linux/arm64"]
  dockerfile-inline = <<EOT
FROM scratch
COPY --from=base /arch /
EOT
  output = ["type=local,dest=out"]
}
`, "amd64": "amd64", "arm64": "arm64"})
	if r := baked(t, s, dir); r.Code != 0 {
		t.Fatalf("%+v\n%s", r, s.Logs())
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if data, err := os.ReadFile(filepath.Join(dir, "out/linux_"+arch+"/arch")); err != nil || string(data) != arch {
			t.Errorf("%s: %q, %v", arch, data, err)
		}
	}
}

func bakeFails(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"docker-bake.hcl": `
target "base" { dockerfile-inline = "FROM busybox:test\nRUN echo broken base && exit 7\n" }
target "default" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN echo not reached\n"
}
`})
	r := baked(t, s, dir)
	if r.Code == 0 || !strings.Contains(r.Stderr, "exit code: 7") || !strings.Contains(r.Stderr, ">>> RUN echo broken base && exit 7") || strings.Contains(r.Stderr, "not reached\n") {
		t.Errorf("%+v", r)
	}
}
