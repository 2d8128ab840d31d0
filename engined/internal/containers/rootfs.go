package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"strata/engined/internal/spec"
	"strata/pkg/linux/archive"
	"strata/pkg/linux/inroot"
	"strata/pkg/linux/mount"
)

// rootfsMounts returns how to mount the container's rootfs, and makes it if a crash came
// between the definition and the snapshot.
func (s *Service) rootfsMounts(ctx context.Context, c *Container) ([]mount.Mount, error) {
	if m := c.info().mounts; m != nil {
		return m, nil
	}
	d := c.Definition()
	m, err := s.Records.RootfsMounts(ctx, d.Image.Snapshotter, c.ID)
	if errdefs.IsNotFound(err) && !c.State().HasStarted {
		m, err = s.Records.PrepareRootfs(ctx, d.Image.Snapshotter, c.ID, d.Image.ChainID.String())
	}
	if err != nil {
		return nil, fmt.Errorf("rootfs of container %s: %w", c.ID, err)
	}
	if !c.State().HasStarted { // then the layer is the container's own, mounted or not
		if err := markContainer(m); err != nil {
			return nil, fmt.Errorf("rootfs of container %s: %w", c.ID, err)
		}
	}
	c.setInfo(func(i *runtimeInfo) { i.mounts = m })
	return m, nil
}

// MarkFile is an empty file by which programs tell that they run in a container.
const MarkFile = "/.dockerenv"

