package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strata/ocirun/internal/hooks"
	"strata/ocirun/internal/state"
	"strata/pkg/ctxlog"
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/pidfd"
)

func (a *app) start(ctx context.Context, args []string) error {
	st, err := a.load("start", args)
	if err != nil {
		return err
	}
	switch s := a.status(st); s {
	case state.Created:
	case state.Stopped:
		return errors.New("cannot start a container that has stopped")
	default:
		return fmt.Errorf("cannot start an already running container")
	}
	if err := a.release(st); err != nil {
		return err
	}
	return a.poststart(ctx, st)
}

// release lets a created container execute its program and waits until it has, or has
// ended.
func (a *app) release(st *state.State) error {
	path := a.store.FIFO(st.ID)
	// Fails with ENXIO if nobody reads: the container has gone.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == unix.ENXIO {
		return errors.New("cannot start a container that has stopped")
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	// Removed first: whoever asks from now on sees a running container.
	if err := os.Remove(path); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte{1}); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	// The child's end is closed by its execve: the last reader goes, which is POLLERR.
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, -1)
		if err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}

// poststart runs the hooks; one that fails stops the container (runtime-spec v1.3).
func (a *app) poststart(ctx context.Context, st *state.State) error {
	h := st.Config.Hooks
	if h == nil || len(h.Poststart) == 0 {
		return nil
	}
	data, err := a.hookState(st, state.Running)
	if err == nil {
		err = hooks.Run("poststart", h.Poststart, data)
	}
	if err != nil {
		if kerr := signalInit(st, unix.SIGKILL); kerr != nil {
			ctxlog.From(ctx).Warn("kill after a failed poststart hook", ctxlog.Error, kerr.Error())
		}
	}
	return err
}

func (a *app) hookState(st *state.State, status string) ([]byte, error) {
	s := specs.State{Version: specVersion, ID: st.ID, Status: specs.ContainerState(status), Bundle: st.Bundle, Annotations: st.Annotations}
	if status != state.Stopped {
		s.Pid = st.PID
	}
	return json.Marshal(s)
}

var errNotRunning = errors.New("container not running")

// signalInit sends sig to the init process and to no other that may have its pid now.
func signalInit(st *state.State, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(st.PID, 0)
	if err == unix.ESRCH {
		return errNotRunning
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	// Checked with the pidfd in hand: from here on the process is the same.
	if !st.Alive() {
		return errNotRunning
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		if err == unix.ESRCH {
			return errNotRunning
		}
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

func (a *app) kill(args []string) error {
	var all bool
	f := newFlags("kill")
	f.bool(&all, "all", "a")
	rest, err := f.parseMixed(args)
	if err != nil {
		return err
	}
	if len(rest) < 1 || len(rest) > 2 {
		return fmt.Errorf("%q requires 1 or 2 arguments: %w", "kill", errdefs.ErrInvalidArgument)
	}
	sig := unix.SIGTERM
	if len(rest) == 2 {
		if sig, err = parseSignal(rest[1]); err != nil {
			return err
		}
	}
	st, err := a.store.Load(rest[0])
	if err != nil {
		return err
	}
	ownPIDs := hasNamespace(st, specs.PIDNamespace)
	if len(st.Cgroup.Paths) == 0 {
		if all && (!ownPIDs || sig != unix.SIGKILL) {
			_, err := cgroupOf(st)
			return err
		}
		return signalInit(st, sig) // with a pid namespace the kernel kills the others
	}
	if all || !ownPIDs && sig == unix.SIGKILL {
		// Without a pid namespace the other processes outlive the first one.
		if pids, err := manager(st).Pids(); err == nil && len(pids) == 0 && !all {
			return errNotRunning
		}
		if err := manager(st).Kill(sig); err != nil {
			return err
		}
		if all {
			return nil
		}
		if err := signalInit(st, sig); !errors.Is(err, errNotRunning) {
			return err
		}
		return nil
	}
	return signalInit(st, sig)
}

func hasNamespace(st *state.State, t specs.LinuxNamespaceType) bool {
	return slices.Contains(st.Config.Namespaces, t)
}

// parseSignal takes a number, a name with or without SIG, and RTMIN+n.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q: %w", s, errdefs.ErrInvalidArgument)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+"))
		if err == nil && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "RTMAX"); ok {
		n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "-"))
		if err == nil && n <= 30 {
			return unix.Signal(64 - n), nil
		}
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q: %w", s, errdefs.ErrInvalidArgument)
}

