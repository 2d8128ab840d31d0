package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/mount"
)

// Refer records that a container's definition uses a volume: called when the container is
// created, so that the volume cannot be removed under it. The volume is made if it is
// missing.
func (m *Manager) Refer(ctx context.Context, name, containerID string) (Volume, error) {
	m.change.Lock()
	defer m.change.Unlock()
	v, err := m.Get(name)
	if errdefs.IsNotFound(err) {
		v, err = m.createLocked(ctx, CreateRequest{Name: name})
	}
	if err != nil {
		return Volume{}, err
	}
	names := m.referred(containerID)
	if slices.Contains(names, v.Name) {
		return v, nil
	}
	if err := m.users.Put(containerID, append(names, v.Name)); err != nil {
		return Volume{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	put(m.refs, v.Name, containerID)
	return v, nil
}

// referred returns the volumes that a container refers to.
func (m *Manager) referred(containerID string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name, ids := range m.refs {
		if ids[containerID] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Forget drops all references of a removed container and returns the anonymous volumes
// that nobody refers to any more.
func (m *Manager) Forget(ctx context.Context, containerID string) (orphans []string, err error) {
	if err := m.Release(ctx, containerID); err != nil {
		return nil, err
	}
	m.change.Lock()
	defer m.change.Unlock()
	names := m.referred(containerID)
	if len(names) == 0 {
		return nil, nil
	}
	if err := m.users.Delete(containerID); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if drop(m.refs, name, containerID) && m.volumes[name].Anonymous && len(m.acquired[name]) == 0 {
			orphans = append(orphans, name)
		}
	}
	return orphans, nil
}

// Acquire makes a volume ready for a start of a container, mounting it if its options say
// so, and returns its directory. fresh is true if that is empty: then the image's content
// may be copied up.
func (m *Manager) Acquire(ctx context.Context, name, containerID string) (path string, fresh bool, err error) {
	m.change.Lock()
	defer m.change.Unlock()
	v, err := m.Get(name)
	if err != nil {
		return "", false, err
	}
	if err := m.makeDirs(name); err != nil {
		return "", false, err
	}
	if err := m.mountLocked(v); err != nil {
		return "", false, err
	}
	m.mu.Lock()
	again := m.acquired[name][containerID]
	put(m.acquired, name, containerID)
	m.mu.Unlock()
	if !again {
		m.publish(name, "mount", map[string]string{"container": containerID})
	}
	fresh, err = empty(v.Mountpoint)
	if err != nil {
		return "", false, fmt.Errorf("look into volume %q: %w", name, err)
	}
	return v.Mountpoint, fresh, nil
}

// mountLocked mounts a volume whose options say so and that is not mounted. Preconditions:
// change is held.
func (m *Manager) mountLocked(v Volume) error {
	wish, ok := mountOf(v.Options)
	if !ok {
		return nil
	}
	if on, err := mounted(v.Mountpoint); on || err != nil {
		return err
	}
	wish, err := resolveAddress(wish)
	if err != nil {
		return fmt.Errorf("mount volume %q: %w", v.Name, err)
	}
	if err := mount.All([]mount.Mount{wish}, v.Mountpoint); err != nil {
		return fmt.Errorf("failed to mount local volume: mount %s:%s: %w", wish.Source, v.Mountpoint, err)
	}
	return nil
}

// Release ends the use by a container that stopped; its references stay. Volumes that
// nobody uses any more are unmounted.
func (m *Manager) Release(ctx context.Context, containerID string) error {
	m.change.Lock()
	defer m.change.Unlock()
	var released, idle []Volume
	m.mu.Lock()
	for name := range m.acquired {
		if !m.acquired[name][containerID] {
			continue
		}
		v := m.volumes[name]
		released = append(released, v)
		if drop(m.acquired, name, containerID) {
			idle = append(idle, v)
		}
	}
	m.mu.Unlock()
	var failed error
	for _, v := range idle {
		if _, ok := mountOf(v.Options); !ok {
			continue
		}
		if err := mount.Unmount(v.Mountpoint); err != nil {
			failed = errors.Join(failed, fmt.Errorf("release volume %q: %w", v.Name, err))
			continue
		}
		ctxlog.From(ctx).Debug("volume unmounted", ctxlog.Volume, v.Name)
	}
	for _, v := range released {
		m.publish(v.Name, "unmount", map[string]string{"container": containerID})
	}
	return failed
}

// empty reports whether a directory has no entries.
func empty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, f.Close()
	}
	return false, errors.Join(err, f.Close())
}

// Retain drops the references of containers that do not exist, and returns the anonymous
// volumes that nobody refers to any more because of that. It is for the start of the engine.
func (m *Manager) Retain(exists func(containerID string) bool) (orphans []string, err error) {
	ids := map[string]bool{}
	m.mu.Lock()
	for _, sets := range []map[string]map[string]bool{m.refs, m.acquired} {
		for _, set := range sets {
			for id := range set {
				ids[id] = true
			}
		}
	}
	m.mu.Unlock()
	for id := range ids {
		if exists(id) {
			continue
		}
		lost, err := m.Forget(context.Background(), id)
		if err != nil {
			return orphans, fmt.Errorf("forget container %q: %w", id, err)
		}
		orphans = append(orphans, lost...)
	}
	return orphans, nil
}

// Ghosts returns, by volume, the containers that count as users and do not exist.
func (m *Manager) Ghosts(exists func(containerID string) bool) map[string][]string {
	out := map[string][]string{}
	for _, v := range m.List() {
		for _, id := range m.Users(v.Name) {
			if !exists(id) {
				out[v.Name] = append(out[v.Name], id)
			}
		}
	}
	return out
}
