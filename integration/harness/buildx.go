package harness

import (
	"os"
	"path/filepath"
)

// Buildx makes the stock buildx a plugin of the stack's stock CLI: with DOCKER_BUILDKIT=1 it
// is what docker build builds with. .ci/deps makes it of its module.
func (s *Stack) Buildx() {
	s.t.Helper()
	dir := filepath.Join(s.Root, "config", "cli-plugins")
	link := filepath.Join(dir, "docker-buildx")
	if _, err := os.Lstat(link); err == nil {
		return
	}
	plugin := filepath.Join(s.bin, "docker-buildx")
	if _, err := os.Stat(plugin); err != nil {
		s.t.Fatalf("%v; run .ci/deps", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(plugin, link); err != nil {
		s.t.Fatal(err)
	}
}
