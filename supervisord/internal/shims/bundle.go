package shims

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/atomicfile"
	"strata/pkg/cleanup"
	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
)

// taskDir is the name of the directory of bundles, below STATE and ROOT. It is
// containerd's, so that its tools find their way.
const taskDir = "io.containerd.runtime.v2.task"

// Bundle is the directory of one task.
type Bundle struct {
	Namespace string
	ID        string
	Path      string
	work      string
}

// Bundle returns the bundle of a task, which may not be there.
func (l *Launcher) Bundle(namespace, id string) *Bundle {
	return &Bundle{
		Namespace: namespace, ID: id,
		Path: filepath.Join(l.cfg.State, taskDir, namespace, id),
		work: filepath.Join(l.cfg.Root, taskDir, namespace, id),
	}
}

// NewBundle makes a bundle with spec, the JSON of an OCI spec. ErrAlreadyExists if there
// is one, ErrInvalidArgument for a bad id.
func (l *Launcher) NewBundle(namespace, id string, spec []byte) (_ *Bundle, err error) {
	if err := errors.Join(identifiers.Validate(namespace), identifiers.Validate(id)); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	b := l.Bundle(namespace, id)
	var undo cleanup.Stack
	defer undo.Clean()
	for _, dir := range []string{b.Path, b.work} {
		if err := makeDir(dir); err != nil {
			if errors.Is(err, os.ErrExist) && dir == b.work {
				continue // left by a crash; it holds nothing of value
			}
			if errors.Is(err, os.ErrExist) {
				return nil, fmt.Errorf("bundle %q: %w", dir, errdefs.ErrAlreadyExists)
			}
			return nil, fmt.Errorf("make bundle: %w", err)
		}
		undo.Add(func() { _ = os.RemoveAll(dir) })
	}
	if err := os.Symlink(b.work, filepath.Join(b.Path, "work")); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	if err := os.Mkdir(b.Rootfs(), 0o711); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.Path, "config.json"), spec, 0o600); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	if err := b.openToUserns(spec); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	undo.Release()
	return b, nil
}

// makeDir makes a private directory in a parent that anybody may pass through.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	return err
}

// openToUserns lets the root user of a container with a user namespace pass through the
// bundle to its rootfs.
func (b *Bundle) openToUserns(spec []byte) error {
	if !bytes.Contains(spec, []byte(`"gidMappings"`)) {
		return nil // the usual case costs no parsing
	}
	var s struct {
		Linux *struct {
			GIDMappings []specs.LinuxIDMapping `json:"gidMappings"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("decode spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if s.Linux == nil {
		return nil
	}
	for _, m := range s.Linux.GIDMappings {
		if m.ContainerID == 0 && m.HostID != 0 {
			if err := os.Chown(b.Path, -1, int(m.HostID)); err != nil {
				return err
			}
			return os.Chmod(b.Path, 0o710)
		}
	}
	return nil
}

// Rootfs returns where the shim mounts the root filesystem.
func (b *Bundle) Rootfs() string { return filepath.Join(b.Path, "rootfs") }

// Remove removes the bundle. It never descends into a mounted rootfs. It is not an error
// if the bundle is gone.
func (b *Bundle) Remove() error {
	// First, for work without a bundle is what a leak looks like.
	if err := os.RemoveAll(b.work); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	gone := filepath.Join(filepath.Dir(b.Path), "."+b.ID)
	err := os.Rename(b.Path, gone)
	if errors.Is(err, os.ErrExist) { // the leftover of an earlier crash
		if err = removeDir(gone); err == nil {
			err = os.Rename(b.Path, gone)
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	if err := removeDir(gone); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

// removeDir removes what is left of a bundle, the rootfs first and not recursively: what
// is in it belongs to a snapshot.
func removeDir(dir string) error {
	rootfs := filepath.Join(dir, "rootfs")
	if err := mount.Unmount(rootfs); err != nil {
		return err
	}
	if err := os.Remove(rootfs); err != nil && !errors.Is(err, os.ErrNotExist) {
		if uerr := mount.UnmountRecursive(rootfs); uerr != nil {
			return errors.Join(err, uerr)
		}
		if err := os.Remove(rootfs); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// Bundles returns the bundles on disk and finishes removals that were interrupted.
func (l *Launcher) Bundles() ([]*Bundle, error) {
	var out []*Bundle
	var errs []error
	top := filepath.Join(l.cfg.State, taskDir)
	for _, ns := range subdirs(top) {
		for _, id := range subdirs(filepath.Join(top, ns)) {
			if strings.HasPrefix(id, ".") {
				errs = append(errs, removeDir(filepath.Join(top, ns, id)))
				continue
			}
			out = append(out, l.Bundle(ns, id))
		}
	}
	return out, errors.Join(errs...)
}

// TaskDir returns the directory that holds all bundles.
func (l *Launcher) TaskDir() string { return filepath.Join(l.cfg.State, taskDir) }

// OrphanWork returns the work directories that have no bundle.
func (l *Launcher) OrphanWork() []string {
	var out []string
	top := filepath.Join(l.cfg.Root, taskDir)
	for _, ns := range subdirs(top) {
		for _, id := range subdirs(filepath.Join(top, ns)) {
			if _, err := os.Lstat(l.Bundle(ns, id).Path); errors.Is(err, os.ErrNotExist) {
				out = append(out, filepath.Join(top, ns, id))
			}
		}
	}
	return out
}

// subdirs returns the names of directories in dir; none if it is not there.
func subdirs(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// The small files of a bundle.
const (
	fileBootstrap = "bootstrap.json"
	fileBinary    = "shim-binary-path"
	fileAddress   = "address" // written by shims before version 2.3 themselves
)

// WriteFile keeps a file in the bundle for whoever uses it; it is gone with the bundle.
func (b *Bundle) WriteFile(name string, data []byte) error {
	return atomicfile.Write(filepath.Join(b.Path, name), data, 0o600, atomicfile.Volatile)
}

// ReadFile returns a file of the bundle.
func (b *Bundle) ReadFile(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(b.Path, name))
}
