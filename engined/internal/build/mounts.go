package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/engined/internal/build/records"
	"strata/engined/internal/spec"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/linux/archive"
	"strata/pkg/linux/inroot"
	"strata/pkg/linux/mount"
	"strata/pkg/linux/tree"
)

// mountAt makes mounts at a directory of their own.
func (s *Service) mountAt(ctx context.Context, mounts []mount.Mount) (dir string, undo func(), err error) {
	dir = filepath.Join(s.runDir(), identifiers.Short(identifiers.New()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make mount point: %w", err)
	}
	undo = func() { removeMount(ctx, dir) }
	if err := mount.All(mounts, dir); err != nil {
		undo()
		return "", nil, err
	}
	return dir, undo, nil
}

// removeMount removes what mountAt made. rmdir(2) alone: should the mount be there still,
// nothing of it is touched.
func removeMount(ctx context.Context, dir string) {
	err := mount.UnmountRecursive(dir)
	if rerr := syscall.Rmdir(dir); err == nil && rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = &os.PathError{Op: "rmdir", Path: dir, Err: rerr}
	}
	if err != nil {
		ctxlog.From(ctx).Warn("mount of a build was not removed; the next start of the engine will", ctxlog.Path, dir, ctxlog.Error, err)
	}
}

// mountView mounts a committed snapshot read-only; "" is an empty directory.
func (s *Service) mountView(ctx context.Context, name string) (dir string, undo func(), err error) {
	if name == "" {
		return s.mountAt(ctx, []mount.Mount{{Type: "tmpfs", Source: "empty", Options: []string{"ro", "size=4k"}}})
	}
	k := "build-view-" + identifiers.Short(identifiers.New())
	release := s.hold(k)
	mounts, err := s.sup.ViewSnapshot(ctx, s.images.Snapshotter(), k, name, rootLabels())
	if err != nil {
		release()
		return "", nil, fmt.Errorf("view snapshot: %w", err)
	}
	drop := func() { s.dropSnapshot(ctx, k); release() }
	dir, unmount, err := s.mountAt(ctx, mounts)
	if err != nil {
		drop()
		return "", nil, err
	}
	return dir, func() { unmount(); drop() }, nil
}

// sweepMounts removes the mounts of builds of an engine that died.
func (s *Service) sweepMounts() error {
	entries, err := os.ReadDir(s.runDir())
	for _, e := range entries {
		dir := filepath.Join(s.runDir(), e.Name())
		if uerr := mount.UnmountRecursive(dir); uerr != nil {
			err = errors.Join(err, uerr)
			continue
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// runMounts makes the mounts of a RUN ready. Variables that secrets set are returned, too.
func (b *builder) runMounts(ctx context.Context, w *work) (out []spec.Mount, env []string, err error) {
	next, agent := 0, false
	for i := range w.v.Run.Mounts {
		m := &w.v.Run.Mounts[i]
		var from *records.Record
		if m.From != nil {
			from = w.inputs[next]
			next++
		}
		var sm *spec.Mount
		switch m.Type {
		case dockerfile.MountBind:
			sm, err = b.bindMount(ctx, w, m, from)
		case dockerfile.MountCache:
			sm, err = b.cacheMount(ctx, w, m, from)
		case dockerfile.MountTmpfs:
			sm = &spec.Mount{Type: "tmpfs", Destination: m.Target, Options: []string{"nosuid", "nodev"}}
			if m.Size > 0 {
				sm.Options = append(sm.Options, "size="+strconv.FormatInt(m.Size, 10))
			}
		case dockerfile.MountSecret:
			var kv string
			if sm, kv, err = b.secretMount(ctx, w, m); kv != "" {
				env = append(env, kv)
			}
		case dockerfile.MountSSH:
			var kv string
			if sm, kv, err = b.sshMount(ctx, w, m); kv != "" && !agent {
				env, agent = append(env, kv), true
			}
		}
		if err != nil {
			return nil, nil, err
		}
		if sm != nil {
			out = append(out, *sm)
		}
	}
	if len(w.v.Run.Files) > 0 {
		sm, err := b.scripts(ctx, w)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, sm)
	}
	return out, env, nil
}

// scripts mounts the here-documents that are programs.
func (b *builder) scripts(ctx context.Context, w *work) (spec.Mount, error) {
	dir, undo, err := b.s.mountAt(ctx, []mount.Mount{{Type: "tmpfs", Source: "scripts", Options: []string{"nosuid", "nodev", "mode=755"}}})
	if err != nil {
		return spec.Mount{}, err
	}
	w.undo.Add(undo)
	for _, f := range w.v.Run.Files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f.Name)), []byte(f.Data), 0o755); err != nil { //nolint:gosec // it is a program
			return spec.Mount{}, err
		}
	}
	return spec.Mount{Type: "bind", Source: dir, Destination: dockerfile.ScriptDir, ReadOnly: true}, nil
}

