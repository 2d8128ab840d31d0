package shim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/linux/cgroups"
)

// endHalfMade removes the cgroup that a runtime made and was killed before it had written
// its state: its own delete does not find that.
func endHalfMade(bundle string) error {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil //nolint:nilerr // then nothing was made
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil || spec.Linux == nil {
		return nil //nolint:nilerr // as above
	}
	path := spec.Linux.CgroupsPath
	if path == "" || strings.Contains(path, ":") {
		return nil // none of its own, or systemd's, who removes empty scopes
	}
	cg, err := cgroups.New(cgroups.Options{Path: path})
	if err != nil {
		return fmt.Errorf("find cgroup %q: %w", path, err)
	}
	if !cg.Exists() {
		return nil
	}
	_ = cg.Kill(syscall.SIGKILL) // who cannot be killed keeps the cgroup
	if err := cg.Remove(); err != nil {
		return fmt.Errorf("remove cgroup %q: %w", path, err)
	}
	return nil
}

// killRuntimes kills the processes, other than this one and its parents, that have the
// bundle as an argument and "create" as another: runtimes at work, which would make the
// container after all.
func killRuntimes(bundle string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(cmdline, []byte{0})
		if contains(args, "create") && contains(args, bundle) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

func contains(args [][]byte, want string) bool {
	for _, a := range args {
		if string(a) == want {
			return true
		}
	}
	return false
}