// deleteWait bounds how long a killed container may take to go.
const deleteWait = 10 * time.Second

func (a *app) delete(ctx context.Context, args []string) error {
	var force bool
	f := newFlags("delete")
	f.bool(&force, "force", "f")
	id, err := f.parseID(args)
	if err != nil {
		return err
	}
	st, err := a.store.Load(id)
	if errors.Is(err, errdefs.ErrNotFound) && force {
		if err := a.endCreator(id); err != nil {
			return err
		}
		st, err = a.store.Load(id) // it may have come to its end
	}
	if errors.Is(err, errdefs.ErrNotFound) {
		if rerr := a.removeRest(id); rerr != nil || force {
			return rerr
		}
	}
	if err != nil {
		return err
	}
	switch s := a.status(st); {
	case s == state.Stopped:
	case force || s == state.Created:
		if err := a.killAndWait(st); err != nil {
			return err
		}
	default:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
	}
	return a.destroy(ctx, st)
}

// removeRest removes what a create that was killed has left: a container without a state.
// What is still being created stays.
func (a *app) removeRest(id string) error {
	in, ok := a.store.Intent(id)
	if ok && in.Alive() {
		return nil
	}
	if m := cgroups.Load(in.Cgroup.Paths); m.Exists() {
		_ = m.Kill(unix.SIGKILL) // who cannot be killed keeps the cgroup
		if err := m.Remove(); err != nil {
			return err
		}
	}
	return a.store.Remove(id)
}

// endCreator kills the create of a container that has no state yet, and waits for its end.
func (a *app) endCreator(id string) error {
	in, ok := a.store.Intent(id)
	if !ok {
		return nil
	}
	return pidfd.Kill(in.Creator, in.Alive, deleteWait)
}

func (a *app) killAndWait(st *state.State) error {
	m := manager(st)
	if len(st.Cgroup.Paths) > 0 {
		if frozen, err := m.Frozen(); err == nil && frozen {
			if err := signalInit(st, unix.SIGKILL); err != nil && !errors.Is(err, errNotRunning) {
				return err
			}
			if err := m.Thaw(); err != nil {
				return err
			}
		}
	}
	fd, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return nil // it is gone
	}
	defer unix.Close(fd)
	if err := signalInit(st, unix.SIGKILL); err != nil {
		if errors.Is(err, errNotRunning) {
			return nil
		}
		return err
	}
	if err := pidfd.Wait(fd, deleteWait); err != nil {
		return fmt.Errorf("container init: %w", err)
	}
	return nil
}

// destroy frees what a stopped container holds. Each part can be repeated.
func (a *app) destroy(ctx context.Context, st *state.State) error {
	if len(st.Cgroup.Paths) > 0 {
		m := manager(st)
		if !hasNamespace(st, specs.PIDNamespace) {
			if err := m.Kill(unix.SIGKILL); err != nil {
				return err
			}
		}
		if err := m.Remove(); err != nil {
			return err
		}
	}
	if err := a.store.Remove(st.ID); err != nil {
		return err
	}
	if h := st.Config.Hooks; h != nil && len(h.Poststop) > 0 {
		data, err := a.hookState(st, state.Stopped)
		if err == nil {
			err = hooks.Run("poststop", h.Poststop, data)
		}
		if err != nil { // only logged: runtime-spec v1.3
			ctxlog.From(ctx).Warn(err.Error())
		}
	}
	return nil
}

func (a *app) pause(ctx context.Context, args []string) error {
	st, err := a.load("pause", args)
	if err != nil {
		return err
	}
	if s := a.status(st); s != state.Running && s != state.Created {
		return errNotRunningFor(s)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := cgroupOf(st)
	if err != nil {
		return err
	}
	return m.Freeze(ctx)
}

func errNotRunningFor(status string) error {
	return fmt.Errorf("container not running or created: %s", status)
}

func (a *app) resume(_ context.Context, args []string) error {
	st, err := a.load("resume", args)
	if err != nil {
		return err
	}
	if a.status(st) != state.Paused {
		return errors.New("container not paused")
	}
	return manager(st).Thaw()
}