// bindMount shows a part of a stage, an image or the build context. What is written there
// is lost.
func (b *builder) bindMount(ctx context.Context, w *work, m *dockerfile.Mount, from *records.Record) (*spec.Mount, error) {
	var dir string
	var err error
	switch {
	case m.FromContext:
		dir, err = b.contextDir(ctx, w, m)
	case from == nil || m.ReadOnly:
		name := ""
		if from != nil {
			name = from.Snapshot
		}
		var undo func()
		if dir, undo, err = b.s.mountView(ctx, name); err == nil {
			w.undo.Add(undo)
		}
	default:
		dir, err = b.scratchCopy(ctx, w, from.Snapshot)
	}
	if err != nil {
		return nil, err
	}
	source, err := inside(dir, m.Source)
	if err != nil {
		return nil, fmt.Errorf("bind mount: %w", err)
	}
	return &spec.Mount{Type: "bind", Source: source, Destination: m.Target, ReadOnly: m.ReadOnly}, nil
}

// scratchCopy mounts an active snapshot that nobody commits.
func (b *builder) scratchCopy(ctx context.Context, w *work, parent string) (string, error) {
	mounts, drop, err := b.s.scratch(ctx, parent)
	if err != nil {
		return "", err
	}
	w.undo.Add(drop)
	dir, undo, err := b.s.mountAt(ctx, mounts)
	if err == nil {
		w.undo.Add(undo)
	}
	return dir, err
}

// contextDir puts a part of the build context where it can be mounted.
func (b *builder) contextDir(ctx context.Context, w *work, m *dockerfile.Mount) (string, error) {
	dir, err := os.MkdirTemp(b.s.tmpDir(), "bind-")
	if err != nil {
		return "", err
	}
	w.undo.Add(func() { _ = os.RemoveAll(dir) }) // the next start removes it, too
	tree, err := b.contextTree(ctx, m.Context)
	if err != nil {
		return "", err
	}
	at, n, err := files.Resolve(tree, m.Source)
	if err != nil {
		return "", fmt.Errorf("bind mount of the build context: %w: %w", err, errdefs.ErrNotFound)
	}
	items, err := files.Select(tree, files.Wish{Sources: []string{at}})
	if err != nil {
		return "", err
	}
	dest := m.Source
	if n.Mode.IsDir() {
		dest += "/"
	}
	if err := files.Put(ctx, dir, tree, items, files.Placement{Dest: dest}); err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755) //nolint:gosec // the command may be anybody's
}

// inside returns the path on the host of name below dir, whose symlinks end there.
func inside(dir, name string) (string, error) {
	r, err := inroot.Open(dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // only a descriptor
	f, err := r.OpenFile(name, syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("source %s: %w", name, errdefs.ErrNotFound)
		}
		return "", err
	}
	defer func() { _ = f.Close() }() // only a descriptor
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}

// cacheMount returns a directory that outlives the build.
func (b *builder) cacheMount(ctx context.Context, w *work, m *dockerfile.Mount, from *records.Record) (*spec.Mount, error) {
	name := digest.FromString(m.ID).Encoded()[:32]
	dir := filepath.Join(b.s.cacheDir(), name)
	switch m.Sharing {
	case "locked":
		unlock, err := b.s.mounts.lock(ctx, name)
		if err != nil {
			return nil, err
		}
		w.undo.Add(unlock)
	case "private":
		if unlock, ok := b.s.mounts.try(name); ok {
			w.undo.Add(unlock)
			break
		}
		var err error
		if dir, err = os.MkdirTemp(b.s.tmpDir(), "private-"); err != nil {
			return nil, err
		}
		w.undo.Add(func() { _ = os.RemoveAll(dir) }) // the next start removes it, too
	}
	w.undo.Add(b.s.hold("cache:" + name))
	if err := b.fillCache(ctx, dir, m, from); err != nil {
		return nil, fmt.Errorf("cache mount %s: %w", m.ID, err)
	}
	return &spec.Mount{Type: "bind", Source: dir, Destination: m.Target, ReadOnly: m.ReadOnly}, nil
}

// fillCache makes a cache's directory unless it is there.
func (b *builder) fillCache(ctx context.Context, dir string, m *dockerfile.Mount, from *records.Record) error {
	unlock, err := b.s.mounts.lock(ctx, "make "+dir)
	if err != nil {
		return err
	}
	defer unlock()
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return os.WriteFile(dir+".id", []byte(m.ID), 0o600) // when it was last used
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if from != nil && from.Snapshot != "" {
		root, undo, err := b.s.mountView(ctx, from.Snapshot)
		if err != nil {
			return err
		}
		defer undo()
		src, err := inside(root, m.Source)
		if err != nil {
			return err
		}
		if err := tree.Copy(ctx, dir, src); err != nil {
			return err
		}
	}
	if err := ownedAs(dir, m, 0o755); err != nil {
		return err
	}
	return os.WriteFile(dir+".id", []byte(m.ID), 0o600)
}

