package shims

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// ShimProcess is a shim process that reports to this daemon's address.
type ShimProcess struct {
	PID       int
	Namespace string
	ID        string // of the task that it was started for
}

// Processes finds the shims that report to this daemon's address by their command lines, in
// /proc: the only way to one whose bundle or socket is gone. The short-lived processes of
// the verbs start and delete are not among them.
func (l *Launcher) Processes() []ShimProcess {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []ShimProcess
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(data) == 0 {
			continue // ended, or a kernel thread
		}
		args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-") || flagOf(args, "-address") != l.cfg.Address {
			continue
		}
		if last := args[len(args)-1]; last == "start" || last == "delete" {
			continue
		}
		out = append(out, ShimProcess{PID: pid, Namespace: flagOf(args, "-namespace"), ID: flagOf(args, "-id")})
	}
	return out
}

// Kill ends a shim of Processes that nobody can talk to.
func (p ShimProcess) Kill() error { return syscall.Kill(p.PID, syscall.SIGKILL) }

// Alive reports whether the process has not ended yet.
func (p ShimProcess) Alive() bool { return syscall.Kill(p.PID, 0) == nil }

// flagOf returns the argument behind a flag; "" without.
func flagOf(args []string, name string) string {
	i := slices.Index(args, name)
	if i < 0 || i+1 >= len(args) {
		return ""
	}
	return args[i+1]
}

// killOf ends the shims that were started for a bundle, after a launch that failed.
func (l *Launcher) killOf(b *Bundle) {
	for _, p := range l.Processes() {
		if p.Namespace == b.Namespace && p.ID == b.ID {
			_ = p.Kill() // it may have ended by itself
		}
	}
}

// RuntimeStates returns the directories in which the OCI runtime keeps the state of
// containers: ROOT/NAMESPACE/ID.
func (l *Launcher) RuntimeStates() []*RuntimeState {
	if l.cfg.RuntimeRoot == "" {
		return nil // others may use the runtime's default too
	}
	var out []*RuntimeState
	for _, ns := range subdirs(l.cfg.RuntimeRoot) {
		for _, id := range subdirs(filepath.Join(l.cfg.RuntimeRoot, ns)) {
			if !strings.HasPrefix(id, ".") {
				out = append(out, &RuntimeState{Namespace: ns, ID: id, Path: filepath.Join(l.cfg.RuntimeRoot, ns, id)})
			}
		}
	}
	return out
}

// RuntimeState is the directory of one container of the OCI runtime.
type RuntimeState struct {
	Namespace, ID, Path string
}

// RemoveRuntimeState has our OCI runtime delete a container by force: its processes, its
// cgroup, its state.
func (l *Launcher) RemoveRuntimeState(ctx context.Context, st *RuntimeState) error {
	binary := l.binaryFor(true)
	if binary == "" {
		return fmt.Errorf("delete container %q of the runtime: there is no ocirun: %w", st.ID, errdefs.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--root", filepath.Dir(st.Path), "delete", "--force", st.ID).CombinedOutput()
	if err != nil {
		return fmt.Errorf("delete container %q of the runtime: %w: %s", st.ID, err, out)
	}
	return os.RemoveAll(st.Path) // what was not a container's state
}
