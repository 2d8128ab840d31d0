package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/pidfd"
)

// RemoveHalfMade removes the cgroup that a runtime made and was killed before it had written
// its state: the deletes of runc and crun do not find that.
func RemoveHalfMade(bundle string) error {
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

// runtimePatience bounds how long a killed runtime may take to end.
const runtimePatience = 5 * time.Second

// EndRuntimes kills the runtimes that are at work on the creation of a container, which
// they would finish after all, and returns when they have ended. A dead shim has left them,
// or one of them that has not got as far as its execve: then it looks like the shim, but
// for the session that it is not the leader of.
func EndRuntimes(bundle, containerID string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		creates := func() bool { return isCreate(pid, bundle, containerID) }
		if creates() {
			errs = append(errs, pidfd.Kill(pid, creates, runtimePatience))
		}
	}
	return errors.Join(errs...)
}

func isCreate(pid int, bundle, containerID string) bool {
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false // it has ended
	}
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	if slices.Contains(args, "create") && slices.Contains(args, bundle) {
		return true
	}
	i := slices.Index(args, "-id")
	if i < 0 || i+1 >= len(args) || args[i+1] != containerID || filepath.Base(args[0]) != filepath.Base(os.Args[0]) {
		return false
	}
	if verb := args[len(args)-1]; verb == "start" || verb == "delete" {
		return false
	}
	return !leadsSession(pid)
}

// leadsSession reports whether a process is the leader of its session, as a shim is.
//
// Source: proc_pid_stat(5), field 6.
func leadsSession(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true // it has ended: nothing to be killed
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	return len(fields) < 4 || fields[3] == strconv.Itoa(pid)
}
