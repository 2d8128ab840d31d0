package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
	"strata/pkg/metadb"
)

// Volume is a named directory.
type Volume struct {
	Name       string
	Driver     string // "local"
	Mountpoint string
	Created    time.Time
	Labels     map[string]string
	Options    map[string]string
	Anonymous  bool
}

// CreateRequest asks for a volume. Without a Name one is made up, and the volume is
// anonymous.
type CreateRequest struct {
	Name    string
	Driver  string
	Options map[string]string
	Labels  map[string]string
}

// localDriver is the only driver.
const localDriver = "local"

// record is a volume as it is stored. It is replaced, never changed.
type record struct {
	Volume
	Users  []string // containers whose definitions name it, sorted
	Active []string // of those, the started ones, for volumes with a device
}

// Manager owns the volumes. Its methods are safe for concurrent use.
type Manager struct {
	dir     string
	records metadb.Bucket[record]
	events  events.Publisher

	mu      sync.Mutex // guards byName, and orders what is stored with what is on disk
	byName  map[string]record
	mounted map[string][]string // container → volumes that it has acquired since the engine's start
}

// New opens the records in db and the directories below dataRoot/volumes. What a crash left
// half made or half removed there is removed.
func New(db *bolt.DB, dataRoot string, pub events.Publisher) (*Manager, error) {
	records, err := metadb.NewBucket[record](db, "volumes")
	if err != nil {
		return nil, err
	}
	m := &Manager{dir: filepath.Join(dataRoot, "volumes"), records: records, events: pub, mounted: map[string][]string{}}
	if err := os.MkdirAll(m.dir, 0o711); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	if m.byName, err = records.All(); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	for _, e := range entries {
		// Only what New or Remove renamed away is certain to be nobody's.
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.RemoveAll(filepath.Join(m.dir, e.Name())); err != nil {
				return nil, fmt.Errorf("sweep volumes: %w", err)
			}
		}
	}
	return m, nil
}

// Retain drops the references of containers that do not exist, and returns the anonymous
// volumes that nobody refers to any more because of that. It is for the start of the engine.
func (m *Manager) Retain(exists func(containerID string) bool) (orphans []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.byName {
		gone := func(id string) bool { return !exists(id) }
		if !slices.ContainsFunc(r.Users, gone) {
			continue
		}
		r.Users, r.Active = slices.DeleteFunc(slices.Clone(r.Users), gone), slices.DeleteFunc(slices.Clone(r.Active), gone)
		if err := m.putLocked(r); err != nil {
			return orphans, err
		}
		if r.Anonymous && len(r.Users) == 0 {
			orphans = append(orphans, name)
		}
	}
	return orphans, nil
}

// putLocked stores r. Preconditions: mu is held.
func (m *Manager) putLocked(r record) error {
	if err := m.records.Put(r.Name, r); err != nil {
		return err
	}
	m.byName[r.Name] = r
	return nil
}