// markContainer adds the mark to a container's own layer, where it has one. What the image
// has of that name stays.
func markContainer(rootfs []mount.Mount) error {
	if len(rootfs) != 1 {
		return nil
	}
	upper, ok := rootfs[0].UpperDir()
	if !ok {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(upper, MarkFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// maxUserFile bounds /etc/passwd and /etc/group, in bytes.
const maxUserFile = 4 << 20

// userFiles are the contents of /etc/passwd and /etc/group.
type userFiles struct{ passwd, group []byte }

// userCache keeps the user files of images, which never change, by chain id.
type userCache struct {
	mu    sync.Mutex
	files map[digest.Digest]userFiles
}

// userCacheSize bounds the cache; it is emptied when it is full.
const userCacheSize = 128

func (u *userCache) get(chain digest.Digest) (userFiles, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f, ok := u.files[chain]
	return f, ok
}

func (u *userCache) put(chain digest.Digest, f userFiles) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.files == nil || len(u.files) >= userCacheSize {
		u.files = map[digest.Digest]userFiles{}
	}
	u.files[chain] = f
}

// resolveUser looks user and groups up in the rootfs. A container that has not run and
// whose files nobody touched has its image's.
func (s *Service) resolveUser(ctx context.Context, c *Container, rootfs []mount.Mount, user string, groups []string) (spec.User, error) {
	chain, pristine := c.Definition().Image.ChainID, c.info().userCached
	if f, ok := s.users.get(chain); ok && pristine {
		return spec.ResolveUser(user, groups, f.passwd, f.group)
	}
	var f userFiles
	err := mount.WithTemp(ctx, rootfs, func(root string) (err error) { f, err = readUserFiles(root); return err })
	if err != nil {
		return spec.User{}, fmt.Errorf("look up user %q: %w", user, err)
	}
	if pristine {
		s.users.put(chain, f)
	}
	return spec.ResolveUser(user, groups, f.passwd, f.group)
}

func readUserFiles(root string) (userFiles, error) {
	r, err := inroot.Open(root)
	if err != nil {
		return userFiles{}, err
	}
	defer func() { _ = r.Close() }() // only a descriptor
	passwd, err := readBounded(r, "etc/passwd")
	if err != nil {
		return userFiles{}, err
	}
	group, err := readBounded(r, "etc/group")
	return userFiles{passwd, group}, err
}

// readBounded reads a regular file of a hostile root; one that is not there is empty.
func readBounded(r *inroot.Root, name string) ([]byte, error) {
	f, err := r.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err == nil && len(data) > maxUserFile {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", name, maxUserFile, errdefs.ErrInvalidArgument)
	}
	return data, err
}

// ResolveUser looks a user up for an exec in a running container.
func (s *Service) ResolveUser(ctx context.Context, c *Container, user string) (spec.User, error) {
	d := c.Definition()
	if user == "" {
		user = d.Config.User
	}
	var f userFiles
	err := s.withRootfs(ctx, c, func(root string) (err error) { f, err = readUserFiles(root); return err })
	if err != nil {
		return spec.User{}, fmt.Errorf("look up user %q: %w", user, err)
	}
	return spec.ResolveUser(user, d.Host.GroupAdd, f.passwd, f.group)
}

// WithRootfs calls fn with the path of the container's root filesystem: /proc/PID/root of
// one that runs, else a temporary mount with its volumes. What lies below is hostile.
func (s *Service) WithRootfs(ctx context.Context, ref string, fn func(root string) error) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	return s.withRootfs(ctx, c, fn)
}

func (s *Service) withRootfs(ctx context.Context, c *Container, fn func(root string) error) error {
	if st := c.State(); st.Status.HasTask() {
		return fn(fmt.Sprintf("/proc/%d/root", st.PID))
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if st := c.State(); st.Status.HasTask() {
		return fn(fmt.Sprintf("/proc/%d/root", st.PID))
	}
	mounts, err := s.rootfsMounts(ctx, c)
	if err != nil {
		return err
	}
	c.setInfo(func(i *runtimeInfo) { i.userCached = false })
	volumes, fresh, err := s.acquireMounts(ctx, c.Definition())
	if err != nil {
		return err
	}
	if len(volumes) > 0 {
		defer func() { _ = s.Volumes.Release(context.WithoutCancel(ctx), c.ID) }() // nothing runs that could use them
	}
	if len(fresh) > 0 {
		if err := copyUpAll(ctx, mounts, fresh); err != nil { // later they might not be empty
			return err
		}
	}
	for _, v := range volumes {
		if v.Type != "bind" {
			continue
		}
		if err := makeMountPoint(ctx, mounts, v); err != nil {
			return fmt.Errorf("make mount point %s: %w", v.Destination, err)
		}
		opts := []string{"rbind"}
		if v.ReadOnly {
			opts = append(opts, "ro")
		}
		mounts = append(mounts[:len(mounts):len(mounts)], mount.Mount{Type: "bind", Source: v.Source, Target: strings.TrimPrefix(v.Destination, "/"), Options: opts})
	}
	return mount.WithTemp(ctx, mounts, fn)
}

// makeMountPoint makes the directory or the empty file that a volume is mounted on, below
// the mounts before it: a container that has not run yet lacks what its runtime will make.
func makeMountPoint(ctx context.Context, below []mount.Mount, v spec.Mount) error {
	info, err := os.Stat(v.Source)
	if err != nil {
		return err
	}
	return mount.WithTemp(ctx, below, func(root string) error {
		r, err := inroot.Open(root)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }() // only a descriptor
		dir := v.Destination
		if !info.IsDir() {
			dir = path.Dir(dir)
		}
		f, err := r.MkdirAll(dir, 0o755)
		if err == nil && !info.IsDir() {
			_ = f.Close()                                                                         // only a descriptor
			f, err = r.OpenFile(v.Destination, os.O_CREATE|os.O_RDONLY|syscall.O_NONBLOCK, 0o644) // it may be a FIFO
		}
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// WithOwnRootfs calls fn with the path of the container's root filesystem as its image and its
// programs made it: without volumes and whatever else is mounted in it. It is read-only.
func (s *Service) WithOwnRootfs(ctx context.Context, ref string, fn func(root string) error) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	mounts, err := s.rootfsMounts(ctx, c)
	if err != nil {
		return err
	}
	views := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		views[i] = m.View()
	}
	return mount.WithTemp(ctx, views, fn)
}

// RootfsLayers returns the container's own layer and those below it, topmost first.
// ErrNotImplemented for a snapshotter that keeps no layers.
func (s *Service) RootfsLayers(ctx context.Context, ref string) (upper string, lowers []string, err error) {
	c, err := s.Get(ref)
	if err != nil {
		return "", nil, err
	}
	mounts, err := s.rootfsMounts(ctx, c)
	if err != nil {
		return "", nil, err
	}
	if len(mounts) == 1 {
		if dir, ok := mounts[0].UpperDir(); ok {
			return dir, mounts[0].LowerDirs(), nil
		}
	}
	return "", nil, fmt.Errorf("layers of container %s: %w", c.ID, errdefs.ErrNotImplemented)
}

// ProcessUser returns the numeric user and group that the container's process runs as.
func (s *Service) ProcessUser(ctx context.Context, ref string) (uid, gid int, err error) {
	c, err := s.Get(ref)
	if err != nil {
		return 0, 0, err
	}
	u, err := s.ResolveUser(ctx, c, "")
	return u.UID, u.GID, err
}

// copyUp is the wish of a fresh volume for the image's content at its destination.
type copyUp struct {
	from string // in the rootfs
	to   string // on the host
}

// copyUpAll fills fresh volumes from the rootfs. A destination that the image does not
// have leaves its volume empty.
func copyUpAll(ctx context.Context, rootfs []mount.Mount, wishes []copyUp) error {
	return mount.WithTemp(ctx, rootfs, func(root string) error {
		r, err := inroot.Open(root)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }() // only a descriptor
		for _, w := range wishes {
			if err := copyUpOne(ctx, r, w); err != nil {
				return fmt.Errorf("copy %s of the image into its volume: %w", w.from, err)
			}
		}
		return nil
	})
}

func copyUpOne(ctx context.Context, r *inroot.Root, w copyUp) error {
	dir, err := r.OpenFile(w.from, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only a descriptor
	entries, err := os.ReadDir(w.to)
	if err != nil || len(entries) > 0 {
		return err // somebody's content is there: it stays
	}
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(w.to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := os.Chmod(w.to, info.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSetuid|fs.ModeSticky)); err != nil {
		return err
	}
	return copyTree(ctx, filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd()))), w.to)
}