// ownedAs gives a file the owner and the mode of a mount; root and mode if it says none.
func ownedAs(name string, m *dockerfile.Mount, mode uint64) error {
	uid, gid := uint64(0), uint64(0)
	for _, wish := range []struct{ from, to *uint64 }{{m.Mode, &mode}, {m.UID, &uid}, {m.GID, &gid}} {
		if wish.from != nil {
			*wish.to = *wish.from
		}
	}
	if err := os.Chown(name, int(uid), int(gid)); err != nil {
		return err
	}
	if err := syscall.Chmod(name, uint32(mode)); err != nil { //nolint:gosec // a file mode
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// secret asks the client for a secret.
func (b *builder) secret(ctx context.Context, id string) ([]byte, error) {
	if b.r.Secrets == nil {
		return nil, errdefs.ErrNotFound
	}
	return b.r.Secrets.Secret(ctx, id)
}

// secretMount shows a secret, from a tmpfs that is there for this command only, or as a
// variable.
func (b *builder) secretMount(ctx context.Context, w *work, m *dockerfile.Mount) (*spec.Mount, string, error) {
	data, err := b.secret(ctx, m.ID)
	if errdefs.IsNotFound(err) && !m.Required {
		return nil, "", nil
	}
	if errdefs.IsNotFound(err) {
		return nil, "", fmt.Errorf("secret %s: not found: %w", m.ID, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, "", fmt.Errorf("secret %s: %w", m.ID, err)
	}
	kv := ""
	if m.Env != "" {
		kv = m.Env + "=" + string(data)
	}
	if m.Target == "" {
		return nil, kv, nil
	}
	dir, undo, err := b.s.mountAt(ctx, []mount.Mount{{Type: "tmpfs", Source: "secret", Options: []string{"nosuid", "nodev", "noexec", "mode=700"}}})
	if err != nil {
		return nil, "", err
	}
	w.undo.Add(undo)
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, data, 0o400); err != nil {
		return nil, "", err
	}
	if err := ownedAs(file, m, 0o400); err != nil {
		return nil, "", err
	}
	return &spec.Mount{Type: "bind", Source: file, Destination: m.Target, ReadOnly: true}, kv, nil
}

// sshMount shows a socket that leads to one of the client's agents. The first of a RUN is
// the one that SSH_AUTH_SOCK names.
func (b *builder) sshMount(ctx context.Context, w *work, m *dockerfile.Mount) (*spec.Mount, string, error) {
	err := fmt.Errorf("no ssh agent %q was given: %w", m.ID, errdefs.ErrNotFound)
	if b.r.SSH != nil {
		var conn net.Conn
		if conn, err = b.r.SSH.Dial(ctx, m.ID); err == nil {
			_ = conn.Close() // it was only asked whether there is one
		}
	}
	if errdefs.IsNotFound(err) && !m.Required {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("--mount=type=ssh: %w", err)
	}
	dir, err := os.MkdirTemp(b.s.runDir(), "ssh")
	if err != nil {
		return nil, "", err
	}
	w.undo.Add(func() { _ = os.RemoveAll(dir) }) // the next start removes it, too
	socket := filepath.Join(dir, "agent")
	stop, err := forwardAgent(ctx, socket, m.ID, b.r.SSH)
	if err != nil {
		return nil, "", err
	}
	w.undo.Add(stop)
	if err := ownedAs(socket, m, 0o600); err != nil {
		return nil, "", err
	}
	return &spec.Mount{Type: "bind", Source: socket, Destination: m.Target}, "SSH_AUTH_SOCK=" + m.Target, nil
}

// stubs are the mount points that a root filesystem lacks: whoever makes a container makes
// them, and they are no work of the command.
type stubs []string

// findStubs returns what is missing of targets below root, parents first.
func findStubs(root string, targets []string) (stubs, error) {
	t, err := files.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = t.Close() }() // only a descriptor
	var out stubs
	seen := map[string]bool{}
	for _, target := range targets {
		var missing []string
		for p := path.Clean("/" + target); p != "/"; p = path.Dir(p) {
			if _, _, err := files.Resolve(t, p); err == nil {
				break
			}
			missing = append(missing, p)
		}
		for _, p := range slices.Backward(missing) {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// remove removes the stubs that are empty still.
func (s stubs) remove(root string) error {
	r, err := inroot.Open(root)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only a descriptor
	for _, at := range slices.Backward(s) {
		if err := archive.RemoveEmpty(r, at); err != nil {
			return fmt.Errorf("remove mount point %s: %w", at, err)
		}
	}
	return nil
}

// stubTargets are the places where something is mounted in every command's container.
func stubTargets(mounts []spec.Mount) []string {
	out := []string{"/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
	for _, m := range mounts {
		out = append(out, strings.TrimSuffix(m.Destination, "/"))
	}
	return out
}