// Create makes a volume, or returns the one of that name if it has the same driver and
// options (ErrConflict otherwise). Errors of class ErrInvalidArgument: a bad name or option;
// ErrNotFound: an unknown driver.
func (m *Manager) Create(_ context.Context, r CreateRequest) (Volume, error) {
	if err := validate(r); err != nil {
		return Volume{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.createLocked(r)
}

func validate(r CreateRequest) error {
	if r.Driver != "" && r.Driver != localDriver {
		return fmt.Errorf("error looking up volume plugin %s: plugin %q not found: %w", r.Driver, r.Driver, errdefs.ErrNotFound)
	}
	if r.Name != "" && !identifiers.ValidName(r.Name) {
		return fmt.Errorf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path: %w", r.Name, errdefs.ErrInvalidArgument)
	}
	for k := range r.Options {
		if !slices.Contains([]string{"type", "o", "device", "size"}, k) {
			return fmt.Errorf("invalid option: %q: %w", k, errdefs.ErrInvalidArgument)
		}
	}
	if r.Options["size"] != "" {
		return fmt.Errorf("volume option size needs quotas: %w", errdefs.ErrNotImplemented)
	}
	if len(r.Options) > 0 && (r.Options["type"] == "" || r.Options["device"] == "") {
		return fmt.Errorf("missing required option: a volume with options needs both \"type\" and \"device\": %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func (m *Manager) createLocked(r CreateRequest) (Volume, error) {
	anonymous := r.Name == ""
	if anonymous {
		r.Name = identifiers.New()
	}
	if old, ok := m.byName[r.Name]; ok {
		if len(r.Options) > 0 && !maps.Equal(r.Options, old.Options) {
			return Volume{}, fmt.Errorf("conflict: volume name %q is in use with other options: %w", r.Name, errdefs.ErrConflict)
		}
		return old.Volume, nil
	}
	v := Volume{
		Name: r.Name, Driver: localDriver, Mountpoint: filepath.Join(m.dir, r.Name, "_data"), Created: time.Now().UTC(),
		Labels: r.Labels, Options: r.Options, Anonymous: anonymous,
	}
	// The directory may be there: a crash came between it and the record.
	if err := os.MkdirAll(filepath.Dir(v.Mountpoint), 0o701); err != nil {
		return Volume{}, fmt.Errorf("create volume %q: %w", r.Name, err)
	}
	if err := os.MkdirAll(v.Mountpoint, 0o755); err != nil {
		return Volume{}, fmt.Errorf("create volume %q: %w", r.Name, err)
	}
	// Point of no return: the record makes the volume.
	if err := m.putLocked(record{Volume: v}); err != nil {
		return Volume{}, err
	}
	m.publish("create", v, nil)
	return v, nil
}

func (m *Manager) publish(action string, v Volume, attributes map[string]string) {
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["driver"] = v.Driver
	m.events.Publish(events.Event{Type: "volume", Action: action, ActorID: v.Name, Attributes: attributes})
}

// getLocked returns a record, or ErrNotFound in dockerd's words. Preconditions: mu is held.
func (m *Manager) getLocked(name string) (record, error) {
	r, ok := m.byName[name]
	if !ok {
		return record{}, fmt.Errorf("get %s: no such volume: %w", name, errdefs.ErrNotFound)
	}
	return r, nil
}

// Get returns a volume, or ErrNotFound in dockerd's words.
func (m *Manager) Get(name string) (Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.getLocked(name)
	return r.Volume, err
}

// List returns all volumes by name.
func (m *Manager) List() []Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Volume, 0, len(m.byName))
	for _, name := range slices.Sorted(maps.Keys(m.byName)) {
		out = append(out, m.byName[name].Volume)
	}
	return out
}

// Users returns the ids of the containers that refer to a volume.
func (m *Manager) Users(name string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.byName[name].Users)
}

// Remove deletes a volume that no container refers to (else ErrConflict, which names the
// containers). With force a missing one is no error.
func (m *Manager) Remove(_ context.Context, name string, force bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.getLocked(name)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	return m.removeLocked(r)
}

func (m *Manager) removeLocked(r record) error {
	if len(r.Users) > 0 {
		return fmt.Errorf("remove %s: volume is in use - [%s]: %w", r.Name, strings.Join(r.Users, ", "), errdefs.ErrConflict)
	}
	if len(r.Options) > 0 {
		if err := mount.Unmount(r.Mountpoint); err != nil {
			return fmt.Errorf("remove %s: %w", r.Name, err)
		}
	}
	// Renamed first: what a crash leaves below a dot is swept at the next start.
	trash := filepath.Join(m.dir, "."+identifiers.New())
	if err := os.Rename(filepath.Join(m.dir, r.Name), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", r.Name, err)
	}
	// Point of no return: the name is free.
	if err := m.records.Delete(r.Name); err != nil {
		return err
	}
	delete(m.byName, r.Name)
	m.publish("destroy", r.Volume, nil)
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove files of volume %s: %w", r.Name, err)
	}
	return nil
}

// Prune deletes the unused volumes that match and returns their names and freed bytes.
func (m *Manager) Prune(ctx context.Context, match func(Volume) bool) (names []string, reclaimed uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.byName)) {
		r := m.byName[name]
		if len(r.Users) > 0 || !match(r.Volume) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return names, reclaimed, err
		}
		size := treeSize(r.Mountpoint)
		if err := m.removeLocked(r); err != nil {
			return names, reclaimed, err
		}
		names, reclaimed = append(names, name), reclaimed+size
	}
	return names, reclaimed, nil
}

// treeSize returns the bytes of the regular files below dir; what cannot be read counts
// nothing.
func treeSize(dir string) uint64 {
	var total uint64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // vanished, or not ours to read: it counts nothing
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			total += uint64(info.Size())
		}
		return nil
	})
	return total
}