// copyTree copies what is below from into the directory to, with owners, modes, times,
// links and extended attributes.
func copyTree(ctx context.Context, from, to string) error {
	pr, pw := io.Pipe()
	var g errgroup.Group
	g.Go(func() error {
		err := archive.Export(ctx, from, pw)
		pw.CloseWithError(err) // never fails
		return err
	})
	g.Go(func() error {
		err := archive.Write(to, "/", pr, archive.WriteOptions{})
		pr.CloseWithError(err) // never fails
		return err
	})
	return g.Wait()
}

// shmDir is the tmpfs that a container with shareable IPC has on /dev/shm.
func (s *Service) shmDir(containerID string) string {
	return filepath.Join(s.cfg.ExecRoot, "shm", containerID)
}

// mountShm mounts a tmpfs at dir unless there is one.
func mountShm(dir string, size int64) error {
	if mounted, err := mountinfo.Mounted(dir); mounted || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	m := mount.Mount{Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(size, 10)}}
	if err := mount.All([]mount.Mount{m}, dir); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

// unmountShm removes what mountShm made.
func unmountShm(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := mount.Unmount(dir); err != nil {
		return err
	}
	return os.Remove(dir)
}

// LayerPaths are the directories of a container's overlay, under the names that inspect
// shows; nil if they are not known without asking the supervisor.
func (s *Service) LayerPaths(c *Container) map[string]string {
	mounts := c.info().mounts
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return nil
	}
	out := map[string]string{"LowerDir": strings.Join(mounts[0].LowerDirs(), ":")}
	for _, o := range mounts[0].Options {
		switch k, v, _ := strings.Cut(o, "="); k {
		case "upperdir":
			out["UpperDir"] = v
		case "workdir":
			out["WorkDir"] = v
		}
	}
	return out
}
