package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// anyDir returns the directory that stands for the cgroup where one is enough: the one
// of v2, or that of a controller that nothing else than us is likely to divide.
func (m *Manager) anyDir() string {
	if m.isV2() {
		return m.paths[""]
	}
	for _, name := range []string{"freezer", "devices", "pids", "memory", "cpu"} {
		if dir, ok := m.paths[name]; ok {
			return dir
		}
	}
	for _, dir := range m.paths {
		return dir
	}
	return ""
}

// Pids returns the processes of the cgroup and of those below it. It is empty if the
// cgroup is gone.
func (m *Manager) Pids() ([]int, error) {
	dir := m.anyDir()
	if dir == "" {
		return nil, nil
	}
	var pids []int
	err := walkDirs(dir, func(d string) error {
		data, err := os.ReadFile(d + "/cgroup.procs")
		if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup: its domain lists them
			return nil
		}
		if err != nil {
			return err
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup: %w", err)
	}
	return pids, nil
}

// walkDirs calls fn for dir and each directory below it; what vanishes meanwhile is
// skipped.
func walkDirs(dir string, fn func(string) error) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = fn(path)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Kill sends sig to every process of the cgroup and below it. SIGKILL is atomic where
// the kernel has cgroup.kill (Linux 5.14); otherwise the cgroup is frozen meanwhile, so
// that nothing forks away. It is not an error if there is no process.
func (m *Manager) Kill(sig unix.Signal) error {
	if sig == unix.SIGKILL && m.isV2() {
		err := write(m.paths[""], "cgroup.kill", "1")
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("kill cgroup: %w", err)
		}
		if !m.Exists() {
			return nil
		}
	}
	frozen, _ := m.Frozen()
	if !frozen {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if m.Freeze(ctx) == nil || sig == unix.SIGKILL {
			defer func() { _ = m.Thaw() }()
		}
	}
	pids, err := m.Pids()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %d: %w", pid, os.NewSyscallError("kill", err)))
		}
	}
	if frozen && sig == unix.SIGKILL {
		errs = append(errs, m.Thaw()) // v1: the frozen do not die
	}
	return errors.Join(errs...)
}

// Freeze stops every process of the cgroup and returns when they all stand, or with the
// error of ctx; then it has thawed them again.
func (m *Manager) Freeze(ctx context.Context) error {
	if err := m.setFreezer(true); err != nil {
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	wait := 50 * time.Microsecond
	for try := 0; ; try++ {
		frozen, err := m.Frozen()
		if err == nil && frozen {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("freeze cgroup: %w", errors.Join(err, m.setFreezer(false)))
		}
		// v1 can hang in FREEZING when a process forks at the wrong moment, and goes
		// on when it is told again.
		if !m.isV2() && try > 10 {
			if try%10 == 0 {
				_ = m.setFreezer(false)
			}
			_ = m.setFreezer(true)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(wait*2, 10*time.Millisecond)
	}
}

// Thaw lets the processes of the cgroup go on. It is not an error if they are going.
func (m *Manager) Thaw() error {
	if err := m.setFreezer(false); err != nil {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}

func (m *Manager) setFreezer(frozen bool) error {
	file, value := "cgroup.freeze", "0"
	dir := m.paths[""]
	if frozen {
		value = "1"
	}
	if !m.isV2() {
		file, value, dir = "freezer.state", "THAWED", m.paths["freezer"]
		if frozen {
			value = "FROZEN"
		}
		if dir == "" {
			return fmt.Errorf("cgroup controller freezer is not mounted on this host: %w", errdefs.ErrNotImplemented)
		}
	}
	err := write(dir, file, value)
	if errors.Is(err, os.ErrNotExist) && exists(dir, "cgroup.procs") {
		return fmt.Errorf("%w: this kernel cannot freeze a cgroup (Linux 5.2 can)", err)
	}
	return err
}

// Frozen reports whether all processes of the cgroup are frozen.
func (m *Manager) Frozen() (bool, error) {
	if m.isV2() {
		kv, err := readKeyed(m.paths[""], "cgroup.events")
		if err != nil {
			return false, fmt.Errorf("read freezer: %w", err)
		}
		return kv["frozen"] == 1, nil
	}
	dir, ok := m.paths["freezer"]
	if !ok {
		return false, nil
	}
	s, err := read(dir, "freezer.state")
	if err != nil {
		return false, fmt.Errorf("read freezer: %w", err)
	}
	return s == "FROZEN", nil
}

// removePatience bounds how long Remove waits for the last processes to be reaped.
const removePatience = 2 * time.Second

// Remove removes the cgroup and those below it. It waits up to two seconds for
// processes that are exiting. It is not an error if the cgroup is gone; one that still
// has processes gives ErrFailedPrecondition.
func (m *Manager) Remove() error {
	deadline := time.Now().Add(removePatience)
	wait := time.Millisecond
	for {
		var left error
		for _, dir := range m.paths {
			if err := removeTree(dir); err != nil {
				left = err
			}
		}
		if left == nil {
			return nil
		}
		if !errors.Is(left, unix.EBUSY) {
			return fmt.Errorf("remove cgroup: %w", left)
		}
		if time.Now().After(deadline) {
			pids, _ := m.Pids()
			return fmt.Errorf("remove cgroup: %w; processes %v are in it: %w", left, pids, errdefs.ErrFailedPrecondition)
		}
		time.Sleep(wait)
		wait = min(wait*2, 50*time.Millisecond)
	}
}

// removeTree removes dir, children first, if it must.
func removeTree(dir string) error {
	err := rmdir(dir)
	if err == nil || !errors.Is(err, unix.EBUSY) {
		return err
	}
	var dirs []string
	if err := walkDirs(dir, func(d string) error { dirs = append(dirs, d); return nil }); err != nil {
		return err
	}
	slices.Reverse(dirs) // parents come before their children in a walk
	for _, d := range dirs {
		if err := rmdir(d); err != nil {
			return err
		}
	}
	return nil
}

func rmdir(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}