// Refer records that a container's definition uses a volume: called when the container is
// created, so that the volume cannot be removed under it. The volume is made if it is
// missing.
func (m *Manager) Refer(_ context.Context, name, containerID string) (Volume, error) {
	if err := validate(CreateRequest{Name: name}); err != nil {
		return Volume{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.byName[name]; !ok {
		if _, err := m.createLocked(CreateRequest{Name: name}); err != nil {
			return Volume{}, err
		}
	}
	r := m.byName[name]
	if slices.Contains(r.Users, containerID) {
		return r.Volume, nil
	}
	r.Users = append(slices.Clone(r.Users), containerID)
	slices.Sort(r.Users)
	return r.Volume, m.putLocked(r)
}

// Acquire makes a volume ready for a start of a container, mounting it if its options say
// so, and returns its directory. fresh is true while the volume is empty: then the image's
// content may be copied up.
func (m *Manager) Acquire(_ context.Context, name, containerID string) (path string, fresh bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.getLocked(name)
	if err != nil {
		return "", false, err
	}
	if len(r.Options) > 0 {
		if err := m.mountLocked(r, containerID); err != nil {
			return "", false, err
		}
	}
	entries, err := os.Open(r.Mountpoint)
	if err != nil {
		return "", false, fmt.Errorf("open volume %q: %w", name, err)
	}
	defer func() { _ = entries.Close() }()
	_, err = entries.Readdirnames(1)
	if !slices.Contains(m.mounted[containerID], name) {
		m.mounted[containerID] = append(m.mounted[containerID], name)
		m.publish("mount", r.Volume, map[string]string{"container": containerID})
	}
	return r.Mountpoint, err != nil, nil
}

// mountLocked mounts the device of r unless a started container has it mounted already.
// Preconditions: mu is held.
func (m *Manager) mountLocked(r record, containerID string) error {
	if len(r.Active) == 0 {
		if err := mount.Unmount(r.Mountpoint); err != nil { // what a reboot or crash left
			return fmt.Errorf("mount volume %q: %w", r.Name, err)
		}
		var options []string
		if o := r.Options["o"]; o != "" {
			options = strings.Split(o, ",")
		}
		device := mount.Mount{Type: r.Options["type"], Source: r.Options["device"], Options: options}
		if err := mount.All([]mount.Mount{device}, r.Mountpoint); err != nil {
			return fmt.Errorf("mount volume %q: %w", r.Name, err)
		}
	}
	if slices.Contains(r.Active, containerID) {
		return nil
	}
	r.Active = append(slices.Clone(r.Active), containerID)
	return m.putLocked(r)
}

// Release ends the use by a container that stopped; its references stay.
func (m *Manager) Release(_ context.Context, containerID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var failed []error
	for _, r := range m.byName {
		if !slices.Contains(r.Users, containerID) {
			continue
		}
		if i := slices.Index(r.Active, containerID); i >= 0 {
			r.Active = slices.Delete(slices.Clone(r.Active), i, i+1)
			if len(r.Active) == 0 {
				failed = append(failed, mount.Unmount(r.Mountpoint))
			}
			failed = append(failed, m.putLocked(r))
		}
		if slices.Contains(m.mounted[containerID], r.Name) {
			m.publish("unmount", r.Volume, map[string]string{"container": containerID})
		}
	}
	delete(m.mounted, containerID)
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("release volumes of container %q: %w", containerID, err)
	}
	return nil
}

// Forget drops all references of a removed container and returns the anonymous volumes
// that nobody refers to any more.
func (m *Manager) Forget(ctx context.Context, containerID string) (orphans []string, err error) {
	if err := m.Release(ctx, containerID); err != nil {
		return nil, err
	}
	return m.forget(containerID)
}

func (m *Manager) forget(containerID string) (orphans []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.byName {
		i := slices.Index(r.Users, containerID)
		if i < 0 {
			continue
		}
		r.Users = slices.Delete(slices.Clone(r.Users), i, i+1)
		if err := m.putLocked(r); err != nil {
			return orphans, err
		}
		if r.Anonymous && len(r.Users) == 0 {
			orphans = append(orphans, name)
		}
	}
	return orphans, nil
}
